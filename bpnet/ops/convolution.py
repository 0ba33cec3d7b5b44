"""Convolutions of images (N, H, W, C), channels last, and their derivatives.

The weight is (KH, KW, C / groups, O): as a matrix (KH KW C / groups, O) it maps what a window sees to the outputs. What
is called a convolution here is a cross-correlation, as everywhere in the field: the window is not turned around.
"""

from __future__ import annotations

import math
from typing import Any

from bpnet.dispatch import Array, Kernel, kernel, namespace
from bpnet.ops.costs import Shaped, kernel_flops, size
from bpnet.ops.windows import Window, crop, in_c_order, pad, seen, unseen


def _grouped(x: Array, groups: int) -> Array:
    """(..., C) as (groups, M, C / groups)."""
    xp = namespace(x)
    split = xp.reshape(x, (math.prod(x.shape[:-1]), groups, x.shape[-1] // groups))
    return xp.permute_dims(split, (1, 0, 2))


def _ungrouped(x: Array, leading: tuple[int, ...]) -> Array:
    """(groups, M, C / groups) as (*leading, C)."""
    xp = namespace(x)
    return in_c_order(xp.reshape(xp.permute_dims(x, (1, 0, 2)), (*leading, x.shape[0] * x.shape[2])))


def _convolved(x: Array, W: Array, window: Window, groups: int) -> Array:
    """y[n, p, q] = sum over elements (i, j) of x_padded[n, p s + i d, q s + j d] W[i, j]."""
    places = window.places(x.shape[1], x.shape[2])
    padded, total = pad(x, window), None
    for i, j in window.elements():
        term = _grouped(seen(padded, window, i, j, places), groups) @ _grouped(W[i, j, ...], groups)
        total = term if total is None else total + term
    return _ungrouped(total, (x.shape[0], *places))


def _input_gradient(dy: Array, W: Array, window: Window, groups: int, size: tuple[int, int]) -> Array:
    """dx[n, p s + i d, q s + j d] += dy[n, p, q] W[i, j]^T over all places and elements. size : (H, W) of x"""
    xp = namespace(dy)
    padded, total = window.padded(*size), None
    rows = _grouped(dy, groups)
    for i, j in window.elements():
        term = rows @ xp.permute_dims(_grouped(W[i, j, ...], groups), (0, 2, 1))
        term = unseen(_ungrouped(term, tuple(dy.shape[:-1])), window, i, j, padded)
        total = term if total is None else total + term
    return crop(total, window)


def _weight_gradient(dy: Array, x: Array, shape: tuple[int, ...], window: Window, groups: int) -> Array:
    """dW[i, j] = sum over samples and places of x_padded[n, p s + i d, q s + j d]^T dy[n, p, q]."""
    xp = namespace(dy)
    padded, rows = pad(x, window), _grouped(dy, groups)
    places = (dy.shape[1], dy.shape[2])
    parts = []
    for i, j in window.elements():
        columns = xp.permute_dims(_grouped(seen(padded, window, i, j, places), groups), (0, 2, 1))
        parts.append(_ungrouped(columns @ rows, (shape[2],)))
    return xp.reshape(xp.stack(parts), shape)


def _finished(y: Array, b: Array | None, activation: Kernel | None, settings: tuple[Any, ...]) -> Array:
    if b is not None:
        y = y + b
    return y if activation is None else activation(y, *settings)


def _places_flops(n: int, W: Array, window: Window, rows: int, columns: int) -> int:
    """Of convolving n images to (rows, columns): a product for every element of the window, and their sum."""
    outputs = n * rows * columns * int(W.shape[3])
    return outputs * (2 * int(W.shape[2]) * window.n_elements + window.n_elements - 1)


def _images_flops(n: int, W: Array, window: Window, groups: int, places: tuple[int, int], size: tuple[int, int]) -> int:
    """Of the way back, from `places` to images of `size`: a product for every element, and the sum of padded images."""
    products = 2 * n * math.prod(places) * int(W.shape[2]) * int(W.shape[3]) * window.n_elements
    return products + (window.n_elements - 1) * n * math.prod(window.padded(*size)) * int(W.shape[2]) * groups


def _after_flops(shape: tuple[int, ...], b: Array | None, activation: Kernel | None, settings: tuple[Any, ...]) -> int:
    after = 0 if activation is None else kernel_flops(activation, (Shaped(shape), *settings))
    return after + (0 if b is None else math.prod(shape))


def _conv2d_flops(
    x: Array, W: Array, b: Array | None, window: Window, groups: int, activation: Kernel | None = None, *settings: Any
) -> int:
    n, height, width = (int(each) for each in x.shape[:3])
    places = window.places(height, width)
    shape = (n, *places, int(W.shape[3]))
    return _places_flops(n, W, window, *places) + _after_flops(shape, b, activation, settings)


def _products_flops(dy: Array, W: Array, window: Window) -> int:
    """Of dW: a product for every element of the window."""
    return 2 * size(dy) * int(W.shape[2]) * window.n_elements


def _conv2d_backward_flops(
    dy: Array, x: Array, W: Array, window: Window, groups: int, dx: bool = True, db: bool = True, dW: bool = True
) -> int:
    n, height, width = (int(each) for each in x.shape[:3])
    places = (int(dy.shape[1]), int(dy.shape[2]))
    found = _images_flops(n, W, window, groups, places, (height, width)) if dx else 0
    return found + (_products_flops(dy, W, window) if dW else 0) + (size(dy) if db else 0)


def _conv_transpose2d_flops(
    x: Array,
    W: Array,
    b: Array | None,
    window: Window,
    groups: int,
    size: tuple[int, int],
    activation: Kernel | None = None,
    *settings: Any,
) -> int:
    n, places = int(x.shape[0]), (int(x.shape[1]), int(x.shape[2]))
    shape = (n, *size, int(W.shape[2]) * groups)
    return _images_flops(n, W, window, groups, places, size) + _after_flops(shape, b, activation, settings)


def _conv_transpose2d_backward_flops(
    dy: Array, x: Array, W: Array, window: Window, groups: int, dx: bool = True, db: bool = True, dW: bool = True
) -> int:
    n, rows, columns = (int(each) for each in x.shape[:3])
    found = _places_flops(n, W, window, rows, columns) if dx else 0
    return found + (_products_flops(x, W, window) if dW else 0) + (size(dy) if db else 0)


def _unread(
    dy: Array, x: Array, W: Array, window: Window, groups: int, dx: bool = True, db: bool = True, dW: bool = True
) -> tuple[int, ...]:
    return (*(() if dx or db or dW else (0,)), *(() if dW else (1,)), *(() if dx else (2,)))


@kernel(flops=_conv2d_flops, activation_at=5)
def conv2d(
    x: Array, W: Array, b: Array | None, window: Window, groups: int, activation: Kernel | None = None, *settings: Any
) -> Array:
    """y[n, p, q, o] = activation(b[o] + sum over i, j, c of x[n, p s + i d, q s + j d, c] W[i, j, c, o]).

    x : (N, H, W, C), zero outside; W : (KH, KW, C / groups, O), its windows as `window` says; b : (O,) or None
    groups : the channels and the outputs are so many groups that do not see each other
    Returns (N, *window.places(H, W), O).
    """
    return _finished(_convolved(x, W, window, groups), b, activation, settings)


@kernel(flops=_conv2d_backward_flops, unread=_unread)
def conv2d_backward(
    dy: Array,
    x: Array,
    W: Array,
    window: Window,
    groups: int,
    need_dx: bool = True,
    need_db: bool = True,
    need_dW: bool = True,
) -> tuple[Array | None, Array | None, Array | None]:
    """dx: every dy W^T, added up where its window looked. dW[i, j]: what (i, j) saw, transposed, times dy. db: sum dy.

    Each is None where it is not needed.
    """
    size = (x.shape[1], x.shape[2])
    dx = _input_gradient(dy, W, window, groups, size) if need_dx else None
    dW = _weight_gradient(dy, x, tuple(W.shape), window, groups) if need_dW else None
    return dx, dW, namespace(dy).sum(dy, axis=(0, 1, 2)) if need_db else None


@kernel(flops=_conv_transpose2d_flops, activation_at=6)
def conv_transpose2d(
    x: Array,
    W: Array,
    b: Array | None,
    window: Window,
    groups: int,
    size: tuple[int, int],
    activation: Kernel | None = None,
    *settings: Any,
) -> Array:
    """The map that takes dy to dx in the convolution that makes x of an image of `size`, and b added.

    x : (N, H, W, C); W : (KH, KW, O / groups, C); b : (O,) or None
    window : of that convolution, whose places are (H, W); size : rows and columns of y
    Returns (N, *size, O).
    """
    return _finished(_input_gradient(x, W, window, groups, size), b, activation, settings)


@kernel(flops=_conv_transpose2d_backward_flops, unread=_unread)
def conv_transpose2d_backward(
    dy: Array,
    x: Array,
    W: Array,
    window: Window,
    groups: int,
    need_dx: bool = True,
    need_db: bool = True,
    need_dW: bool = True,
) -> tuple[Array | None, Array | None, Array | None]:
    """The map is linear and the transpose of a convolution, so dx is that convolution of dy.

    dW is the convolution's, with dy for its input and x for its gradient; db = sum of dy. None where not needed.
    """
    dx = _convolved(dy, W, window, groups) if need_dx else None
    dW = _weight_gradient(x, dy, tuple(W.shape), window, groups) if need_dW else None
    return dx, dW, namespace(dy).sum(dy, axis=(0, 1, 2)) if need_db else None
