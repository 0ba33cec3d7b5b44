"""Sums and copies of whole arrays, and counters."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.common import BLOCK, BOOL, INT64, REAL, Array, alike, blocks, counts, named, nothing, packs

MOVED = (*REAL, INT64, BOOL)


def _moved(target: Array, source: Array) -> bool:
    """Whether the whole of `source` may be moved to `target` as it lies in memory."""
    if target.shape != source.shape or target.dtype != source.dtype or target.dtype not in MOVED:
        return False
    return bool(target.size > 0 and target.flags.c_contiguous and source.flags.c_contiguous)


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
        return [driver.launch("increment", 1, 32, (counters, np.int64(index % counters.size)))]
