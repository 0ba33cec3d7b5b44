"""Softmax with cross-entropy, in blocks of rows that stay in the first-level cache.

A label that names no class matches nothing. The one-pass bodies make the same operations in the same order as the pair
that they stand for, so that their bits agree. Sums over rows are float64.
"""

from __future__ import annotations

import math
from typing import Any

from numba import njit

from bpnet_numpy.fused.code.functions import exponential
from bpnet_numpy.fused.code.intrinsics import (
    FLAGS,
    float64s,
    int32s,
    int64s,
    matrix,
    number,
    real,
    vector,
    word,
    words,
)
from bpnet_numpy.fused.code.registers import room
from bpnet_numpy.fused.code.simd import (
    higher,
    highest,
    load,
    load_or,
    numbers,
    size,
    spread,
    store,
    total,
    where_less,
)

BLOCK = 2048  # elements
NARROW = 16
"""Columns below which a block stands turned: SIMD instructions then go down its rows, not along a few columns."""
HIGH = 64  # rows of such a block
ROOM = 8 * HIGH * (NARROW + 1)


@njit(**FLAGS)
def _label(labels: Any, size: Any, i: Any) -> Any:
    return int64s(labels, i + 1)[i] if size == 8 else int32s(labels, i + 1)[i]


@njit(**FLAGS)
def _largest(x: Any, i: Any) -> Any:
    """The largest number of a row; any number, or NaN, where NaN is among them. No chain waits for another."""
    n = x.shape[1]
    m0 = x[i, 0]
    if n < 16:
        for j in range(1, n):
            m0 = x[i, j] if x[i, j] > m0 else m0
        return m0
    m1, m2, m3, m4, m5, m6, m7 = m0, m0, m0, m0, m0, m0, m0
    for b in range(n // 8):
        j = 8 * b
        m0 = x[i, j] if x[i, j] > m0 else m0
        m1 = x[i, j + 1] if x[i, j + 1] > m1 else m1
        m2 = x[i, j + 2] if x[i, j + 2] > m2 else m2
        m3 = x[i, j + 3] if x[i, j + 3] > m3 else m3
        m4 = x[i, j + 4] if x[i, j + 4] > m4 else m4
        m5 = x[i, j + 5] if x[i, j + 5] > m5 else m5
        m6 = x[i, j + 6] if x[i, j + 6] > m6 else m6
        m7 = x[i, j + 7] if x[i, j + 7] > m7 else m7
    for j in range(n // 8 * 8, n):
        m0 = x[i, j] if x[i, j] > m0 else m0
    m0, m1 = m4 if m4 > m0 else m0, m5 if m5 > m1 else m1
    m2, m3 = m6 if m6 > m2 else m2, m7 if m7 > m3 else m3
    m0, m1 = m2 if m2 > m0 else m0, m3 if m3 > m1 else m1
    return m1 if m1 > m0 else m0


@njit(**FLAGS)
def _sum(p: Any, x: Any, i: Any) -> Any:
    """The sum of a row."""
    n = x.shape[1]
    s0 = real(p, 0)
    if n < 16:
        for j in range(n):
            s0 += x[i, j]
        return s0
    s1, s2, s3, s4, s5, s6, s7 = s0, s0, s0, s0, s0, s0, s0
    for b in range(n // 8):
        j = 8 * b
        s0 += x[i, j]
        s1 += x[i, j + 1]
        s2 += x[i, j + 2]
        s3 += x[i, j + 3]
        s4 += x[i, j + 4]
        s5 += x[i, j + 5]
        s6 += x[i, j + 6]
        s7 += x[i, j + 7]
    for j in range(n // 8 * 8, n):
        s0 += x[i, j]
    return ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))


@njit(**FLAGS)
def _shift(x: Any, z: Any, start: Any, stop: Any) -> None:
    """z = x - the row's largest."""
    for i in range(start, stop):
        top = _largest(x, i)
        for j in range(x.shape[1]):
            z[i, j] = x[i, j] - top


@njit(**FLAGS)
def _raise(p: Any, z: Any, start: Any, stop: Any) -> None:
    """z = exp(z)."""
    flat = vector(p, z.ctypes.data, z.size)
    for k in range(start * z.shape[1], stop * z.shape[1]):
        flat[k] = exponential(flat[k])


@njit(**FLAGS)
def _exponentials(p: Any, x: Any, out: Any, n: Any) -> Any:
    """Write exp(x - the largest x) of a row; returns that one, any where NaN is among them, and the sum of what was
    written."""
    low, item = -real(p, float("inf")), vector(p, x, 1).itemsize
    tops, sums = spread(p, low), spread(p, 0)
    for j in range(0, n, numbers(p)):
        tops = higher(load_or(p, x + item * j, n - j, low), tops)
    top = highest(tops)
    for j in range(0, n, numbers(p)):
        e = exponential(load_or(p, x + item * j, n - j, low) - top)
        store(e, out + item * j, n - j)
        sums = sums + e
    return top, total(sums)


@njit(**FLAGS)
def _narrow_pass(p: Any, x: Any, out: Any, labels: Any, size: Any, with_slopes: Any, factor: Any) -> Any:
    """`_labels_pass` for few columns."""
    rows, columns = x.shape
    place = room(p, ROOM)
    turned, scale = matrix(p, place, columns, HIGH), vector(p, place + 8 * HIGH * NARROW, HIGH)
    loss = 0.0
    for start in range(0, rows, HIGH):
        high = min(rows - start, HIGH)
        wide = (high + 15) // 16 * 16  # whole vectors; what is behind the last row is 0
        for j in range(columns):
            for i in range(high):
                turned[j, i] = x[start + i, j]
            for i in range(high, wide):
                turned[j, i] = real(p, 0)
        for i in range(wide):
            scale[i] = turned[0, i]
        for j in range(1, columns):
            for i in range(wide):
                scale[i] = turned[j, i] if turned[j, i] > scale[i] else scale[i]
        for j in range(columns):
            for i in range(wide):
                turned[j, i] -= scale[i]
        for i in range(high):
            label = _label(labels, size, start + i)
            if 0 <= label < columns:
                loss -= turned[label, i]
        for j in range(columns):
            for i in range(wide):
                turned[j, i] = exponential(turned[j, i])
        for i in range(wide):
            scale[i] = turned[0, i]
        for j in range(1, columns):
            for i in range(wide):
                scale[i] += turned[j, i]
        product = 1.0  # of the rows' totals, each of 1 to `columns`: one logarithm serves them all
        for i in range(high):
            label = _label(labels, size, start + i)
            product *= float(scale[i]) if 0 <= label < columns else 1.0
        loss += math.log(product)
        for i in range(wide):
            scale[i] = real(p, 1) / scale[i]
        for j in range(columns):
            for i in range(wide):
                turned[j, i] = (turned[j, i] * scale[i]) * factor if with_slopes else turned[j, i] * scale[i]
        for i in range(high):
            for j in range(columns):
                out[start + i, j] = turned[j, i]
            label = _label(labels, size, start + i)
            if with_slopes and 0 <= label < columns:
                out[start + i, label] -= factor
    return loss


@njit(**FLAGS)
def _labels_pass(p: Any, x: Any, out: Any, labels: Any, size: Any, with_slopes: Any, factor: Any) -> Any:
    """The loss, not divided; `out` becomes the softmax, or with slopes its slopes times `factor`."""
    rows, columns = x.shape
    if columns < NARROW:
        return _narrow_pass(p, x, out, labels, size, with_slopes, factor)
    loss, product, item = 0.0, 1.0, x.itemsize
    for i in range(rows):
        source, to = x.ctypes.data + item * i * columns, out.ctypes.data + item * i * columns
        top, whole = _exponentials(p, source, to, columns)
        label = _label(labels, size, i)
        known = 0 <= label < columns
        if known:
            loss -= x[i, label] - top
            product *= whole  # of the rows' totals, each of 1 to `columns`: one logarithm serves many rows
        if product > 1e250:
            loss += math.log(product)
            product = 1.0
        inverse = real(p, 1) / whole
        for j in range(0, columns, numbers(p)):
            part = load(p, to + item * j, columns - j) * inverse
            store(part * factor if with_slopes else part, to + item * j, columns - j)
        if known and with_slopes:
            out[i, label] -= factor
    return loss + math.log(product)


def softmax_cross_entropy(p: Any) -> None:
    """Words: loss, p, logits, labels, a label's bytes, rows, columns, 1 / normalizer."""
    a = words(p)
    rows, columns = word(a, 5), word(a, 6)
    out, x = matrix(p, word(a, 1), rows, columns), matrix(p, word(a, 2), rows, columns)
    loss = _labels_pass(p, x, out, word(a, 3), word(a, 4), False, real(p, 1))
    vector(p, word(a, 0), 1)[0] = real(p, loss * number(a, 7))


def softmax_cross_entropy_gradient(p: Any) -> None:
    """Words: loss, dlogits, logits, labels, a label's bytes, rows, columns, 1 / normalizer, scale / normalizer."""
    a = words(p)
    rows, columns = word(a, 5), word(a, 6)
    out, x = matrix(p, word(a, 1), rows, columns), matrix(p, word(a, 2), rows, columns)
    loss = _labels_pass(p, x, out, word(a, 3), word(a, 4), True, real(p, number(a, 8)))
    vector(p, word(a, 0), 1)[0] = real(p, loss * number(a, 7))


def softmax_cross_entropy_backward(p: Any) -> None:
    """Words: dlogits, p, labels, a label's bytes, rows, columns, scale / normalizer."""
    a = words(p)
    rows, columns, factor = word(a, 4), word(a, 5), real(p, number(a, 6))
    out, q = matrix(p, word(a, 0), rows, columns), matrix(p, word(a, 1), rows, columns)
    for i in range(rows):
        for j in range(columns):
            out[i, j] = q[i, j] * factor
        label = _label(word(a, 2), word(a, 3), i)
        if 0 <= label < columns:
            out[i, label] -= factor


@njit(**FLAGS)
def _inverse(a: Any, index: Any) -> Any:
    """1 / the float64 at an address that stands at `index`, 0 where that is 0."""
    total = float64s(word(a, index), 1)[0]
    return 1.0 / total if total != 0 else 0.0


@njit(**FLAGS)
def _slope(p: Any, q: Any, total: Any, target: Any, factor: Any) -> Any:
    """(q total - target) factor, and 0 q = 0 whatever q is."""
    part = real(p, 0) if total == 0 else q * total
    return (part - target) * factor


@njit(**FLAGS)
def _targets_pass(p: Any, x: Any, Q: Any, out: Any, with_slopes: Any, factor: Any) -> Any:
    rows, columns = x.shape
    loss = 0.0
    step = max(1, BLOCK // columns)
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        _shift(x, out, start, stop)
        for i in range(start, stop):
            for j in range(columns):
                if Q[i, j] != 0:  # what weighs 0 counts for nothing, even where z is -inf or NaN
                    loss -= Q[i, j] * out[i, j]
        _raise(p, out, start, stop)
        for i in range(start, stop):
            whole = _sum(p, out, i)
            inverse = real(p, 1) / whole
            weight = _sum(p, Q, i)
            some = False
            for j in range(columns):
                some = some or Q[i, j] != 0
            if some:
                loss += math.log(whole) * weight
            if with_slopes:
                for j in range(columns):
                    out[i, j] = _slope(p, out[i, j] * inverse, weight, Q[i, j], factor)
            else:
                for j in range(columns):
                    out[i, j] *= inverse
    return loss


def soft_cross_entropy(p: Any) -> None:
    """Words: loss, p, logits, Q, rows, columns, address of the normalizer."""
    a = words(p)
    rows, columns = word(a, 4), word(a, 5)
    out, x = matrix(p, word(a, 1), rows, columns), matrix(p, word(a, 2), rows, columns)
    loss = _targets_pass(p, x, matrix(p, word(a, 3), rows, columns), out, False, real(p, 1))
    inverse = _inverse(a, 6)
    vector(p, word(a, 0), 1)[0] = real(p, loss * inverse if inverse != 0 else 0.0)


def soft_cross_entropy_gradient(p: Any) -> None:
    """Words: loss, dlogits, logits, Q, rows, columns, address of the normalizer, scale."""
    a = words(p)
    rows, columns = word(a, 4), word(a, 5)
    out, x = matrix(p, word(a, 1), rows, columns), matrix(p, word(a, 2), rows, columns)
    inverse = _inverse(a, 6)
    factor = real(p, number(a, 7) * inverse)
    loss = _targets_pass(p, x, matrix(p, word(a, 3), rows, columns), out, True, factor)
    vector(p, word(a, 0), 1)[0] = real(p, loss * inverse if inverse != 0 else 0.0)


def soft_cross_entropy_backward(p: Any) -> None:
    """Words: dlogits, p, Q, rows, columns, address of the normalizer, scale."""
    a = words(p)
    rows, columns = word(a, 3), word(a, 4)
    out, q = matrix(p, word(a, 0), rows, columns), matrix(p, word(a, 1), rows, columns)
    Q = matrix(p, word(a, 2), rows, columns)
    factor = real(p, number(a, 6) * _inverse(a, 5))
    for i in range(rows):
        weight = _sum(p, Q, i)
        for j in range(columns):
            out[i, j] = _slope(p, q[i, j], weight, Q[i, j], factor)


def softmax(p: Any) -> None:
    """Words: out, x, rows, columns."""
    a = words(p)
    rows, columns = word(a, 2), word(a, 3)
    out, x = matrix(p, word(a, 0), rows, columns), matrix(p, word(a, 1), rows, columns)
    step = max(1, BLOCK // columns)
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        _shift(x, out, start, stop)
        _raise(p, out, start, stop)
        for i in range(start, stop):
            inverse = real(p, 1) / _sum(p, out, i)
            for j in range(columns):
                out[i, j] *= inverse


def softmax_backward(p: Any) -> None:
    """y (dy - sum of dy y over the row). Words: out, dy, y, rows, columns."""
    a = words(p)
    rows, columns = word(a, 3), word(a, 4)
    dx = matrix(p, word(a, 0), rows, columns)
    dy, y = matrix(p, word(a, 1), rows, columns), matrix(p, word(a, 2), rows, columns)
    for i in range(rows):
        total = real(p, 0)
        for j in range(columns):
            total += dy[i, j] * y[i, j]
        for j in range(columns):
            dx[i, j] = y[i, j] * (dy[i, j] - total)


# --- log-softmax ---


def log_softmax(p: Any) -> None:
    """x - log(sum(exp(x))) of every row, after subtracting its largest. Words: out, x, rows, columns."""
    a = words(p)
    rows, columns = word(a, 2), word(a, 3)
    x, out = matrix(p, word(a, 1), rows, columns), matrix(p, word(a, 0), rows, columns)
    block, item = room(p, 16384), x.itemsize  # as many numbers as BLOCK says, of float64
    for i in range(rows):
        top = _largest(x, i)
        total = real(p, 0)
        for start in range(0, columns, BLOCK):
            count = min(BLOCK, columns - start)
            for j in range(0, count, numbers(p)):
                at, left = item * (i * columns + start + j), count - j
                z = load(p, word(a, 1) + at, left) - top
                store(z, word(a, 0) + at, left)
                store(exponential(z), block + item * j, left)
            total += _sum(p, matrix(p, block, 1, count), 0)
        shift = real(p, math.log(total))
        for j in range(columns):
            out[i, j] = out[i, j] - shift


def log_softmax_backward(p: Any) -> None:
    """dy - exp(y) sum(dy) of every row. Words: out, dy, y, rows, columns."""
    a = words(p)
    rows, columns = word(a, 3), word(a, 4)
    dy = matrix(p, word(a, 1), rows, columns)
    item, one = dy.itemsize, spread(p, 1)
    for i in range(rows):
        total = _sum(p, dy, i)
        for j in range(0, columns, numbers(p)):
            at, left = item * (i * columns + j), columns - j
            y = load(p, word(a, 2) + at, left)
            e = exponential(0 - size(y))
            store(load(p, word(a, 1) + at, left) - where_less(0, y, one / e, e) * total, word(a, 0) + at, left)
