"""Convolutions of some samples by tiles in registers: windows are multiplied where they are in the image.

An image that needs padding is copied with it, some rows of places at a time, so that every window sees numbers. From
the corner of that copy, or of the image itself, what element e of the window at place t sees is at places[t] +
elements[e]; both are tables made beforehand. The weight's columns lie in panels of two vectors, one behind the other.
Groups of channels are convolved one behind the other, each with panels of its own. A third table says where a place's
result begins, so that a gradient may go to every so many places of an image.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from bpnet_numpy.fused.code.intrinsics import FLAGS, real, vector, word, words
from bpnet_numpy.fused.code.registers import width
from bpnet_numpy.fused.code.strips import HEIGHT, strip

(
    SAMPLES,
    CHANNELS,
    N_OUT,
    STEP,
    ITEM,
    GROUPS,
    LEAP,
    DOWN,
    HIGH,
    WIDE,
    ROWS,
    COLUMNS,
    KH,
    KW,
    SH,
    SW,
    DH,
    DW,
    TOP,
    LEFT,
) = range(20)
"""Words of what is convolved, behind those of a body: samples, channels in and out, rows of places at a time, bytes of
a number, groups of channels, the numbers of a sample of results and from one row of places to the next there, and the
window, as in `images`. What the padding lacks, the window does not see: above and to the left it may be negative."""


@njit(**FLAGS)
def _pieces(n: Any, most: Any) -> Any:
    """Into how many parts of nearly the same length n is divided, none longer than `most`."""
    return (n + most - 1) // most


@njit(**FLAGS)
def corner_of(p: Any, a: Any, image: Any, scratch: Any, first: Any, last: Any) -> Any:
    """Where the first window of the rows of places first ... last - 1 begins; `scratch` is 0 where all of it is inside
    of the image, else room for what the rows see."""
    c, item, high, wide = word(a, CHANNELS), word(a, ITEM), word(a, HIGH), word(a, WIDE)
    top = first * word(a, SH) - word(a, TOP)
    if scratch == 0:
        return image + item * (top * wide - word(a, LEFT)) * c
    rows = (last - 1 - first) * word(a, SH) + (word(a, KH) - 1) * word(a, DH) + 1
    columns = (word(a, COLUMNS) - 1) * word(a, SW) + (word(a, KW) - 1) * word(a, DW) + 1
    left, unseen = min(max(word(a, LEFT), 0), columns), min(max(-word(a, LEFT), 0), wide)
    inner = max(0, min(columns - left, wide - unseen))
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
            vector(p, image + item * (y * wide + unseen) * c, inner * c),
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
    step, item, rows, columns = word(own, STEP), word(own, ITEM), word(own, ROWS), word(own, COLUMNS)
    c, n_out = word(own, CHANNELS) // word(own, GROUPS), word(own, N_OUT) // word(own, GROUPS)
    depth, panel = word(own, KH) * word(own, KW) * c, 2 * width(p)
    size = item * word(own, HIGH) * word(own, WIDE) * word(own, CHANNELS)
    whole = (n_out + width(p) - 1) // width(p) * width(p)
    shifted = 1 if word(a, 3) != 0 else 0
    for s in range(word(own, SAMPLES)):
        for first in range(0, rows, step):
            last = min(first + step, rows)
            corner = corner_of(p, own, word(a, 1) + s * size, word(a, 4), first, last)
            places = (last - first) * columns
            tiles = _pieces(places, HEIGHT)
            result = word(a, 0) + item * (s * word(own, LEAP) + first * word(own, DOWN))
            for g in range(word(own, GROUPS)):
                for j in range(0, n_out, panel):
                    vectors = 2 if n_out - j > width(p) else 1
                    out = result + item * (g * n_out + j)
                    bias = word(a, 3) + item * (g * n_out + j) if shifted else out
                    weight = word(a, 2) + item * (g * whole + j) * depth
                    for i in range(tiles):
                        t = places * i // tiles
                        strip(
                            p, places * (i + 1) // tiles - t, vectors, corner + item * g * c, word(a, 5) + 8 * t,
                            word(a, 6), depth, weight, vectors * width(p), out, word(a, 7) + 8 * t, n_out - j, 0, bias,
                            shifted, word(a, 8),
                        )  # fmt: skip


def window_weights(p: Any) -> None:
    """dW, of these samples, and db where it is wanted. Words: dW, db or 0, dy, x, scratch or 0, places, elements, where
    the rows of dW begin, what is convolved."""
    a = words(p)
    own = a + 8 * 8
    step, item, rows, columns, every = (
        word(own, STEP),
        word(own, ITEM),
        word(own, ROWS),
        word(own, COLUMNS),
        word(own, N_OUT),
    )
    c, n_out = word(own, CHANNELS) // word(own, GROUPS), every // word(own, GROUPS)
    depth, panel = word(own, KH) * word(own, KW) * c, 2 * width(p)
    size = item * word(own, HIGH) * word(own, WIDE) * word(own, CHANNELS)
    tiles = _pieces(depth, HEIGHT)
    adding = 0
    for s in range(word(own, SAMPLES)):
        for first in range(0, rows, step):
            last = min(first + step, rows)
            corner = corner_of(p, own, word(a, 3) + s * size, word(a, 4), first, last)
            places = (last - first) * columns
            given = word(a, 2) + item * (s * rows + first) * columns * every
            for g in range(word(own, GROUPS)):
                for j in range(0, n_out, panel):
                    vectors = 2 if n_out - j > width(p) else 1
                    at = item * (g * n_out + j)
                    for i in range(tiles):
                        e = depth * i // tiles
                        strip(
                            p, depth * (i + 1) // tiles - e, vectors, corner + item * g * c, word(a, 6) + 8 * e,
                            word(a, 5), places, given + at, every, word(a, 0) + at, word(a, 7) + 8 * e, n_out - j,
                            adding, word(a, 0) + at, 0, 0,
                        )  # fmt: skip
            if word(a, 1) != 0:
                add_rows(p, word(a, 1), given, places, every, adding)
            adding = 1


@njit(**FLAGS)
def add_rows(p: Any, out: Any, x: Any, rows: Any, columns: Any, adding: Any) -> None:
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
    """Lay out some panels of a weight (elements, C, groups, O), of every group those of (chosen, C, O), or turned those
    of (chosen, O, C). Words: out, W, the chosen elements, their number, C, O of a group, whether turned, groups, the
    first panel, the panel behind the last."""
    a = words(p)
    elements, c, n_out, turned, groups = word(a, 3), word(a, 4), word(a, 5), word(a, 6) != 0, word(a, 7)
    inner, columns = (n_out, c) if turned else (c, n_out)
    depth, lanes, every = elements * inner, width(p), groups * n_out
    item = vector(p, word(a, 1), 1).itemsize
    each, whole = (columns + 2 * lanes - 1) // (2 * lanes), (columns + lanes - 1) // lanes * lanes
    for panel in range(word(a, 8), word(a, 9)):
        g, j = panel // each, panel % each * 2 * lanes
        size = 2 * lanes if columns - j > lanes else lanes
        out = vector(p, word(a, 0) + item * (g * whole + j) * depth, size * depth)
        some = min(size, columns - j)
        for e in range(elements):
            W = vector(p, word(a, 1) + item * (word(word(a, 2), e) * c * every + g * n_out), c * every)
            for i in range(inner):
                to = (e * inner + i) * size
                if turned:
                    for k in range(some):
                        out[to + k] = W[(j + k) * every + i]
                else:
                    for k in range(some):
                        out[to + k] = W[i * every + j + k]
                for k in range(some, size):
                    out[to + k] = real(p, 0)
