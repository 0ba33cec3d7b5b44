"""What a metric is: sums over samples that stay on the device, and what is made of them in the end."""

from __future__ import annotations

import inspect
import math
from typing import Any

from bpnet.dispatch import Array, Tracked, dtype_name
from bpnet.errors import ConfigError, DTypeError, ShapeError

RESERVED = ("epoch", "loss", "learning_rate", "seconds")


class Metric(Tracked):
    """Base of all metrics: `measure` sums over a batch, the sums of batches are added, `result` reads the total.

    name : the key in histories and results
    Every sample counts once, whatever its weight in the loss.
    A metric of your own defines the two methods; `measure` touches arrays through kernels only, so that a step with it
    can be planned.
    """

    name: str = "metric"

    def __init__(self, *, name: str | None = None) -> None:
        if name is not None:
            if not isinstance(name, str) or not name:
                raise ConfigError(f"{type(self).__name__}: name must be a text that is not empty, got {name!r}")
            if name in RESERVED or name.startswith("val_"):
                raise ConfigError(f"{type(self).__name__}: histories have a {name!r} of their own; choose another name")
            self.name = name

    def measure(self, prediction: Array, target: Array) -> Array:
        """The sums over the batch: a float64 array on the prediction's device, of one shape for every batch."""
        raise NotImplementedError

    def result(self, sums: Any) -> Any:
        """The value of added-up sums, a host array: a float, or nested lists or a dict of floats."""
        raise NotImplementedError

    @property
    def _usual_name(self) -> str:
        """The name where none is given."""
        return type(self).name

    def __repr__(self) -> str:
        shown = []
        for key, parameter in inspect.signature(type(self).__init__).parameters.items():
            value = vars(self).get(key, parameter.default)
            usual = self._usual_name if key == "name" else parameter.default
            if key != "self" and value is not parameter.default and repr(value) != repr(usual):
                shown.append(f"{key}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


class MeanMetric(Metric):
    """A metric whose sums are (2,), a sum and what it counts for; the value is their quotient."""

    def result(self, sums: Any) -> float:
        """The mean; NaN where nothing counted."""
        total, count = sums.tolist()
        return total / count if count else math.nan


def check_same_shape(metric: Metric, prediction: Array, target: Array) -> None:
    """Raise ShapeError unless the target has the prediction's shape."""
    if tuple(prediction.shape) != tuple(target.shape):
        raise ShapeError(
            f"{type(metric).__name__} needs one shape, got {tuple(prediction.shape)} and {tuple(target.shape)}"
        )


def check_flag(metric: Metric, name: str, value: Any) -> bool:
    """Return `value`, True or False; else ConfigError."""
    if not isinstance(value, bool):
        raise ConfigError(f"{type(metric).__name__}: {name} must be True or False, got {value!r}")
    return value


def check_index(metric: Metric, value: Any) -> int | None:
    """Return a label to ignore, an integer or None; else ConfigError."""
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ConfigError(f"{type(metric).__name__}: ignore_index must be an integer or None, got {value!r}")
    return int(value)


def is_floating(x: Array) -> bool:
    """Whether the array holds floating numbers."""
    return dtype_name(x.dtype).startswith(("float", "bfloat"))


def check_labels(metric: Metric, prediction: Array, target: Array, hint: str = "") -> None:
    """Raise unless the prediction is (..., C) and the target (...) of integers."""
    name = type(metric).__name__
    if len(prediction.shape) < 2 or tuple(target.shape) != tuple(prediction.shape[:-1]):
        if tuple(target.shape) == tuple(prediction.shape) and not hint:
            hint = "; for one-hot or soft rows say soft_targets=True, which takes the largest of each"
        raise ShapeError(
            f"{name} needs predictions (N, C) and labels (N,), got {tuple(prediction.shape)} and "
            f"{tuple(target.shape)}{hint}"
        )
    if is_floating(target):
        raise DTypeError(f"{name} needs integer labels, got {dtype_name(target.dtype)}{hint}")
