"""The base of all losses: the door, the weights, and the sum of single losses with its derivative."""

from __future__ import annotations

import inspect
import math
from numbers import Real
from typing import Any, ClassVar

from bpnet import ops
from bpnet.backend import type_name
from bpnet.dispatch import Array, Kernel, Tracked, dtype_name
from bpnet.errors import ConfigError, DataError, DTypeError, ShapeError, StateError
from bpnet.losses import settings
from bpnet.losses.settings import Setting


class Loss(Tracked):
    """Base of all losses: sum_i w_i l_i / total weight, where an l_i belongs to an element or to a row.

    reduction : "mean"; "sum", which divides by 1; or "none", which leaves the weighted losses as they are
    targets   : "labels" where integers are the rule, "values" where targets have the prediction's shape and dtype
    by_row    : whether there is one loss a row, of the last axis, and not one an element

    A loss of your own names two kernels: `op(prediction, target, *settings)` returns the single losses, of shape
    (N, ...), and `op_backward(dl, prediction, target, *settings)` dl times their derivative. Weights, sums and
    normalizers come from here.
    """

    targets: ClassVar[str] = "values"
    by_row: ClassVar[bool] = False
    op: ClassVar[Kernel]
    op_backward: ClassVar[Kernel]
    fused: ClassVar[tuple[Kernel, Kernel] | None] = None  # the same in one pass, for batches without weights

    reduction = Setting(settings.reduction, "How single losses become one: 'mean', 'sum' or 'none'.")
    _kept: tuple[Any, ...] | None = None

    def __init__(self, *, reduction: str = "mean") -> None:
        self.reduction = reduction

    @property
    def wants(self) -> str:
        """What predictions are: "logits", "probabilities", "log-probabilities", or "values" for anything."""
        return "values"

    @property
    def settings(self) -> tuple[Any, ...]:
        """What the kernels take after their arrays: numbers, strings, tuples of them."""
        return ()

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, by name: `type(loss)(**loss.config)` is a loss like this one."""
        return {name: getattr(self, name) for name in self._arguments()}

    @classmethod
    def kind_of(cls, target: Array) -> str:
        """What `target` is to this loss: "labels", of an integer dtype, or "values", of the prediction's dtype."""
        return cls.targets

    def __call__(self, prediction: Array, target: Array, sample_weight: Array | None = None) -> Array:
        """The loss, shape (), or the single losses where reduction="none", without keeping anything."""
        return self._evaluate(prediction, target, None, sample_weight)[0]

    def forward(
        self, prediction: Array, target: Array, normalizer: Any = None, sample_weight: Array | None = None
    ) -> Array:
        """Return the loss, shape (), on the prediction's device; keep what `backward` needs.

        normalizer    : what the sum is divided by, a number or a 0-d array; by default the batch's `total_weight`. With
                        accumulation pass the total of the whole step, so that uneven parts give the whole's gradient.
                        Where it is 0, so are the loss and the gradient.
        sample_weight : (N,) of the prediction's dtype, none negative; one a row of the first axis
        With reduction="none" the weighted single losses: (N, ...), without the last axis where there is one a row.
        """
        value, *kept = self._evaluate(prediction, target, normalizer, sample_weight)
        self._kept = tuple(kept)
        return value

    def backward(self, scale: Any = 1.0) -> Array:
        """Return scale * d loss / d prediction, of the prediction's shape; takes what `forward` kept.

        scale : a number; with reduction="none" also an array of the shape of the losses, for their weighted sum
        """
        if self._kept is None:
            raise StateError(f"{type(self).__name__}.backward: nothing saved; call forward first, once per backward")
        fused, arguments, shape = self._kept
        if fused is not None:
            scale = self._check_scale(scale, None, shape)
            gradient = fused(*arguments, scale)
        else:
            prediction, target, weights, values, normalizer = arguments
            scale = self._check_scale(scale, values, shape)
            dl = ops.weighted_sum_backward(values, weights, normalizer, scale)
            gradient = self.each_backward(dl, prediction, target)
        self._kept = None
        return gradient if gradient.shape == shape else ops.reshape(gradient, tuple(shape))

    def total_weight(self, shape: tuple[int, ...], target: Array, sample_weight: Array | None = None) -> Any:
        """What the sum is divided by when nothing else is said: the number of single losses, or the sum of weights.

        shape : the prediction's. Returns a float where it depends on shapes alone, else a 0-d float64 array; the
        totals of a batch's parts add up to the batch's. For "sum" and "none" it is 1. One of your own that depends on
        values and is made by no kernel needs a Trainer with plan=False.
        """
        if self.reduction != "mean":
            return 1.0
        count = math.prod(shape[:-1] if self.by_row else shape)
        return float(count) if sample_weight is None else ops.sum_weights(sample_weight, count / max(shape[0], 1))

    # --- what a loss defines ---

    def each(self, prediction: Array, target: Array) -> Array:
        """The single losses, unweighted unless `arrange` puts weights into the target: one an element or a row."""
        return type(self).op(prediction, target, *self.settings)

    def each_backward(self, dl: Array, prediction: Array, target: Array) -> Array:
        """Return dl times the derivative of `each`, of the prediction's shape."""
        return type(self).op_backward(dl, prediction, target, *self.settings)

    def arrange(self, prediction: Array, target: Array, sample_weight: Array | None) -> tuple[Array, Array, Any]:
        """Prediction, target and weights as `each` takes them: rows as (M, C) where there is one loss a row."""
        if self.by_row:
            prediction, target = as_rows(prediction), as_rows(target)
        return prediction, target, sample_weight

    def in_one_pass(
        self, prediction: Array, target: Array, normalizer: float, sample_weight: Array | None
    ) -> tuple[Any, ...] | None:
        """The loss, a kernel that makes the gradient, and its arguments but `scale`; None where there is no such way.

        Asked when there is something to sum.
        """
        if self.fused is None or sample_weight is not None or not isinstance(normalizer, float):
            return None
        op, op_backward = self.fused
        return op(prediction, target, normalizer), op_backward, (prediction, target, normalizer)

    def _evaluate(
        self, prediction: Array, target: Array, normalizer: Any, sample_weight: Array | None
    ) -> tuple[Any, ...]:
        """The loss, and what `backward` takes."""
        self.check(prediction, target, sample_weight)
        if normalizer is None:
            normalizer = self.total_weight(prediction.shape, target, sample_weight)
        else:
            normalizer = self._check_normalizer(normalizer)
        shape = prediction.shape
        if self.reduction != "none":
            found = self.in_one_pass(prediction, target, normalizer, sample_weight)
            if found is not None:
                return (*found, shape)
        prediction, target, weights = self.arrange(prediction, target, sample_weight)
        values = self.each(prediction, target)
        arguments = (prediction, target, weights, values, normalizer)
        if self.reduction != "none":
            return ops.weighted_sum(values, weights, normalizer), None, arguments, shape
        as_they_are = weights is None and isinstance(normalizer, float) and normalizer == 1
        losses = values if as_they_are else ops.weighted(values, weights, normalizer)
        outer = self._shape_of_losses(shape)
        return losses if losses.shape == outer else ops.reshape(losses, outer), None, arguments, shape

    # --- the door ---

    def check(self, prediction: Array, target: Array, sample_weight: Array | None = None) -> None:
        """Raise ShapeError, DTypeError or DataError unless the arrays fit this loss; reads no values."""
        self._check_library(prediction, target, "target", "y")
        if prediction.shape != target.shape:
            hint = ""
            if sorted((prediction.ndim, target.ndim)) == [1, 2] and 1 in (prediction.shape[-1:] + target.shape[-1:]):
                hint = "; they would broadcast to every pair: reshape one, as in y[:, None]"
            raise ShapeError(
                f"{type(self).__name__} needs a target of the prediction's shape {tuple(prediction.shape)}, "
                f"got {tuple(target.shape)}{hint}"
            )
        self._check_dtype(prediction, target)
        if prediction.ndim < 1 + self.by_row:
            raise ShapeError(
                f"{type(self).__name__} needs predictions of shape {'(N, C)' if self.by_row else '(N, ...)'}, got "
                f"{tuple(prediction.shape)}"
            )
        self._check_rest(prediction, sample_weight)

    def check_values(self, target: Array, name: str, n_classes: int | None = None, offset: int = 0) -> None:
        """Raise DataError when `target` holds values that the loss has no meaning for; asked once, when data enter.

        n_classes : the length of the prediction's last axis, where it is known; offset : of the first row in messages
        """

    def _check_library(self, prediction: Any, other: Any, what: str, letter: str) -> None:
        name = type(self).__name__
        for each, role in ((prediction, "prediction"), (other, what)):
            if not hasattr(each, "device"):
                raise DTypeError(f"{name} needs arrays, got a {role} of {type_name(each)}; use model.asarray")
        if type(prediction) is not type(other) and not isinstance(other, type(prediction)):
            raise DTypeError(
                f"{name} got a prediction of {type_name(prediction)} and a {what} of {type_name(other)}; "
                f"bring the {what} over with model.asarray({letter})"
            )
        if prediction.device != other.device:
            raise DTypeError(
                f"{name} got a prediction on {prediction.device} and a {what} on {other.device}; "
                f"bring the {what} over with model.asarray({letter})"
            )

    def _check_dtype(self, prediction: Array, target: Array) -> None:
        if target.dtype != prediction.dtype:
            raise DTypeError(
                f"{type(self).__name__} needs a target of the prediction's dtype {dtype_name(prediction.dtype)}, got "
                f"{dtype_name(target.dtype)}; use model.asarray(y, dtype={dtype_name(prediction.dtype)!r})"
            )

    def _check_rest(self, prediction: Array, weight: Array | None) -> None:
        """Raise unless there are rows, and the weights are (N,) of the prediction's dtype."""
        name, shape = type(self).__name__, prediction.shape
        if 0 in shape:
            raise DataError(f"{name}: empty batch, the prediction has shape {tuple(shape)}")
        if weight is None:
            return
        self._check_library(prediction, weight, "sample_weight", "w")
        if weight.shape != shape[:1]:
            raise ShapeError(
                f"{name} needs a sample_weight of shape ({shape[0]},), one a row, got {tuple(weight.shape)}"
            )
        if weight.dtype != prediction.dtype:
            dtype = dtype_name(prediction.dtype)
            raise DTypeError(
                f"{name} needs a sample_weight of the prediction's dtype {dtype}, got {dtype_name(weight.dtype)}; use "
                f"model.asarray(w, dtype={dtype!r})"
            )

    def _check_normalizer(self, normalizer: Any) -> Any:
        """A number as a float, an array as it is; ConfigError where it cannot divide a loss."""
        if isinstance(normalizer, (int, float)):
            if not 0 <= normalizer < math.inf:
                raise ConfigError(f"{type(self).__name__}: normalizer must be a number of at least 0, got {normalizer}")
            return float(normalizer)
        if not hasattr(normalizer, "device") or normalizer.shape != ():
            raise DTypeError(f"{type(self).__name__}: normalizer must be a number or a 0-d array, got {normalizer!r}")
        return normalizer

    def _check_scale(self, scale: Any, values: Array | None, shape: tuple[int, ...]) -> Any:
        """The scale as it stands beside `values`; raises where it is an array of a shape that the losses have not."""
        if isinstance(scale, Real):  # such as numpy.float32(2), which kernels would take for an array
            return scale if isinstance(scale, (int, float)) else float(scale)
        name = type(self).__name__
        if self.reduction != "none":
            raise DTypeError(f"{name}.backward: scale must be a number; an array is for reduction='none'")
        outer = self._shape_of_losses(shape)
        if getattr(scale, "shape", None) != outer:
            found = getattr(scale, "shape", scale)
            raise ShapeError(f"{name}.backward needs a number or the shape of the losses, {outer}, got {found}")
        self._check_library(values, scale, "scale", "scale")
        assert values is not None
        return scale if values.shape == outer else ops.reshape(scale, tuple(values.shape))

    def _shape_of_losses(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(shape[:-1] if self.by_row else shape)

    @classmethod
    def _arguments(cls) -> dict[str, Any]:
        """The names of the constructor's arguments, with their defaults."""
        return {name: each.default for name, each in inspect.signature(cls).parameters.items()}

    def __repr__(self) -> str:
        said = [f"{name}={getattr(self, name)!r}" for name, default in self._arguments().items()
                if getattr(self, name) != default]  # fmt: skip
        return f"{type(self).__name__}({', '.join(said)})"


def as_rows(x: Array) -> Array:
    """(..., C) as (M, C), sharing memory."""
    return x if x.ndim == 2 else ops.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))
