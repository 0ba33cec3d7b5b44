"""Metrics of classifiers. Predictions are (..., C) scores; labels are (...) integers."""

from __future__ import annotations

import math
from typing import Any

from bpnet import ops
from bpnet.dispatch import Array
from bpnet.errors import ConfigError, ShapeError, did_you_mean
from bpnet.metrics.base import (
    MeanMetric,
    Metric,
    check_flag,
    check_index,
    check_labels,
    check_same_shape,
)

AVERAGES = ("macro", "micro", "weighted", "binary")


class Accuracy(MeanMetric):
    """The share of rows whose largest score stands at the label (the first of equal ones).

    prediction : (..., C) logits or probabilities; target : (...) integers
    ignore_index : a label whose rows do not count
    soft_targets : True takes floating targets (..., C), one-hot or soft, for the class of their largest entry; without
                   it they are refused
    """

    name = "accuracy"

    def __init__(self, *, ignore_index: int | None = None, soft_targets: bool = False, name: str | None = None) -> None:
        super().__init__(name=name)
        self.ignore_index = check_index(self, ignore_index)
        self.soft_targets = check_flag(self, "soft_targets", soft_targets)
        if soft_targets and ignore_index is not None:
            raise ConfigError(
                f"{type(self).__name__}: ignore_index is a label, and soft_targets=True has none; choose one"
            )

    def _labels(self, prediction: Array, target: Array) -> Array:
        """The labels, checked; of soft rows where those are asked for and given."""
        if self.soft_targets and len(target.shape) > 1 and tuple(target.shape) == tuple(prediction.shape):
            return ops.largest(target)
        one = prediction.shape[-1:] == (1,) and tuple(target.shape) in (prediction.shape, prediction.shape[:-1])
        hint = "; for one score an element use BinaryAccuracy()" if one or len(prediction.shape) < 2 else ""
        check_labels(self, prediction, target, hint)
        return target

    def measure(self, prediction: Array, target: Array) -> Array:
        """(2,): the number of right answers, and of rows that count."""
        return ops.count_correct(prediction, self._labels(prediction, target), self.ignore_index)


class TopKAccuracy(Accuracy):
    """The share of rows whose label is among the k largest scores; of equal scores the first stands before.

    prediction : (..., C), C at least k; target, ignore_index, soft_targets : as in Accuracy
    """

    def __init__(
        self, k: int = 5, *, ignore_index: int | None = None, soft_targets: bool = False, name: str | None = None
    ) -> None:
        if isinstance(k, bool) or not hasattr(k, "__index__") or k < 1:
            raise ConfigError(f"TopKAccuracy: k must be an integer of at least 1, got {k!r}")
        super().__init__(ignore_index=ignore_index, soft_targets=soft_targets, name=name)
        self.k = int(k)
        if name is None:
            self.name = self._usual_name

    @property
    def _usual_name(self) -> str:
        return f"top{self.k}_accuracy"

    def measure(self, prediction: Array, target: Array) -> Array:
        """(2,): the number of rows whose label is among the k, and of rows that count."""
        labels = self._labels(prediction, target)
        if prediction.shape[-1] < self.k:
            raise ShapeError(
                f"TopKAccuracy(k={self.k}) needs at least {self.k} classes, got predictions "
                f"{tuple(prediction.shape)}; choose a smaller k"
            )
        return ops.count_top_k(prediction, labels, self.k, self.ignore_index)


class BinaryAccuracy(MeanMetric):
    """The share of elements on the same side as their target, 0 or 1.

    from_logits : True: the answer is 1 where the score is above 0; False: where the probability is above 1/2
    prediction, target : one shape
    """

    name = "accuracy"

    def __init__(self, *, from_logits: bool = True, name: str | None = None) -> None:
        super().__init__(name=name)
        self.from_logits = check_flag(self, "from_logits", from_logits)

    def measure(self, prediction: Array, target: Array) -> Array:
        """(2,): the number of right answers, and of elements."""
        check_same_shape(self, prediction, target)
        return ops.count_correct_binary(prediction, target, 0.0 if self.from_logits else 0.5)


class _Classes(Metric):
    """A metric of the answers as classes: those of the largest of C scores, or 0 and 1 of one score an element.

    prediction, target : (..., C) and integers (...), or one score an element: one shape, targets 0 or 1
    from_logits  : of one score an element: whether the answer is 1 above 0 (True) or above 1/2 (False)
    ignore_index : a label whose rows do not count
    """

    def __init__(self, *, from_logits: bool, ignore_index: int | None, name: str | None) -> None:
        super().__init__(name=name)
        self.from_logits = check_flag(self, "from_logits", from_logits)
        self.ignore_index = check_index(self, ignore_index)

    def _classes(self, prediction: Array, target: Array) -> tuple[Array, Array, int]:
        """The answers, the labels, and the number of classes."""
        if tuple(prediction.shape) == tuple(target.shape) and prediction.shape[1:] in ((), (1,)):
            threshold = 0.0 if self.from_logits else 0.5
            return ops.above(prediction, threshold), ops.above(target, 0.5), 2
        if tuple(prediction.shape) == tuple(target.shape) or prediction.shape[-1:] == (1,):
            raise ShapeError(
                f"{type(self).__name__} needs predictions (N, C) and labels (N,), or one score an element and targets "
                f"of its shape, (N,) or (N, 1), got {tuple(prediction.shape)} and {tuple(target.shape)}"
            )
        check_labels(self, prediction, target)
        return ops.largest(prediction), target, int(prediction.shape[-1])


class ConfusionMatrix(_Classes):
    """How often label i (row) was given class j (column): nested lists of integers.

    prediction : (..., C) scores and target (...) integers, or one score an element: (N,) or (N, 1), targets 0 or 1
    from_logits : of one score an element: whether the answer is 1 above 0 (True) or above 1/2 (False)
    ignore_index : a label whose rows do not count
    The sums are C * C numbers.
    """

    name = "confusion_matrix"

    def __init__(self, *, from_logits: bool = True, ignore_index: int | None = None, name: str | None = None) -> None:
        super().__init__(from_logits=from_logits, ignore_index=ignore_index, name=name)

    def measure(self, prediction: Array, target: Array) -> Array:
        """(C, C): the counts."""
        return ops.confusion(*self._classes(prediction, target), self.ignore_index)

    def result(self, sums: Any) -> list[list[int]]:
        """The counts as integers."""
        return [[round(each) for each in row] for row in sums.tolist()]


class _ByClass(_Classes):
    def __init__(
        self,
        *,
        average: str | None = "macro",
        from_logits: bool = True,
        ignore_index: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(from_logits=from_logits, ignore_index=ignore_index, name=name)
        if average is not None and average not in AVERAGES:
            raise ConfigError(
                f"{type(self).__name__}: average must be one of {', '.join(AVERAGES)}, or None for a value a class, "
                f"got {average!r}{did_you_mean(average, AVERAGES)}"
            )
        self.average = average

    def measure(self, prediction: Array, target: Array) -> Array:
        """(3, C): for every class the right answers, the answers, and the labels."""
        classes, labels, n_classes = self._classes(prediction, target)
        if self.average == "binary" and n_classes != 2:
            raise ShapeError(
                f"{type(self).__name__}(average='binary') needs 2 classes, got predictions "
                f"{tuple(prediction.shape)}; use average='macro'"
            )
        return ops.class_counts(classes, labels, n_classes, self.ignore_index)

    def result(self, sums: Any) -> float | list[float]:
        """The average, or a value a class."""
        columns = list(zip(*sums.tolist(), strict=True))
        if self.average == "micro":
            return self._score(*(sum(row) for row in zip(*columns, strict=True)))
        scores = [self._score(*column) for column in columns]
        if self.average is None:
            return scores
        if self.average == "binary":
            return scores[1]
        weights = [float(a) if self.average == "weighted" else float(p + a > 0) for _, p, a in columns]
        total = sum(weights)
        return sum(w * s for w, s in zip(weights, scores, strict=True)) / total if total else math.nan

    def _score(self, right: float, predicted: float, actual: float) -> float:
        raise NotImplementedError


class Precision(_ByClass):
    """Of the answers of a class, the share that is right: TP / (TP + FP); 0 where there are none.

    average : "macro" (the mean over classes that occur in labels or answers), "weighted" (by how often the class is
              the label), "micro" (over all counts), "binary" (class 1 of two), None (a list, a value a class)
    prediction : (..., C) scores and target (...) integers, or one score an element: (N,) or (N, 1), targets 0 or 1
    from_logits : of one score an element: whether the answer is 1 above 0 (True) or above 1/2 (False)
    ignore_index : a label whose rows do not count
    """

    name = "precision"

    def _score(self, right: float, predicted: float, actual: float) -> float:
        return right / predicted if predicted else 0.0


class Recall(_ByClass):
    """Of the labels of a class, the share that is found: TP / (TP + FN); 0 where there are none.

    average, prediction, target, from_logits, ignore_index : as in Precision
    """

    name = "recall"

    def _score(self, right: float, predicted: float, actual: float) -> float:
        return right / actual if actual else 0.0


class F1(_ByClass):
    """The harmonic mean of precision and recall: 2 TP / (2 TP + FP + FN); 0 where there are none.

    average, prediction, target, from_logits, ignore_index : as in Precision
    """

    name = "f1"

    def _score(self, right: float, predicted: float, actual: float) -> float:
        return 2 * right / (predicted + actual) if predicted + actual else 0.0


class Perplexity(MeanMetric):
    """exp of the mean negative log-likelihood: how many equally likely choices a label is worth.

    prediction   : (..., C) logits, or probabilities with from_logits=False; target : (...) integers
    ignore_index : a label, such as that of padding, that does not count
    """

    name = "perplexity"

    def __init__(self, *, from_logits: bool = True, ignore_index: int | None = None, name: str | None = None) -> None:
        super().__init__(name=name)
        self.from_logits = check_flag(self, "from_logits", from_logits)
        self.ignore_index = check_index(self, ignore_index)

    def measure(self, prediction: Array, target: Array) -> Array:
        """(2,): the summed negative log-likelihood in nats, and the number of labels that count."""
        check_labels(self, prediction, target, "; Perplexity takes integer labels")
        return ops.sum_log_loss(prediction, target, self.from_logits, self.ignore_index)

    def result(self, sums: Any) -> float:
        """exp of the mean; infinite where that overflows."""
        mean = super().result(sums)
        return math.exp(mean) if not mean > 709 else math.inf
