"""The affine map: products by the driver, what comes before and behind them by kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call, Kernel
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.common import BLOCK, Array, named, packs, real
from bpnet_cupy.names import ACTIVATIONS

SLAB = 64
"""Rows that a block of a column sum takes at least."""

EPILOGUES = {**ACTIVATIONS, "normal_cdf": "NormalCdf", "": "Identity"}


def column_sum(
    driver: Driver, out: Array, dy: Array, x: Array | None = None, term: str = "Term", bits: Array | None = None
) -> Call:
    """out[c] = the sum of dy[..., c] over all other axes, or of the terms made of dy and x. bits : gets those of dy"""
    columns = dy.shape[-1]
    rows = dy.size // columns
    width = 8 if columns <= 16 else 32
    tiles = -(-columns // width)
    slabs = max(1, min(-(-rows // SLAB), 64))
    partial, counter = None, None
    if slabs > 1:
        partial, counter = driver.empty((slabs, columns), dy.dtype), driver.zeros(tiles, np.dtype("uint32"))
    numbers = (partial, counter, np.int64(rows), np.int64(columns))
    if bits is None:
        kernel, args = f"column_sum<{named(dy)}, {term}, {width}>", (out, dy, x, *numbers)
    else:
        kernel, args = f"column_sum_bf16<{width}>", (out, bits, dy, *numbers)
    return driver.launch(kernel, (tiles, slabs), (width, 256 // width), args)


def bias_activation(driver: Driver, y: Array, bias: Array, activation: str, a: float = 0.0) -> list[Call]:
    """y = activation(y + bias) in place; nothing for an activation that has no struct."""
    if activation not in EPILOGUES:
        return []
    args = (y, bias, np.int64(y.size), np.int64(bias.size), y.dtype.type(a))
    kernel = f"bias_activation<{named(y)}, {EPILOGUES[activation]}>"
    return [driver.launch(kernel, packs(driver, y.size, y.dtype), BLOCK, args)]


def affine(
    driver: Driver,
    out: Array,
    x: Array,
    W: Array,
    b: Array | None,
    activation: Kernel | None = None,
    *settings: float,
) -> list[Call]:
    """out = activation(x W + b), where x and W may be bits of bfloat16."""
    y, rows = out.reshape(-1, W.shape[1]), x.reshape(-1, W.shape[0])
    name = "" if activation is None else activation.name
    if b is not None and not settings:
        whole = driver.matmul(y, rows, W, bias=b, activation=name)
        if whole is not None:
            return [whole]
    calls = [plain(driver, y, rows, W)]
    if b is not None:
        return calls + bias_activation(driver, y, b, name, *settings)
    if activation is not None:
        a = y.dtype.type(settings[0] if settings else 0)
        kernel = f"activation<{named(y)}, {EPILOGUES[name]}>"
        calls.append(driver.launch(kernel, packs(driver, y.size, y.dtype), BLOCK, (y, y, np.int64(y.size), a)))
    return calls


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""

    def accepts(x: Array, W: Array, b: Array | None, activation: Kernel | None = None, *_: Any) -> bool:
        arrays = (x, W) if b is None else (x, W, b)
        return real(*arrays) and x.ndim > 1 and (activation is None or activation.name in EPILOGUES)

    @ops.linear.register_bound(
        array_type,
        accepts=accepts,
        allocate=lambda x, W, *_: driver.empty((*x.shape[:-1], W.shape[1]), x.dtype),
    )
    def _(
        out: Array, x: Array, W: Array, b: Array | None, activation: Kernel | None = None, *settings: float
    ) -> list[Call]:
        return affine(driver, out, x, W, b, activation, *settings)

    def gradients(
        dy: Array, x: Array, W: Array, need_dx: bool = True, need_db: bool = True, need_dW: bool = True
    ) -> Any:
        return (
            driver.empty(x.shape, dy.dtype) if need_dx else None,
            driver.empty(W.shape, dy.dtype) if need_dW else None,
            driver.empty(W.shape[1:], dy.dtype) if need_db else None,
        )

    @ops.linear_backward.register_bound(
        array_type, accepts=lambda dy, x, W, *_: real(dy, x, W) and dy.ndim > 1, allocate=gradients
    )
    def _(out: Any, dy: Array, x: Array, W: Array, *_: bool) -> list[Call]:
        dx, dW, db = out
        dy, x = dy.reshape(-1, W.shape[1]), x.reshape(-1, W.shape[0])
        both = None
        if dW is not None and db is not None:
            both = driver.matmul(dW, x.T, dy, column_sums=db)
        if both is not None:
            calls = [both]
        else:
            calls = [] if dW is None else [plain(driver, dW, x.T, dy)]
            if db is not None:
                calls.append(column_sum(driver, db, dy))
        if dx is not None:
            calls.append(plain(driver, dx.reshape(x.shape), dy, W.T))
        return calls

    @ops.linear_backward_add_.register_bound(
        array_type,
        accepts=lambda gW, gb, dy, x, W, *_: (
            real(gW, dy, x, W) and dy.ndim > 1 and (gb is None or (gb.dtype == gW.dtype and gb.flags.c_contiguous))
        ),
        allocate=lambda gW, gb, dy, x, W, need_dx=True: driver.empty(x.shape, dy.dtype) if need_dx else None,
    )
    def _(
        dx: Array | None, gW: Array, gb: Array | None, dy: Array, x: Array, W: Array, need_dx: bool = True
    ) -> list[Call]:
        dy, x = dy.reshape(-1, W.shape[1]), x.reshape(-1, W.shape[0])
        db = None if gb is None else driver.empty(gb.shape, gb.dtype)
        calls = _gradients_added(driver, gW, db, dy, x)
        if db is not None:
            calls.append(_sum(driver, gb, db))
        if dx is not None:
            calls.append(plain(driver, dx.reshape(x.shape), dy, W.T))
        return calls


def _gradients_added(driver: Driver, gW: Array, db: Array | None, dy: Array, x: Array) -> list[Call]:
    """gW = gW + x^T dy, and db = the sum of dy in the way that `linear_backward` takes, for the same bits."""
    if db is not None:
        both = driver.matmul(gW, x.T, dy, beta=1.0, column_sums=db)
        if both is not None:
            return [both]
        dW = driver.empty(gW.shape, gW.dtype)
        both = driver.matmul(dW, x.T, dy, column_sums=db)
        if both is not None:
            return [both, _sum(driver, gW, dW)]
    added = driver.matmul(gW, x.T, dy, beta=1.0)
    assert added is not None
    return [added] if db is None else [added, column_sum(driver, db, dy)]


def _sum(driver: Driver, target: Array, source: Array) -> Call:
    """target = target + source."""
    args = (target, target, source, np.int64(source.size))
    return driver.launch(f"combine<{named(source)}, Sum>", packs(driver, source.size, source.dtype), BLOCK, args)


def plain(driver: Driver, out: Array, a: Array, b: Array) -> Call:
    """The bound product that every driver has."""
    call = driver.matmul(out, a, b)
    assert call is not None
    return call
