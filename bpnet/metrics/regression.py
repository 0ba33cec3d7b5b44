"""Metrics of regressors: prediction and target are of one shape, (N,) or (N, ...)."""

from __future__ import annotations

import math
import numbers
from typing import Any

from bpnet import ops
from bpnet.dispatch import Array
from bpnet.errors import ConfigError
from bpnet.metrics.base import MeanMetric, Metric, check_same_shape

NOISE = 2.0**-48  # of a sum of squares: what lies below is rounding, not spread


class MAE(MeanMetric):
    """The mean absolute error over all elements."""

    name = "mae"

    def measure(self, prediction: Array, target: Array) -> Array:
        """(2,): the sum of |y - t|, and the number of elements."""
        check_same_shape(self, prediction, target)
        return ops.sum_errors(prediction, target, 1)


class MSE(MeanMetric):
    """The mean squared error over all elements, summed in float64."""

    name = "mse"

    def measure(self, prediction: Array, target: Array) -> Array:
        """(2,): the sum of (y - t)^2, and the number of elements."""
        check_same_shape(self, prediction, target)
        return ops.sum_errors(prediction, target, 2)


class RMSE(MSE):
    """The root of the mean squared error: an error in the targets' unit."""

    name = "rmse"

    def result(self, sums: Any) -> float:
        """The root of the mean over everything, not a mean of roots."""
        return math.sqrt(super().result(sums))


class R2(Metric):
    """The coefficient of determination, 1 - sum (y - t)^2 / sum (t - mean t)^2, a mean over outputs.

    1 is perfect, 0 no better than the targets' mean, and there is no lower bound. Targets that do not vary give 1
    where the predictions are exact and 0 elsewhere, as in scikit-learn.
    shift : taken off the targets before they are squared. sum (t - mean)^2 comes from sums of t - shift and of its
            square, so its relative error is about 1e-16 * (1 + (mean - shift)^2 / variance): nothing for targets
            within a thousand standard deviations of the shift, 1e-6 at a hundred thousand. Give a number near the
            mean where targets lie farther off. A spread below 2^-48 of the squares counts as none.
    """

    name = "r2"

    def __init__(self, *, shift: float = 0.0, name: str | None = None) -> None:
        super().__init__(name=name)
        if isinstance(shift, bool) or not isinstance(shift, numbers.Real) or not math.isfinite(shift):
            raise ConfigError(f"R2: shift must be a finite number, got {shift!r}")
        self.shift: float = float(shift)

    def measure(self, prediction: Array, target: Array) -> Array:
        """(4, K): for every output n, and the sums of t - shift, of its square, and of (y - t)^2."""
        check_same_shape(self, prediction, target)
        return ops.sum_deviations(prediction, target, self.shift)

    def result(self, sums: Any) -> float:
        """The mean over outputs; NaN for fewer than two samples."""
        scores = [self._score(*column) for column in zip(*sums.tolist(), strict=True)]
        return math.fsum(scores) / len(scores) if scores else math.nan

    @staticmethod
    def _score(n: float, total: float, squares: float, error: float) -> float:
        if n < 2:
            return math.nan
        spread = squares - total * total / n
        if not spread > NOISE * squares:
            return float(error == 0) if spread == spread and error == error else math.nan
        return 1 - error / spread
