"""Activations and their derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.common import BLOCK, Array, alike, blocks, named, op, packs, partial_blocks, real, scratch
from bpnet_cupy.kernels.linear import column_sum
from bpnet_cupy.names import ACTIVATIONS


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""

    def first_like(x: Array, *_: Any) -> Array:
        return driver.empty(x.shape, x.dtype)

    def forward(name: str, struct: str) -> None:
        @op(name).register_bound(array_type, accepts=lambda x, *_: real(x), allocate=first_like)
        def _(out: Array, x: Array, a: float = 0.0) -> list[Call]:
            args = (out, x, np.int64(x.size), x.dtype.type(a))
            return [driver.launch(f"activation<{named(x)}, {struct}>", packs(driver, x.size, x.dtype), BLOCK, args)]

    def backward(name: str, struct: str) -> None:
        @op(name).register_bound(array_type, accepts=lambda dy, saved, *_: alike(dy, saved), allocate=first_like)
        def _(out: Array, dy: Array, saved: Array, a: float = 0.0) -> list[Call]:
            args = (out, dy, saved, np.int64(dy.size), dy.dtype.type(a))
            kernel = f"activation_backward<{named(dy)}, {struct}>"
            return [driver.launch(kernel, packs(driver, dy.size, dy.dtype), BLOCK, args)]

    for name, struct in ACTIVATIONS.items():
        forward(name, struct)
        backward(f"{name}_backward", struct)
    forward("normal_cdf", "NormalCdf")

    def slopes(x: Array, a: Array) -> bool:
        return real(x, a) and x.ndim > 0 and a.ndim == 1 and a.size in (1, x.shape[-1])

    @ops.prelu.register_bound(array_type, accepts=slopes, allocate=first_like)
    def _(out: Array, x: Array, a: Array) -> list[Call]:
        args = (out, x, a, np.int64(x.size), np.int64(a.size))
        return [driver.launch(f"prelu<{named(x)}>", blocks(driver, x.size), BLOCK, args)]

    @ops.prelu_backward.register_bound(
        array_type,
        accepts=lambda dy, x, a: alike(dy, x) and slopes(x, a),
        allocate=lambda dy, x, a: (driver.empty(x.shape, x.dtype), driver.empty(a.shape, a.dtype)),
    )
    def _(out: Any, dy: Array, x: Array, a: Array) -> list[Call]:
        dx, da = out
        args = (dx, dy, x, a, np.int64(x.size), np.int64(a.size))
        return [
            driver.launch(f"prelu_backward<{named(x)}>", blocks(driver, x.size), BLOCK, args),
            _slope_gradient(driver, da, dy, x),
        ]

    @ops.glu.register_bound(
        array_type,
        accepts=lambda x: real(x) and x.shape[-1] % 2 == 0,
        allocate=lambda x: driver.empty((*x.shape[:-1], x.shape[-1] // 2), x.dtype),
    )
    def _(out: Array, x: Array) -> list[Call]:
        args = (out, x, np.int64(out.size), np.int64(out.shape[-1]))
        return [driver.launch(f"glu<{named(x)}>", blocks(driver, out.size), BLOCK, args)]

    @ops.glu_backward.register_bound(
        array_type,
        accepts=lambda dy, x: real(dy, x) and x.size == 2 * dy.size,
        allocate=lambda dy, x: driver.empty(x.shape, x.dtype),
    )
    def _(out: Array, dy: Array, x: Array) -> list[Call]:
        args = (out, dy, x, np.int64(dy.size), np.int64(dy.shape[-1]))
        return [driver.launch(f"glu_backward<{named(x)}>", blocks(driver, dy.size), BLOCK, args)]


def _slope_gradient(driver: Driver, da: Array, dy: Array, x: Array) -> Call:
    """The derivative of prelu by its slopes: one a column, or one for all elements."""
    if da.size > 1 or x.shape[-1] == 1:
        return column_sum(driver, da, dy, x, term="ScaledTerm")
    grid = partial_blocks(x.size)
    args = (da, dy, x, *scratch(driver, grid), np.int64(x.size))
    return driver.launch(f"slope_sum<{named(x)}>", grid, BLOCK, args)
