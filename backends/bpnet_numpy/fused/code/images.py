"""The largest of what windows see, and the way back.

A window is twelve words: rows and columns of an image, rows and columns of places, the window's own, its strides, its
gaps, and the padding above and to the left. What lies outside of an
image is smaller than every number.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from bpnet_numpy.fused.code.intrinsics import FLAGS, matrix, real, word, words
from bpnet_numpy.fused.code.simd import largest, load, numbers, store, where_at_least


@njit(**FLAGS)
def _larger(x: Any, y: Any) -> Any:
    """The maximum, which is NaN where one of them is."""
    return y if (y > x or y != y) else x


@njit(**FLAGS)
def _largest_of_four(p: Any, out: Any, x: Any, width: Any, c: Any, size: Any) -> None:
    """The largest of two neighbours and of the two below."""
    for k in range(0, c, numbers(p)):
        left, upper, lower = c - k, x + size * k, x + size * (width * c + k)
        above = largest(load(p, upper, left), load(p, upper + size * c, left))
        below = largest(load(p, lower, left), load(p, lower + size * c, left))
        store(largest(above, below), out + size * k, left)


@njit(**FLAGS)
def _back_to_four(p: Any, out: Any, dy: Any, x: Any, width: Any, c: Any, size: Any) -> None:
    """dy to the largest of two neighbours and the two below, 0 to the others."""
    for k in range(0, c, numbers(p)):
        left, upper, lower = c - k, size * k, size * (width * c + k)
        first, second = load(p, x + upper, left), load(p, x + upper + size * c, left)
        third, fourth = load(p, x + lower, left), load(p, x + lower + size * c, left)
        here, one, other = load(p, dy + size * k, left), largest(first, second), largest(third, fourth)
        above, below = where_at_least(one, other, here, 0), where_at_least(one, other, 0, here)
        store(where_at_least(first, second, above, 0), out + upper, left)
        store(where_at_least(first, second, 0, above), out + upper + size * c, left)
        store(where_at_least(third, fourth, below, 0), out + lower, left)
        store(where_at_least(third, fourth, 0, below), out + lower + size * c, left)


def max_pool2d(p: Any) -> None:
    """The largest of what every window sees. Words: out, x, samples, channels, window."""
    a = words(p)
    samples, c = word(a, 2), word(a, 3)
    height, width, rows, columns = word(a, 4), word(a, 5), word(a, 6), word(a, 7)
    kh, kw, sh, sw, dh, dw = word(a, 8), word(a, 9), word(a, 10), word(a, 11), word(a, 12), word(a, 13)
    top, left = word(a, 14), word(a, 15)
    x = matrix(p, word(a, 1), samples * height * width, c)
    out = matrix(p, word(a, 0), samples * rows * columns, c)
    size = x.itemsize
    plain = kh == 2 and kw == 2 and dh == 1 and dw == 1 and top == 0 and left == 0
    plain = plain and (rows - 1) * sh + 2 <= height and (columns - 1) * sw + 2 <= width
    for n in range(samples):
        for r in range(rows):
            for q in range(columns):
                to = (n * rows + r) * columns + q
                if plain:
                    at = (n * height + r * sh) * width + q * sw
                    _largest_of_four(p, word(a, 0) + size * to * c, word(a, 1) + size * at * c, width, c, size)
                    continue
                for k in range(c):
                    out[to, k] = -real(p, float("inf"))
                for i in range(kh):
                    y = r * sh + i * dh - top
                    for j in range(kw):
                        z = q * sw + j * dw - left
                        if 0 <= y < height and 0 <= z < width:
                            at = (n * height + y) * width + z
                            for k in range(c):
                                out[to, k] = _larger(out[to, k], x[at, k])


def max_pool2d_backward(p: Any) -> None:
    """dy goes to what was the largest. Words: out, dy, x, samples, channels, window.

    In a row of the window, and then among the rows, a number stays the largest where it is at least as large as the
    next; a comparison with NaN is false.
    """
    a = words(p)
    samples, c = word(a, 3), word(a, 4)
    height, width, rows, columns = word(a, 5), word(a, 6), word(a, 7), word(a, 8)
    kh, kw, sh, sw, dh, dw = word(a, 9), word(a, 10), word(a, 11), word(a, 12), word(a, 13), word(a, 14)
    top, left = word(a, 15), word(a, 16)
    x = matrix(p, word(a, 2), samples * height * width, c)
    dy = matrix(p, word(a, 1), samples * rows * columns, c)
    out = matrix(p, word(a, 0), samples * height * width, c)
    zero, lowest = real(p, 0), -real(p, float("inf"))
    size = x.itemsize
    tiles = kh == 2 and kw == 2 and sh == 2 and sw == 2 and dh == 1 and dw == 1 and top == 0 and left == 0
    tiles = tiles and 2 * rows <= height and 2 * columns <= width
    if not tiles or 2 * rows != height or 2 * columns != width:
        for i in range(samples * height * width):
            for k in range(c):
                out[i, k] = zero
    for n in range(samples):
        for r in range(rows):
            for q in range(columns):
                to = (n * rows + r) * columns + q
                if tiles:
                    at = size * ((n * height + 2 * r) * width + 2 * q) * c
                    _back_to_four(p, word(a, 0) + at, word(a, 1) + size * to * c, word(a, 2) + at, width, c, size)
                    continue
                for k in range(c):
                    largest, place = lowest, -1
                    for i in range(kh):
                        y = r * sh + i * dh - top
                        best, where = lowest, -1
                        for j in range(kw):
                            z = q * sw + j * dw - left
                            inside = 0 <= y < height and 0 <= z < width
                            at = (n * height + y) * width + z if inside else -1
                            value = x[at, k] if inside else lowest
                            if j == 0 or not (best >= value):
                                where = at
                            best = value if j == 0 else _larger(best, value)
                        if i == 0 or not (largest >= best):
                            place = where
                        largest = best if i == 0 else _larger(largest, best)
                    if place >= 0:
                        out[place, k] += dy[to, k]
