"""Pooling of images (N, H, W, C): the largest, or the mean, of what a window sees in every channel."""

from __future__ import annotations

import math

from bpnet.dispatch import Array, kernel, namespace
from bpnet.ops.costs import size as n_of
from bpnet.ops.windows import Window, crop, in_c_order, pad, seen, unseen


def _largest(values: list[Array]) -> tuple[Array, list[Array]]:
    """The largest of arrays of one shape, and for each whether it is chosen: the first of the largest.

    One stays where it is at least as large as the next; a comparison with NaN is false, and NaN is the largest.
    """
    xp = namespace(values[0])
    top = values[0]
    chosen = [xp.ones(top.shape, dtype=xp.bool, device=top.device)]
    for value in values[1:]:
        stays = top >= value
        chosen = [xp.logical_and(each, stays) for each in chosen] + [xp.logical_not(stays)]
        top = xp.maximum(top, value)
    return top, chosen


def _rows_first(x: Array, window: Window) -> tuple[list[Array], list[list[Array]]]:
    """The largest of every row of every window, and which of its columns that is."""
    places = window.places(x.shape[1], x.shape[2])
    padded = pad(x, window, -float("inf"))
    tops, chosen = [], []
    for i in range(window.size[0]):
        top, columns = _largest([seen(padded, window, i, j, places) for j in range(window.size[1])])
        tops.append(top)
        chosen.append(columns)
    return tops, chosen


def _pool_flops(x: Array, window: Window, each: int) -> int:
    """`each` for every output."""
    n, height, width, c = (int(each) for each in x.shape)
    return each * n * math.prod(window.places(height, width)) * c


def _spread_flops(n: int, c: int, window: Window, size: tuple[int, int]) -> int:
    """Of adding up what every element of the window gives back, as padded images."""
    return (window.n_elements - 1) * n * math.prod(window.padded(*size)) * c


def _max_pool_backward_flops(dy: Array, x: Array, window: Window) -> int:
    n, height, width, c = (int(each) for each in x.shape)
    return _pool_flops(x, window, window.n_elements - 1) + _spread_flops(n, c, window, (height, width))


@kernel(flops=lambda x, window: _pool_flops(x, window, window.n_elements - 1))
def max_pool2d(x: Array, window: Window) -> Array:
    """The largest of what the window sees, in every channel; NaN where it sees one. Padding is never the largest.

    x : (N, H, W, C); returns (N, P, Q, C), (P, Q) being window.places(H, W)
    """
    return _largest(_rows_first(x, window)[0])[0]


@kernel(flops=_max_pool_backward_flops)
def max_pool2d_backward(dy: Array, x: Array, window: Window) -> Array:
    """dy goes to the element that was the largest; of equal ones to the first, row by row. Windows that overlap add."""
    xp = namespace(dy)
    tops, chosen = _rows_first(x, window)
    _, rows = _largest(tops)
    zero = xp.zeros((), dtype=dy.dtype, device=dy.device)
    padded, total = window.padded(x.shape[1], x.shape[2]), None
    for i, j in window.elements():
        here = xp.where(xp.logical_and(rows[i], chosen[i][j]), dy, zero)
        term = unseen(here, window, i, j, padded)
        total = term if total is None else total + term
    return crop(total, window)


def pool_counts(window: Window, size: tuple[int, int], padding: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How many rows, and how many columns, of what is averaged the window sees at every place.

    size : (H, W) of the image; padding : whether rows and columns of padding count
    """
    found: list[tuple[int, ...]] = []
    for axis, (n, places) in enumerate(zip(size, window.places(*size), strict=True)):
        before, _ = window.padding[axis]
        starts = [k * window.stride[axis] - before for k in range(places)]
        ends = [start + window.size[axis] for start in starts]
        inside = tuple(min(n, end) - max(0, start) for start, end in zip(starts, ends, strict=True))
        found.append((window.size[axis],) * places if padding else inside)
    return found[0], found[1]


def _share(like: Array, window: Window, size: tuple[int, int], padding: bool) -> Array:
    """1 / the number of elements that are averaged at every place, (OH, OW, 1)."""
    xp = namespace(like)
    rows, columns = pool_counts(window, size, padding)
    shares = [[[1 / (a * b)] for b in columns] for a in rows]
    return xp.asarray(shares, dtype=like.dtype, device=like.device)


@kernel(flops=lambda x, window, padding: _pool_flops(x, window, window.n_elements))
def avg_pool2d(x: Array, window: Window, padding: bool) -> Array:
    """The mean of what the window sees, in every channel. The window has no gaps.

    x : (N, H, W, C); padding : whether the zeros around the image count
    Returns (N, P, Q, C), (P, Q) being window.places(H, W).
    """
    places = window.places(x.shape[1], x.shape[2])
    padded, total = pad(x, window), None
    for i, j in window.elements():
        term = seen(padded, window, i, j, places)
        total = term if total is None else total + term
    return total * _share(x, window, (x.shape[1], x.shape[2]), padding)


@kernel(
    flops=lambda dy, window, size, padding: n_of(dy) + _spread_flops(int(dy.shape[0]), int(dy.shape[3]), window, size)
)
def avg_pool2d_backward(dy: Array, window: Window, size: tuple[int, int], padding: bool) -> Array:
    """Every element that was averaged gets dy / (how many there were). size : (H, W) of x"""
    share = dy * _share(dy, window, size, padding)
    padded, total = window.padded(*size), None
    for i, j in window.elements():
        term = unseen(share, window, i, j, padded)
        total = term if total is None else total + term
    return crop(total, window)


@kernel(flops=1)
def global_avg_pool(x: Array) -> Array:
    """The mean over all places: (N, H, W, C) to (N, C)."""
    return namespace(x).mean(x, axis=(1, 2))


@kernel(flops=1)
def global_avg_pool_backward(dy: Array, size: tuple[int, int]) -> Array:
    """Every place gets dy / (H W). size : (H, W) of x"""
    xp = namespace(dy)
    share = dy / (size[0] * size[1])
    return in_c_order(xp.broadcast_to(share[:, None, None, :], (dy.shape[0], *size, dy.shape[1])))


@kernel(flops=1)
def global_max_pool(x: Array) -> Array:
    """The largest over all places: (N, H, W, C) to (N, C); NaN where there is one."""
    return namespace(x).max(x, axis=(1, 2))


@kernel(flops=lambda dy, x: n_of(x))
def global_max_pool_backward(dy: Array, x: Array) -> Array:
    """dy goes to the place that was the largest; of equal ones to the first, row by row."""
    xp = namespace(dy)
    n, height, width, c = x.shape
    first = xp.argmax(xp.reshape(x, (n, height * width, c)), axis=1)
    places = xp.arange(height * width, dtype=first.dtype, device=x.device)
    zero = xp.zeros((), dtype=dy.dtype, device=dy.device)
    return xp.reshape(xp.where(places[:, None] == first[:, None, :], dy[:, None, :], zero), x.shape)
