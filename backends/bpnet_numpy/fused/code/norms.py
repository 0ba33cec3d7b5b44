"""LayerNorm and RMSNorm, a row at a time: what is read again is still in the first-level cache.

Sums over a row are taken in any order, the same in every run.
"""

from __future__ import annotations

import math
from typing import Any

from numba import njit

from bpnet_numpy.fused.code.intrinsics import ANY_ORDER, matrix, number, real, vector, word, words


@njit(**ANY_ORDER)
def _sum(p: Any, x: Any, i: Any) -> Any:
    total = real(p, 0)
    for j in range(x.shape[1]):
        total += x[i, j]
    return total


@njit(**ANY_ORDER)
def _squares(p: Any, x: Any, i: Any) -> Any:
    total = real(p, 0)
    for j in range(x.shape[1]):
        total += x[i, j] * x[i, j]
    return total


@njit(**ANY_ORDER)
def _dot(p: Any, x: Any, g: Any, i: Any) -> Any:
    total = real(p, 0)
    for j in range(x.shape[1]):
        total += x[i, j] * g[j]
    return total


@njit(**ANY_ORDER)
def _dot3(p: Any, x: Any, y: Any, g: Any, i: Any) -> Any:
    total = real(p, 0)
    for j in range(x.shape[1]):
        total += (x[i, j] * g[j]) * y[i, j]
    return total


def norm(p: Any) -> None:
    """Words: y, h, r, x, gain, bias or 0, rows, columns, epsilon, whether the mean is subtracted."""
    a = words(p)
    rows, columns = word(a, 6), word(a, 7)
    y, h = matrix(p, word(a, 0), rows, columns), matrix(p, word(a, 1), rows, columns)
    r, x, gain = vector(p, word(a, 2), rows), matrix(p, word(a, 3), rows, columns), vector(p, word(a, 4), columns)
    shifting, centring = word(a, 5) != 0, word(a, 9) != 0
    bias = vector(p, word(a, 5) if shifting else word(a, 4), columns)
    epsilon, share = real(p, number(a, 8)), real(p, 1 / columns)
    for i in range(rows):
        mean = _sum(p, x, i) * share if centring else real(p, 0)
        for j in range(columns):
            h[i, j] = x[i, j] - mean
        scale = real(p, 1) / math.sqrt(_squares(p, h, i) * share + epsilon)
        r[i] = scale
        if shifting:
            for j in range(columns):
                normal = h[i, j] * scale
                h[i, j] = normal
                y[i, j] = normal * gain[j] + bias[j]
        else:
            for j in range(columns):
                normal = h[i, j] * scale
                h[i, j] = normal
                y[i, j] = normal * gain[j]


def norm_backward(p: Any) -> None:
    """Words: dx or 0, dgain or 0, dbias or 0, dy, h, r, gain, rows, columns, whether the mean was subtracted.

    dx = r (dh - mean(dh) - h mean(dh h)), dh = dy gain.
    """
    a = words(p)
    rows, columns = word(a, 7), word(a, 8)
    dy, h = matrix(p, word(a, 3), rows, columns), matrix(p, word(a, 4), rows, columns)
    r, gain = vector(p, word(a, 5), rows), vector(p, word(a, 6), columns)
    centring = word(a, 9) != 0
    share = real(p, 1 / columns)
    if word(a, 0) != 0:
        dx = matrix(p, word(a, 0), rows, columns)
        for i in range(rows):
            along = _dot3(p, dy, h, gain, i) * share
            mean = _dot(p, dy, gain, i) * share if centring else real(p, 0)
            scale = r[i]
            for j in range(columns):
                dx[i, j] = scale * (dy[i, j] * gain[j] - mean - h[i, j] * along)
    if word(a, 1) != 0:
        dgain = vector(p, word(a, 1), columns)
        for j in range(columns):
            dgain[j] = real(p, 0)
        for i in range(rows):
            for j in range(columns):
                dgain[j] += dy[i, j] * h[i, j]
    if word(a, 2) != 0:
        dbias = vector(p, word(a, 2), columns)
        for j in range(columns):
            dbias[j] = real(p, 0)
        for i in range(rows):
            for j in range(columns):
                dbias[j] += dy[i, j]
