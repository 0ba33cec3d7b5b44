"""Batch norm and group norm: sums by parts of a size of their own, so that their number depends on the shapes alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_numpy.fused.instruction import FLOAT32, Program, instruction
from bpnet_numpy.fused.parts import PASS, ranges, split, together
from bpnet_numpy.fused.variants.activations import copyable
from bpnet_numpy.fused.variants.common import alike, check_place, fused, single, writable
from bpnet_numpy.fused.variants.update import FLAG
from bpnet_numpy.kernels.common import Array, first_like, floating, nothing
from bpnet_numpy.scratch import borrow

MOST = 16
"""Parts of a sum over rows, at most."""


def _rows(x: Array) -> Array:
    """(N, ..., C) as (rows, C)."""
    return x.reshape(-1, x.shape[-1])


def _parts(x: Array) -> list[slice]:
    """Ranges of the rows of a matrix whose sums are made apart, as many as its size says."""
    return ranges(len(x), max(1, min(MOST, x.size // PASS, len(x) // 8)), 1)


def _fits(x: Array, *vectors: Any) -> bool:
    """Whether each is None or a vector that fits the last axis of x."""
    given = [each for each in vectors if each is not None]
    return x.ndim > 1 and x.size > 0 and all(each.shape == x.shape[-1:] and floating(x, each) for each in given)


def _check(x: Array, whole: list[Array | None], vectors: list[Array]) -> None:
    for each in whole:
        if each is not None:
            check_place(each, x.shape, x.dtype)
    for each in vectors:
        check_place(each, x.shape[-1:], x.dtype)


def _normalized(out: Array, x: Array, mean: Array, scale: Array, bias: Array | None) -> list[Call]:
    rows, places = _rows(x), _rows(out)

    def make(some: slice) -> list[Program]:
        mine = places[some]
        return [
            instruction("normalized", x.dtype, mine, rows[some], mean, scale, 0 if bias is None else bias, *mine.shape)
        ]

    return list(split(len(rows), x.size, make, least=PASS))


@fused(
    ops.batch_norm,
    accepts=lambda x, weight, bias, epsilon: floating(x) and _fits(x, weight, bias),
    allocate=lambda x, *_: (
        np.empty_like(x),
        np.empty(x.shape[-1:], x.dtype, like=x),
        np.empty(x.shape[-1:], x.dtype, like=x),
    ),
)
def _(out: Any, x: Array, weight: Array | None, bias: Array | None, epsilon: float) -> list[Call]:
    y, mean, variance = out
    _check(x, [y], [mean, variance])
    rows, c = _rows(x), x.shape[-1]
    parts = _parts(rows)
    moments, room = borrow((len(parts), 3, c), x.dtype, x), borrow((len(parts), 3, c), x.dtype, x)
    scale = borrow((c,), x.dtype, x)
    programs = [
        instruction("column_moments", x.dtype, *own, space, rows[some], *rows[some].shape)
        for some, own, space in zip(parts, moments, room, strict=True)
    ]
    counts = [some.stop - some.start for some in parts]
    factor = 0 if weight is None else weight
    join = (mean, variance, scale, factor, c, float(epsilon), len(parts), moments, *counts)
    return [together(programs), instruction("join_moments", x.dtype, *join), *_normalized(y, x, mean, scale, bias)]


@fused(
    ops.scale_shift,
    accepts=lambda x, mean, variance, weight, bias, epsilon: floating(x) and _fits(x, mean, variance, weight, bias),
    allocate=first_like,
)
def _(
    out: Array, x: Array, mean: Array, variance: Array, weight: Array | None, bias: Array | None, epsilon: float
) -> list[Call]:
    _check(x, [out], [])
    scale = borrow((x.shape[-1],), x.dtype, x)
    words = (scale, variance, 0 if weight is None else weight, x.shape[-1], float(epsilon))
    return [instruction("column_scale", x.dtype, *words), *_normalized(out, x, mean, scale, bias)]


def _kept(dy: Array, x: Array, mean: Array, variance: Array, weight: Array | None, *_: Any) -> bool:
    return floating(dy, x) and alike(dy, x) and _fits(x, mean, variance, weight)


def _gradients_allocate(
    dy: Array, x: Array, mean: Array, variance: Array, weight: Array | None, epsilon: float, need_dx: bool = True
) -> Any:
    return np.empty_like(x) if need_dx else None, np.empty_like(mean), np.empty_like(mean)


def _gradients(
    out: Any, dy: Array, x: Array, mean: Array, variance: Array, weight: Array | None, epsilon: float, of_x: bool
) -> list[Call]:
    """of_x : whether the statistics are those of x"""
    dx, dweight, dbias = out
    _check(x, [dx], [dweight, dbias])
    a, g, c = _rows(x), _rows(dy), x.shape[-1]
    parts = _parts(a)
    sums, room = borrow((len(parts), 2, c), x.dtype, x), borrow((3, c), x.dtype, x)
    programs = [
        instruction("column_gradients", x.dtype, *own, g[some], a[some], mean, *a[some].shape)
        for some, own in zip(parts, sums, strict=True)
    ]
    factor = 0 if weight is None else weight
    join = (dweight, dbias, room, variance, factor, c, float(epsilon), len(a) if of_x else 0, len(parts), sums)
    calls: list[Call] = [together(programs), instruction("join_gradients", x.dtype, *join)]
    if dx is None:
        return calls
    back = _rows(dx)

    def make(some: slice) -> list[Program]:
        if of_x:
            words = (back[some], g[some], a[some], mean, *room, *a[some].shape)
            return [instruction("normalized_backward", x.dtype, *words)]
        return [instruction("scaled_columns", x.dtype, back[some], g[some], room[0], *g[some].shape)]

    return calls + list(split(len(a), x.size, make, least=PASS))


@fused(ops.batch_norm_backward, accepts=_kept, allocate=_gradients_allocate)
def _(out: Any, dy: Array, x: Array, mean: Array, variance: Array, weight: Any, epsilon: float, *_: bool) -> list[Call]:
    return _gradients(out, dy, x, mean, variance, weight, epsilon, True)


@fused(ops.scale_shift_backward, accepts=_kept, allocate=_gradients_allocate)
def _(out: Any, dy: Array, x: Array, mean: Array, variance: Array, weight: Any, epsilon: float, *_: bool) -> list[Call]:
    return _gradients(out, dy, x, mean, variance, weight, epsilon, False)


# --- group norm ---


def _grouped(x: Array, groups: int, *vectors: Any) -> bool:
    return floating(x) and groups > 0 and _fits(x, *vectors) and x.shape[-1] % groups == 0


@fused(
    ops.group_norm,
    accepts=lambda x, weight, bias, groups, epsilon: _grouped(x, groups, weight, bias),
    allocate=lambda x, weight, bias, groups, epsilon: (
        np.empty_like(x),
        np.empty((x.shape[0], groups), x.dtype, like=x),
        np.empty((x.shape[0], groups), x.dtype, like=x),
    ),
)
def _(out: Any, x: Array, weight: Array | None, bias: Array | None, groups: int, epsilon: float) -> list[Call]:
    y, mean, variance = out
    check_place(y, x.shape, x.dtype)
    for each in (mean, variance):
        check_place(each, (len(x), groups), x.dtype)
    c = x.shape[-1]
    places = x[0].size // c
    vectors = [0 if each is None else each for each in (weight, bias)]

    def make(some: slice) -> list[Program]:
        room = borrow((4, c), x.dtype, x)
        arrays = (y[some], mean[some], variance[some], x[some], *vectors, room)
        return [instruction("group_norm", x.dtype, *arrays, len(x[some]), places, c, groups, float(epsilon))]

    return list(split(len(x), x.size, make, least=PASS))


def _grouped_kept(dy: Array, x: Array, mean: Array, variance: Array, weight: Any, groups: int, *_: Any) -> bool:
    statistics = floating(x, mean, variance) and mean.shape == variance.shape == (len(x), groups)
    return statistics and floating(dy, x) and alike(dy, x) and _grouped(x, groups, weight)


@fused(
    ops.group_norm_backward,
    accepts=_grouped_kept,
    allocate=lambda dy, x, mean, variance, weight, groups, epsilon, need_dx=True: (
        np.empty_like(x) if need_dx else None,
        np.empty(x.shape[-1:], x.dtype, like=x),
        np.empty(x.shape[-1:], x.dtype, like=x),
    ),
)
def _(
    out: Any, dy: Array, x: Array, mean: Array, variance: Array, weight: Array | None, groups: int, epsilon: float,
    *_: bool,
) -> list[Call]:  # fmt: skip
    dx, dweight, dbias = out
    _check(x, [dx], [dweight, dbias])
    c = x.shape[-1]
    places = x[0].size // c
    parts = ranges(len(x), max(1, min(MOST, x.size // PASS, len(x))))
    sums = borrow((len(parts), 2, c), x.dtype, x)
    programs = []
    for some, own in zip(parts, sums, strict=True):
        room = borrow((6 * c + groups,), x.dtype, x)
        arrays = (0 if dx is None else dx[some], *own, dy[some], x[some], mean[some], variance[some])
        sizes = (len(x[some]), places, c, groups, float(epsilon))
        programs.append(
            instruction("group_norm_backward", x.dtype, *arrays, 0 if weight is None else weight, room, *sizes)
        )
    both = [
        instruction("sum_columns", x.dtype, target, sums[:, k], len(parts), c, 2 * c)
        for k, target in enumerate((dweight, dbias))
    ]
    return [together(programs), *both]


# --- running statistics ---


@fused(
    ops.blend_,
    accepts=lambda target, source, new, *_: (
        floating(target, source, new) and alike(target, source, new) and writable(target)
    ),
    allocate=nothing,
)
def _(_: None, target: Array, source: Array, new: Array, momentum: float, factor: float) -> list[Call]:
    return [instruction("blend", new.dtype, target, source, new, new.size, 1.0 - momentum, float(momentum * factor))]


@fused(ops.commit_, accepts=lambda value, pending, ok: copyable(value, pending) and single(ok, FLAG), allocate=nothing)
def _(_: None, value: Array, pending: Array, ok: Array) -> list[Call]:
    return [instruction("commit", FLOAT32, value, pending, value.nbytes, ok)]
