"""Metrics: sums over samples that stay on the device until they are read."""

from __future__ import annotations

from typing import Any

from bpnet import ops
from bpnet.dispatch import Array, Tracked
from bpnet.errors import ConfigError, ShapeError


class Metric(Tracked):
    """Base of all metrics: the value over a data set is the sum of `measure` divided by the sum of `weight`.

    name : the key in histories and results
    """

    name: str = "metric"

    def measure(self, prediction: Array, target: Array) -> Array:
        """A 0-d float64 array: the sum over the batch."""
        raise NotImplementedError

    def result(self, sums: Any) -> Any:
        """The value, for the sums of all batches: their quotient, unless a subclass says otherwise."""
        total, count = sums.tolist()
        return total / count if count else 0.0

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Accuracy(Metric):
    """The share of rows whose largest score stands at the label.

    prediction : (N, C) logits or probabilities; target : (N,) integers
    """

    name = "accuracy"

    def measure(self, prediction: Array, target: Array) -> Array:
        """The number of right answers."""
        if prediction.ndim != 2 or target.shape != prediction.shape[:1]:
            raise ShapeError(
                f"Accuracy needs predictions (N, C) and labels (N,), got {tuple(prediction.shape)} and "
                f"{tuple(target.shape)}; for one score an element use BinaryAccuracy()"
            )
        return ops.count_correct(prediction, target)


class BinaryAccuracy(Metric):
    """The share of elements on the same side as their target, 0 or 1.

    from_logits : True: the answer is 1 where the score is above 0; False: where the probability is above 1/2
    prediction, target : one shape
    """

    name = "accuracy"

    def __init__(self, *, from_logits: bool = True) -> None:
        if not isinstance(from_logits, bool):
            raise ConfigError(f"BinaryAccuracy: from_logits must be True or False, got {from_logits!r}")
        self.from_logits = from_logits

    def measure(self, prediction: Array, target: Array) -> Array:
        """The number of right answers."""
        if prediction.shape != target.shape:
            raise ShapeError(f"BinaryAccuracy needs one shape, got {tuple(prediction.shape)} and {tuple(target.shape)}")
        return ops.count_correct_binary(prediction, target, 0.0 if self.from_logits else 0.5)
