"""Sums that stay on the device until somebody asks: running loss totals, and what metrics are made of.

Every sum is float64 and holds what it counts for beside it, so that the sums of batches can be added.
"""

from __future__ import annotations

from bpnet.dispatch import Array, kernel, namespace
from bpnet.ops.costs import size
from bpnet.ops.weighting import is_label


@kernel(flops=0)
def accumulate_(total: Array, value: Array, weight: float | Array) -> None:
    """total += (value * weight, weight): what a mean over batches is made of.

    total : (2,) float64; value : 0-d; weight : a number, or a 0-d array
    """
    xp = namespace(value)
    if not isinstance(weight, (int, float)):
        weight = xp.astype(weight, total.dtype)
    total[0] = total[0] + xp.astype(value, total.dtype) * weight
    total[1] = total[1] + weight


def _counted(labels: Array, ignore_index: int | None) -> Array:
    """Which labels count, a bool array of their shape."""
    xp = namespace(labels)
    if ignore_index is None:
        return xp.ones(labels.shape, dtype=xp.bool, device=labels.device)
    return xp.astype(labels, xp.int64) != ignore_index


def _share(hits: Array, counted: Array) -> Array:
    """(2,) float64: the number of hits that count, and of all that count."""
    xp = namespace(hits)
    return xp.stack([xp.sum(xp.astype(each, xp.float64)) for each in (hits & counted, counted)])


def _above(x: Array, threshold: float) -> Array:
    """x > threshold, for integers and truth values too, which the standard does not compare with a float."""
    xp = namespace(x)
    return (x if xp.isdtype(x.dtype, "real floating") else xp.astype(x, xp.float64)) > threshold


@kernel(flops=1)
def largest(scores: Array) -> Array:
    """(..., C) -> (...) int64: where each row's largest score stands, the first of equal ones."""
    xp = namespace(scores)
    return xp.astype(xp.argmax(scores, axis=-1), xp.int64)


@kernel(flops=0)
def above(scores: Array, threshold: float) -> Array:
    """1 where score > threshold and 0 elsewhere, int64, of the same shape."""
    return namespace(scores).astype(_above(scores, threshold), namespace(scores).int64)


@kernel(flops=lambda scores, labels, ignored: size(scores) + 2 * size(labels))
def count_correct(scores: Array, labels: Array, ignore_index: int | None) -> Array:
    """(2,) float64: the number of rows whose largest score stands at the label (the first of equal ones), and of rows.

    scores : (..., C) logits or probabilities; labels : (...) integer; those equal to `ignore_index` do not count
    """
    xp = namespace(scores)
    hits = xp.argmax(scores, axis=-1) == xp.astype(labels, xp.int64)
    return _share(hits, _counted(labels, ignore_index))


@kernel(flops=2)
def count_correct_binary(scores: Array, targets: Array, threshold: float) -> Array:
    """(2,) float64: the number of elements on the same side as their target, and of elements.

    scores : any shape, the answer is 1 where score > threshold; targets : the same shape, 0 or 1, split at 1/2
    """
    return _share(_above(scores, threshold) == _above(targets, 0.5), _counted(targets, None))


@kernel(flops=lambda scores, labels, k, ignored: size(scores) + 2 * size(labels))
def count_top_k(scores: Array, labels: Array, k: int, ignore_index: int | None) -> Array:
    """(2,) float64: the number of rows whose label is among the k largest scores, and of rows.

    Of equal scores the first stands before the others, so that k = 1 is `count_correct`; a NaN is no hit.
    scores : (..., C); labels : (...) integer; those equal to `ignore_index` do not count
    """
    xp = namespace(scores)
    wide = xp.astype(labels, xp.int64)[..., None]
    classes = xp.arange(scores.shape[-1], dtype=xp.int64, device=scores.device)
    own = xp.sum(xp.where(wide == classes, scores, 0), axis=-1, keepdims=True)
    ahead = (scores > own) | ((scores == own) & (classes < wide))
    hits = xp.sum(xp.astype(ahead, xp.int64), axis=-1) < k
    known = xp.any(wide == classes, axis=-1) & (own == own)[..., 0]
    return _share(hits & known, _counted(labels, ignore_index))


def _one_hot(classes: Array, n_classes: int, ignored: Array, ignore_index: int | None) -> Array:
    """(N, C) float64 of (...) classes; the rows where `ignored` is the ignored label are zeros."""
    xp = namespace(classes)
    at = is_label(xp.reshape(classes, (-1,)), n_classes)
    counted = xp.reshape(_counted(ignored, ignore_index), (-1, 1))
    return xp.astype(at & counted, xp.float64)


@kernel(flops=lambda classes, labels, n_classes, ignored: 2 * size(labels) * n_classes**2)
def confusion(classes: Array, labels: Array, n_classes: int, ignore_index: int | None) -> Array:
    """(C, C) float64: how often label i (row) was given class j (column).

    classes, labels : (...) integer; labels outside 0..C-1 and those equal to `ignore_index` do not count
    """
    actual = _one_hot(labels, n_classes, labels, ignore_index)
    return actual.T @ _one_hot(classes, n_classes, labels, ignore_index)


@kernel(flops=lambda classes, labels, n_classes, ignored: 4 * size(labels) * n_classes)
def class_counts(classes: Array, labels: Array, n_classes: int, ignore_index: int | None) -> Array:
    """(3, C) float64: for every class the right answers, the answers, and the labels.

    classes, labels : (...) integer; labels equal to `ignore_index` do not count
    """
    xp = namespace(labels)
    given = _one_hot(classes, n_classes, labels, ignore_index)
    actual = _one_hot(labels, n_classes, labels, ignore_index)
    return xp.stack([xp.sum(each, axis=0) for each in (given * actual, given, actual)])


@kernel(flops=lambda s, t, from_logits, ignored: (6 * size(s) + 2 * size(t)) if from_logits else 3 * size(s) + size(t))
def sum_log_loss(scores: Array, labels: Array, from_logits: bool, ignore_index: int | None) -> Array:
    """(2,) float64: the negative log-likelihood of the labels in nats, summed, and the number of labels.

    scores : (..., C) logits, or probabilities, which are raised to the smallest normal number
    labels : (...) integer; those equal to `ignore_index` do not count
    """
    xp = namespace(scores)
    rows = xp.reshape(scores, (-1, scores.shape[-1]))
    flat = xp.reshape(labels, (-1,))
    if from_logits:
        z = rows - xp.max(rows, axis=1, keepdims=True)
        log_p = z - xp.log(xp.sum(xp.exp(z), axis=1, keepdims=True))
    else:
        log_p = xp.log(xp.maximum(rows, float(xp.finfo(rows.dtype).smallest_normal)))
    counted = _counted(flat, ignore_index)
    picked = xp.where(is_label(flat, rows.shape[1]) & counted[:, None], log_p, 0)
    total = -xp.sum(xp.astype(picked, xp.float64))
    return xp.stack([total, xp.sum(xp.astype(counted, xp.float64))])


@kernel(flops=lambda y, targets, power: (2 + power) * size(y))
def sum_errors(y: Array, targets: Array, power: int) -> Array:
    """(2,) float64: the sum of |y - targets|^power, power 1 or 2, and the number of elements.

    y, targets : one shape
    """
    xp = namespace(y)
    error = xp.astype(y, xp.float64) - xp.astype(targets, xp.float64)
    each = xp.abs(error) if power == 1 else error * error
    return xp.stack([xp.sum(each), xp.sum(xp.ones_like(each))])


@kernel(flops=8)
def sum_deviations(y: Array, targets: Array, shift: float) -> Array:
    """(4, K) float64, for every output: n, and the sums of t - shift, of its square, and of (y - t)^2.

    y, targets : (N, ...) of one shape, K outputs a row
    """
    xp = namespace(y)
    n = y.shape[0]
    wide = [xp.reshape(xp.astype(each, xp.float64), (n, -1 if n else 1)) for each in (y, targets)]
    error = wide[0] - wide[1]
    deviation = wide[1] - shift
    columns = (xp.ones_like(error), deviation, deviation * deviation, error * error)
    return xp.stack([xp.sum(each, axis=0) for each in columns])
