"""The largest, or the mean, of what windows see, and the way back; a vector of channels at a time.

A window is twelve words: rows and columns of an image, rows and columns of places, the window's own, its strides, its
gaps, and the padding above and to the left. What lies outside of an
image is smaller than every number.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from bpnet_numpy.fused.code.columns import add_rows, clear
from bpnet_numpy.fused.code.intrinsics import FLAGS, real, vector, word, words
from bpnet_numpy.fused.code.simd import largest, load, numbers, size, spread, store, where_at_least, where_at_most


@njit(**FLAGS)
def _largest_of_four(p: Any, out: Any, x: Any, width: Any, c: Any, item: Any) -> None:
    """The largest of two neighbours and of the two below."""
    for k in range(0, c, numbers(p)):
        left, upper, lower = c - k, x + item * k, x + item * (width * c + k)
        above = largest(load(p, upper, left), load(p, upper + item * c, left))
        below = largest(load(p, lower, left), load(p, lower + item * c, left))
        store(largest(above, below), out + item * k, left)


@njit(**FLAGS)
def _back_to_four(p: Any, out: Any, dy: Any, x: Any, width: Any, c: Any, item: Any) -> None:
    """dy to the largest of two neighbours and the two below, 0 to the others."""
    for k in range(0, c, numbers(p)):
        left, upper, lower = c - k, item * k, item * (width * c + k)
        first, second = load(p, x + upper, left), load(p, x + upper + item * c, left)
        third, fourth = load(p, x + lower, left), load(p, x + lower + item * c, left)
        here, one, other = load(p, dy + item * k, left), largest(first, second), largest(third, fourth)
        above, below = where_at_least(one, other, here, 0), where_at_least(one, other, 0, here)
        store(where_at_least(first, second, above, 0), out + upper, left)
        store(where_at_least(first, second, 0, above), out + upper + item * c, left)
        store(where_at_least(third, fourth, below, 0), out + lower, left)
        store(where_at_least(third, fourth, 0, below), out + lower + item * c, left)


@njit(**FLAGS)
def _first_inside(place: Any, gap: Any) -> Any:
    """The first element of a window that is not above or to the left of an image, where its first is at `place`."""
    return max(0, (-place + gap - 1) // gap)


@njit(**FLAGS)
def _behind_inside(place: Any, gap: Any, k: Any, n: Any) -> Any:
    """The element behind the last one that is not below or to the right of n lines."""
    return min(k, max(0, (n - 1 - place) // gap + 1))


def max_pool2d(p: Any) -> None:
    """The largest of what every window sees. Words: out, x, samples, channels, window."""
    a = words(p)
    samples, c = word(a, 2), word(a, 3)
    height, width, rows, columns = word(a, 4), word(a, 5), word(a, 6), word(a, 7)
    kh, kw, sh, sw, dh, dw = word(a, 8), word(a, 9), word(a, 10), word(a, 11), word(a, 12), word(a, 13)
    top, left = word(a, 14), word(a, 15)
    item = vector(p, a, 1).itemsize
    lowest = spread(p, -real(p, float("inf")))
    plain = kh == 2 and kw == 2 and dh == 1 and dw == 1 and top == 0 and left == 0
    plain = plain and (rows - 1) * sh + 2 <= height and (columns - 1) * sw + 2 <= width
    for n in range(samples):
        for r in range(rows):
            y = r * sh - top
            upper, lower = _first_inside(y, dh), _behind_inside(y, dh, kh, height)
            for q in range(columns):
                out = word(a, 0) + item * ((n * rows + r) * columns + q) * c
                z = q * sw - left
                x = word(a, 1) + item * ((n * height + y) * width + z) * c
                if plain:
                    _largest_of_four(p, out, x, width, c, item)
                    continue
                begin, end = _first_inside(z, dw), _behind_inside(z, dw, kw, width)
                for k in range(0, c, numbers(p)):
                    found = lowest
                    for i in range(upper, lower):
                        for j in range(begin, end):
                            at = x + item * ((i * dh * width + j * dw) * c + k)
                            found = largest(found, load(p, at, c - k))
                    store(found, out + item * k, c - k)


@njit(**FLAGS)
def _stays(best: Any, value: Any, one: Any, other: Any) -> Any:
    """In every lane `one` where the best is at least as large as a value, else `other`; with NaN it is not."""
    return where_at_least(best, value, one, other)


def max_pool2d_backward(p: Any) -> None:
    """dy goes to what was the largest. Words: out, dy, x, samples, channels, window.

    In a row of the window, and then among the rows, a number stays the largest where it is at least as large as the
    next; a comparison with NaN is false. Which element it was is counted in numbers of the type that is computed in.
    """
    a = words(p)
    samples, c = word(a, 3), word(a, 4)
    height, width, rows, columns = word(a, 5), word(a, 6), word(a, 7), word(a, 8)
    kh, kw, sh, sw, dh, dw = word(a, 9), word(a, 10), word(a, 11), word(a, 12), word(a, 13), word(a, 14)
    top, left = word(a, 15), word(a, 16)
    item = vector(p, a, 1).itemsize
    lowest = spread(p, -real(p, float("inf")))
    tiles = kh == 2 and kw == 2 and sh == 2 and sw == 2 and dh == 1 and dw == 1 and top == 0 and left == 0
    tiles = tiles and 2 * rows <= height and 2 * columns <= width
    for n in range(samples):
        if not tiles or 2 * rows != height or 2 * columns != width:
            clear(p, word(a, 0) + item * n * height * width * c, height * width * c)
        for r in range(rows):
            y = r * sh - top
            for q in range(columns):
                given = word(a, 1) + item * ((n * rows + r) * columns + q) * c
                z = q * sw - left
                start = item * ((n * height + y) * width + z) * c
                if tiles:
                    _back_to_four(p, word(a, 0) + start, given, word(a, 2) + start, width, c, item)
                    continue
                upper, lower = _first_inside(y, dh), _behind_inside(y, dh, kh, height)
                begin, end = _first_inside(z, dw), _behind_inside(z, dw, kw, width)
                for k in range(0, c, numbers(p)):
                    here, count = start + item * k, c - k
                    best, place = lowest, spread(p, -1)
                    for i in range(kh):
                        inner, where = lowest, spread(p, -1)
                        for j in range(kw):
                            value = lowest
                            if upper <= i < lower and begin <= j < end:
                                value = load(p, word(a, 2) + here + item * (i * dh * width + j * dw) * c, count)
                            number = spread(p, i * kw + j)
                            where = number if j == 0 else _stays(inner, value, where, number)
                            inner = value if j == 0 else largest(inner, value)
                        place = where if i == 0 else _stays(best, inner, place, where)
                        best = inner if i == 0 else largest(best, inner)
                    dy = load(p, given + item * k, count)
                    for i in range(upper, lower):
                        for j in range(begin, end):
                            at = word(a, 0) + here + item * (i * dh * width + j * dw) * c
                            more = where_at_most(size(place - spread(p, i * kw + j)), 0, dy, 0)
                            store(load(p, at, count) + more, at, count)


@njit(**FLAGS)
def _share(p: Any, rows: Any, columns: Any) -> Any:
    return real(p, 1 / (rows * columns))


def avg_pool2d(p: Any) -> None:
    """The mean of what every window sees. Words: out, x, samples, channels, whether padding counts, window."""
    a = words(p)
    samples, c, whole = word(a, 2), word(a, 3), word(a, 4) != 0
    height, width, rows, columns = word(a, 5), word(a, 6), word(a, 7), word(a, 8)
    kh, kw, sh, sw, top, left = word(a, 9), word(a, 10), word(a, 11), word(a, 12), word(a, 15), word(a, 16)
    item = vector(p, a, 1).itemsize
    for n in range(samples):
        for r in range(rows):
            y = r * sh - top
            upper, lower = _first_inside(y, 1), _behind_inside(y, 1, kh, height)
            for q in range(columns):
                z = q * sw - left
                begin, end = _first_inside(z, 1), _behind_inside(z, 1, kw, width)
                x = word(a, 1) + item * ((n * height + y) * width + z) * c
                out = word(a, 0) + item * ((n * rows + r) * columns + q) * c
                share = _share(p, kh, kw) if whole else _share(p, lower - upper, end - begin)
                for k in range(0, c, numbers(p)):
                    found = spread(p, 0)
                    for i in range(upper, lower):
                        for j in range(begin, end):
                            found = found + load(p, x + item * ((i * width + j) * c + k), c - k)
                    store(found * share, out + item * k, c - k)


def avg_pool2d_backward(p: Any) -> None:
    """Every element that was averaged gets its share. Words: out, dy, samples, channels, whether padding counts,
    window."""
    a = words(p)
    samples, c, whole = word(a, 2), word(a, 3), word(a, 4) != 0
    height, width, rows, columns = word(a, 5), word(a, 6), word(a, 7), word(a, 8)
    kh, kw, sh, sw, top, left = word(a, 9), word(a, 10), word(a, 11), word(a, 12), word(a, 15), word(a, 16)
    item = vector(p, a, 1).itemsize
    covering = kh == sh and kw == sw and top == 0 and left == 0 and rows * kh == height and columns * kw == width
    for n in range(samples):
        if not covering:
            clear(p, word(a, 0) + item * n * height * width * c, height * width * c)
        for r in range(rows):
            y = r * sh - top
            upper, lower = _first_inside(y, 1), _behind_inside(y, 1, kh, height)
            for q in range(columns):
                z = q * sw - left
                begin, end = _first_inside(z, 1), _behind_inside(z, 1, kw, width)
                given = word(a, 1) + item * ((n * rows + r) * columns + q) * c
                out = word(a, 0) + item * ((n * height + y) * width + z) * c
                share = _share(p, kh, kw) if whole else _share(p, lower - upper, end - begin)
                for k in range(0, c, numbers(p)):
                    part = load(p, given + item * k, c - k) * share
                    for i in range(upper, lower):
                        for j in range(begin, end):
                            at = out + item * ((i * width + j) * c + k)
                            store(part if covering else load(p, at, c - k) + part, at, c - k)


def global_avg_pool(p: Any) -> None:
    """The mean over all places. Words: out, x, samples, places, channels."""
    a = words(p)
    samples, places, c = word(a, 2), word(a, 3), word(a, 4)
    item = vector(p, a, 1).itemsize
    share = real(p, 1 / places)
    for n in range(samples):
        out = vector(p, word(a, 0) + item * n * c, c)
        clear(p, word(a, 0) + item * n * c, c)
        add_rows(p, word(a, 0) + item * n * c, word(a, 1) + item * n * places * c, places, c)
        for k in range(c):
            out[k] = out[k] * share


def global_avg_pool_backward(p: Any) -> None:
    """Every place gets its share. Words: out, dy, samples, places, channels."""
    a = words(p)
    samples, places, c = word(a, 2), word(a, 3), word(a, 4)
    item = vector(p, a, 1).itemsize
    share = real(p, 1 / places)
    for n in range(samples):
        for i in range(places):
            for k in range(0, c, numbers(p)):
                part = load(p, word(a, 1) + item * (n * c + k), c - k) * share
                store(part, word(a, 0) + item * ((n * places + i) * c + k), c - k)


def global_max_pool(p: Any) -> None:
    """The largest over all places; NaN where there is one. Words: out, x, samples, places, channels."""
    a = words(p)
    samples, places, c = word(a, 2), word(a, 3), word(a, 4)
    item = vector(p, a, 1).itemsize
    for n in range(samples):
        for k in range(0, c, numbers(p)):
            x = word(a, 1) + item * (n * places * c + k)
            found = load(p, x, c - k)
            for i in range(1, places):
                found = largest(found, load(p, x + item * i * c, c - k))
            store(found, word(a, 0) + item * (n * c + k), c - k)


def global_max_pool_backward(p: Any) -> None:
    """dy goes to the first of the largest, or to the first NaN. Words: out, dy, x, samples, places, channels."""
    a = words(p)
    samples, places, c = word(a, 3), word(a, 4), word(a, 5)
    item = vector(p, a, 1).itemsize
    for n in range(samples):
        for k in range(0, c, numbers(p)):
            start, left = item * (n * places * c + k), c - k
            best, place = load(p, word(a, 2) + start, left), spread(p, 0)
            for i in range(1, places):
                value = load(p, word(a, 2) + start + item * i * c, left)
                known = where_at_least(best, best, where_at_least(best, value, place, i), place)  # where NaN is best
                best = where_at_least(best, best, where_at_least(best, value, best, value), best)
                place = known
            dy = load(p, word(a, 1) + item * (n * c + k), left)
            for i in range(places):
                more = where_at_most(size(place - spread(p, i)), 0, dy, 0)
                store(more, word(a, 0) + start + item * i * c, left)
