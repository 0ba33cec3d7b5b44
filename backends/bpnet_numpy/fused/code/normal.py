"""GELU and its slope by the normal distribution function, a vector at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from bpnet.ops.smooth import ERFC, IN_FLOAT32
from bpnet_numpy.fused.code.functions import exponential
from bpnet_numpy.fused.code.intrinsics import FLAGS, vector, word, words
from bpnet_numpy.fused.code.simd import by_dtype, load, numbers, size, store, where_less

ROOT, PEAK = math.sqrt(0.5), 1 / math.sqrt(2 * math.pi)

_series = by_dtype(tuple(np.float32(c) for c in ERFC[:IN_FLOAT32]), tuple(np.float64(c) for c in ERFC))
"""The terms of erfc's series."""


@njit(**FLAGS)
def _cdf(x: Any) -> Any:
    """erfc(-x / sqrt(2)) / 2, by the reference's series and Clenshaw's recurrence."""
    terms = _series(x)
    half = size(x) * ROOT
    t = 2 / (half + 2)
    u = t * 4 - 2
    later, last = u * 0, u * 0
    for k in range(len(terms) - 1, 0, -1):
        later, last = u * later - last + terms[k], later
    tail = t * exponential(((u * later + terms[0]) * 0.5 - last) - half * half) * 0.5
    return where_less(x, 0, tail, 1 - tail)


@njit(**FLAGS)
def _slope(x: Any, cdf: Any) -> Any:
    """cdf + x pdf."""
    return cdf + x * (exponential(x * x * -0.5) * PEAK)


def normal_cdf(p: Any) -> None:
    """The probability that a standard normal number is below x. Words: y, x, n."""
    a = words(p)
    n, item = word(a, 2), vector(p, a, 1).itemsize
    for j in range(0, n, numbers(p)):
        store(_cdf(load(p, word(a, 1) + item * j, n - j)), word(a, 0) + item * j, n - j)


def gelu(p: Any) -> None:
    """x cdf(x). Words: y, x, n."""
    a = words(p)
    n, item = word(a, 2), vector(p, a, 1).itemsize
    for j in range(0, n, numbers(p)):
        x = load(p, word(a, 1) + item * j, n - j)
        store(x * _cdf(x), word(a, 0) + item * j, n - j)


def gelu_backward(p: Any) -> None:
    """dy times the slope. Words: dx, dy, x, n."""
    a = words(p)
    n, item = word(a, 3), vector(p, a, 1).itemsize
    for j in range(0, n, numbers(p)):
        x = load(p, word(a, 2) + item * j, n - j)
        dy = load(p, word(a, 1) + item * j, n - j)
        store(dy * _slope(x, _cdf(x)), word(a, 0) + item * j, n - j)


def gelu_with_slope(p: Any) -> None:
    """The value and the slope. Words: y, slope, x, n."""
    a = words(p)
    n, item = word(a, 3), vector(p, a, 1).itemsize
    for j in range(0, n, numbers(p)):
        x = load(p, word(a, 2) + item * j, n - j)
        cdf = _cdf(x)
        store(_slope(x, cdf), word(a, 1) + item * j, n - j)
        store(x * cdf, word(a, 0) + item * j, n - j)
