"""Convolutions, and the maps back, with the bias and the activation in one pass behind the product."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call, Kernel
from bpnet.ops.windows import Window
from bpnet_numpy.fused.blas import gemm
from bpnet_numpy.fused.instruction import Program, instruction
from bpnet_numpy.fused.parts import MULTIPLICATIONS, PASS, pieces, split, sums_of_parts
from bpnet_numpy.fused.variants import windows
from bpnet_numpy.fused.variants.common import check_place, fused
from bpnet_numpy.fused.variants.linear import SHIFTED
from bpnet_numpy.fused.variants.windows import window_words
from bpnet_numpy.kernels.common import Array, bound, floating
from bpnet_numpy.kernels.convolution import (
    WIDE,
    conv2d_allocate,
    conv_backward_allocate,
    convolve,
    input_gradient,
    turned,
)
from bpnet_numpy.scratch import borrow

GATHERED = 1 << 15
"""Numbers that are gathered at a time: with what they are multiplied with they stay in the second-level cache."""


def _places(x: Array, window: Window) -> tuple[int, ...]:
    return (x.shape[0], *window.places(x.shape[1], x.shape[2]))


def _convolves(x: Array, W: Array, b: Array | None, window: Window, groups: int, *_: Any) -> bool:
    fitting = x.ndim == W.ndim == 4 and W.shape[:2] == window.size and x.shape[3] == groups * W.shape[2]
    fitting = fitting and W.shape[3] % groups == 0
    shifting = b is None or (b.dtype == x.dtype and b.shape == W.shape[3:] and b.flags.c_contiguous)
    return fitting and shifting and floating(x, W) and x.size > 0 and W.size > 0


def _by_tiles(window: Window, groups: int) -> bool:
    """Whether windows are multiplied where they are; windows of one pixel are matrix products."""
    return windows.possible() and not (window.plain and groups == 1)


def _gathers(x: Array, window: Window, groups: int) -> bool:
    """Whether windows of all channels are gathered by a compiled body, and multiplied by the BLAS."""
    return groups == 1 and not window.plain and not windows.possible() and gemm(x.dtype) is not None


def _layout(x: Array, window: Window) -> tuple[int, bool, int]:
    """Rows of places that are gathered at a time, whether in rows, and how many numbers that are."""
    rows, columns = window.places(x.shape[1], x.shape[2])
    depth = window.size[0] * window.size[1] * x.shape[3]
    step = max(1, min(rows, GATHERED // (columns * depth)))
    return step, window.size[1] * x.shape[3] >= WIDE, step * columns * depth


def _convolution(
    out: Array, x: Array, W: Array, b: Array | None, window: Window, n_out: int, rectified: bool
) -> list[Call]:
    """The calls of a convolution whose weight is a matrix (KH KW C, O), by the BLAS."""
    found = gemm(x.dtype)
    assert found is not None
    step, in_rows, size = _layout(x, window)

    def make(some: slice) -> list[Program]:
        gathered = borrow(size, x.dtype, x)
        arrays = (out[some], x[some], W, 0 if b is None else b, gathered)
        settings = (rectified, step, in_rows, found.address, found.bits, x.itemsize)
        return [
            instruction(
                "convolve", x.dtype, *arrays, len(x[some]), x.shape[3], n_out, *settings, *window_words(x, window)
            )
        ]

    return split(len(x), out.size * W.size // n_out, make, least=MULTIPLICATIONS)


@fused(ops.conv2d, accepts=_convolves, allocate=conv2d_allocate)
def _(
    out: Array,
    x: Array,
    W: Array,
    b: Array | None,
    window: Window,
    groups: int,
    activation: Kernel | None = None,
    *settings: Any,
) -> list[Call]:
    check_place(out, (*_places(x, window), W.shape[3]), x.dtype)
    rectified = activation is ops.relu and b is not None
    if _by_tiles(window, groups) or _gathers(x, window, groups):
        if windows.possible():
            calls = windows.convolution(out, x, W, b, windows.whole(window), groups, rectified=rectified)
        else:
            calls = _convolution(out, x, W, b, window, W.shape[3], rectified)
        return calls if activation is None or rectified else calls + bound(activation, out, out, *settings)
    name = "shift" if activation is None else SHIFTED.get(activation, "shift")

    def after(y: Array) -> list[Call]:
        if b is None:
            return [] if activation is None else bound(activation, y, y, *settings)
        calls: list[Call] = [instruction(name, y.dtype, y, b, y.size // y.shape[3], y.shape[3])]
        return calls if activation is None or name != "shift" else calls + bound(activation, y, y, *settings)

    return convolve(out, x, W, window, groups, after)


def _goes_back(dy: Array, x: Array, W: Array, window: Window, groups: int, *_: bool) -> bool:
    shaped = dy.ndim == 4 and _convolves(x, W, None, window, groups) and floating(dy, x) and dy.size > 0
    compiled = _by_tiles(window, groups) or _gathers(x, window, groups)
    return compiled and shaped and dy.shape == (*_places(x, window), W.shape[3])


@fused(ops.conv2d_backward, accepts=_goes_back, allocate=conv_backward_allocate)
def _(out: Any, dy: Array, x: Array, W: Array, window: Window, groups: int, *_: bool) -> list[Call]:
    dx, dW, db = out
    calls: list[Call] = []
    n_out = W.shape[3]
    for each, shape in ((dW, W.shape), (db, (n_out,))):
        if each is not None:
            check_place(each, shape, dy.dtype)
    if dW is not None and windows.possible():
        calls += windows.weight_gradient(dW, db, dy, x, window, groups)
    else:
        calls += [] if dW is None else _weight_gradient(dW, dy, x, window)
        calls += [] if db is None else _sum_of_places(db, dy)
    if dx is None:
        return calls
    check_place(dx, x.shape, dy.dtype)
    if windows.possible():
        return calls + _images_back(dx, dy, W, None, window, groups)
    back = turned(window)
    if back is None:
        return calls + input_gradient(dx, dy, W, window, groups)
    other = borrow((window.size[0] * window.size[1] * n_out, x.shape[3]), W.dtype, W)
    calls.append(instruction("turned_weight", W.dtype, other, W, window.size[0] * window.size[1], x.shape[3], n_out))
    return calls + _convolution(dx, dy, other, None, back, x.shape[3], False)


def _images_back(
    out: Array, dy: Array, W: Array, b: Array | None, window: Window, groups: int, rectified: bool = False
) -> list[Call]:
    """Every dy W^T, added up where its window looked, the bias added, and max(x, 0) where that is wanted."""
    parts = windows.backward(window, (out.shape[1], out.shape[2]))
    if windows.covers(parts, (out.shape[1], out.shape[2])):
        return windows.convolution(out, dy, W, b, parts, groups, turned=True, rectified=rectified)
    calls: list[Call] = [instruction("fill", out.dtype, out, out.size, 0.0)]
    calls += windows.convolution(out, dy, W, None, parts, groups, turned=True) if parts else []
    if b is not None:
        name = "shift_relu" if rectified else "shift"
        calls.append(instruction(name, out.dtype, out, b, out.size // out.shape[3], out.shape[3]))
    return calls


def _transposes(x: Array, W: Array, b: Array | None, window: Window, groups: int, size: Any, *_: Any) -> bool:
    fitting = x.ndim == W.ndim == 4 and W.shape[:2] == window.size and x.shape[3] == W.shape[3]
    fitting = fitting and W.shape[3] % groups == 0 and window.places(*size) == x.shape[1:3]
    shifting = b is None or (b.dtype == x.dtype and b.shape == (W.shape[2] * groups,) and b.flags.c_contiguous)
    return fitting and shifting and floating(x, W) and min(x.size, W.size) > 0 and _by_tiles(window, groups)


@fused(
    ops.conv_transpose2d,
    accepts=_transposes,
    allocate=lambda x, W, b, window, groups, size, *_: np.empty(
        (x.shape[0], *size, W.shape[2] * groups), x.dtype, like=x
    ),
)
def _(
    out: Array,
    x: Array,
    W: Array,
    b: Array | None,
    window: Window,
    groups: int,
    size: tuple[int, int],
    activation: Kernel | None = None,
    *settings: Any,
) -> list[Call]:
    check_place(out, (len(x), *size, W.shape[2] * groups), x.dtype)
    rectified = activation is ops.relu and b is not None
    calls = _images_back(out, x, W, b, window, groups, rectified)
    return calls if activation is None or rectified else calls + bound(activation, out, out, *settings)


@fused(
    ops.conv_transpose2d_backward,
    accepts=lambda dy, x, W, window, groups, *_: (
        dy.ndim == 4
        and floating(dy, x)
        and _transposes(x, W, None, window, groups, dy.shape[1:3])
        and dy.shape[0] == x.shape[0]
        and dy.shape[3] == W.shape[2] * groups
    ),
    allocate=conv_backward_allocate,
)
def _(out: Any, dy: Array, x: Array, W: Array, window: Window, groups: int, *_: bool) -> list[Call]:
    dx, dW, db = out
    for each, shape in ((dx, x.shape), (dW, W.shape), (db, dy.shape[3:])):
        if each is not None:
            check_place(each, shape, dy.dtype)
    calls: list[Call] = [] if dW is None else windows.weight_gradient(dW, None, x, dy, window, groups)
    calls += [] if db is None else _sum_of_places(db, dy)
    return calls if dx is None else calls + windows.convolution(dx, dy, W, None, windows.whole(window), groups)


def _weight_gradient(dW: Array, dy: Array, x: Array, window: Window) -> list[Call]:
    """A thread sums over its samples; the sums are then added."""
    found = gemm(x.dtype)
    assert found is not None
    step, in_rows, size = _layout(x, window)

    def make(some: slice, places: list[Any]) -> Program:
        arrays = (*places, dy[some], x[some], borrow(size, x.dtype, x))
        settings = (len(x[some]), x.shape[3], dW.shape[3], step, in_rows, found.address, found.bits, x.itemsize)
        return instruction("convolve_weights", x.dtype, *arrays, *settings, *window_words(x, window))

    parts = pieces(len(x), dy.size * dW.size // dW.shape[3], MULTIPLICATIONS)
    return sums_of_parts([dW.reshape(-1)], parts, make, x)


def _sum_of_places(db: Array, dy: Array) -> list[Call]:
    """The sum over samples and places: by threads of their samples, since there are few channels."""

    def make(some: slice, places: list[Any]) -> Program:
        rows = dy[some].reshape(-1, dy.shape[3])
        return instruction("sum_columns", dy.dtype, *places, rows, *rows.shape, rows.shape[1])

    return sums_of_parts([db], pieces(len(dy), dy.size, PASS), make, dy)
