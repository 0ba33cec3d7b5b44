"""Sums that stay on the device until somebody asks: running loss totals and numbers of right answers."""

from __future__ import annotations

from bpnet.dispatch import Array, kernel, namespace


@kernel
def accumulate_(total: Array, value: Array, weight: float) -> None:
    """total += value * weight, for 0-d arrays; `total` is float64."""
    total[...] = total + namespace(value).astype(value, total.dtype) * weight


@kernel
def count_correct(scores: Array, labels: Array) -> Array:
    """The number of rows whose largest score stands at the label (the first of equal ones), shape (), float64.

    scores : (N, C) logits or probabilities; labels : (N,) integer
    """
    xp = namespace(scores)
    hits = xp.argmax(scores, axis=1) == xp.astype(labels, xp.int64)
    return xp.asarray(xp.sum(xp.astype(hits, xp.float64)))


@kernel
def count_correct_binary(scores: Array, targets: Array, threshold: float) -> Array:
    """The number of elements on the same side as their target, shape (), float64.

    scores : any shape, the answer is 1 where score > threshold; targets : the same shape, 0 or 1, split at 1/2
    """
    xp = namespace(scores)
    hits = (scores > threshold) == (targets > 0.5)
    return xp.asarray(xp.sum(xp.astype(hits, xp.float64)))
