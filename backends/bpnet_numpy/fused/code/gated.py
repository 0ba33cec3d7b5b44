"""Activations made of exponentials and their derivatives, a vector at a time; what may be in place is.

Words: y, x, n, settings; of a derivative dx, dy, x or y, n, settings; of those with two halves, rows and the numbers of
half a row instead of n.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from bpnet_numpy.fused.code.functions import exponential, exponential_minus_1, logistic
from bpnet_numpy.fused.code.intrinsics import FLAGS, number, vector, word, words
from bpnet_numpy.fused.code.simd import by_dtype, load, numbers, size, store, where_at_least, where_at_most, where_less

_odd = by_dtype(
    tuple(np.float32(1 / (2 * k + 1)) for k in range(8)), tuple(np.float64(1 / (2 * k + 1)) for k in range(17))
)
"""1, 1/3, 1/5, ..."""


@njit(**FLAGS)
def log_of_1_plus(e: Any) -> Any:
    """log(1 + e), 0 <= e <= 1: twice the series of artanh at z = e / (2 + e), which is at most 1/3."""
    terms = _odd(e)
    z = e / (e + 2)
    square = z * z
    found = square * 0
    for k in range(len(terms) - 1, -1, -1):
        found = found * square + terms[k]
    return found * z * 2


@njit(**FLAGS)
def _slope_of_silu(x: Any, s: Any) -> Any:
    return s * (x * (1 - s) + 1)


@njit(**FLAGS)
def _tanh_of_softplus(x: Any, e: Any) -> Any:
    """tanh(log(1 + exp(x))) by e = exp(-|x|), which makes a quotient of it: no difference of what is nearly alike."""
    positive, negative = e * 2 + 1, e * (e + 2)
    return where_at_least(x, 0, positive, negative) / where_at_least(x, 0, positive + e * e * 2, negative + 2)


def silu(p: Any) -> None:
    """x sigmoid(x)."""
    a = words(p)
    n, item = word(a, 2), vector(p, a, 1).itemsize
    for j in range(0, n, numbers(p)):
        x = load(p, word(a, 1) + item * j, n - j)
        store(x * logistic(x), word(a, 0) + item * j, n - j)


def silu_backward(p: Any) -> None:
    """With s = sigmoid(x): dy s (1 + x (1 - s))."""
    a = words(p)
    n, item = word(a, 3), vector(p, a, 1).itemsize
    for j in range(0, n, numbers(p)):
        dy, x = load(p, word(a, 1) + item * j, n - j), load(p, word(a, 2) + item * j, n - j)
        store(dy * _slope_of_silu(x, logistic(x)), word(a, 0) + item * j, n - j)


def elu(p: Any) -> None:
    """x where x > 0, alpha (exp(x) - 1) elsewhere. Setting: alpha."""
    a = words(p)
    n, alpha, item = word(a, 2), number(a, 3), vector(p, a, 1).itemsize
    for j in range(0, n, numbers(p)):
        x = load(p, word(a, 1) + item * j, n - j)
        below = exponential_minus_1(where_less(0, x, 0, x)) * alpha
        store(where_less(0, x, x, below), word(a, 0) + item * j, n - j)


def elu_backward(p: Any) -> None:
    """dy where y > 0, dy (y + alpha) elsewhere. Setting: alpha."""
    a = words(p)
    n, alpha, item = word(a, 3), number(a, 4), vector(p, a, 1).itemsize
    for j in range(0, n, numbers(p)):
        dy, y = load(p, word(a, 1) + item * j, n - j), load(p, word(a, 2) + item * j, n - j)
        store(where_less(0, y, dy, dy * (y + alpha)), word(a, 0) + item * j, n - j)


def softplus(p: Any) -> None:
    """max(x, 0) + log(1 + exp(-|x|))."""
    a = words(p)
    n, item = word(a, 2), vector(p, a, 1).itemsize
    for j in range(0, n, numbers(p)):
        x = load(p, word(a, 1) + item * j, n - j)
        more = log_of_1_plus(exponential(0 - size(x)))
        store(where_at_most(x, 0, 0, x) + more, word(a, 0) + item * j, n - j)


def softplus_backward(p: Any) -> None:
    """dy sigmoid(x)."""
    a = words(p)
    n, item = word(a, 3), vector(p, a, 1).itemsize
    for j in range(0, n, numbers(p)):
        dy, x = load(p, word(a, 1) + item * j, n - j), load(p, word(a, 2) + item * j, n - j)
        store(dy * logistic(x), word(a, 0) + item * j, n - j)


def mish(p: Any) -> None:
    """x tanh(softplus(x))."""
    a = words(p)
    n, item = word(a, 2), vector(p, a, 1).itemsize
    for j in range(0, n, numbers(p)):
        x = load(p, word(a, 1) + item * j, n - j)
        store(x * _tanh_of_softplus(x, exponential(0 - size(x))), word(a, 0) + item * j, n - j)


def mish_backward(p: Any) -> None:
    """With t = tanh(softplus(x)): dy (t + x sigmoid(x) (1 - t^2))."""
    a = words(p)
    n, item = word(a, 3), vector(p, a, 1).itemsize
    for j in range(0, n, numbers(p)):
        dy, x = load(p, word(a, 1) + item * j, n - j), load(p, word(a, 2) + item * j, n - j)
        e = exponential(0 - size(x))
        t, s = _tanh_of_softplus(x, e), where_at_least(x, 0, 1, e) / (e + 1)
        store(dy * (t + x * s * (1 - t * t)), word(a, 0) + item * j, n - j)


def hardswish(p: Any) -> None:
    """x min(max(x + 3, 0), 6) / 6."""
    a = words(p)
    n, item = word(a, 2), vector(p, a, 1).itemsize
    for j in range(0, n, numbers(p)):
        x = load(p, word(a, 1) + item * j, n - j)
        gate = where_less(x + 3, 0, 0, where_less(6, x + 3, 6, x + 3))
        store(x * gate * (1 / 6), word(a, 0) + item * j, n - j)


def hardswish_backward(p: Any) -> None:
    """0 where x <= -3, dy where x >= 3, dy (2 x + 3) / 6 between."""
    a = words(p)
    n, item = word(a, 3), vector(p, a, 1).itemsize
    for j in range(0, n, numbers(p)):
        dy, x = load(p, word(a, 1) + item * j, n - j), load(p, word(a, 2) + item * j, n - j)
        between = dy * ((x * 2 + 3) * (1 / 6))
        store(where_at_most(x, -3, 0, where_at_least(x, 3, dy, between)), word(a, 0) + item * j, n - j)


def swiglu(p: Any) -> None:
    """silu of the first half of a row times the second."""
    a = words(p)
    half, item = word(a, 3), vector(p, a, 1).itemsize
    for i in range(word(a, 2)):
        x, y = word(a, 1) + item * 2 * half * i, word(a, 0) + item * half * i
        for j in range(0, half, numbers(p)):
            first, second = load(p, x + item * j, half - j), load(p, x + item * (half + j), half - j)
            store(first * logistic(first) * second, y + item * j, half - j)


def swiglu_backward(p: Any) -> None:
    """With halves a, b and s = sigmoid(a): da = dy b s (1 + a (1 - s)), db = dy a s."""
    a = words(p)
    half, item = word(a, 4), vector(p, a, 1).itemsize
    for i in range(word(a, 3)):
        dx, dy, x = (
            word(a, 0) + item * 2 * half * i, word(a, 1) + item * half * i, word(a, 2) + item * 2 * half * i,
        )  # fmt: skip
        for j in range(0, half, numbers(p)):
            first, second = load(p, x + item * j, half - j), load(p, x + item * (half + j), half - j)
            d, s = load(p, dy + item * j, half - j), logistic(first)
            store(d * second * _slope_of_silu(first, s), dx + item * j, half - j)
            store(d * (first * s), dx + item * (half + j), half - j)


def glu(p: Any) -> None:
    """The first half of a row times the sigmoid of the second."""
    a = words(p)
    half, item = word(a, 3), vector(p, a, 1).itemsize
    for i in range(word(a, 2)):
        x, y = word(a, 1) + item * 2 * half * i, word(a, 0) + item * half * i
        for j in range(0, half, numbers(p)):
            first, second = load(p, x + item * j, half - j), load(p, x + item * (half + j), half - j)
            store(first * logistic(second), y + item * j, half - j)


def glu_backward(p: Any) -> None:
    """With halves a, b and s = sigmoid(b): da = dy s, db = dy a s (1 - s)."""
    a = words(p)
    half, item = word(a, 4), vector(p, a, 1).itemsize
    for i in range(word(a, 3)):
        dx, dy, x = (
            word(a, 0) + item * 2 * half * i, word(a, 1) + item * half * i, word(a, 2) + item * 2 * half * i,
        )  # fmt: skip
        for j in range(0, half, numbers(p)):
            first, second = load(p, x + item * j, half - j), load(p, x + item * (half + j), half - j)
            d, s = load(p, dy + item * j, half - j), logistic(second)
            store(d * s, dx + item * j, half - j)
            store(d * first * (s * (1 - s)), dx + item * (half + j), half - j)
