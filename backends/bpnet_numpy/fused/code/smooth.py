"""GELU and its slope. The approximation by tanh is x / (1 + exp(-2u)), since (1 + tanh u) / 2 is the logistic of 2u."""

from __future__ import annotations

from typing import Any

from numba import njit

from bpnet.ops.smooth import CUBE, SLOPE
from bpnet_numpy.fused.code.functions import exponential
from bpnet_numpy.fused.code.intrinsics import FLAGS, real, vector, word, words

TWICE = 2 * SLOPE


@njit(**FLAGS)
def _share(p: Any, x: Any) -> Any:
    """(1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2."""
    z = real(p, TWICE) * x + real(p, TWICE * CUBE) * (x * x * x)
    e = exponential(-abs(z))
    return (real(p, 1) if z >= 0 else e) / (real(p, 1) + e)


@njit(**FLAGS)
def _slope(p: Any, x: Any, s: Any, y: Any) -> Any:
    """s + x ds/dx, ds/dx = s (1 - s) dz/dx."""
    return s + y * (real(p, 1) - s) * (real(p, TWICE) + real(p, 3 * TWICE * CUBE) * (x * x))


def gelu_tanh(p: Any) -> None:
    """x (1 + tanh(...)) / 2. Words: y, x, n."""
    a = words(p)
    n = word(a, 2)
    y, x = vector(p, word(a, 0), n), vector(p, word(a, 1), n)
    if word(a, 0) == word(a, 1):
        for i in range(n):
            y[i] = y[i] * _share(p, y[i])
    else:
        for i in range(n):
            y[i] = x[i] * _share(p, x[i])


def gelu_tanh_backward(p: Any) -> None:
    """dy times the slope. Words: dx, dy, x, n."""
    a = words(p)
    n = word(a, 3)
    dx, dy, x = vector(p, word(a, 0), n), vector(p, word(a, 1), n), vector(p, word(a, 2), n)
    for i in range(n):
        s = _share(p, x[i])
        dx[i] = dy[i] * _slope(p, x[i], s, x[i] * s)


def gelu_tanh_with_slope(p: Any) -> None:
    """The value and the slope. Words: y, slope, x, n."""
    a = words(p)
    n = word(a, 3)
    y, slope, x = vector(p, word(a, 0), n), vector(p, word(a, 1), n), vector(p, word(a, 2), n)
    for i in range(n):
        s = _share(p, x[i])
        value = x[i] * s
        y[i] = value
        slope[i] = _slope(p, x[i], s, value)


def mul(p: Any) -> None:
    """x w. Words: out, x, w, n."""
    a = words(p)
    n = word(a, 3)
    out, x, w = vector(p, word(a, 0), n), vector(p, word(a, 1), n), vector(p, word(a, 2), n)
    if word(a, 0) == word(a, 1):
        for i in range(n):
            out[i] *= w[i]
    else:
        for i in range(n):
            out[i] = x[i] * w[i]
