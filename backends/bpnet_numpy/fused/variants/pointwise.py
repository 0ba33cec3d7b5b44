"""Losses of single elements, and PReLU."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call, Kernel
from bpnet_numpy.fused.instruction import Program, instruction
from bpnet_numpy.fused.parts import CACHE_LINE, PASS, ranges, split, together
from bpnet_numpy.fused.variants.common import alike, check_place, fused, one_pass, plain_number
from bpnet_numpy.kernels.common import Array, first_like, floating

MOST = 16
"""Parts of a sum, at most: as many as its size says."""


def _some(*arrays: Array) -> bool:
    return floating(*arrays) and alike(*arrays) and arrays[0].size > 0


def _elementwise(forward: Kernel, backward: Kernel) -> None:
    @fused(forward, accepts=lambda x, t, *_: _some(x, t), allocate=first_like)
    def _(out: Array, x: Array, t: Array, setting: float = 0.0) -> list[Call]:
        check_place(out, x.shape, x.dtype)
        return one_pass(forward.name, (out, x, t), setting)

    @fused(backward, accepts=lambda dl, x, t, *_: _some(dl, x, t), allocate=first_like)
    def _(out: Array, dl: Array, x: Array, t: Array, setting: float = 0.0) -> list[Call]:
        check_place(out, x.shape, x.dtype)
        return one_pass(backward.name, (out, dl, x, t), setting)


_elementwise(ops.squared_error, ops.squared_error_backward)
_elementwise(ops.absolute_error, ops.absolute_error_backward)
_elementwise(ops.huber, ops.huber_backward)
_elementwise(ops.log_cosh, ops.log_cosh_backward)
_elementwise(ops.sigmoid_cross_entropy, ops.sigmoid_cross_entropy_backward)


def _divides(normalizer: Any) -> bool:
    """Whether something is divided by it that a program can hold: a number, and not 0."""
    return plain_number(normalizer) and bool(normalizer)


def _sum(name: str, out: Array, x: Array, t: Array, factor: float) -> list[Call]:
    """The sum of a loss, times a factor."""
    check_place(out, (), x.dtype)
    a, b = x.reshape(-1), t.reshape(-1)
    parts = ranges(a.size, max(1, min(MOST, a.size // PASS)), 1)
    if len(parts) == 1:
        return [instruction(name, x.dtype, out, a, b, a.size, factor)]
    terms = np.empty((len(parts), 1), x.dtype, like=x)
    programs = [
        instruction(name, x.dtype, term, a[some], b[some], a[some].size, factor)
        for some, term in zip(parts, terms, strict=True)
    ]
    return [together(programs), instruction("sum_columns", x.dtype, out.reshape(1), terms, len(parts), 1, 1)]


def _mean(forward: Kernel, backward: Kernel) -> None:
    @fused(
        forward,
        accepts=lambda x, t, normalizer: _some(x, t) and _divides(normalizer),
        allocate=lambda x, *_: np.empty((), x.dtype, like=x),
    )
    def _(out: Array, x: Array, t: Array, normalizer: float) -> list[Call]:
        return _sum(forward.name, out, x, t, 1 / normalizer)

    @fused(
        backward,
        accepts=lambda x, t, normalizer, scale: _some(x, t) and _divides(normalizer) and plain_number(scale),
        allocate=first_like,
    )
    def _(out: Array, x: Array, t: Array, normalizer: float, scale: float) -> list[Call]:
        check_place(out, x.shape, x.dtype)
        return one_pass(backward.name, (out, x, t), scale / normalizer)


_mean(ops.mean_squared_error, ops.mean_squared_error_backward)
_mean(ops.mean_absolute_error, ops.mean_absolute_error_backward)
_mean(ops.sigmoid_binary_cross_entropy, ops.sigmoid_binary_cross_entropy_backward)


@fused(
    ops.weighted_sum,
    accepts=lambda values, weights, normalizer: weights is None and _some(values) and _divides(normalizer),
    allocate=lambda values, *_: np.empty((), values.dtype, like=values),
)
def _(out: Array, values: Array, weights: None, normalizer: float) -> list[Call]:
    return _sum("weighted_sum", out, values, values, 1 / normalizer)


@fused(
    ops.weighted_sum_backward,
    accepts=lambda values, weights, normalizer, scale: (
        weights is None and _some(values) and _divides(normalizer) and plain_number(scale)
    ),
    allocate=first_like,
)
def _(out: Array, values: Array, weights: None, normalizer: float, scale: float) -> list[Call]:
    check_place(out, values.shape, values.dtype)
    return [instruction("fill", out.dtype, out, out.size, float(scale / normalizer))]


# --- PReLU ---


def _slopes(x: Array, a: Array) -> bool:
    return x.ndim > 0 and x.size > 0 and floating(x, a) and a.shape in ((1,), x.shape[-1:])


@fused(ops.prelu, accepts=_slopes, allocate=first_like)
def _(out: Array, x: Array, a: Array) -> list[Call]:
    check_place(out, x.shape, x.dtype)
    rows, places, c = x.reshape(-1, x.shape[-1]), out.reshape(-1, x.shape[-1]), x.shape[-1]

    def make(some: slice) -> list[Program]:
        return [instruction("prelu", x.dtype, places[some], rows[some], a, len(rows[some]), c, a.size == 1)]

    return list(split(len(rows), x.size, make, least=PASS))


@fused(
    ops.prelu_backward,
    accepts=lambda dy, x, a: _slopes(x, a) and floating(dy, x) and alike(dy, x),
    allocate=lambda dy, x, a: (np.empty_like(x), np.empty_like(a)),
)
def _(out: Any, dy: Array, x: Array, a: Array) -> list[Call]:
    dx, da = out
    check_place(dx, x.shape, x.dtype)
    check_place(da, a.shape, x.dtype)
    c = x.shape[-1]
    rows, given, places = x.reshape(-1, c), dy.reshape(-1, c), dx.reshape(-1, c)
    parts = ranges(len(rows), max(1, min(MOST, x.size // PASS, len(rows))), 1)
    pitch = -(-c // CACHE_LINE) * CACHE_LINE  # parts are written at the same time
    sums = np.empty((len(parts), pitch), x.dtype, like=x)
    programs = [
        instruction(
            "prelu_backward", x.dtype, places[some], own, given[some], rows[some], a, len(rows[some]), c, a.size == 1
        )
        for some, own in zip(parts, sums, strict=True)
    ]
    calls: list[Call] = [together(programs)]
    if a.size == c:
        return [*calls, instruction("sum_columns", x.dtype, da, sums, len(parts), c, pitch)]
    total = np.empty(c, x.dtype, like=x)
    calls.append(instruction("sum_columns", x.dtype, total, sums, len(parts), c, pitch))
    return [*calls, instruction("sum_columns", x.dtype, da, total, c, 1, 1)]
