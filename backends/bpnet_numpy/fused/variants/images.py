"""Convolutions with the bias and the activation in one pass behind the product, and max pooling."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call, Kernel
from bpnet.ops.windows import Window
from bpnet_numpy.fused.instruction import instruction
from bpnet_numpy.fused.variants.common import check_place, fused
from bpnet_numpy.fused.variants.linear import SHIFTED
from bpnet_numpy.kernels.common import Array, bound, floating
from bpnet_numpy.kernels.convolution import conv2d_allocate, convolve


def _places(x: Array, window: Window) -> tuple[int, ...]:
    return (x.shape[0], *window.places(x.shape[1], x.shape[2]))


def _convolves(x: Array, W: Array, b: Array | None, window: Window, groups: int, *_: Any) -> bool:
    fitting = x.ndim == W.ndim == 4 and W.shape[:2] == window.size and x.shape[3] == groups * W.shape[2]
    shifting = b is not None and b.dtype == x.dtype and b.shape == W.shape[3:] and b.flags.c_contiguous
    return fitting and shifting and floating(x, W) and x.size > 0 and W.size > 0


@fused(ops.conv2d, accepts=_convolves, allocate=conv2d_allocate)
def _(
    out: Array,
    x: Array,
    W: Array,
    b: Array,
    window: Window,
    groups: int,
    activation: Kernel | None = None,
    *settings: Any,
) -> list[Call]:
    check_place(out, (*_places(x, window), W.shape[3]), x.dtype)
    name = "shift" if activation is None else SHIFTED.get(activation, "shift")

    def after(y: Array) -> list[Call]:
        calls: list[Call] = [instruction(name, y.dtype, y, b, y.size // y.shape[3], y.shape[3])]
        return calls if activation is None or name != "shift" else calls + bound(activation, y, y, *settings)

    return convolve(out, x, W, window, groups, after)


def _words(x: Array, window: Window) -> tuple[int, ...]:
    """The words of a window over images like x."""
    (top, _), (left, _) = window.padding
    places = window.places(x.shape[1], x.shape[2])
    return (x.shape[1], x.shape[2], *places, *window.size, *window.stride, *window.dilation, top, left)


@fused(
    ops.max_pool2d,
    accepts=lambda x, window: x.ndim == 4 and floating(x) and x.size > 0,
    allocate=lambda x, window: np.empty((*_places(x, window), x.shape[3]), x.dtype, like=x),
)
def _(out: Array, x: Array, window: Window) -> list[Call]:
    check_place(out, (*_places(x, window), x.shape[3]), x.dtype)
    return [instruction("max_pool2d", x.dtype, out, x, x.shape[0], x.shape[3], *_words(x, window))]


@fused(
    ops.max_pool2d_backward,
    accepts=lambda dy, x, window: (
        x.ndim == 4 and floating(dy, x) and dy.size > 0 and dy.shape == (*_places(x, window), x.shape[3])
    ),
    allocate=lambda dy, x, window: np.empty(x.shape, dy.dtype, like=dy),
)
def _(out: Array, dy: Array, x: Array, window: Window) -> list[Call]:
    check_place(out, x.shape, x.dtype)
    return [instruction("max_pool2d_backward", x.dtype, out, dy, x, x.shape[0], x.shape[3], *_words(x, window))]
