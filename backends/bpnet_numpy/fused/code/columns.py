"""Statistics of columns and what is made of them: batch norm.

A matrix is (rows, columns) in C order. Eight rows are read at a time, a vector of columns after the other, so that a
sum is loaded and stored once for eight of its terms. Terms are added in the same order whoever adds them.
"""

from __future__ import annotations

import math
from typing import Any

from numba import njit

from bpnet_numpy.fused.code.intrinsics import FLAGS, number, real, uint8s, vector, word, words
from bpnet_numpy.fused.code.simd import load, numbers, store

CACHED = 1 << 12
"""Numbers of a block that is read a second time: it stays in the first-level cache."""


@njit(**FLAGS)
def clear(p: Any, to: Any, c: Any) -> None:
    """to[j] = 0."""
    out = vector(p, to, c)
    for j in range(c):
        out[j] = real(p, 0)


@njit(**FLAGS)
def add_rows(p: Any, to: Any, x: Any, rows: Any, c: Any) -> None:
    """to[j] += the sum of x[:, j]."""
    size, whole = vector(p, x, 1).itemsize, rows // 8 * 8
    row = size * c
    for i in range(0, whole, 8):
        for j in range(0, c, numbers(p)):
            at, left = x + i * row + size * j, c - j
            one = (load(p, at, left) + load(p, at + row, left)) + (
                load(p, at + 2 * row, left) + load(p, at + 3 * row, left)
            )
            other = (load(p, at + 4 * row, left) + load(p, at + 5 * row, left)) + (
                load(p, at + 6 * row, left) + load(p, at + 7 * row, left)
            )
            store(load(p, to + size * j, left) + (one + other), to + size * j, left)
    for i in range(whole, rows):
        for j in range(0, c, numbers(p)):
            store(load(p, to + size * j, c - j) + load(p, x + i * row + size * j, c - j), to + size * j, c - j)


@njit(**FLAGS)
def add_deviations(p: Any, squares: Any, rest: Any, x: Any, mean: Any, rows: Any, c: Any) -> None:
    """squares[j] += the sum of d^2 with d = x[:, j] - mean[j], rest[j] += that of d; four rows at a time."""
    size, whole = vector(p, x, 1).itemsize, rows // 4 * 4
    row = size * c
    for i in range(0, whole, 4):
        for j in range(0, c, numbers(p)):
            at, left, own = x + i * row + size * j, c - j, size * j
            m = load(p, mean + own, left)
            one, two = load(p, at, left) - m, load(p, at + row, left) - m
            three, four = load(p, at + 2 * row, left) - m, load(p, at + 3 * row, left) - m
            found = (one * one + two * two) + (three * three + four * four)
            store(load(p, squares + own, left) + found, squares + own, left)
            store(load(p, rest + own, left) + ((one + two) + (three + four)), rest + own, left)
    for i in range(whole, rows):
        for j in range(0, c, numbers(p)):
            left, own = c - j, size * j
            d = load(p, x + i * row + own, left) - load(p, mean + own, left)
            store(load(p, squares + own, left) + d * d, squares + own, left)
            store(load(p, rest + own, left) + d, rest + own, left)


@njit(**FLAGS)
def _product(p: Any, dy: Any, x: Any, mean: Any, left: Any) -> Any:
    return load(p, dy, left) * (load(p, x, left) - mean)


@njit(**FLAGS)
def add_gradients(p: Any, along: Any, total: Any, dy: Any, x: Any, mean: Any, rows: Any, c: Any) -> None:
    """along[j] += the sum of dy[:, j] (x[:, j] - mean[j]), total[j] += that of dy[:, j]; four rows at a time."""
    size, whole = vector(p, x, 1).itemsize, rows // 4 * 4
    row = size * c
    for i in range(0, whole, 4):
        for j in range(0, c, numbers(p)):
            at, left = i * row + size * j, c - j
            m = load(p, mean + size * j, left)
            g, a = dy + at, x + at
            found = (_product(p, g, a, m, left) + _product(p, g + row, a + row, m, left)) + (
                _product(p, g + 2 * row, a + 2 * row, m, left) + _product(p, g + 3 * row, a + 3 * row, m, left)
            )
            sums = (load(p, g, left) + load(p, g + row, left)) + (
                load(p, g + 2 * row, left) + load(p, g + 3 * row, left)
            )
            store(load(p, along + size * j, left) + found, along + size * j, left)
            store(load(p, total + size * j, left) + sums, total + size * j, left)
    for i in range(whole, rows):
        for j in range(0, c, numbers(p)):
            at, left = i * row + size * j, c - j
            found = _product(p, dy + at, x + at, load(p, mean + size * j, left), left)
            store(load(p, along + size * j, left) + found, along + size * j, left)
            store(load(p, total + size * j, left) + load(p, dy + at, left), total + size * j, left)


@njit(**FLAGS)
def normalize(p: Any, y: Any, x: Any, mean: Any, scale: Any, bias: Any, rows: Any, c: Any) -> None:
    """y = (x - mean) scale + bias, by column. bias : 0 where there is none"""
    size = vector(p, x, 1).itemsize
    for i in range(rows):
        for j in range(0, c, numbers(p)):
            at, left, own = size * (i * c + j), c - j, size * j
            found = (load(p, x + at, left) - load(p, mean + own, left)) * load(p, scale + own, left)
            if bias != 0:
                found = found + load(p, bias + own, left)
            store(found, y + at, left)


@njit(**FLAGS)
def differentiate(
    p: Any, dx: Any, dy: Any, x: Any, mean: Any, slope: Any, shift: Any, scale: Any, rows: Any, c: Any
) -> None:
    """dx = dy scale - shift - (x - mean) slope, by column."""
    size = vector(p, x, 1).itemsize
    for i in range(rows):
        for j in range(0, c, numbers(p)):
            at, left, own = size * (i * c + j), c - j, size * j
            centred = load(p, x + at, left) - load(p, mean + own, left)
            found = load(p, dy + at, left) * load(p, scale + own, left) - load(p, shift + own, left)
            store(found - centred * load(p, slope + own, left), dx + at, left)


# --- batch norm ---


def column_moments(p: Any) -> None:
    """The mean of every column of some rows, and the sum of the squares of what differs from it: those of blocks that
    stay in the cache, joined. [Chan, Golub, LeVeque 1983]

    A mean is what was found for the first block, and what is to be added to that: far from 0 the difference of two
    means would else be rounded as the means are.
    Words: pivot, mean less that, squares, room for three numbers a column, x, rows, columns.
    """
    a = words(p)
    rows, c, room = word(a, 5), word(a, 6), word(a, 3)
    pivot, mean, squares = vector(p, word(a, 0), c), vector(p, word(a, 1), c), vector(p, word(a, 2), c)
    size = mean.itemsize
    own, further, rest = vector(p, room, c), vector(p, room + size * c, c), vector(p, room + 2 * size * c, c)
    step = max(8, CACHED // c // 8 * 8)
    for first in range(0, rows, step):
        count = min(step, rows - first)
        x = word(a, 4) + size * first * c
        clear(p, room, 3 * c)
        add_rows(p, room, x, count, c)
        share = real(p, 1 / count)
        for j in range(c):
            own[j] = own[j] * share
        add_deviations(p, room + size * c, room + 2 * size * c, x, room, count, c)
        for j in range(c):  # the sum was rounded, and so is the mean of which these are the deviations
            rest[j] = rest[j] * share
            exact = further[j] - rest[j] * rest[j] * real(p, count)
            further[j] = real(p, 0) if exact < 0 else exact
        whole = first + count
        weight, cross = real(p, count / whole), real(p, first * (count / whole))
        if first == 0:
            for j in range(c):
                pivot[j] = own[j]
                mean[j] = rest[j]
                squares[j] = further[j]
        else:
            for j in range(c):
                apart = (own[j] - pivot[j]) + (rest[j] - mean[j])
                mean[j] += apart * weight
                squares[j] += further[j] + apart * apart * cross


def join_moments(p: Any) -> None:
    """The mean and the variance of every column, of those of parts, and what x - mean is multiplied with.

    Words: mean, variance, scale, weight or 0, columns, epsilon, parts, their moments (parts, 3, columns), their rows.
    """
    a = words(p)
    c, epsilon, parts = word(a, 4), number(a, 5), word(a, 6)
    mean, variance, first = vector(p, word(a, 0), c), vector(p, word(a, 1), c), vector(p, word(a, 7), c)
    size = mean.itemsize
    whole = 0
    for k in range(parts):
        at = word(a, 7) + 3 * k * size * c
        pivot, own, further = vector(p, at, c), vector(p, at + size * c, c), vector(p, at + 2 * size * c, c)
        count, before = word(a, 8 + k), whole
        whole += count
        weight, cross = real(p, count / whole), real(p, before * (count / whole))
        if k == 0:
            for j in range(c):
                mean[j] = own[j]
                variance[j] = further[j]
        else:
            for j in range(c):
                apart = (pivot[j] - first[j]) + (own[j] - mean[j])
                mean[j] += apart * weight
                variance[j] += further[j] + apart * apart * cross
    share = real(p, 1 / whole)
    for j in range(c):
        mean[j] += first[j]
        variance[j] = variance[j] * share
    scale_of(p, word(a, 2), word(a, 1), word(a, 3), c, epsilon)


@njit(**FLAGS)
def scale_of(p: Any, to: Any, variance: Any, weight: Any, c: Any, epsilon: Any) -> None:
    """to = weight / sqrt(variance + epsilon). weight : 0 where there is none"""
    scale, given, least = vector(p, to, c), vector(p, variance, c), real(p, epsilon)
    if weight != 0:
        factor = vector(p, weight, c)
        for j in range(c):
            scale[j] = real(p, 1) / math.sqrt(given[j] + least) * factor[j]
    else:
        for j in range(c):
            scale[j] = real(p, 1) / math.sqrt(given[j] + least)


def column_scale(p: Any) -> None:
    """weight / sqrt(variance + epsilon). Words: out, variance, weight or 0, columns, epsilon."""
    a = words(p)
    scale_of(p, word(a, 0), word(a, 1), word(a, 2), word(a, 3), number(a, 4))


def normalized(p: Any) -> None:
    """(x - mean) scale + bias. Words: out, x, mean, scale, bias or 0, rows, columns."""
    a = words(p)
    normalize(p, word(a, 0), word(a, 1), word(a, 2), word(a, 3), word(a, 4), word(a, 5), word(a, 6))


def column_gradients(p: Any) -> None:
    """The sums over some rows of dy (x - mean) and of dy. Words: both sums, dy, x, mean, rows, columns."""
    a = words(p)
    along, total, rows, c = word(a, 0), word(a, 1), word(a, 5), word(a, 6)
    clear(p, along, c)
    clear(p, total, c)
    add_gradients(p, along, total, word(a, 2), word(a, 3), word(a, 4), rows, c)


def join_gradients(p: Any) -> None:
    """dweight and dbias of the sums of parts, and what dx needs: dx = dy scale - shift - (x - mean) slope.

    Words: dweight, dbias, room for scale, slope and shift, variance, weight or 0, columns, epsilon, rows or 0 (then the
    statistics do not depend on x), parts, their sums (parts, 2, columns).
    """
    a = words(p)
    c, rows, parts = word(a, 5), word(a, 7), word(a, 8)
    dweight, dbias = vector(p, word(a, 0), c), vector(p, word(a, 1), c)
    size = dweight.itemsize
    room = word(a, 2)
    scale, slope, shift = vector(p, room, c), vector(p, room + size * c, c), vector(p, room + 2 * size * c, c)
    for j in range(c):
        dweight[j] = real(p, 0)
        dbias[j] = real(p, 0)
    for k in range(parts):
        along = vector(p, word(a, 9) + 2 * k * size * c, c)
        total = vector(p, word(a, 9) + (2 * k + 1) * size * c, c)
        for j in range(c):
            dweight[j] += along[j]
            dbias[j] += total[j]
    scale_of(p, room, word(a, 3), 0, c, number(a, 6))
    share = real(p, 1 / rows if rows > 0 else 0)
    for j in range(c):
        dweight[j] = dweight[j] * scale[j]
        slope[j] = dweight[j] * share * scale[j]
        shift[j] = dbias[j] * share
    if word(a, 4) != 0:
        weight = vector(p, word(a, 4), c)
        for j in range(c):
            scale[j] = scale[j] * weight[j]
    for j in range(c):
        slope[j] = slope[j] * scale[j]
        shift[j] = shift[j] * scale[j]


def normalized_backward(p: Any) -> None:
    """dx = dy scale - shift - (x - mean) slope. Words: dx, dy, x, mean, scale, slope, shift, rows, columns."""
    a = words(p)
    differentiate(
        p, word(a, 0), word(a, 1), word(a, 2), word(a, 3), word(a, 5), word(a, 6), word(a, 4), word(a, 7), word(a, 8)
    )


def scaled_columns(p: Any) -> None:
    """dy scale. Words: out, dy, scale, rows, columns."""
    a = words(p)
    rows, c = word(a, 3), word(a, 4)
    size = vector(p, word(a, 0), 1).itemsize
    for i in range(rows):
        for j in range(0, c, numbers(p)):
            at, left = size * (i * c + j), c - j
            store(load(p, word(a, 1) + at, left) * load(p, word(a, 2) + size * j, left), word(a, 0) + at, left)


# --- running statistics ---


def blend(p: Any) -> None:
    """(1 - momentum) source + momentum factor new. Words: target, source, new, n, what both are multiplied with."""
    a = words(p)
    n, kept, taken = word(a, 3), real(p, number(a, 4)), real(p, number(a, 5))
    target, source, new = vector(p, word(a, 0), n), vector(p, word(a, 1), n), vector(p, word(a, 2), n)
    for i in range(n):
        target[i] = source[i] * kept + new[i] * taken


def commit(p: Any) -> None:
    """Copy n bytes where a flag is set. Words: out, source, n, flag."""
    a = words(p)
    n = word(a, 2)
    if uint8s(word(a, 3), 1)[0] != 0:
        out, source = uint8s(word(a, 0), n), uint8s(word(a, 1), n)
        for i in range(n):
            out[i] = source[i]
