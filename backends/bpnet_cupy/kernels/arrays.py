"""Sums and copies of whole arrays and of parts of them, and counters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.common import (
    BLOCK,
    BOOL,
    INT64,
    REAL,
    Array,
    alike,
    blocks,
    counts,
    named,
    nothing,
    packs,
    real,
)

MOVED = (*REAL, INT64, BOOL)


def _moved(target: Array, source: Array) -> bool:
    """Whether the whole of `source` may be moved to `target` as it lies in memory."""
    if target.shape != source.shape or target.dtype != source.dtype or target.dtype not in MOVED:
        return False
    return bool(target.size > 0 and target.flags.c_contiguous and source.flags.c_contiguous)


def _joined(arrays: tuple[Array, ...], axis: int) -> tuple[int, ...]:
    """The shape of the arrays side by side."""
    return _cut(arrays[0], sum(x.shape[axis] for x in arrays), axis)


def _cut(x: Array, size: int, axis: int) -> tuple[int, ...]:
    """The shape of x with another size along an axis."""
    axis %= x.ndim
    return (*x.shape[:axis], size, *x.shape[axis + 1 :])


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""

    def first_like(x: Array, *_: Any) -> Array:
        return driver.empty(x.shape, x.dtype)

    def combined(struct: str, out: Array, x: Array, y: Array) -> list[Call]:
        args = (out, x, y, np.int64(x.size))
        return [driver.launch(f"combine<{named(x)}, {struct}>", packs(driver, x.size, x.dtype), BLOCK, args)]

    def moved(target: Array, source: Array) -> list[Call]:
        args = (target, source, np.int64(source.size))
        return [driver.launch(f"copy<{named(source)}>", packs(driver, source.size, source.dtype), BLOCK, args)]

    @ops.add.register_bound(array_type, accepts=alike, allocate=first_like)
    def _(out: Array, x: Array, y: Array) -> list[Call]:
        return combined("Sum", out, x, y)

    @ops.mul.register_bound(array_type, accepts=alike, allocate=first_like)
    def _(out: Array, x: Array, w: Array) -> list[Call]:
        return combined("Product", out, x, w)

    @ops.add_.register_bound(array_type, accepts=alike, allocate=nothing)
    def _(_: None, target: Array, source: Array) -> list[Call]:
        return combined("Sum", target, target, source)

    @ops.copy.register_bound(array_type, accepts=lambda x: _moved(x, x), allocate=first_like)
    def _(out: Array, x: Array) -> list[Call]:
        return moved(out, x)

    @ops.copy_.register_bound(array_type, accepts=_moved, allocate=nothing)
    def _(_: None, target: Array, source: Array) -> list[Call]:
        return moved(target, source)

    def columns(to: Array, to_begin: int, source: Array, from_begin: int, axis: int, size: int) -> Call:
        """Copy `size` places along an axis: to[..., to_begin + i, ...] = source[..., from_begin + i, ...]."""
        rows = math.prod(to.shape[:axis])
        inner = math.prod(to.shape[axis + 1 :])
        numbers = (rows, size * inner, to.shape[axis] * inner, to_begin * inner,
                   source.shape[axis] * inner, from_begin * inner)  # fmt: skip
        args = (to, source, *map(np.int64, numbers))
        return driver.launch(f"copy_columns<{named(to)}>", blocks(driver, rows * size * inner), BLOCK, args)

    @ops.concatenate.register_bound(
        array_type,
        accepts=lambda arrays, axis: real(*arrays),
        allocate=lambda arrays, axis: driver.empty(_joined(arrays, axis), arrays[0].dtype),
    )
    def _(out: Array, arrays: tuple[Array, ...], axis: int) -> list[Call]:
        calls, begin, axis = [], 0, axis % out.ndim
        for x in arrays:
            calls.append(columns(out, begin, x, 0, axis, x.shape[axis]))
            begin += x.shape[axis]
        return calls

    @ops.split.register_bound(
        array_type,
        accepts=lambda x, sizes, axis: real(x) and min(sizes, default=0) > 0,
        allocate=lambda x, sizes, axis: tuple(driver.empty(_cut(x, size, axis), x.dtype) for size in sizes),
    )
    def _(out: tuple[Array, ...], x: Array, sizes: tuple[int, ...], axis: int) -> list[Call]:
        calls, begin, axis = [], 0, axis % x.ndim
        for part, size in zip(out, sizes, strict=True):
            if part is not None:
                calls.append(columns(part, 0, x, begin, axis, size))
            begin += size
        return calls

    def of_samples(x: Array, *statistics: Array) -> bool:
        """Whether the statistics are one number, or lie in memory as the end of every sample does."""
        shape = statistics[0].shape
        suffix = shape == x.shape[x.ndim - len(shape) :] and len(shape) < x.ndim
        return real(x, *statistics) and alike(*statistics) and (suffix or statistics[0].size == 1)

    @ops.standardize.register_bound(array_type, accepts=of_samples, allocate=first_like)
    def _(out: Array, x: Array, mean: Array, std: Array) -> list[Call]:
        args = (out, x, mean, std, np.int64(x.size), np.int64(std.size))
        return [driver.launch(f"standardize<{named(x)}>", blocks(driver, x.size), BLOCK, args)]

    @ops.standardize_backward.register_bound(array_type, accepts=of_samples, allocate=first_like)
    def _(out: Array, dy: Array, std: Array) -> list[Call]:
        args = (out, dy, None, std, np.int64(dy.size), np.int64(std.size))
        return [driver.launch(f"standardize<{named(dy)}>", blocks(driver, dy.size), BLOCK, args)]

    @ops.fill_.register_bound(
        array_type,
        accepts=lambda target, value: target.dtype in (*REAL, BOOL) and target.size > 0 and target.flags.c_contiguous,
        allocate=nothing,
    )
    def _(_: None, target: Array, value: float) -> list[Call]:
        args = (target, np.int64(target.size), target.dtype.type(value))
        return [driver.launch(f"fill<{named(target)}>", blocks(driver, target.size), BLOCK, args)]

    @ops.increment_.register_bound(array_type, accepts=lambda counters, index: counts(counters), allocate=nothing)
    def _(_: None, counters: Array, index: int) -> list[Call]:
        return [driver.launch("increment<0>", 1, 32, (counters, np.int64(index % counters.size)))]
