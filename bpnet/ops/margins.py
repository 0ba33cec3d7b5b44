"""Losses of margins, as pairs. At a kink the derivative is that of the side where the loss is 0."""

from __future__ import annotations

from bpnet.dispatch import Array, kernel, namespace
from bpnet.ops.costs import size
from bpnet.ops.weighting import times


@kernel(flops=lambda y, targets, squared: size(y) * (4 if squared else 3))
def hinge(y: Array, targets: Array, squared: bool) -> Array:
    """max(0, 1 - t y), or its square, elementwise; t is -1 or 1. [Cortes & Vapnik 1995]"""
    xp = namespace(y)
    short = xp.maximum(1 - targets * y, 0)
    return short * short if squared else short


@kernel(flops=lambda dl, y, targets, squared: size(y) * (6 if squared else 5))
def hinge_backward(dl: Array, y: Array, targets: Array, squared: bool) -> Array:
    """Return dy = -dl t where 1 - t y > 0, else 0; for the square -2 dl t max(0, 1 - t y)."""
    xp = namespace(y)
    short = xp.maximum(1 - targets * y, 0)
    return times(dl, -2 * targets * short if squared else -targets * xp.sign(short))


def _with_margin(scores: Array, Q: Array, margin: float) -> Array:
    """The scores, all but the label's raised by the margin."""
    return namespace(scores).where(Q == 0, scores + margin, scores)


@kernel(flops=5)
def multiclass_hinge_rows(scores: Array, Q: Array, margin: float) -> Array:
    """w_i max(0, margin + max_{c != label} s_c - s_label), shape (M,). [Crammer & Singer 2001]

    scores : (M, C); Q : (M, C), w_i at the row's label and 0 elsewhere. The largest of all scores, those of other
    classes raised by the margin, is the label's own where the row's loss is 0.
    """
    xp = namespace(scores)
    largest = xp.max(_with_margin(scores, Q, margin), axis=1, keepdims=True)
    return xp.sum(Q * xp.where(Q == 0, 0, largest - scores), axis=1)


@kernel(flops=lambda dl, scores, Q, margin: 8 * size(scores))
def multiclass_hinge_rows_backward(dl: Array, scores: Array, Q: Array, margin: float) -> Array:
    """Return dscores = dl_i w_i at the first largest of those scores, less dl_i w_i at the label."""
    xp = namespace(scores)
    raised = _with_margin(scores, Q, margin)
    at_label = xp.sum(xp.where(Q == 0, 0, scores), axis=1)
    violated = xp.max(raised, axis=1) != at_label  # NaN is unequal too, and stays in the loss
    first = xp.argmax(raised, axis=1)[:, None] == xp.arange(Q.shape[1], device=Q.device)
    weight = xp.sum(Q, axis=1, keepdims=True)
    slope = xp.astype(first, Q.dtype) * weight - Q
    return times(dl[:, None], xp.where(violated[:, None], slope, 0))
