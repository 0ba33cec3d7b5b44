"""Activations and their derivatives, with the bias before them or alone; sums of columns; copies.

Words of a body `f(x) -> y`: out, x, n. With a bias before it, which is always in place: x, bias, rows, columns.
A masked derivative is selected, never multiplied: 0 * inf would be NaN.
A loop whose arrays may overlap is not made of SIMD instructions where they do; so what may be in place says so.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from bpnet_numpy.fused.code.functions import exponential, exponential_minus_1
from bpnet_numpy.fused.code.intrinsics import FLAGS, matrix, number, real, uint8s, vector, word, words


@njit(**FLAGS)
def _relu(p: Any, x: Any) -> Any:
    return real(p, 0) if x <= 0 else x  # NaN stays NaN


@njit(**FLAGS)
def _leaky(p: Any, x: Any, slope: Any) -> Any:
    return x if x > 0 else slope * x


@njit(**FLAGS)
def _sigmoid(p: Any, x: Any) -> Any:
    e = exponential(-abs(x))
    return (real(p, 1) if x >= 0 else e) / (real(p, 1) + e)


@njit(**FLAGS)
def _tanh(p: Any, x: Any) -> Any:
    e = exponential_minus_1(real(p, -2) * abs(x))
    size = -e / (e + real(p, 2))
    return -size if x < 0 else size


def relu(p: Any) -> None:
    """max(x, 0)."""
    a = words(p)
    n = word(a, 2)
    y, x = vector(p, word(a, 0), n), vector(p, word(a, 1), n)
    if word(a, 0) == word(a, 1):
        for i in range(n):
            y[i] = _relu(p, y[i])
    else:
        for i in range(n):
            y[i] = _relu(p, x[i])


def leaky_relu(p: Any) -> None:
    """Return x where x > 0, else slope x. Words: out, x, n, slope."""
    a = words(p)
    n, slope = word(a, 2), real(p, number(a, 3))
    y, x = vector(p, word(a, 0), n), vector(p, word(a, 1), n)
    if word(a, 0) == word(a, 1):
        for i in range(n):
            y[i] = _leaky(p, y[i], slope)
    else:
        for i in range(n):
            y[i] = _leaky(p, x[i], slope)


def sigmoid(p: Any) -> None:
    """1 / (1 + exp(-x))."""
    a = words(p)
    n = word(a, 2)
    y, x = vector(p, word(a, 0), n), vector(p, word(a, 1), n)
    if word(a, 0) == word(a, 1):
        for i in range(n):
            y[i] = _sigmoid(p, y[i])
    else:
        for i in range(n):
            y[i] = _sigmoid(p, x[i])


def tanh(p: Any) -> None:
    """The hyperbolic tangent, from exp(-2|x|) - 1."""
    a = words(p)
    n = word(a, 2)
    y, x = vector(p, word(a, 0), n), vector(p, word(a, 1), n)
    if word(a, 0) == word(a, 1):
        for i in range(n):
            y[i] = _tanh(p, y[i])
    else:
        for i in range(n):
            y[i] = _tanh(p, x[i])


def shift(p: Any) -> None:
    """x becomes x + bias."""
    a = words(p)
    rows, columns = word(a, 2), word(a, 3)
    y, b = matrix(p, word(a, 0), rows, columns), vector(p, word(a, 1), columns)
    for i in range(rows):
        for j in range(columns):
            y[i, j] = y[i, j] + b[j]


def shift_relu(p: Any) -> None:
    """x becomes max(x + bias, 0)."""
    a = words(p)
    rows, columns = word(a, 2), word(a, 3)
    y, b = matrix(p, word(a, 0), rows, columns), vector(p, word(a, 1), columns)
    for i in range(rows):
        for j in range(columns):
            y[i, j] = _relu(p, y[i, j] + b[j])


def shift_sigmoid(p: Any) -> None:
    """x becomes 1 / (1 + exp(-(x + bias)))."""
    a = words(p)
    rows, columns = word(a, 2), word(a, 3)
    y, b = matrix(p, word(a, 0), rows, columns), vector(p, word(a, 1), columns)
    for i in range(rows):
        for j in range(columns):
            y[i, j] = _sigmoid(p, y[i, j] + b[j])


def shift_tanh(p: Any) -> None:
    """x becomes tanh(x + bias)."""
    a = words(p)
    rows, columns = word(a, 2), word(a, 3)
    y, b = matrix(p, word(a, 0), rows, columns), vector(p, word(a, 1), columns)
    for i in range(rows):
        for j in range(columns):
            y[i, j] = _tanh(p, y[i, j] + b[j])


def relu_backward(p: Any) -> None:
    """Pass dy where y > 0. Words: out, dy, y, n."""
    a = words(p)
    n = word(a, 3)
    dx, dy, y = vector(p, word(a, 0), n), vector(p, word(a, 1), n), vector(p, word(a, 2), n)
    if word(a, 0) == word(a, 1):
        for i in range(n):
            dx[i] = dx[i] if y[i] > 0 else real(p, 0)
    else:
        for i in range(n):
            dx[i] = dy[i] if y[i] > 0 else real(p, 0)


def leaky_relu_backward(p: Any) -> None:
    """Pass dy where y > 0, slope dy elsewhere. Words: out, dy, y, n, slope."""
    a = words(p)
    n, slope = word(a, 3), real(p, number(a, 4))
    dx, dy, y = vector(p, word(a, 0), n), vector(p, word(a, 1), n), vector(p, word(a, 2), n)
    if word(a, 0) == word(a, 1):
        for i in range(n):
            dx[i] = dx[i] if y[i] > 0 else slope * dx[i]
    else:
        for i in range(n):
            dx[i] = dy[i] if y[i] > 0 else slope * dy[i]


def sigmoid_backward(p: Any) -> None:
    """dy y (1 - y). Words: out, dy, y, n."""
    a = words(p)
    n = word(a, 3)
    dx, dy, y = vector(p, word(a, 0), n), vector(p, word(a, 1), n), vector(p, word(a, 2), n)
    if word(a, 0) == word(a, 1):
        for i in range(n):
            dx[i] = dx[i] * (y[i] * (real(p, 1) - y[i]))
    else:
        for i in range(n):
            dx[i] = dy[i] * (y[i] * (real(p, 1) - y[i]))


def tanh_backward(p: Any) -> None:
    """dy (1 - y^2). Words: out, dy, y, n."""
    a = words(p)
    n = word(a, 3)
    dx, dy, y = vector(p, word(a, 0), n), vector(p, word(a, 1), n), vector(p, word(a, 2), n)
    if word(a, 0) == word(a, 1):
        for i in range(n):
            dx[i] = dx[i] * (real(p, 1) - y[i] * y[i])
    else:
        for i in range(n):
            dx[i] = dy[i] * (real(p, 1) - y[i] * y[i])


def add(p: Any) -> None:
    """Return x + y. Words: out, x, y, n."""
    a = words(p)
    n = word(a, 3)
    out, x, y = vector(p, word(a, 0), n), vector(p, word(a, 1), n), vector(p, word(a, 2), n)
    if word(a, 0) == word(a, 1):
        for i in range(n):
            out[i] += y[i]
    else:
        for i in range(n):
            out[i] = x[i] + y[i]


def sum_columns(p: Any) -> None:
    """The sum of each column. Words: out, x, rows, columns, and how many numbers lie between the starts of two rows."""
    a = words(p)
    rows, columns = word(a, 2), word(a, 3)
    out, x = vector(p, word(a, 0), columns), matrix(p, word(a, 1), rows, word(a, 4))
    for j in range(columns):
        out[j] = real(p, 0)
    for i in range(rows):
        for j in range(columns):
            out[j] += x[i, j]


def fill(p: Any) -> None:
    """Set every element to a number. Words: out, n, number."""
    a = words(p)
    n, value = word(a, 1), real(p, number(a, 2))
    out = vector(p, word(a, 0), n)
    for i in range(n):
        out[i] = value


def copy_bytes(p: Any) -> None:
    """Copy n bytes. Words: out, source, n."""
    a = words(p)
    n = word(a, 2)
    out, source = uint8s(word(a, 0), n), uint8s(word(a, 1), n)
    for i in range(n):
        out[i] = source[i]


def fill_bytes(p: Any) -> None:
    """Set n bytes. Words: out, n, byte."""
    a = words(p)
    n, value = word(a, 1), word(a, 2)
    out = uint8s(word(a, 0), n)
    for i in range(n):
        out[i] = value
