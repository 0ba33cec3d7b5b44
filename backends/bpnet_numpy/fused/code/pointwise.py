"""Losses of single elements, each with its sum and its derivatives, and PReLU; a vector at a time.

Words of a loss: out, x, t, n, setting. Of its sum: out, x, t, n, factor. Of its derivative: out, dl, x, t, n, setting.
Of that of the sum: out, x, t, n, factor. A sum is made of blocks that are added as float64.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from bpnet_numpy.fused.code.functions import exponential, logistic, tangent
from bpnet_numpy.fused.code.gated import log_of_1_plus
from bpnet_numpy.fused.code.intrinsics import ANY_ORDER, FLAGS, number, real, vector, word, words
from bpnet_numpy.fused.code.registers import room
from bpnet_numpy.fused.code.simd import load, numbers, size, spread, store, where_at_least, where_at_most, where_less

BLOCK = 1024
"""Numbers that are summed in the type that is computed in."""


# --- one element; s is a setting ---


@njit(**FLAGS)
def _squared(x: Any, t: Any, s: Any) -> Any:
    error = x - t
    return error * error


@njit(**FLAGS)
def _slope_of_squared(x: Any, t: Any, s: Any) -> Any:
    return (x - t) * 2


@njit(**FLAGS)
def _absolute(x: Any, t: Any, s: Any) -> Any:
    return size(x - t)


@njit(**FLAGS)
def _sign(x: Any, t: Any, s: Any) -> Any:
    error = x - t
    return where_less(error, 0, -1, where_at_most(error, 0, 0, where_at_least(error, 0, 1, error)))  # NaN stays


@njit(**FLAGS)
def _huber(x: Any, t: Any, s: Any) -> Any:
    e = size(x - t)
    c = where_at_least(e, s, s, e)
    return c * (e - c * 0.5)


@njit(**FLAGS)
def _slope_of_huber(x: Any, t: Any, s: Any) -> Any:
    error = x - t
    below = where_at_least(error, s, s, error)
    return where_at_most(below, 0 - s, 0 - s, below)


@njit(**FLAGS)
def _log_cosh(x: Any, t: Any, s: Any) -> Any:
    e = size(x - t)
    return e + log_of_1_plus(exponential(e * -2)) - 0.6931471805599453


@njit(**FLAGS)
def _slope_of_log_cosh(x: Any, t: Any, s: Any) -> Any:
    return tangent(x - t)


@njit(**FLAGS)
def _cross_entropy(x: Any, t: Any, s: Any) -> Any:
    """max(x, 0) - x t + log(1 + exp(-|x|))."""
    return where_at_most(x, 0, 0, x) - x * t + log_of_1_plus(exponential(0 - size(x)))


@njit(**FLAGS)
def _slope_of_cross_entropy(x: Any, t: Any, s: Any) -> Any:
    return logistic(x) - t


# --- many ---


@njit(**FLAGS)
def _each(p: Any, a: Any, make: Any) -> None:
    n, item, s = word(a, 3), vector(p, a, 1).itemsize, spread(p, number(a, 4))
    for j in range(0, n, numbers(p)):
        at, left = item * j, n - j
        store(make(load(p, word(a, 1) + at, left), load(p, word(a, 2) + at, left), s), word(a, 0) + at, left)


@njit(**FLAGS)
def _each_slope(p: Any, a: Any, make: Any) -> None:
    """dl times the slope, and 0 where dl is 0 even if the slope is not finite."""
    n, item, s = word(a, 4), vector(p, a, 1).itemsize, spread(p, number(a, 5))
    for j in range(0, n, numbers(p)):
        at, left = item * j, n - j
        slope = make(load(p, word(a, 2) + at, left), load(p, word(a, 3) + at, left), s)
        dl = load(p, word(a, 1) + at, left)
        store(where_at_most(size(dl), 0, 0, dl * slope), word(a, 0) + at, left)


@njit(**FLAGS)
def _scaled_slope(p: Any, a: Any, make: Any) -> None:
    n, item, factor = word(a, 3), vector(p, a, 1).itemsize, spread(p, number(a, 4))
    for j in range(0, n, numbers(p)):
        at, left = item * j, n - j
        slope = make(load(p, word(a, 1) + at, left), load(p, word(a, 2) + at, left), factor)
        store(slope * factor, word(a, 0) + at, left)


@njit(**ANY_ORDER)
def _sum(p: Any, x: Any) -> Any:
    total = real(p, 0)
    for j in range(x.size):
        total += x[j]
    return total


@njit(**FLAGS)
def _total(p: Any, a: Any, make: Any) -> None:
    n, item = word(a, 3), vector(p, a, 1).itemsize
    block = room(p, 8192)  # as many numbers as BLOCK says, of float64
    nothing = spread(p, 0)
    total = 0.0
    for start in range(0, n, BLOCK):
        count = min(BLOCK, n - start)
        for j in range(0, count, numbers(p)):
            at, left = item * (start + j), count - j
            found = make(load(p, word(a, 1) + at, left), load(p, word(a, 2) + at, left), nothing)
            store(found, block + item * j, left)
        total += _sum(p, vector(p, block, count))
    vector(p, word(a, 0), 1)[0] = real(p, total * number(a, 4))


def squared_error(p: Any) -> None:
    """(x - t)^2."""
    _each(p, words(p), _squared)


def squared_error_backward(p: Any) -> None:
    """2 dl (x - t)."""
    _each_slope(p, words(p), _slope_of_squared)


def mean_squared_error(p: Any) -> None:
    """The sum of (x - t)^2."""
    _total(p, words(p), _squared)


def mean_squared_error_backward(p: Any) -> None:
    """2 (x - t)."""
    _scaled_slope(p, words(p), _slope_of_squared)


def absolute_error(p: Any) -> None:
    """|x - t|."""
    _each(p, words(p), _absolute)


def absolute_error_backward(p: Any) -> None:
    """dl sign(x - t)."""
    _each_slope(p, words(p), _sign)


def mean_absolute_error(p: Any) -> None:
    """The sum of |x - t|."""
    _total(p, words(p), _absolute)


def mean_absolute_error_backward(p: Any) -> None:
    """sign(x - t)."""
    _scaled_slope(p, words(p), _sign)


def huber(p: Any) -> None:
    """c (e - c / 2) with e = |x - t| and c = min(e, delta)."""
    _each(p, words(p), _huber)


def huber_backward(p: Any) -> None:
    """dl (x - t), clipped to -delta ... delta before it is multiplied."""
    _each_slope(p, words(p), _slope_of_huber)


def log_cosh(p: Any) -> None:
    """log(cosh(x - t))."""
    _each(p, words(p), _log_cosh)


def log_cosh_backward(p: Any) -> None:
    """dl tanh(x - t)."""
    _each_slope(p, words(p), _slope_of_log_cosh)


def sigmoid_cross_entropy(p: Any) -> None:
    """Cross-entropy of sigmoid(x) against t."""
    _each(p, words(p), _cross_entropy)


def sigmoid_cross_entropy_backward(p: Any) -> None:
    """dl (sigmoid(x) - t)."""
    _each_slope(p, words(p), _slope_of_cross_entropy)


def sigmoid_binary_cross_entropy(p: Any) -> None:
    """The sum of the cross-entropies."""
    _total(p, words(p), _cross_entropy)


def sigmoid_binary_cross_entropy_backward(p: Any) -> None:
    """sigmoid(x) - t."""
    _scaled_slope(p, words(p), _slope_of_cross_entropy)


def weighted_sum(p: Any) -> None:
    """The sum of x; its second array is x too."""
    _total(p, words(p), _first)


@njit(**FLAGS)
def _first(x: Any, t: Any, s: Any) -> Any:
    return x


# --- PReLU ---


def prelu(p: Any) -> None:
    """Return x where x > 0, a x elsewhere. Words: y, x, a, rows, columns, whether there is one a for all."""
    a = words(p)
    rows, c, item = word(a, 3), word(a, 4), vector(p, a, 1).itemsize
    one = spread(p, vector(p, word(a, 2), 1)[0])
    for i in range(rows):
        for j in range(0, c, numbers(p)):
            at, left = item * (i * c + j), c - j
            slope = one if word(a, 5) != 0 else load(p, word(a, 2) + item * j, left)
            x = load(p, word(a, 1) + at, left)
            store(where_less(0, x, x, x * slope), word(a, 0) + at, left)


def prelu_backward(p: Any) -> None:
    """dx = dy where x > 0, a dy elsewhere; the sums over these rows of dy x elsewhere.

    Words: dx, sums, dy, x, a, rows, columns, whether there is one a for all.
    """
    a = words(p)
    rows, c, item = word(a, 5), word(a, 6), vector(p, a, 1).itemsize
    one = spread(p, vector(p, word(a, 4), 1)[0])
    sums = vector(p, word(a, 1), c)
    for j in range(c):
        sums[j] = real(p, 0)
    for i in range(rows):
        for j in range(0, c, numbers(p)):
            at, left, own = item * (i * c + j), c - j, word(a, 1) + item * j
            slope = one if word(a, 7) != 0 else load(p, word(a, 4) + item * j, left)
            dy, x = load(p, word(a, 2) + at, left), load(p, word(a, 3) + at, left)
            store(where_less(0, x, dy, dy * slope), word(a, 0) + at, left)
            store(load(p, own, left) + where_less(0, x, 0, dy * x), own, left)
