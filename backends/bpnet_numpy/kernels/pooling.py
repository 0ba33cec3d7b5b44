"""Pooling, an axis at a time: a window of K x K takes 2 K passes instead of K^2, a block of samples in the cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet.ops.pooling import pool_counts
from bpnet.ops.windows import Window
from bpnet_numpy.kernels.common import SIGNED, Array, blocks, constant, floating
from bpnet_numpy.scratch import borrow

BLOCK = 1 << 16  # numbers of images at a time: they stay in the cache between the passes
Lines = list[tuple[slice, ...]]


def _lines(window: Window, axis: int, places: int) -> Lines:
    """For every element of the window along an axis, 1 or 2, the index of the lines that it sees at all places."""
    step, gap = window.stride[axis - 1], window.dilation[axis - 1]
    before = (slice(None),) * axis
    return [(*before, slice(k * gap, k * gap + (places - 1) * step + 1, step)) for k in range(window.size[axis - 1])]


def _apart(window: Window, axis: int) -> bool:
    """Whether no line is seen twice along an axis."""
    return window.size[axis - 1] == 1 or window.stride[axis - 1] >= window.reach[axis - 1]


def _covers(window: Window, axis: int, length: int, places: int) -> bool:
    """Whether every line is seen exactly once."""
    plain = window.dilation[axis - 1] == 1 or window.size[axis - 1] == 1
    return plain and window.stride[axis - 1] == window.size[axis - 1] and places * window.size[axis - 1] == length


class _Block:
    """The shapes of a block of samples in a pool, and its padded images."""

    def __init__(self, n: int, shape: tuple[int, ...], window: Window, like: Array, value: float) -> None:
        self.n, self.window = n, window
        self.rows, self.columns = window.padded(shape[1], shape[2])
        self.places = window.places(shape[1], shape[2])
        self.channels = shape[3]
        self.needed = any(map(any, window.padding))
        (top, _), (left, _) = window.padding
        self.inner = (slice(None), slice(top, top + shape[1]), slice(left, left + shape[2]))
        self.padded = (
            np.full((n, self.rows, self.columns, shape[3]), value, like.dtype, like=like) if self.needed else None
        )

    def take(self, x: Array) -> tuple[list[Call], Array]:
        """The calls that fill the padded images, and these; x itself where it has no padding."""
        if self.padded is None:
            return [], x
        padded = self.padded[: x.shape[0]]
        return [partial(np.copyto, padded[self.inner], x)], padded


def _fold(ufunc: Any, source: Array, lines: Lines, target: Array) -> list[Call]:
    """target = ufunc of the lines, one after the other."""
    first = source[lines[0]]
    if len(lines) == 1:
        return [partial(np.copyto, target, first)]
    calls: list[Call] = [partial(ufunc, first, source[lines[1]], out=target)]
    return calls + [partial(ufunc, target, source[line], out=target) for line in lines[2:]]


def _pooled(
    y: Array, x: Array, window: Window, ufunc: Any, padding: float, after: Callable[[Array], list[Call]]
) -> list[Call]:
    n, parts = blocks(len(x), x[0].size, BLOCK)
    block = _Block(n, x.shape, window, x, padding)
    tall = borrow((n, block.places[0], block.columns, block.channels), x.dtype, x)
    calls: list[Call] = []
    for samples in parts:
        more, images = block.take(x[samples])
        middle = tall[: images.shape[0]]
        calls += more
        calls += _fold(ufunc, images, _lines(window, 1, block.places[0]), middle)
        calls += _fold(ufunc, middle, _lines(window, 2, block.places[1]), y[samples])
        calls += after(y[samples])
    return calls


def _allocate(x: Array, window: Window, *_: Any) -> Array:
    return np.empty((x.shape[0], *window.places(x.shape[1], x.shape[2]), x.shape[3]), x.dtype, like=x)


@ops.max_pool2d.register_bound(np.ndarray, accepts=lambda x, w: floating(x) and x.size > 0, allocate=_allocate)
def _(out: Array, x: Array, window: Window) -> list[Call]:
    return _pooled(out, x, window, np.maximum, -np.inf, lambda _: [])


class _Contest:
    """Which of the lines of an axis is the largest: scratch for blocks of up to shape[0] samples.

    last : whether nobody needs the maximum itself
    """

    def __init__(self, lines: Lines, shape: tuple[int, ...], like: Array, last: bool) -> None:
        self.lines, self.last = lines, last
        self.masks = [borrow(shape, np.bool_, like) for _ in lines[1:]]
        self.best = borrow(shape, like.dtype, like) if last and len(lines) > 2 else None

    def calls(self, source: Array, top: Array | None) -> tuple[list[Call], list[Array]]:
        """See `_contest`; top is None where it is not needed."""
        m = source.shape[0]
        best = self.best if self.best is None else self.best[:m]
        return _contest(source, self.lines, [mask[:m] for mask in self.masks], top, best)


def _contest(
    source: Array, lines: Lines, masks: list[Array], top: Array | None, between: Array | None
) -> tuple[list[Call], list[Array]]:
    """The calls that note in masks, -1 or 0, which of the lines stays the largest so far, and leave that in `top`.

    top : None where it is not needed, so that the last comparison makes no maximum; between : then the place of others
    """
    calls: list[Call] = []
    best, n = source[lines[0]], len(lines)
    larger = between if top is None else top
    for k, mask in enumerate(masks, start=1):
        value, bits = source[lines[k]], mask.view(np.int8)
        calls += [partial(np.greater_equal, best, value, mask), partial(np.negative, bits, bits)]
        if k < n - 1 or top is not None:
            calls.append(partial(np.maximum, best, value, out=larger))
            best = larger
    if n == 1 and top is not None:
        calls.append(partial(np.copyto, top, best))
    return calls, [mask.view(np.int8) for mask in masks]


def _spare(shape: tuple[int, ...], lines: Lines, add: bool, like: Array) -> list[Array]:
    """What `_hand_back` needs for blocks of up to shape[0] samples."""
    count = 3 if add else 2 if len(lines) > 2 else 0
    return [borrow(shape, like.dtype, like) for _ in range(count)]


def _hand_back(
    target: Array, given: Array, lines: Lines, masks: list[Array], add: bool, spare: list[Array]
) -> list[Call]:
    """The calls that give every line of `target` what came back to it. Bits are and-ed: 0 times infinity would be NaN.

    add : whether lines are seen more than once; spare : of `_spare`
    """
    kind = SIGNED[given.dtype]
    both = [each[: given.shape[0]] for each in spare]
    lost = both.pop() if add else None
    first, present = target[lines[0]], given
    calls: list[Call] = []
    for k in range(len(lines) - 1, 0, -1):
        stays = first if k == 1 and not add else both[k % 2]
        leaves = target[lines[k]] if lost is None else lost
        calls.append(partial(np.bitwise_and, present.view(kind), masks[k - 1], stays.view(kind)))
        calls.append(partial(np.bitwise_xor, present.view(kind), stays.view(kind), leaves.view(kind)))
        if lost is not None:
            calls.append(partial(np.add, target[lines[k]], lost, target[lines[k]]))
        present = stays
    if lost is not None:
        calls.append(partial(np.add, first, present, first))
    elif len(lines) == 1:
        calls.append(partial(np.copyto, first, present))
    return calls


@ops.max_pool2d_backward.register_bound(
    np.ndarray,
    accepts=lambda dy, x, w: floating(dy, x) and dy.size > 0,
    allocate=lambda dy, x, w: np.empty(x.shape, dy.dtype, like=dy),
)
def _(out: Array, dy: Array, x: Array, window: Window) -> list[Call]:
    n, parts = blocks(len(x), x[0].size, BLOCK)
    block = _Block(n, x.shape, window, x, -np.inf)
    places, c = block.places, block.channels
    rows, columns = _lines(window, 1, places[0]), _lines(window, 2, places[1])
    tall, small = (n, block.rows, places[1], c), (n, *places, c)
    tops, middle = borrow(tall, x.dtype, x), borrow(tall, x.dtype, x)
    spread = borrow((n, block.rows, block.columns, c), x.dtype, x) if block.needed else None
    wide, high = _Contest(columns, tall, x, last=False), _Contest(rows, small, x, last=True)
    add_rows, add_columns = (not _apart(window, axis) for axis in (1, 2))
    spare_rows, spare_columns = _spare(small, rows, add_rows, x), _spare(tall, columns, add_columns, x)
    calls: list[Call] = []
    for samples in parts:
        more, images = block.take(x[samples])
        m = images.shape[0]
        calls += more
        whole, across = wide.calls(images, tops[:m])
        down_calls, down = high.calls(tops[:m], None)
        calls += whole + down_calls
        if not _covers(window, 1, block.rows, places[0]):
            calls.append(partial(middle[:m].fill, 0))  # where nothing was seen
        calls += _hand_back(middle[:m], dy[samples], rows, down, add_rows, spare_rows)
        target = out[samples] if spread is None else spread[:m]
        if not _covers(window, 2, block.columns, places[1]):
            calls.append(partial(target.fill, 0))
        calls += _hand_back(target, middle[:m], columns, across, add_columns, spare_columns)
        if spread is not None:
            calls.append(partial(np.copyto, out[samples], spread[:m][block.inner]))
    return calls


# --- means ---


def _share(window: Window, size: tuple[int, int], padding: bool, dtype: Any) -> Array:
    """1 / the number of elements that are averaged: a number where that is the same at all places."""
    rows, columns = (np.array(each, np.float64) for each in pool_counts(window, size, padding))
    share = 1 / (rows[:, None] * columns)
    if share.size and np.all(share == share[0, 0]):
        return constant(share[0, 0], dtype)
    return share.astype(dtype)[:, :, None]


@ops.avg_pool2d.register_bound(np.ndarray, accepts=lambda x, *_: floating(x) and x.size > 0, allocate=_allocate)
def _(out: Array, x: Array, window: Window, padding: bool) -> list[Call]:
    share = _share(window, x.shape[1:3], padding, x.dtype)
    return _pooled(out, x, window, np.add, 0.0, lambda y: [partial(np.multiply, y, share, y)])


@ops.avg_pool2d_backward.register_bound(
    np.ndarray,
    accepts=lambda dy, *_: floating(dy) and dy.size > 0,
    allocate=lambda dy, window, size, _: np.empty((dy.shape[0], *size, dy.shape[3]), dy.dtype, like=dy),
)
def _(out: Array, dy: Array, window: Window, size: tuple[int, int], padding: bool) -> list[Call]:
    share = _share(window, size, padding, dy.dtype)
    n, parts = blocks(len(out), out[0].size, BLOCK)
    block = _Block(n, out.shape, window, dy, 0.0)
    rows, columns = _lines(window, 1, block.places[0]), _lines(window, 2, block.places[1])
    given = borrow((n, *dy.shape[1:]), dy.dtype, dy)
    middle = borrow((n, block.rows, block.places[1], block.channels), dy.dtype, dy)
    calls: list[Call] = []
    for samples in parts:
        part = dy[samples]
        m = part.shape[0]
        target = out[samples] if block.padded is None else block.padded[:m]
        calls.append(partial(np.multiply, part, share, given[:m]))
        calls += [partial(middle[:m].fill, 0), partial(target.fill, 0)]
        calls += [partial(np.add, middle[:m][line], given[:m], middle[:m][line]) for line in rows]
        calls += [partial(np.add, target[line], middle[:m], target[line]) for line in columns]
        if block.padded is not None:
            calls.append(partial(np.copyto, out[samples], target[block.inner]))
    return calls


@ops.global_avg_pool.register_bound(
    np.ndarray,
    accepts=lambda x: floating(x) and x.size > 0,
    allocate=lambda x: np.empty((x.shape[0], x.shape[3]), x.dtype, like=x),
)
def _(out: Array, x: Array) -> list[Call]:
    flat = x.reshape(x.shape[0], -1, x.shape[3])
    share = constant(1 / flat.shape[1], x.dtype)
    return [partial(np.add.reduce, flat, 1, None, out), partial(np.multiply, out, share, out)]


@ops.global_avg_pool_backward.register_bound(
    np.ndarray,
    accepts=lambda dy, size: floating(dy),
    allocate=lambda dy, size: np.empty((dy.shape[0], *size, dy.shape[1]), dy.dtype, like=dy),
)
def _(out: Array, dy: Array, size: tuple[int, int]) -> list[Call]:
    return [partial(np.multiply, dy[:, None, None, :], constant(1 / (size[0] * size[1]), dy.dtype), out)]


@ops.global_max_pool.register_bound(
    np.ndarray,
    accepts=lambda x: floating(x) and x.size > 0,
    allocate=lambda x: np.empty((x.shape[0], x.shape[3]), x.dtype, like=x),
)
def _(out: Array, x: Array) -> list[Call]:
    return [partial(np.maximum.reduce, x.reshape(x.shape[0], -1, x.shape[3]), 1, None, out)]
