"""Losses of classes: cross-entropies of several forms, and the margin of several classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from bpnet import ops
from bpnet.data.checks import check_distributions, check_label_values
from bpnet.dispatch import Array, dtype_name, namespace
from bpnet.errors import ConfigError, DTypeError, ShapeError
from bpnet.losses import settings
from bpnet.losses.base import Loss, as_rows
from bpnet.losses.settings import Setting, weights_of_classes

ClassWeight = Sequence[float] | Mapping[int, float] | None


class ClassLoss(Loss):
    """Base of the losses of (N, ..., C) predictions against integer labels (N, ...), one a row.

    class_weight : C numbers, or a dict {class: weight} in which others weigh 1. The loss is
                   sum_i s_i w[label_i] l_i / sum_i s_i w[label_i], s the sample weights: a mean in which a class counts
                   as much as it weighs
    ignore_index : a label whose rows count for nothing, in the loss and in the total weight; None ignores none
    reduction    : "mean", "sum" or "none"
    soft         : whether rows of probabilities (N, ..., C) are targets too

    A label outside 0 ... C-1 is refused by the Trainer, when data enter. Where this class meets one, it names no class.
    """

    targets = "labels"
    by_row = True
    soft: ClassVar[bool] = False
    label_smoothing: Any = 0.0

    class_weight = Setting(settings.class_weight, "What classes count for; None is 1 each.")
    ignore_index = Setting(settings.label, "The label whose rows count for nothing, or None.")

    def __init__(
        self, *, class_weight: ClassWeight = None, ignore_index: int | None = None, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction=reduction)
        self.class_weight = class_weight
        self.ignore_index = ignore_index

    @property
    def wants(self) -> str:
        """Logits."""
        return "logits"

    @classmethod
    def kind_of(cls, target: Array) -> str:
        """Labels, or "values" for rows of probabilities where the loss takes them: what is not of an integer dtype."""
        if cls.soft and hasattr(target, "dtype") and not _is_integer(target):
            return "values"
        return "labels"

    def total_weight(self, shape: tuple[int, ...], target: Array, sample_weight: Array | None = None) -> Any:
        """The number of rows, or the sum of s_i w[label_i] over those not ignored; see `Loss.total_weight`.

        A row of probabilities t counts s_i sum_c w_c t_c, which is s_i where classes have no weights.
        """
        if self.reduction != "mean":
            return 1.0
        n_classes = shape[-1]
        class_weights = weights_of_classes(type(self).__name__, self.class_weight, n_classes)
        if self.kind_of(target) == "values":
            if class_weights is not None:
                return ops.soft_weight(target, class_weights, sample_weight)
        elif class_weights is not None or self.ignore_index is not None:
            return ops.label_weight(target, n_classes, class_weights, self.ignore_index, sample_weight)
        return super().total_weight(shape, target, sample_weight)

    def arrange(self, prediction: Array, target: Array, sample_weight: Array | None) -> tuple[Array, Array, Any]:
        """Rows of predictions (M, C), and the matrix (M, C) that all weights are in."""
        n_classes = prediction.shape[-1]
        class_weights = weights_of_classes(type(self).__name__, self.class_weight, n_classes)
        if self.kind_of(target) == "values":
            Q = ops.soft_targets(target, self.label_smoothing, class_weights, sample_weight)
        else:
            dtype = dtype_name(prediction.dtype)
            Q = ops.label_targets(
                target, n_classes, dtype, self.label_smoothing, class_weights, self.ignore_index, sample_weight
            )
        return as_rows(prediction), Q, None

    def check(self, prediction: Array, target: Array, sample_weight: Array | None = None) -> None:
        """Raise unless the prediction is (N, ..., C) and the target labels (N, ...), or rows where those are taken."""
        self._check_library(prediction, target, "target", "y")
        name, shape = type(self).__name__, prediction.shape
        if len(shape) < 2:
            raise ShapeError(f"{name} needs predictions of at least two axes, of shape (N, C), got {tuple(shape)}")
        if _is_integer(target):
            if target.shape != shape[:-1]:
                hint = "; for one-hot rows pass their argmax" if target.shape == shape else ""
                hint += f", or make them {dtype_name(prediction.dtype)}" if hint and self.soft else ""
                raise ShapeError(
                    f"{name} needs labels of shape {tuple(shape[:-1])}, one a row, got {tuple(target.shape)}{hint}"
                )
        elif not self.soft or target.shape == shape[:-1]:
            raise DTypeError(f"{name} needs integer labels, got {dtype_name(target.dtype)}")
        else:
            if target.shape != shape:
                raise ShapeError(
                    f"{name} needs integer labels of shape {tuple(shape[:-1])}, or rows of probabilities of the "
                    f"prediction's shape {tuple(shape)}, got {tuple(target.shape)}"
                )
            self._check_dtype(prediction, target)
            if self.ignore_index is not None:
                raise ConfigError(
                    f"{name}: ignore_index={self.ignore_index} is for integer labels, the targets are rows of "
                    "probabilities; give rows that count for nothing a sample_weight of 0"
                )
        self._check_rest(prediction, sample_weight)
        weights_of_classes(name, self.class_weight, shape[-1])

    def check_values(self, target: Array, name: str, n_classes: int | None = None, offset: int = 0) -> None:
        """Raise DataError unless labels name classes or are ignored, and rows of probabilities sum to 1."""
        if self.kind_of(target) == "values":
            check_distributions(target, name, offset)
        elif n_classes is not None:
            check_label_values(target, n_classes, name, offset, self.ignore_index)


class _CrossEntropy(ClassLoss):
    """The cross-entropies: with label smoothing, and against rows of probabilities too."""

    soft = True
    label_smoothing = Setting(settings.SHARE, "The share of the target that all classes have alike.")

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        class_weight: ClassWeight = None,
        ignore_index: int | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(class_weight=class_weight, ignore_index=ignore_index, reduction=reduction)
        self.label_smoothing = label_smoothing


class SoftmaxCrossEntropy(_CrossEntropy):
    """Mean negative log-likelihood of targets under softmax(logits), in nats. Softmax and loss as one.

    The derivative with respect to the logits is (p - onehot) / N.
    prediction : (N, ..., C) logits; target : (N, ...) integers, 0 <= label < C, or (N, ..., C) rows that sum to 1
    label_smoothing : eps in [0, 1): the target is (1 - eps) onehot + eps / C
    class_weight, ignore_index, reduction : as for `ClassLoss`. With smoothing l_i = sum_c w_c q_ic (-log p_ic), the
    total weight still counts labels; rows of probabilities t count sum_c w_c t_c, where PyTorch divides by N.

    >>> import numpy as np
    >>> import bpnet as bp
    >>> loss = bp.SoftmaxCrossEntropy()
    >>> logits = np.log([[0.7, 0.1, 0.2], [0.1, 0.5, 0.4]])
    >>> round(float(loss.forward(logits, np.array([0, 1]))), 6)  # the mean of -log 0.7 and -log 0.5
    0.524911
    >>> loss.backward().round(3)
    array([[-0.15,  0.05,  0.1 ],
           [ 0.05, -0.25,  0.2 ]])
    """

    op = ops.soft_cross_entropy_rows
    op_backward = ops.soft_cross_entropy_rows_backward

    def in_one_pass(
        self, prediction: Array, target: Array, normalizer: Any, sample_weight: Array | None
    ) -> tuple[Any, ...]:
        """The loss and p; the plan makes one pass of loss and gradient."""
        plain = sample_weight is None and self.class_weight is None and self.ignore_index is None
        plain = plain and not self.label_smoothing and self.kind_of(target) == "labels"
        if plain and isinstance(normalizer, float) and normalizer:
            labels = target if target.ndim == 1 else ops.reshape(target, (math.prod(target.shape),))
            value, p = ops.softmax_cross_entropy(as_rows(prediction), labels, normalizer)
            return value, ops.softmax_cross_entropy_backward, (p, labels, normalizer)
        logits, Q, _ = self.arrange(prediction, target, sample_weight)
        value, p = ops.soft_cross_entropy(logits, Q, normalizer)
        return value, ops.soft_cross_entropy_backward, (p, Q, normalizer)


class CategoricalCrossEntropy(_CrossEntropy):
    """Mean -log p[label] on probabilities, in nats: the separate form, to stand behind a Softmax layer.

    prediction : (N, ..., C) probabilities; target and settings as for SoftmaxCrossEntropy, which is the better one for
    training. A probability below the smallest normal number counts as that, so that the loss stays finite.
    """

    op = ops.probability_cross_entropy_rows
    op_backward = ops.probability_cross_entropy_rows_backward
    fused = (ops.categorical_cross_entropy, ops.categorical_cross_entropy_backward)

    @property
    def wants(self) -> str:
        """Probabilities, as a Softmax layer gives them."""
        return "probabilities"

    def in_one_pass(
        self, prediction: Array, target: Array, normalizer: Any, sample_weight: Array | None
    ) -> tuple[Any, ...] | None:
        """For rows of labels without weights."""
        if self.label_smoothing or self.class_weight is not None or self.ignore_index is not None:
            return None
        if prediction.ndim != 2 or self.kind_of(target) == "values":
            return None
        return super().in_one_pass(prediction, target, normalizer, sample_weight)


class NegativeLogLikelihood(ClassLoss):
    """Mean -log p[label] on log-probabilities, in nats, to stand behind a LogSoftmax layer.

    prediction : (N, ..., C) log-probabilities; target : (N, ...) integers, or (N, ..., C) rows that sum to 1
    """

    soft = True
    op = ops.negative_log_likelihood_rows
    op_backward = ops.negative_log_likelihood_rows_backward

    @property
    def wants(self) -> str:
        """Log-probabilities, as a LogSoftmax layer gives them."""
        return "log-probabilities"


class FocalLoss(ClassLoss):
    """Mean -(1 - p[label])^gamma log p[label], p = softmax(logits), in nats: easy rows count less. [Lin et al. 2017]

    gamma : at least 0; 0 is SoftmaxCrossEntropy
    prediction : (N, ..., C) logits; target : (N, ...) integers. The balance between classes, the paper's alpha, is
    class_weight; as everywhere it is in the total weight too.
    """

    op = ops.focal_rows
    op_backward = ops.focal_rows_backward
    gamma = Setting(settings.NOT_NEGATIVE, "How much less easy rows count.")

    def __init__(
        self,
        gamma: float = 2.0,
        *,
        class_weight: ClassWeight = None,
        ignore_index: int | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(class_weight=class_weight, ignore_index=ignore_index, reduction=reduction)
        self.gamma = gamma

    @property
    def settings(self) -> tuple[float]:
        """Gamma."""
        return (self.gamma,)


class MulticlassHinge(ClassLoss):
    """Mean max(0, margin + max_{c != label} s_c - s_label): Crammer and Singer's hinge loss of several classes (2001).

    Only the strongest rival counts. PyTorch's MultiMarginLoss is Weston and Watkins's: the sum over all rivals, by C.
    margin     : above 0
    prediction : (N, ..., C) scores; target : (N, ...) integers
    At a kink the derivative is that of the side where the loss is 0; of equal rivals the first is taken.
    """

    op = ops.multiclass_hinge_rows
    op_backward = ops.multiclass_hinge_rows_backward
    margin = Setting(settings.POSITIVE, "By how much the label's score must exceed all others.")

    def __init__(
        self,
        margin: float = 1.0,
        *,
        class_weight: ClassWeight = None,
        ignore_index: int | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(class_weight=class_weight, ignore_index=ignore_index, reduction=reduction)
        self.margin = margin

    @property
    def settings(self) -> tuple[float]:
        """The margin."""
        return (self.margin,)


class KLDivergence(Loss):
    """Mean over rows of sum_c t_c (log t_c - log p_c), in nats: the divergence of p from the target t.

    prediction : (N, ..., C) log-probabilities, as a LogSoftmax layer gives them; target : the same shape, rows of
    probabilities. The mean is over rows, as PyTorch's "batchmean" is for two axes, not over elements.
    """

    by_row = True
    op = ops.kl_divergence_rows
    op_backward = ops.kl_divergence_rows_backward

    @property
    def wants(self) -> str:
        """Log-probabilities."""
        return "log-probabilities"

    def check_values(self, target: Array, name: str, n_classes: int | None = None, offset: int = 0) -> None:
        """Raise DataError unless every row of the target is one of probabilities."""
        check_distributions(target, name, offset)


_INTEGERS: dict[tuple[type, Any], bool] = {}  # by library too: dtypes of two are not to be compared


def _is_integer(target: Array) -> bool:
    """Whether the dtype is one of integers; asked several times a step, so the answer is kept."""
    key = type(target), target.dtype
    found = _INTEGERS.get(key)
    if found is None:
        found = _INTEGERS[key] = bool(namespace(target).isdtype(target.dtype, "integral"))
    return found
