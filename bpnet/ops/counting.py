"""Sums that stay on the device until somebody asks: running loss totals and numbers of right answers."""

from __future__ import annotations

from bpnet.dispatch import Array, kernel, namespace


@kernel
def accumulate_(total: Array, value: Array, weight: float | Array) -> None:
    """total += (value * weight, weight): what a mean over batches is made of.

    total : (2,) float64; value : 0-d; weight : a number, or a 0-d array
    """
    xp = namespace(value)
    if not isinstance(weight, (int, float)):
        weight = xp.astype(weight, total.dtype)
    total[0] = total[0] + xp.astype(value, total.dtype) * weight
    total[1] = total[1] + weight


@kernel
def count_correct(scores: Array, labels: Array) -> Array:
    """The number of rows whose largest score stands at the label (the first of equal ones), and of all: (2,) float64.

    scores : (N, C) logits or probabilities; labels : (N,) integer
    """
    xp = namespace(scores)
    hits = xp.argmax(scores, axis=1) == xp.astype(labels, xp.int64)
    return _hits_of_all(hits)


@kernel
def count_correct_binary(scores: Array, targets: Array, threshold: float) -> Array:
    """The number of elements on the same side as their target, and of all: (2,) float64.

    scores : any shape, the answer is 1 where score > threshold; targets : the same shape, 0 or 1, split at 1/2
    """
    return _hits_of_all((scores > threshold) == (targets > 0.5))


def _hits_of_all(hits: Array) -> Array:
    xp = namespace(hits)
    flat = xp.reshape(xp.astype(hits, xp.float64), (1, -1))
    return xp.sum(xp.concat((flat, xp.ones_like(flat)), axis=0), axis=1)
