"""Positions that are learned, added as waves or turned by, and the gates of feed-forward parts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.common import BLOCK, Array, alike, blocks, named, op, packs, real
from bpnet_cupy.kernels.linear import column_sum


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""

    def first_like(x: Array, *_: Any) -> Array:
        return driver.empty(x.shape, x.dtype)

    def angles(dtype: Any, start: int, length: int, n: int, base: float) -> tuple[Array, Call]:
        """cos and sin of the angles of `bpnet.ops.sequences.angles`, in pairs, and the call that computes them."""
        table = driver.empty(2 * length * n, dtype)
        args = (table, *map(np.int64, (length, n, start)), np.float64(-math.log(base) / n))
        return table, driver.launch(f"angle_table<{named(table)}>", blocks(driver, length * n), BLOCK, args)

    @ops.rotate.register_bound(
        array_type,
        accepts=lambda x, head_size, n_columns, *_: real(x) and n_columns > 0,
        allocate=first_like,
    )
    def _(
        out: Array, x: Array, head_size: int, n_columns: int, base: float, start: int, direction: float
    ) -> list[Call]:
        length, width = x.shape[-2:]
        table, made = angles(x.dtype, start, length, head_size // 2, base)
        sizes = (x.size // width, width, n_columns, head_size // 2, length)
        args = (out, x, table, *map(np.int64, sizes), x.dtype.type(direction))
        return [made, driver.launch(f"rotate<{named(x)}>", blocks(driver, x.size), BLOCK, args)]

    @ops.add_sinusoid.register_bound(array_type, accepts=lambda x, start: real(x), allocate=first_like)
    def _(out: Array, x: Array, start: int) -> list[Call]:
        length, width = x.shape[-2:]
        table, made = angles(x.dtype, start, length, width // 2, 1e4)
        args = (out, x, table, np.int64(x.size), np.int64(length * width))
        return [made, driver.launch(f"add_sinusoid<{named(x)}>", blocks(driver, x.size), BLOCK, args)]

    @ops.add_positions.register_bound(array_type, accepts=lambda x, table, start: real(x, table), allocate=first_like)
    def _(out: Array, x: Array, table: Array, start: int) -> list[Call]:
        length, width = x.shape[-2:]
        args = (out, x, table, np.int64(x.size), np.int64(length * width), np.int64(start * width))
        return [driver.launch(f"add_repeated<{named(x)}>", blocks(driver, x.size), BLOCK, args)]

    @ops.add_positions_backward.register_bound(
        array_type,
        accepts=lambda dy, n_positions: real(dy),
        allocate=lambda dy, n_positions: driver.empty((n_positions, dy.shape[-1]), dy.dtype),
    )
    def _(out: Array, dy: Array, n_positions: int) -> list[Call]:
        length, width = dy.shape[-2:]
        flat, n = out.reshape(-1), length * width
        calls = [column_sum(driver, flat[:n], dy.reshape(-1, n))]
        if n_positions > length:
            args = (flat[n:], np.int64(flat.size - n), dy.dtype.type(0))
            calls.append(driver.launch(f"fill<{named(dy)}>", blocks(driver, flat.size - n), BLOCK, args))
        return calls

    @ops.swiglu.register_bound(
        array_type, accepts=real, allocate=lambda x: driver.empty((*x.shape[:-1], x.shape[-1] // 2), x.dtype)
    )
    def _(out: Array, x: Array) -> list[Call]:
        args = (out, x, np.int64(out.size), np.int64(out.shape[-1]))
        return [driver.launch(f"swiglu<{named(x)}>", blocks(driver, out.size), BLOCK, args)]

    @ops.swiglu_backward.register_bound(array_type, accepts=real, allocate=lambda dy, x: driver.empty(x.shape, x.dtype))
    def _(out: Array, dy: Array, x: Array) -> list[Call]:
        args = (out, dy, x, np.int64(dy.size), np.int64(dy.shape[-1]))
        return [driver.launch(f"swiglu_backward<{named(x)}>", blocks(driver, dy.size), BLOCK, args)]

    def with_slope(name: str, struct: str) -> None:
        @op(name).register_bound(
            array_type,
            accepts=alike,
            allocate=lambda x: (driver.empty(x.shape, x.dtype), driver.empty(x.shape, x.dtype)),
        )
        def _(out: Any, x: Array) -> list[Call]:
            kernel = f"with_slope<{named(x)}, {struct}>"
            return [driver.launch(kernel, packs(driver, x.size, x.dtype), BLOCK, (*out, x, np.int64(x.size)))]

    with_slope("gelu_with_slope", "Gelu")
    with_slope("gelu_tanh_with_slope", "GeluTanh")
