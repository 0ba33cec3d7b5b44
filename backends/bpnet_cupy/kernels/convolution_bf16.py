"""Convolutions of bits of bfloat16: what the windows see is gathered as bits, and multiplied into float32.

The method is that of `convolution`. A depthwise one has no products; its reference widens the bits, and then it has the
kernel of float32.
"""

from __future__ import annotations

import math
from typing import Any

from bpnet import ops
from bpnet.dispatch import Call, Kernel
from bpnet.ops.windows import Window
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.bfloat16 import rounded_gradient
from bpnet_cupy.kernels.common import FLOAT32, Array, halves, real
from bpnet_cupy.kernels.convolution import (
    GRID_Z,
    After,
    Windows,
    convolve,
    gradients_of,
    input_gradient,
    is_depthwise,
    weight_gradient,
)
from bpnet_cupy.kernels.linear import EPILOGUES


def _accepts_bits(x: Array, W: Array, b: Array | None, activation: Kernel | None) -> bool:
    fits = halves(x, W) and (b is None or (real(b) and b.dtype == FLOAT32))
    return fits and (activation is None or activation.name in EPILOGUES)


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for bits of bfloat16: of all convolutions but depthwise ones, which have no products."""
    gradients, nothing_after = gradients_of(driver), After(None, None, ())

    @ops.conv2d_bf16.register_bound(
        array_type,
        accepts=lambda x, W, b, window, groups, activation=None, *_: (
            _accepts_bits(x, W, b, activation)
            and all(window.places(x.shape[1], x.shape[2]))
            and not is_depthwise(x.shape[3], groups)
        ),
        allocate=lambda x, W, b, window, *_: driver.empty(
            (x.shape[0], *window.places(x.shape[1], x.shape[2]), W.shape[3]), FLOAT32
        ),
    )
    def _(
        out: Array, x: Array, W: Array, b: Array | None, window: Window, groups: int,
        activation: Kernel | None = None, *settings: float,
    ) -> list[Call]:  # fmt: skip
        windows = Windows(driver, x.shape, out.shape[1:3], window, groups)
        return convolve(windows, out, x, W, After(b, activation, settings))

    @ops.conv_transpose2d_bf16.register_bound(
        array_type,
        accepts=lambda x, W, b, window, groups, size, activation=None, *_: (
            _accepts_bits(x, W, b, activation) and math.prod(size) > 0 and not is_depthwise(W.shape[2] * groups, groups)
        ),
        allocate=lambda x, W, b, window, groups, size, *_: driver.empty(
            (x.shape[0], *size, W.shape[2] * groups), FLOAT32
        ),
    )
    def _(
        out: Array, x: Array, W: Array, b: Array | None, window: Window, groups: int, size: tuple[int, int],
        activation: Kernel | None = None, *settings: float,
    ) -> list[Call]:  # fmt: skip
        windows = Windows(driver, out.shape, x.shape[1:3], window, groups)
        return input_gradient(windows, out, x, W, After(b, activation, settings))

    def accepts(dy: Array, x: Array, W: Array, window: Window, groups: int, *_: Any) -> bool:
        fits = real(dy) and dy.dtype == FLOAT32 and halves(x, W)
        return fits and window.n_elements <= GRID_Z and not is_depthwise(W.shape[2] * groups, groups)

    @ops.conv2d_bf16_backward.register_bound(array_type, accepts=accepts, allocate=gradients)
    def _(out: Any, dy: Array, x: Array, W: Array, window: Window, groups: int, *_: bool) -> list[Call]:
        dx, dW, db = out
        windows = Windows(driver, x.shape, dy.shape[1:3], window, groups)
        bits, calls = rounded_gradient(driver, dy, db, dx is not None or dW is not None)
        calls += [] if dW is None else weight_gradient(windows, dW, None, bits, x)
        return calls if dx is None else calls + input_gradient(windows, dx, bits, W, nothing_after)

    @ops.conv_transpose2d_bf16_backward.register_bound(array_type, accepts=accepts, allocate=gradients)
    def _(out: Any, dy: Array, x: Array, W: Array, window: Window, groups: int, *_: bool) -> list[Call]:
        dx, dW, db = out
        windows = Windows(driver, dy.shape, x.shape[1:3], window, groups)
        bits, calls = rounded_gradient(driver, dy, db, dx is not None or dW is not None)
        calls += [] if dW is None else weight_gradient(windows, dW, None, x, bits)
        return calls if dx is None else calls + convolve(windows, dx, bits, W, nothing_after)
