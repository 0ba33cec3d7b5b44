"""Losses of yes and no: every element is a question of its own."""

from __future__ import annotations

import math
from typing import Any

from bpnet import ops
from bpnet.data.checks import check_each
from bpnet.dispatch import Array
from bpnet.losses import settings
from bpnet.losses.base import Loss
from bpnet.losses.settings import Setting

IN_UNIT = "lie in [0, 1] for {}; map classes such as -1 and 1 to 0 and 1"


class BinaryCrossEntropy(Loss):
    """Mean binary cross-entropy over all elements, in nats.

    from_logits : True (the default) takes logits and applies the sigmoid itself, which is exact for large values;
                  False takes probabilities, for a model that ends in a Sigmoid
    prediction, target : one shape and dtype; 0 <= target <= 1
    """

    from_logits = Setting(settings.flag, "Whether predictions are logits; said at construction.")

    def __init__(self, *, from_logits: bool = True, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.from_logits = from_logits

    @property
    def wants(self) -> str:
        """Logits or probabilities, as said at construction."""
        return "logits" if self.from_logits else "probabilities"

    def each(self, prediction: Array, target: Array) -> Array:
        """The elements' losses."""
        op = ops.sigmoid_cross_entropy if self.from_logits else ops.probability_cross_entropy
        return op(prediction, target)

    def each_backward(self, dl: Array, prediction: Array, target: Array) -> Array:
        """Return dl times their derivative."""
        op = ops.sigmoid_cross_entropy_backward if self.from_logits else ops.probability_cross_entropy_backward
        return op(dl, prediction, target)

    def in_one_pass(
        self, prediction: Array, target: Array, normalizer: Any, sample_weight: Array | None
    ) -> tuple[Any, ...] | None:
        """For batches without weights."""
        if sample_weight is not None or not isinstance(normalizer, float):
            return None
        arguments = (prediction, target, normalizer)
        if self.from_logits:
            value = ops.sigmoid_binary_cross_entropy(*arguments)
            return value, ops.sigmoid_binary_cross_entropy_backward, arguments
        return ops.binary_cross_entropy(*arguments), ops.binary_cross_entropy_backward, arguments

    def check_values(self, target: Array, name: str, n_classes: int | None = None, offset: int = 0) -> None:
        """Raise DataError unless every target lies in [0, 1]."""
        check_each(target, (target >= 0) & (target <= 1), name, IN_UNIT.format(type(self).__name__), offset)


class BinaryFocalLoss(Loss):
    """Mean over all elements of binary cross-entropy times (1 - p_t)^gamma, in nats: easy ones count less.

    p_t is the probability of the right answer, so the loss is -(1 - p)^gamma log p where the target is 1.
    gamma : at least 0; 0 with alpha=None is BinaryCrossEntropy
    alpha : in [0, 1], what targets of 1 are multiplied by, and those of 0 by 1 - alpha; None multiplies by nothing.
            The paper takes 0.25. It is no weight: the mean is over the number of elements. [Lin et al. 2017, eq. 5]
    prediction : logits; target : the same shape, 0 <= target <= 1
    """

    op = ops.binary_focal
    op_backward = ops.binary_focal_backward
    gamma = Setting(settings.NOT_NEGATIVE, "How much less easy elements count.")
    alpha = Setting(
        settings.number(0.0, math.nextafter(1.0, 2.0), "a number in [0, 1] or None", optional=True),
        "What targets of 1 are multiplied by, or None.",
    )

    def __init__(self, gamma: float = 2.0, alpha: float | None = None, *, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.gamma = gamma
        self.alpha = alpha

    @property
    def wants(self) -> str:
        """Logits: the sigmoid is in the loss."""
        return "logits"

    @property
    def settings(self) -> tuple[float, float, float]:
        """Gamma, and what targets of 1 and of 0 are multiplied by."""
        return (self.gamma, *((1.0, 1.0) if self.alpha is None else (self.alpha, 1 - self.alpha)))

    def check_values(self, target: Array, name: str, n_classes: int | None = None, offset: int = 0) -> None:
        """Raise DataError unless every target lies in [0, 1]."""
        check_each(target, (target >= 0) & (target <= 1), name, IN_UNIT.format(type(self).__name__), offset)


class Hinge(Loss):
    """Mean of max(0, 1 - target * prediction) over all elements; the derivative at the kink is taken as 0.

    squared : whether each is squared, which has no kink
    prediction : scores, whose sign is the answer; target : the same shape, -1 or 1
    """

    op = ops.hinge
    op_backward = ops.hinge_backward
    squared = Setting(settings.flag, "Whether each loss is squared.")

    def __init__(self, *, squared: bool = False, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.squared = squared

    @property
    def settings(self) -> tuple[bool]:
        """Whether it is squared."""
        return (self.squared,)

    def check_values(self, target: Array, name: str, n_classes: int | None = None, offset: int = 0) -> None:
        """Raise DataError unless every target is -1 or 1."""
        words = "be -1 or 1 for Hinge; map 0 and 1 with 2 * y - 1"
        check_each(target, (target == -1) | (target == 1), name, words, offset)
