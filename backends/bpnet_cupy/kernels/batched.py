"""Products of many matrices at once, and of rows with a table: plain calls of the driver, which strides by batch."""

from __future__ import annotations

import math
from typing import Any

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.common import Array, real


def matrices(x: Array) -> Array:
    """x (..., M, K) as (B, M, K), or as it is where it is one matrix."""
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])


def turned(x: Array) -> Array:
    """Every matrix transposed, a view."""
    return x.swapaxes(-1, -2)


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""

    def product(out: Array, a: Array, b: Array) -> Call:
        call = driver.matmul(out, a, b)
        assert call is not None
        return call

    def accepts(x: Array, y: Array) -> bool:
        return real(x, y) and x.ndim > 1 and x.shape[:-2] == y.shape[:-2]

    @ops.matmul.register_bound(
        array_type, accepts=accepts, allocate=lambda x, y: driver.empty((*x.shape[:-1], y.shape[-1]), x.dtype)
    )
    def _(out: Array, x: Array, y: Array) -> list[Call]:
        return [product(matrices(out), matrices(x), matrices(y))]

    @ops.matmul_backward.register_bound(
        array_type,
        accepts=lambda dz, x, y: accepts(x, y) and real(dz, x),
        allocate=lambda dz, x, y: (driver.empty(x.shape, x.dtype), driver.empty(y.shape, x.dtype)),
    )
    def _(out: Any, dz: Array, x: Array, y: Array) -> list[Call]:
        (dx, dy), (dz, x, y) = map(matrices, out), map(matrices, (dz, x, y))
        return [product(dx, dz, turned(y)), product(dy, turned(x), dz)]

    @ops.unembed.register_bound(
        array_type, accepts=real, allocate=lambda x, W: driver.empty((*x.shape[:-1], W.shape[0]), x.dtype)
    )
    def _(out: Array, x: Array, W: Array) -> list[Call]:
        return [product(out.reshape(-1, W.shape[0]), x.reshape(-1, W.shape[1]), W.T)]

    @ops.unembed_backward.register_bound(
        array_type,
        accepts=lambda dy, x, W, *_: real(dy, x, W),
        allocate=lambda dy, x, W, need_dx=True, need_dW=True: (
            driver.empty(x.shape, x.dtype) if need_dx else None,
            driver.empty(W.shape, x.dtype) if need_dW else None,
        ),
    )
    def _(out: Any, dy: Array, x: Array, W: Array, *_: bool) -> list[Call]:
        dx, dW = out
        rows, x = dy.reshape(-1, W.shape[0]), x.reshape(-1, W.shape[1])
        calls = [] if dx is None else [product(dx.reshape(x.shape), rows, W)]
        return calls if dW is None else [*calls, product(dW, rows.T, x)]
