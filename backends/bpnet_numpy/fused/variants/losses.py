"""Softmax with cross-entropy in one pass over the rows, and right answers counted."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_numpy.fused.instruction import Program, instruction
from bpnet_numpy.fused.parts import PASS, pieces, sums_of_parts
from bpnet_numpy.fused.variants.common import check_place, fused, plain_number, single
from bpnet_numpy.kernels.common import INDICES, Array, first_like, floating
from bpnet_numpy.kernels.losses import labels_accept, loss_and_like, rows_accept


def _check_places(out: tuple[Array, Array], logits: Array) -> None:
    check_place(out[0], (), logits.dtype)
    check_place(out[1], logits.shape, logits.dtype)


def _labels(logits: Array, labels: Array, normalizer: float, *more: Any) -> bool:
    return labels_accept(logits, labels, normalizer, *more) and logits.ndim == 2 and labels.shape == logits.shape[:1]


def _by_rows(name: str, out: Any, logits: Array, labels: Array, *numbers: float) -> list[Call]:
    """The calls of a body on the rows, divided among the threads: each thread's loss, and their sum."""
    _check_places(out, logits)
    loss, rows = out

    def make(some: slice, places: list[Any]) -> Program:
        arrays = (*places, rows[some], logits[some], labels[some])
        return instruction(name, logits.dtype, *arrays, labels.itemsize, *logits[some].shape, *numbers)

    return sums_of_parts([loss.reshape(1)], pieces(len(logits), logits.size, PASS), make, logits)


@fused(ops.softmax_cross_entropy, accepts=_labels, allocate=loss_and_like)
def _(out: Any, logits: Array, labels: Array, normalizer: float) -> list[Call]:
    return _by_rows("softmax_cross_entropy", out, logits, labels, 1 / normalizer)


@fused(ops.softmax_cross_entropy_backward, accepts=_labels, allocate=first_like)
def _(out: Array, p: Array, labels: Array, normalizer: float, scale: float) -> list[Call]:
    check_place(out, p.shape, p.dtype)
    operands = (out, p, labels, labels.itemsize, *p.shape, float(scale / normalizer))
    return [instruction("softmax_cross_entropy_backward", p.dtype, *operands)]


@fused(ops.softmax_cross_entropy_gradient, accepts=_labels, allocate=loss_and_like)
def _(out: Any, logits: Array, labels: Array, normalizer: float, scale: float) -> list[Call]:
    return _by_rows("softmax_cross_entropy_gradient", out, logits, labels, 1 / normalizer, float(scale / normalizer))


def _rows(logits: Array, Q: Array, normalizer: Any, scale: Any = 1.0) -> bool:
    known = plain_number(normalizer) or single(normalizer, np.dtype("float64"))
    return known and rows_accept(logits, Q, normalizer, scale) and logits.shape == Q.shape and logits.ndim == 2


def _total(normalizer: Any) -> Array:
    """The normalizer as a 0-d float64 array: itself where it is one, since it varies."""
    return np.asarray(normalizer, np.float64)


@fused(ops.soft_cross_entropy, accepts=_rows, allocate=loss_and_like)
def _(out: Any, logits: Array, Q: Array, normalizer: Any) -> list[Call]:
    _check_places(out, logits)
    return [instruction("soft_cross_entropy", logits.dtype, *out, logits, Q, *logits.shape, _total(normalizer))]


@fused(ops.soft_cross_entropy_backward, accepts=_rows, allocate=first_like)
def _(out: Array, p: Array, Q: Array, normalizer: Any, scale: float) -> list[Call]:
    check_place(out, p.shape, p.dtype)
    operands = (out, p, Q, *p.shape, _total(normalizer), float(scale))
    return [instruction("soft_cross_entropy_backward", p.dtype, *operands)]


@fused(ops.soft_cross_entropy_gradient, accepts=_rows, allocate=loss_and_like)
def _(out: Any, logits: Array, Q: Array, normalizer: Any, scale: float) -> list[Call]:
    _check_places(out, logits)
    operands = (*out, logits, Q, *logits.shape, _total(normalizer), float(scale))
    return [instruction("soft_cross_entropy_gradient", logits.dtype, *operands)]


def _countable(scores: Array, labels: Array, ignore_index: int | None) -> bool:
    tame = floating(scores) and scores.size > 0 and labels.dtype in INDICES and labels.flags.c_contiguous
    return bool(tame and labels.shape == scores.shape[:-1])


@fused(ops.count_correct, accepts=_countable, allocate=lambda scores, *_: np.empty(2, like=scores))
def _(out: Array, scores: Array, labels: Array, ignore_index: int | None) -> list[Call]:
    check_place(out, (2,), np.dtype("float64"))
    ignored = (0, 0) if ignore_index is None else (1, ignore_index)
    operands = (out, scores, labels, labels.itemsize, labels.size, scores.shape[-1], *ignored)
    return [instruction("count_correct", scores.dtype, *operands)]
