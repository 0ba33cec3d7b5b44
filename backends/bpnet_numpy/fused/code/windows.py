"""Convolutions of some samples by tiles in registers: windows are multiplied where they are in the image.

An image that needs padding is copied with it, some rows of places at a time, so that every window sees numbers. From
the corner of that copy, or of the image itself, what element e of the window at place t sees is at places[t] +
elements[e]; both are tables made beforehand. The weight's columns lie in panels of two vectors, one behind the other.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from bpnet_numpy.fused.code.intrinsics import FLAGS, real, vector, word, words
from bpnet_numpy.fused.code.registers import width
from bpnet_numpy.fused.code.strips import HEIGHT, strip

SAMPLES, CHANNELS, N_OUT, STEP, ITEM, HIGH, WIDE, ROWS, COLUMNS, KH, KW, SH, SW, DH, DW, TOP, LEFT = range(17)
"""Words of what is convolved, behind those of a body: samples, channels in and out, rows of places at a time, bytes of
a number, and the window, as in `images`."""


@njit(**FLAGS)
def _pieces(n: Any, most: Any) -> Any:
    """Into how many parts of nearly the same length n is divided, none longer than `most`."""
    return (n + most - 1) // most


@njit(**FLAGS)
def _corner(p: Any, a: Any, image: Any, scratch: Any, first: Any, last: Any) -> Any:
    """Where the first window of the rows of places first ... last - 1 begins; `scratch` is 0 where all of it is inside
    of the image, else room for what the rows see."""
    c, item, high, wide = word(a, CHANNELS), word(a, ITEM), word(a, HIGH), word(a, WIDE)
    top = first * word(a, SH) - word(a, TOP)
    if scratch == 0:
        return image + item * top * wide * c
    rows = (last - 1 - first) * word(a, SH) + (word(a, KH) - 1) * word(a, DH) + 1
    columns = (word(a, COLUMNS) - 1) * word(a, SW) + (word(a, KW) - 1) * word(a, DW) + 1
    left = min(word(a, LEFT), columns)
    inner = max(0, min(columns - left, wide))
    for r in range(rows):
        to = vector(p, scratch + item * r * columns * c, columns * c)
        y = top + r
        if y < 0 or y >= high:
            for j in range(columns * c):
                to[j] = real(p, 0)
            continue
        for j in range(left * c):
            to[j] = real(p, 0)
        source, inside = (
            vector(p, image + item * y * wide * c, wide * c),
            vector(p, scratch + item * (r * columns + left) * c, inner * c),
        )
        for j in range(inner * c):
            inside[j] = source[j]
        for j in range((left + inner) * c, columns * c):
            to[j] = real(p, 0)
    return scratch


def convolve_windows(p: Any) -> None:
    """Words: out, x, weight in panels, bias or 0, scratch or 0, places, elements, where the rows of the result begin,
    whether max(x, 0) follows, what is convolved."""
    a = words(p)
    own = a + 8 * 9
    n_out, step, item, rows, columns = (
        word(own, N_OUT),
        word(own, STEP),
        word(own, ITEM),
        word(own, ROWS),
        word(own, COLUMNS),
    )
    depth = word(own, KH) * word(own, KW) * word(own, CHANNELS)
    size, panel = item * word(own, HIGH) * word(own, WIDE) * word(own, CHANNELS), 2 * width(p)
    shifted = 1 if word(a, 3) != 0 else 0
    for s in range(word(own, SAMPLES)):
        for first in range(0, rows, step):
            last = min(first + step, rows)
            corner = _corner(p, own, word(a, 1) + s * size, word(a, 4), first, last)
            places = (last - first) * columns
            tiles = _pieces(places, HEIGHT)
            for j in range(0, n_out, panel):
                vectors = 2 if n_out - j > width(p) else 1
                out = word(a, 0) + item * ((s * rows + first) * columns * n_out + j)
                bias = word(a, 3) + item * j if shifted else out
                for i in range(tiles):
                    t = places * i // tiles
                    strip(
                        p, places * (i + 1) // tiles - t, vectors, corner, word(a, 5) + 8 * t, word(a, 6), depth,
                        word(a, 2) + item * j * depth, vectors * width(p), out, word(a, 7) + 8 * t, n_out - j, 0, bias,
                        shifted, word(a, 8),
                    )  # fmt: skip


def window_weights(p: Any) -> None:
    """dW, of these samples, and db where it is wanted. Words: dW, db or 0, dy, x, scratch or 0, places, elements, where
    the rows of dW begin, what is convolved."""
    a = words(p)
    own = a + 8 * 8
    n_out, step, item, rows, columns = (
        word(own, N_OUT),
        word(own, STEP),
        word(own, ITEM),
        word(own, ROWS),
        word(own, COLUMNS),
    )
    depth = word(own, KH) * word(own, KW) * word(own, CHANNELS)
    size, panel = item * word(own, HIGH) * word(own, WIDE) * word(own, CHANNELS), 2 * width(p)
    tiles = _pieces(depth, HEIGHT)
    adding = 0
    for s in range(word(own, SAMPLES)):
        for first in range(0, rows, step):
            last = min(first + step, rows)
            corner = _corner(p, own, word(a, 3) + s * size, word(a, 4), first, last)
            places = (last - first) * columns
            for j in range(0, n_out, panel):
                vectors = 2 if n_out - j > width(p) else 1
                dy, dW = word(a, 2) + item * ((s * rows + first) * columns * n_out + j), word(a, 0) + item * j
                for i in range(tiles):
                    e = depth * i // tiles
                    strip(
                        p, depth * (i + 1) // tiles - e, vectors, corner, word(a, 6) + 8 * e, word(a, 5), places, dy,
                        n_out, dW, word(a, 7) + 8 * e, n_out - j, adding, dW, 0, 0,
                    )  # fmt: skip
            if word(a, 1) != 0:
                _add_rows(
                    p, word(a, 1), word(a, 2) + item * (s * rows + first) * columns * n_out, places, n_out, adding
                )
            adding = 1


@njit(**FLAGS)
def _add_rows(p: Any, out: Any, x: Any, rows: Any, columns: Any, adding: Any) -> None:
    """The sum of rows, added to `out` where that is wanted; eight rows at a time."""
    item = vector(p, x, 1).itemsize
    to = vector(p, out, columns)
    if adding == 0:
        for j in range(columns):
            to[j] = real(p, 0)
    whole = rows // 8 * 8
    for i in range(0, whole, 8):
        some = vector(p, x + item * i * columns, 8 * columns)
        for j in range(columns):
            upper = (some[j] + some[columns + j]) + (some[2 * columns + j] + some[3 * columns + j])
            lower = (some[4 * columns + j] + some[5 * columns + j]) + (some[6 * columns + j] + some[7 * columns + j])
            to[j] += upper + lower
    for i in range(whole, rows):
        some = vector(p, x + item * i * columns, columns)
        for j in range(columns):
            to[j] += some[j]


def weight_panels(p: Any) -> None:
    """Lay out some panels of (KH KW, C, O), or with its window turned around as (KH KW, O, C). Words: out, W, KH KW, C,
    O, whether turned, the first panel, the panel behind the last."""
    a = words(p)
    elements, c, n_out, turned = word(a, 2), word(a, 3), word(a, 4), word(a, 5) != 0
    W = vector(p, word(a, 1), elements * c * n_out)
    inner, columns = (n_out, c) if turned else (c, n_out)
    depth, lanes = elements * inner, width(p)
    for panel in range(word(a, 6), word(a, 7)):
        j = panel * 2 * lanes
        size = 2 * lanes if columns - j > lanes else lanes
        out = vector(p, word(a, 0) + W.itemsize * j * depth, size * depth)
        some = min(size, columns - j)
        for e in range(elements):
            for i in range(inner):
                to = (e * inner + i) * size
                if turned:
                    source = ((elements - 1 - e) * c + j) * n_out + i
                    for k in range(some):
                        out[to + k] = W[source + k * n_out]
                else:
                    source = (e * c + i) * n_out + j
                    for k in range(some):
                        out[to + k] = W[source + k]
                for k in range(some, size):
                    out[to + k] = real(p, 0)
