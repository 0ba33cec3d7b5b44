"""Convolutions of images and weights in bfloat16, whose sums are float32: `convolution`'s, of rounded numbers.

x and W are bits as uint16, b and all results float32. dy is float32 and rounded once for both products; db is the sum
of dy itself. What `bfloat16` says of products holds here.
"""

from __future__ import annotations

from typing import Any

from bpnet.dispatch import Array, Kernel, kernel, namespace
from bpnet.ops.bfloat16 import ROUNDED, from_bf16, rounded
from bpnet.ops.convolution import conv2d, conv2d_backward, conv_transpose2d, conv_transpose2d_backward
from bpnet.ops.costs import kernel_flops, size
from bpnet.ops.windows import Window

Gradients = tuple[Array | None, Array | None, Array | None]


def _conv2d_bf16_flops(x: Array, W: Array, *rest: Any) -> int:
    return kernel_flops(conv2d, (x, W, *rest)) + size(x) + size(W)


def _conv_transpose2d_bf16_flops(x: Array, W: Array, *rest: Any) -> int:
    return kernel_flops(conv_transpose2d, (x, W, *rest)) + size(x) + size(W)


def _rounding_flops(dy: Array, x: Array, W: Array, dx: bool, dW: bool) -> int:
    return ROUNDED * size(dy) + size(x) + size(W) if dx or dW else 0


def _conv2d_bf16_backward_flops(
    dy: Array, x: Array, W: Array, window: Window, groups: int, dx: bool = True, db: bool = True, dW: bool = True
) -> int:
    return kernel_flops(conv2d_backward, (dy, x, W, window, groups, dx, db, dW)) + _rounding_flops(dy, x, W, dx, dW)


def _conv_transpose2d_bf16_backward_flops(
    dy: Array, x: Array, W: Array, window: Window, groups: int, dx: bool = True, db: bool = True, dW: bool = True
) -> int:
    products = kernel_flops(conv_transpose2d_backward, (dy, x, W, window, groups, dx, db, dW))
    return products + _rounding_flops(dy, x, W, dx, dW)


def _gradients(
    backward: Kernel, dy: Array, x: Array, W: Array, window: Window, groups: int, dx: bool, db: bool, dW: bool
) -> Gradients:
    sums = namespace(dy).sum(dy, axis=(0, 1, 2)) if db else None
    if not (dx or dW):
        return None, None, sums
    of_x, of_W, _ = backward(rounded(dy), from_bf16(x), from_bf16(W), window, groups, dx, False, dW)
    return of_x, of_W, sums


@kernel(flops=_conv2d_bf16_flops, activation_at=5)
def conv2d_bf16(
    x: Array, W: Array, b: Array | None, window: Window, groups: int, activation: Kernel | None = None, *settings: Any
) -> Array:
    """`conv2d` in float32, of x (N, H, W, C) and W (KH, KW, C / groups, O) in bfloat16, bits as uint16."""
    after = () if activation is None else (activation, *settings)
    return conv2d(from_bf16(x), from_bf16(W), b, window, groups, *after)


@kernel(flops=_conv2d_bf16_backward_flops, unread=conv2d_backward.unread)
def conv2d_bf16_backward(
    dy: Array,
    x: Array,
    W: Array,
    window: Window,
    groups: int,
    need_dx: bool = True,
    need_db: bool = True,
    need_dW: bool = True,
) -> Gradients:
    """dx and dW of `conv2d_backward` with dy rounded to bfloat16, db = sum of dy itself; None where not needed.

    dy : (N, P, Q, O) float32; x, W : bits as uint16. All results are float32.
    """
    return _gradients(conv2d_backward, dy, x, W, window, groups, need_dx, need_db, need_dW)


@kernel(flops=_conv_transpose2d_bf16_flops, activation_at=6)
def conv_transpose2d_bf16(
    x: Array,
    W: Array,
    b: Array | None,
    window: Window,
    groups: int,
    size: tuple[int, int],
    activation: Kernel | None = None,
    *settings: Any,
) -> Array:
    """`conv_transpose2d` in float32, of x (N, H, W, C) and W (KH, KW, O / groups, C) in bfloat16, bits as uint16."""
    after = () if activation is None else (activation, *settings)
    return conv_transpose2d(from_bf16(x), from_bf16(W), b, window, groups, size, *after)


@kernel(flops=_conv_transpose2d_bf16_backward_flops, unread=conv_transpose2d_backward.unread)
def conv_transpose2d_bf16_backward(
    dy: Array,
    x: Array,
    W: Array,
    window: Window,
    groups: int,
    need_dx: bool = True,
    need_db: bool = True,
    need_dW: bool = True,
) -> Gradients:
    """dx and dW of `conv_transpose2d_backward` with dy rounded to bfloat16, db = sum of dy itself; None if not needed.

    dy : float32; x, W : bits as uint16. All results are float32.
    """
    return _gradients(conv_transpose2d_backward, dy, x, W, window, groups, need_dx, need_db, need_dW)
