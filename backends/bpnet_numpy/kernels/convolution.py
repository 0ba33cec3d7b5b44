"""Convolutions as matrix products: what the windows see is laid out in rows, a block of samples at a time.

The method is a function of the shapes alone, so a step does the same in every run:
- a window of one pixel is `linear`;
- one channel in and one out a group (depthwise): a product and a sum for every element of the window;
- else the windows of a block are gathered and multiplied with the weight. They lie in rows where a window's row has
  `WIDE` numbers or more; else in columns, since copies of a few numbers take as long as those of many.
The gradient of the input is such a convolution of dy with the window turned around where windows are one pixel apart;
else the products of a block are added where their windows looked. What was gathered is not kept for the backward: it is
as many times larger than x as a window has pixels, and is gathered again in a fraction of the products' time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from bpnet import ops
from bpnet.dispatch import Call, Kernel
from bpnet.ops.windows import Window
from bpnet_numpy.kernels.common import Array, blocks, bound, floating, ones
from bpnet_numpy.scratch import borrow, borrow_like
from bpnet_numpy.threads import product

BLOCK = 1 << 18  # numbers that are gathered at a time: in the cache, and products that are worth a second thread
WIDE = 8  # numbers in a row of a window, from which on rows are gathered
After = Callable[[Array], list[Call]]


class Padded:
    """Blocks of images with their padding, in a buffer that is made once; the images themselves where there is none."""

    def __init__(self, x: Array, window: Window) -> None:
        self.x, self.window = x, window
        self.shape = (*window.padded(x.shape[1], x.shape[2]), x.shape[3])
        self.needed = any(map(any, window.padding))
        self._buffer: Array = None

    def block(self, samples: slice) -> tuple[list[Call], Array]:
        """The calls that fill the padded images of `samples`, and these."""
        if not self.needed:
            return [], self.x[samples]
        n = samples.stop - samples.start
        if self._buffer is None:
            self._buffer = np.zeros((n, *self.shape), self.x.dtype, like=self.x)
        padded = self._buffer[:n]
        (top, _), (left, _) = self.window.padding
        inner = padded[:, top : top + self.x.shape[1], left : left + self.x.shape[2]]
        return [partial(np.copyto, inner, self.x[samples])], padded


def windows(padded: Array, window: Window, places: tuple[int, int]) -> Array:
    """(N, OH, OW, KH, KW, C): what every window sees, without a copy."""
    n, row, column, channel = padded.strides
    (sh, sw), (dh, dw) = window.stride, window.dilation
    shape = (padded.shape[0], *places, *window.size, padded.shape[3])
    return as_strided(padded, shape, (n, row * sh, column * sw, row * dh, column * dw, channel))


class Gathered:
    """What the windows of x see, in a matrix that is made once: a block of samples at a time."""

    def __init__(self, x: Array, window: Window, groups: int, places: tuple[int, int]) -> None:
        self.padded = Padded(x, window)
        self.window, self.groups, self.places = window, groups, places
        self.width = x.shape[3] // groups
        self.depth = window.size[0] * window.size[1] * self.width
        self.each = places[0] * places[1] * self.depth * groups
        self.in_rows = window.size[1] * self.width >= WIDE or groups > 1
        self._buffer: Array = None

    def rows(self, samples: slice) -> tuple[list[Call], Array]:
        """The calls that gather what the windows of `samples` see, and the matrix (groups, M, KH KW C / groups)."""
        calls, padded = self.padded.block(samples)
        seen = windows(padded, self.window, self.places)
        n = seen.shape[0]
        if self._buffer is None:
            self._buffer = borrow(n * self.each, padded.dtype, padded)
        flat = self._buffer[: n * self.each]
        if self.in_rows:
            split = seen.reshape(*seen.shape[:5], 1, self.width) if self.groups == 1 else _split(seen, self.groups)
            target = flat.reshape(self.groups, *seen.shape[:5], self.width)
            calls.append(partial(np.copyto, target, split.transpose(5, 0, 1, 2, 3, 4, 6)))
            return calls, flat.reshape(self.groups, -1, self.depth)
        target = flat.reshape(*seen.shape[3:], *seen.shape[:3])
        calls.append(partial(np.copyto, target, seen.transpose(3, 4, 5, 0, 1, 2)))
        return calls, flat.reshape(1, self.depth, -1).transpose(0, 2, 1)


def _split(seen: Array, groups: int) -> Array:
    """(..., C) as (..., groups, C / groups), without a copy."""
    width, step = seen.shape[-1] // groups, seen.strides[-1]
    return as_strided(seen, (*seen.shape[:-1], groups, width), (*seen.strides[:-1], width * step, step))


def _matrices(W: Array, groups: int) -> Array:
    """(KH, KW, C / groups, O) as (groups, KH KW C / groups, O / groups), without a copy."""
    return W.reshape(-1, groups, W.shape[3] // groups).transpose(1, 0, 2)


def _depthwise(x_channels: int, W: Array, groups: int) -> bool:
    return groups > 1 and groups == x_channels and W.shape[3] == groups


def nothing_after(_: Array) -> list[Call]:
    """No further calls."""
    return []


def convolve(y: Array, x: Array, W: Array, window: Window, groups: int, after: After = nothing_after) -> list[Call]:
    """The calls that write the convolution of x to y, and `after` of every block of it."""
    if window.plain and groups == 1:
        return [
            product(x.reshape(-1, x.shape[3]), W.reshape(W.shape[2:]), y.reshape(-1, y.shape[3])),
            *after(y),
        ]
    places = (y.shape[1], y.shape[2])
    if _depthwise(x.shape[3], W, groups):
        return _convolve_depthwise(y, x, W, window, after)
    gathered = Gathered(x, window, groups, places)
    matrices, calls = _matrices(W, groups), []
    products: Array = None
    for samples in blocks(len(x), gathered.each, BLOCK)[1]:
        block = y[samples]
        more, rows = gathered.rows(samples)
        calls += more
        if groups == 1:
            calls.append(product(rows[0], matrices[0], block.reshape(-1, y.shape[3])))
        else:
            if products is None:
                products = borrow((groups, rows.shape[1], y.shape[3] // groups), y.dtype, y)
            part = products[:, : rows.shape[1]]
            calls.append(partial(np.matmul, rows, matrices, part))
            calls.append(partial(np.copyto, block.reshape(-1, groups, part.shape[2]).transpose(1, 0, 2), part))
        calls += after(block)
    return calls


def _convolve_depthwise(y: Array, x: Array, W: Array, window: Window, after: After) -> list[Call]:
    places = (y.shape[1], y.shape[2])
    padded, calls = Padded(x, window), []
    terms: Array = None
    for samples in blocks(len(x), 4 * y[0].size, BLOCK)[1]:
        block = y[samples]
        terms = borrow_like(block) if terms is None else terms
        part = terms[: block.shape[0]]
        more, images = padded.block(samples)
        calls += more
        for first, (i, j) in enumerate(window.elements()):
            seen = images[:, *window.slices(i, j, places)]
            calls.append(partial(np.multiply, seen, W[i, j, 0], part if first else block))
            if first:
                calls.append(partial(np.add, block, part, block))
        calls += after(block)
    return calls


def weight_gradient(dW: Array, dy: Array, x: Array, window: Window, groups: int) -> list[Call]:
    """The calls that write dW, the sum over blocks of what the windows saw, transposed, times dy."""
    if window.plain and groups == 1:
        return [product(x.reshape(-1, x.shape[3]).T, dy.reshape(-1, dy.shape[3]), dW.reshape(dW.shape[2:]))]
    places = (dy.shape[1], dy.shape[2])
    if _depthwise(x.shape[3], dW, groups):
        return _weight_gradient_depthwise(dW, dy, x, window)
    gathered = Gathered(x, window, groups, places)
    n_out, depth = dy.shape[3] // groups, gathered.depth
    whole = dW.reshape(1, depth, n_out) if groups == 1 else borrow((groups, depth, n_out), dW.dtype, dW)
    part, calls = borrow_like(whole), []
    for first, samples in enumerate(blocks(len(x), gathered.each, BLOCK)[1]):
        more, rows = gathered.rows(samples)
        calls += more
        block, target = dy[samples], part if first else whole
        if groups == 1:
            calls.append(product(rows[0].T, block.reshape(-1, n_out), target[0]))
        else:
            outputs = block.reshape(-1, groups, n_out).transpose(1, 0, 2)
            calls.append(partial(np.matmul, rows.transpose(0, 2, 1), outputs, target))
        if first:
            calls.append(partial(np.add, whole, part, whole))
    if groups > 1:
        calls.append(partial(np.copyto, _matrices(dW, groups), whole))
    return calls


def _weight_gradient_depthwise(dW: Array, dy: Array, x: Array, window: Window) -> list[Call]:
    places = (dy.shape[1], dy.shape[2])
    padded, calls = Padded(x, window), []
    terms, sums = None, np.empty(dy.shape[3], dy.dtype, like=dy)
    for first, samples in enumerate(blocks(len(x), 4 * dy[0].size, BLOCK)[1]):
        block = dy[samples]
        terms = borrow_like(block) if terms is None else terms
        part = terms[: block.shape[0]]
        flat = part.reshape(-1, dy.shape[3])
        more, images = padded.block(samples)
        calls += more
        for i, j in window.elements():
            target = dW[i, j, 0]
            calls.append(partial(np.multiply, images[:, *window.slices(i, j, places)], block, part))
            calls.append(partial(np.dot, ones(flat.shape[0], dy), flat, sums if first else target))
            if first:
                calls.append(partial(np.add, target, sums, target))
    return calls


def input_gradient(
    dx: Array, dy: Array, W: Array, window: Window, groups: int, after: After = nothing_after
) -> list[Call]:
    """The calls that write to dx every dy W^T, added up where its window looked, and `after` of every block of it."""
    if window.plain and groups == 1:
        flat = dx.reshape(-1, dx.shape[3])
        return [product(dy.reshape(-1, dy.shape[3]), W.reshape(W.shape[2:]).T, flat), *after(dx)]
    back = turned(window)
    if back is not None:
        source = _turned_weight(W, groups)
        other = borrow(source.shape, W.dtype, W)
        weight = other.reshape(*window.size, dy.shape[3] // groups, dx.shape[3])
        return [partial(np.copyto, other, source), *convolve(dx, dy, weight, back, groups, after)]
    return _scattered(dx, dy, W, window, groups, after)


def turned(window: Window) -> Window | None:
    """The window by which dy is convolved to give dx; None where windows are apart, or see padding alone."""
    pairs = tuple((r - 1 - a, r - 1 - b) for r, (a, b) in zip(window.reach, window.padding, strict=True))
    if window.stride != (1, 1) or min(map(min, pairs)) < 0:
        return None
    return Window(window.size, (1, 1), window.dilation, (pairs[0], pairs[1]))


def _turned_weight(W: Array, groups: int) -> Array:
    """A view (KH, KW, O / groups, groups, C / groups) of the weight, its window turned around."""
    kh, kw, c, o = W.shape
    return W.reshape(kh, kw, c, groups, o // groups)[::-1, ::-1].transpose(0, 1, 4, 3, 2)


def _scattered(dx: Array, dy: Array, W: Array, window: Window, groups: int, after: After) -> list[Call]:
    places = (dy.shape[1], dy.shape[2])
    rows_of, columns_of = window.padded(dx.shape[1], dx.shape[2])
    (top, _), (left, _) = window.padding
    matrices = _matrices(W, groups).transpose(0, 2, 1)
    depth, width, n_out = matrices.shape[2], dx.shape[3] // groups, dy.shape[3] // groups
    each = places[0] * places[1] * depth * groups
    products: Array = None
    total: Array = None
    calls: list[Call] = []
    for samples in blocks(len(dx), each, BLOCK)[1]:
        n = samples.stop - samples.start
        if products is None:
            products = borrow(n * each, dx.dtype, dx)
            total = borrow((n, rows_of, columns_of, dx.shape[3]), dx.dtype, dx)
        terms = products[: n * each].reshape(groups, -1, depth)
        if groups == 1:
            calls.append(product(dy[samples].reshape(-1, n_out), matrices[0], terms[0]))
        else:
            outputs = dy[samples].reshape(-1, groups, n_out).transpose(1, 0, 2)
            calls.append(partial(np.matmul, outputs, matrices, terms))
        images = total[:n]
        calls.append(partial(images.fill, 0))
        back = terms.reshape(groups, n, *places, *window.size, width)
        split = images.reshape(*images.shape[:3], groups, width)
        for i, j in window.elements():
            target = split[:, *window.slices(i, j, places)]
            calls.append(partial(np.add, target, back[:, :, :, :, i, j].transpose(1, 2, 3, 0, 4), target))
        block = dx[samples]
        calls.append(partial(np.copyto, block, images[:, top : top + dx.shape[1], left : left + dx.shape[2]]))
        calls += after(block)
    return calls


# --- the kernels ---


def _accepts(x: Array, W: Array, *more: Any) -> bool:
    return floating(x, W) and x.size > 0 and W.size > 0


def _finish(b: Array | None, activation: Kernel | None, settings: tuple[Any, ...]) -> After:
    def after(y: Array) -> list[Call]:
        calls: list[Call] = [] if b is None else [partial(np.add, y, b, y)]
        return calls if activation is None else calls + bound(activation, y, y, *settings)

    return after


def conv2d_allocate(x: Array, W: Array, b: Array | None, window: Window, *_: Any) -> Array:
    """An array for the places of the window."""
    return np.empty((x.shape[0], *window.places(x.shape[1], x.shape[2]), W.shape[3]), x.dtype, like=x)


@ops.conv2d.register_bound(
    np.ndarray,
    accepts=_accepts,
    allocate=conv2d_allocate,
)
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
    return convolve(out, x, W, window, groups, _finish(b, activation, settings))


@ops.conv_transpose2d.register_bound(
    np.ndarray,
    accepts=_accepts,
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
    return input_gradient(out, x, W, window, groups, _finish(b, activation, settings))


def conv_backward_allocate(
    dy: Array, x: Array, W: Array, window: Window, groups: int, dx: bool = True, db: bool = True, dW: bool = True
) -> Any:
    """Arrays for dx, dW and db, None where they are not needed."""
    return (
        np.empty(x.shape, dy.dtype, like=dy) if dx else None,
        np.empty(W.shape, dy.dtype, like=dy) if dW else None,
        np.empty(dy.shape[3:], dy.dtype, like=dy) if db else None,
    )


def _backward_accepts(dy: Array, x: Array, W: Array, *_: Any) -> bool:
    return floating(dy, x, W) and dy.size > 0 and x.size > 0


def _sum(db: Array, dy: Array) -> list[Call]:
    flat = dy.reshape(-1, dy.shape[3])
    return [partial(np.dot, ones(flat.shape[0], dy), flat, db)]


@ops.conv2d_backward.register_bound(np.ndarray, accepts=_backward_accepts, allocate=conv_backward_allocate)
def _(out: Any, dy: Array, x: Array, W: Array, window: Window, groups: int, *_: bool) -> list[Call]:
    dx, dW, db = out
    calls = [] if dW is None else weight_gradient(dW, dy, x, window, groups)
    calls += [] if db is None else _sum(db, dy)
    return calls if dx is None else calls + input_gradient(dx, dy, W, window, groups)


@ops.conv_transpose2d_backward.register_bound(np.ndarray, accepts=_backward_accepts, allocate=conv_backward_allocate)
def _(out: Any, dy: Array, x: Array, W: Array, window: Window, groups: int, *_: bool) -> list[Call]:
    dx, dW, db = out
    calls = [] if dW is None else weight_gradient(dW, x, dy, window, groups)
    calls += [] if db is None else _sum(db, dy)
    return calls if dx is None else calls + convolve(dx, dy, W, window, groups)
