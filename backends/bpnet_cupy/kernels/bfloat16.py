"""Bits of bfloat16: rounded and widened by kernels, multiplied by the driver."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call, Kernel
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.common import BLOCK, FLOAT32, UINT16, Array, halves, nothing, packs, real
from bpnet_cupy.kernels.linear import EPILOGUES, affine, column_sum, plain


def single(*arrays: Array) -> bool:
    """Whether all arrays are C-contiguous float32, and not empty."""
    return real(*arrays) and bool(arrays[0].dtype == FLOAT32)


def rounding(driver: Driver, out: Array, x: Array) -> Call:
    """out = the bits of the nearest bfloat16 of every number."""
    return driver.launch("to_bf16<0>", packs(driver, x.size, UINT16), BLOCK, (out, x, np.int64(x.size)))


def widening(driver: Driver, out: Array, bits: Array) -> Call:
    """out = the numbers whose bits these are."""
    return driver.launch("from_bf16<0>", packs(driver, bits.size, UINT16), BLOCK, (out, bits, np.int64(bits.size)))


def rounded_gradient(driver: Driver, dy: Array, db: Array | None, rounds: bool) -> tuple[Array, list[Call]]:
    """The bits of dy as products take them, and the calls that make them where `rounds`, and db of dy itself."""
    bits = driver.empty(dy.shape, UINT16)
    if db is not None:
        return bits, [column_sum(driver, db, dy, bits=bits if rounds else None)]
    return bits, [rounding(driver, bits, dy)] if rounds else []


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""

    @ops.to_bf16.register_bound(array_type, accepts=single, allocate=lambda x: driver.empty(x.shape, UINT16))
    def _(out: Array, x: Array) -> list[Call]:
        return [rounding(driver, out, x)]

    @ops.from_bf16.register_bound(array_type, accepts=halves, allocate=lambda bits: driver.empty(bits.shape, FLOAT32))
    def _(out: Array, bits: Array) -> list[Call]:
        return [widening(driver, out, bits)]

    @ops.round_bf16_.register_bound(
        array_type, accepts=lambda target, source: halves(target) and single(source), allocate=nothing
    )
    def _(_: None, target: Array, source: Array) -> list[Call]:
        return [rounding(driver, target, source)]

    def accepts(x: Array, W: Array, b: Array | None, activation: Kernel | None = None, *_: Any) -> bool:
        fits = halves(x, W) and (b is None or single(b)) and x.ndim > 1
        return fits and (activation is None or activation.name in EPILOGUES)

    @ops.linear_bf16.register_bound(
        array_type,
        accepts=accepts,
        allocate=lambda x, W, *_: driver.empty((*x.shape[:-1], W.shape[1]), FLOAT32),
    )
    def _(
        out: Array, x: Array, W: Array, b: Array | None, activation: Kernel | None = None, *settings: float
    ) -> list[Call]:
        return affine(driver, out, x, W, b, activation, *settings)

    def gradients(
        dy: Array, x: Array, W: Array, need_dx: bool = True, need_db: bool = True, need_dW: bool = True
    ) -> Any:
        return (
            driver.empty(x.shape, FLOAT32) if need_dx else None,
            driver.empty(W.shape, FLOAT32) if need_dW else None,
            driver.empty(W.shape[1:], FLOAT32) if need_db else None,
        )

    @ops.linear_bf16_backward.register_bound(
        array_type, accepts=lambda dy, x, W, *_: single(dy) and halves(x, W) and dy.ndim > 1, allocate=gradients
    )
    def _(out: Any, dy: Array, x: Array, W: Array, *_: bool) -> list[Call]:
        dx, dW, db = out
        dy, x = dy.reshape(-1, W.shape[1]), x.reshape(-1, W.shape[0])
        bits, calls = rounded_gradient(driver, dy, db, dx is not None or dW is not None)
        if dW is not None:
            calls.append(plain(driver, dW, x.T, bits))
        if dx is not None:
            calls.append(plain(driver, dx.reshape(x.shape), bits, W.T))
        return calls
