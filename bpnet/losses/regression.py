"""Losses of single numbers against targets of the same shape."""

from __future__ import annotations

from bpnet import ops
from bpnet.data.checks import check_each
from bpnet.dispatch import Array
from bpnet.losses import settings
from bpnet.losses.base import Loss
from bpnet.losses.settings import Setting


class MeanSquaredError(Loss):
    """Mean of (prediction - target)^2 over all elements; the derivative is 2 (prediction - target) / n."""

    op = ops.squared_error
    op_backward = ops.squared_error_backward
    fused = (ops.mean_squared_error, ops.mean_squared_error_backward)


class MeanAbsoluteError(Loss):
    """Mean of |prediction - target| over all elements; the derivative is sign(prediction - target) / n."""

    op = ops.absolute_error
    op_backward = ops.absolute_error_backward
    fused = (ops.mean_absolute_error, ops.mean_absolute_error_backward)


class Huber(Loss):
    """Mean over all elements of e^2 / 2 where e = |prediction - target| <= delta, delta (e - delta / 2) elsewhere.

    delta : above 0, in the units of the target; where outliers begin. [Huber 1964]
    """

    op = ops.huber
    op_backward = ops.huber_backward
    delta = Setting(settings.POSITIVE, "Where the square turns into a line.")

    def __init__(self, delta: float = 1.0, *, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.delta = delta

    @property
    def settings(self) -> tuple[float]:
        """Delta."""
        return (self.delta,)


class LogCosh(Loss):
    """Mean of log(cosh(prediction - target)) over all elements: a Huber loss without a kink in its slope's slope."""

    op = ops.log_cosh
    op_backward = ops.log_cosh_backward


class PoissonNLL(Loss):
    """Mean of exp(x) - t x over all elements: counts t under a Poisson distribution of rate exp(x), without log(t!).

    prediction : the logarithm of the rate; target : the same shape, numbers of at least 0
    """

    op = ops.poisson
    op_backward = ops.poisson_backward

    def check_values(self, target: Array, name: str, n_classes: int | None = None, offset: int = 0) -> None:
        """Raise DataError when a target is negative."""
        check_each(target, target >= 0, name, "be at least 0 for PoissonNLL, which is for counts", offset)
