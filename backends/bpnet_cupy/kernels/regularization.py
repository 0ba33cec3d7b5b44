"""Penalties, clipping, averages, and the flag that guards an update."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.common import (
    BLOCK,
    FLOAT64,
    Array,
    alike,
    blocks,
    counts,
    flag,
    named,
    nothing,
    packs,
    partial_blocks,
    real,
    scratch,
)
from bpnet_cupy.kernels.optimizers import flat


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""

    @ops.check_finite_.register_bound(
        array_type, accepts=lambda ok, value: flag(ok) and real(value) and value.size == 1, allocate=nothing
    )
    def _(_: None, ok: Array, value: Array) -> list[Call]:
        return [driver.launch(f"check_finite<{named(value)}>", 1, 32, (ok, value))]

    @ops.advance_.register_bound(
        array_type, accepts=lambda counters, ok: counts(counters) and flag(ok), allocate=nothing
    )
    def _(_: None, counters: Array, ok: Array) -> list[Call]:
        args = (counters, ok, np.int64(counters.size))
        return [driver.launch("advance<0>", blocks(driver, counters.size), BLOCK, args)]

    @ops.average_.register_bound(
        array_type,
        accepts=lambda average, value, ok, counters, _: flat(average, value) and flag(ok) and counts(counters),
        allocate=nothing,
    )
    def _(_: None, average: Array, value: Array, ok: Array, counters: Array, decay: float) -> list[Call]:
        args = (average, value, ok, counters, np.int64(value.size), value.dtype.type(1 - decay))
        return [driver.launch(f"average<{named(value)}>", packs(driver, value.size, value.dtype), BLOCK, args)]

    @ops.penalty_gradient_.register_bound(
        array_type, accepts=lambda grad, value, l1, l2: alike(grad, value), allocate=nothing
    )
    def _(_: None, grad: Array, value: Array, l1: float, l2: float) -> list[Call]:
        kind = grad.dtype.type
        args = (grad, value, np.int64(grad.size), kind(l1), kind(2 * l2))
        return [driver.launch(f"penalty_gradient<{named(grad)}>", packs(driver, grad.size, grad.dtype), BLOCK, args)]

    @ops.penalty.register_bound(
        array_type,
        accepts=lambda values, *_: len(values) > 0 and real(*values),
        allocate=lambda values, *_: driver.empty((), values[0].dtype),
    )
    def _(out: Array, values: tuple[Array, ...], l1: tuple[float, ...], l2: tuple[float, ...]) -> list[Call]:
        totals = [driver.empty(1, FLOAT64) for _ in values]
        calls = []
        for value, before, total, a, b in zip(values, [None, *totals], totals, l1, l2, strict=False):
            grid = partial_blocks(value.size)
            numbers = (np.int64(value.size), np.float64(a), np.float64(b))
            args = (total, before, value, *scratch(driver, grid, 2), *numbers)
            calls.append(driver.launch(f"penalty<{named(value)}>", grid, BLOCK, args))
        calls.append(driver.launch(f"convert<{named(out)}>", 1, 32, (out, totals[-1])))
        return calls

    @ops.clip_value_.register_bound(array_type, accepts=lambda grads, limit: real(grads), allocate=nothing)
    def _(_: None, grads: Array, limit: float) -> list[Call]:
        args = (grads, np.int64(grads.size), grads.dtype.type(limit))
        return [driver.launch(f"clip_value<{named(grads)}>", packs(driver, grads.size, grads.dtype), BLOCK, args)]

    def norm_scale(scale: Array, ok: Array, grads: Array, limit: float) -> Call:
        """Make `ok` False where the norm is not finite, and leave in `scale` what brings it down to the limit."""
        grid = partial_blocks(grads.size)
        args: tuple[Any, ...] = (scale, grads, ok, *scratch(driver, grid, 3), np.int64(grads.size), np.float64(limit))
        return driver.launch(f"norm_scale<{named(grads)}>", grid, BLOCK, args)

    @ops.check_norm_.register_bound(array_type, accepts=lambda ok, grads: flat(grads) and flag(ok), allocate=nothing)
    def _(_: None, ok: Array, grads: Array) -> list[Call]:
        return [norm_scale(driver.empty(1, FLOAT64), ok, grads, np.inf)]

    @ops.clip_norm_.register_bound(
        array_type, accepts=lambda grads, ok, limit: flat(grads) and flag(ok), allocate=nothing
    )
    def _(_: None, grads: Array, ok: Array, limit: float) -> list[Call]:
        scale = driver.empty(1, FLOAT64)
        args = (grads, scale, np.int64(grads.size))
        return [
            norm_scale(scale, ok, grads, limit),
            driver.launch(f"scale_all<{named(grads)}>", packs(driver, grads.size, grads.dtype), BLOCK, args),
        ]
