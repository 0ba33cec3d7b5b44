"""Losses: where the backward pass starts.

`loss.forward(prediction, target)` returns a 0-d array that stays on the device; `loss.backward()` returns its
derivative with respect to the prediction. The loss divides by its normalizer, by default its own total weight, and
nothing else in bpnet does.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from bpnet import ops
from bpnet.backend import type_name
from bpnet.dispatch import Array, Kernel, Tracked, dtype_name, namespace
from bpnet.errors import DataError, DTypeError, ShapeError, StateError


class Loss(Tracked):
    """Base of all losses; checks shapes and dtypes at the door, keeps what the derivative needs.

    targets : "labels" (integers, one a row) or "values" (of the prediction's shape and dtype)
    """

    targets: ClassVar[str] = "values"
    reduction = "mean"

    def kind_of(self, target: Array) -> str:
        """labels or values."""
        return self.targets

    @property
    def wants(self) -> str:
        """What predictions must be: "logits", "probabilities", or "values" for anything."""
        return "values"

    def __init__(self) -> None:
        self._kept: tuple[Any, ...] | None = None

    def __call__(self, prediction: Array, target: Array, sample_weight: Any = None) -> Array:
        """The loss, shape (), without keeping anything."""
        self.check(prediction, target)
        return self._forward(prediction, target, self.total_weight(prediction.shape, target))[0]

    def forward(
        self, prediction: Array, target: Array, normalizer: float | None = None, sample_weight: Any = None
    ) -> Array:
        """Return the loss, shape (), on the prediction's device; keep what `backward` needs.

        normalizer : what the sum over elements is divided by; by default `total_weight(prediction, target)`. With
                     accumulation pass the total of the whole step, so that uneven parts give the whole's gradient.
        """
        self.check(prediction, target)
        if normalizer is None:
            normalizer = self.total_weight(prediction.shape, target)
        value, *kept = self._forward(prediction, target, normalizer)
        self._kept = (*kept, normalizer)
        return value

    def backward(self, scale: float = 1.0) -> Array:
        """Return scale * d loss / d prediction, of the prediction's shape; takes what `forward` kept."""
        if self._kept is None:
            raise StateError(f"{type(self).__name__}.backward: nothing saved; call forward first, once per backward")
        *kept, normalizer = self._kept
        self._kept = None
        return self._backward(*kept, normalizer, scale)

    def total_weight(self, shape: Any, target: Array, sample_weight: Any = None) -> float:
        """What the sum is divided by when nothing else is said: the number of elements.

        One of your own that depends on more than shapes needs a Trainer with plan=False.
        """
        return float(math.prod(shape))

    def check(self, prediction: Array, target: Array) -> None:
        """Raise ShapeError, DTypeError or DataError unless the two fit this loss; reads no values."""
        _check_library(self, prediction, target)
        if prediction.shape != target.shape:
            hint = ""
            if sorted((prediction.ndim, target.ndim)) == [1, 2] and 1 in (prediction.shape[-1:] + target.shape[-1:]):
                hint = "; they would broadcast to every pair: reshape one, as in y[:, None]"
            raise ShapeError(
                f"{type(self).__name__} needs a target of the prediction's shape {tuple(prediction.shape)}, "
                f"got {tuple(target.shape)}{hint}"
            )
        if target.dtype != prediction.dtype:
            raise DTypeError(
                f"{type(self).__name__} needs a target of the prediction's dtype {prediction.dtype}, got "
                f"{target.dtype}; use model.asarray(y, dtype={dtype_name(prediction.dtype)!r})"
            )
        if 0 in prediction.shape:
            raise DataError(f"{type(self).__name__}: empty batch, the prediction has shape {tuple(prediction.shape)}")

    def check_values(self, target: Array, name: str) -> None:
        """Raise DataError when `target` holds values that the loss has no meaning for; asked once, when data enter."""

    def _forward(self, prediction: Array, target: Array, normalizer: float) -> tuple[Any, ...]:
        """The value, and what `_backward` takes before (normalizer, scale)."""
        raise NotImplementedError

    def _backward(self, *kept: Any) -> Array:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _check_library(loss: Loss, prediction: Any, target: Any) -> None:
    for each, what in ((prediction, "prediction"), (target, "target")):
        if not hasattr(each, "device"):
            raise DTypeError(
                f"{type(loss).__name__} needs arrays, got a {what} of {type_name(each)}; use model.asarray"
            )
    if type(prediction) is not type(target) and not isinstance(target, type(prediction)):
        raise DTypeError(
            f"{type(loss).__name__} got a prediction of {type_name(prediction)} and a target of {type_name(target)}; "
            "bring the target over with model.asarray(y)"
        )
    if prediction.device != target.device:
        raise DTypeError(
            f"{type(loss).__name__} got a prediction on {prediction.device} and a target on {target.device}; "
            "bring the target over with model.asarray(y)"
        )


class _LabelLoss(Loss):
    """A loss of (N, C) predictions against (N,) integer labels; its total weight is N."""

    targets = "labels"

    def total_weight(self, shape: Any, target: Array, sample_weight: Any = None) -> float:
        """N, the number of rows."""
        return float(shape[0])

    def check(self, prediction: Array, target: Array) -> None:
        """Raise unless the prediction is (N, C), N and C at least 1, and the target (N,) of integers."""
        _check_library(self, prediction, target)
        name = type(self).__name__
        shape = prediction.shape
        if len(shape) != 2:
            raise ShapeError(f"{name} needs predictions of shape (N, C), got {tuple(shape)}")
        if target.shape != shape[:1]:
            hint = "; for one-hot rows pass their argmax" if target.shape == shape else ""
            raise ShapeError(f"{name} needs labels of shape ({shape[0]},), one a row, got {tuple(target.shape)}{hint}")
        if not dtype_name(target.dtype).startswith(("int", "uint")):
            raise DTypeError(f"{name} needs integer labels, got {target.dtype}")
        if 0 in shape:
            raise DataError(f"{name}: empty batch, the prediction has shape {tuple(shape)}")


class SoftmaxCrossEntropy(_LabelLoss):
    """Mean negative log-likelihood of labels under softmax(logits), in nats. Softmax and loss as one.

    The derivative with respect to the logits is (p - onehot) / N.
    prediction : (N, C) logits; target : (N,) integers, 0 <= label < C. A label outside counts as no class (loss 0,
    gradient p / N): the Trainer checks labels when data enter, and this class does not read them.
    """

    @property
    def wants(self) -> str:
        """Logits: the softmax is in the loss."""
        return "logits"

    def _forward(self, prediction: Array, target: Array, normalizer: float) -> tuple[Any, ...]:
        value, p = ops.softmax_cross_entropy(prediction, target, normalizer)
        return value, p, target

    def _backward(self, *kept: Any) -> Array:
        return ops.softmax_cross_entropy_backward(*kept)


class _PlainForm:
    """For losses whose ops are f(prediction, target, normalizer) and f_backward(the same, scale)."""

    op: ClassVar[Kernel]
    op_backward: ClassVar[Kernel]

    def _forward(self, prediction: Array, target: Array, normalizer: float) -> tuple[Any, ...]:
        return type(self).op(prediction, target, normalizer), prediction, target

    def _backward(self, *kept: Any) -> Array:
        return type(self).op_backward(*kept)


class CategoricalCrossEntropy(_PlainForm, _LabelLoss):
    """Mean -log p[label] on probabilities, in nats: the separate form, to stand behind a Softmax layer.

    prediction : (N, C) probabilities; target : (N,) integers. For training prefer SoftmaxCrossEntropy on logits.
    """

    @property
    def wants(self) -> str:
        """Probabilities, as a Softmax layer gives them."""
        return "probabilities"

    op = ops.categorical_cross_entropy
    op_backward = ops.categorical_cross_entropy_backward


class BinaryCrossEntropy(_PlainForm, Loss):
    """Mean binary cross-entropy over all elements, in nats.

    from_logits : True (the default) takes logits and applies the sigmoid itself, which is exact for large values;
                  False takes probabilities, for a model that ends in a Sigmoid
    prediction, target : one shape and dtype; 0 <= target <= 1
    """

    op = ops.sigmoid_binary_cross_entropy
    op_backward = ops.sigmoid_binary_cross_entropy_backward

    def __new__(cls, *, from_logits: bool = True) -> BinaryCrossEntropy:
        """Make the form asked for."""
        return super().__new__(cls if from_logits else _BinaryCrossEntropyOnProbabilities)

    def __init__(self, *, from_logits: bool = True) -> None:
        super().__init__()
        self._from_logits = from_logits

    @property
    def from_logits(self) -> bool:
        """Whether predictions are logits; said at construction."""
        return self._from_logits

    @property
    def wants(self) -> str:
        """Logits or probabilities, as said at construction."""
        return "logits" if self._from_logits else "probabilities"

    def check_values(self, target: Array, name: str) -> None:
        """Raise DataError unless every target lies in [0, 1]."""
        if not bool(namespace(target).all((target >= 0) & (target <= 1))):
            raise DataError(
                f"{name} must lie in [0, 1] for BinaryCrossEntropy; map classes such as -1 and 1 to 0 and 1"
            )

    def __repr__(self) -> str:
        return f"BinaryCrossEntropy(from_logits={self.from_logits})"


class _BinaryCrossEntropyOnProbabilities(BinaryCrossEntropy):
    op = ops.binary_cross_entropy
    op_backward = ops.binary_cross_entropy_backward


class MeanSquaredError(_PlainForm, Loss):
    """Mean of (prediction - target)^2 over all elements; the derivative is 2 (prediction - target) / n."""

    op = ops.mean_squared_error
    op_backward = ops.mean_squared_error_backward


class MeanAbsoluteError(_PlainForm, Loss):
    """Mean of |prediction - target| over all elements; the derivative is sign(prediction - target) / n."""

    op = ops.mean_absolute_error
    op_backward = ops.mean_absolute_error_backward
