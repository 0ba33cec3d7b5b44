"""The exponential of numbers that are at most 0, without branches, so that loops over it become SIMD instructions.

x = k ln 2 + r with |r| <= ln(2) / 2, and exp(x) = 2^k exp(r), exp(r) by its Taylor series. k is found by adding a
number so large that the sum is rounded to an integer, which then stands in the sum's lowest bits. NaN stays NaN.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from bpnet_numpy.fused.code.intrinsics import FLAGS, bits, scaled_one
from bpnet_numpy.fused.code.simd import Lanes, by_dtype, power_of_2, size, where_at_least, where_less

_HIGH32 = round(math.log(2) * 2**9) / 2**9  # so few bits that its product with any k is exact
_HIGH64 = round(math.log(2) * 2**32) / 2**32
_LOW = 2.3190468138462996e-17  # what the float64 nearest to ln 2 lacks

S_INVERSE, S_ROUND = np.float32(1 / math.log(2)), np.float32(1.5 * 2**23)
S_HIGH, S_LOW, S_END = np.float32(_HIGH32), np.float32(math.log(2) - _HIGH32), np.float32(-87.3)
S1, S2, S3, S4, S5, S6, S7 = (np.float32(1 / math.factorial(k)) for k in range(1, 8))

D_INVERSE, D_ROUND = np.float64(1 / math.log(2)), np.float64(1.5 * 2**52)
D_HIGH, D_LOW, D_END = np.float64(_HIGH64), np.float64(math.log(2) - _HIGH64 + _LOW), np.float64(-708.3)
D1, D2, D3, D4, D5, D6, D7, D8, D9, D10, D11, D12, D13 = (np.float64(1 / math.factorial(k)) for k in range(1, 14))

_end = by_dtype(S_END, D_END)
"""Below which the exponential of a vector's number is 0."""


@njit(**FLAGS)
def logistic(x: Any) -> Any:
    """1 / (1 + exp(-x)) of a vector."""
    e = exponential(0 - size(x))
    return where_at_least(x, 0, 1, e) / (e + 1)


@njit(**FLAGS)
def tangent(x: Any) -> Any:
    """The hyperbolic tangent of a vector, from exp(-2|x|) - 1."""
    e = exponential_minus_1(size(x) * -2)
    found = e / (e + 2)
    return where_less(x, 0, found, 0 - found)


@njit(**FLAGS)
def _rest32(r: Any) -> Any:
    """exp(r) - 1."""
    return r * (S1 + r * (S2 + r * (S3 + r * (S4 + r * (S5 + r * (S6 + r * S7))))))


@njit(**FLAGS)
def _rest64(r: Any) -> Any:
    high = D7 + r * (D8 + r * (D9 + r * (D10 + r * (D11 + r * (D12 + r * D13)))))
    return r * (D1 + r * (D2 + r * (D3 + r * (D4 + r * (D5 + r * (D6 + r * high))))))


def _parts(x: Any) -> Any:
    """exp(r) - 1 and 2^k of a vector."""


@overload(_parts, jit_options=FLAGS)
def _parts_of(x: Any) -> Any:
    if x.dtype == types.float32:

        def single(x: Any) -> Any:
            shifted = x * S_INVERSE + S_ROUND
            k = shifted - S_ROUND
            return _rest32((x - k * S_HIGH) - k * S_LOW), power_of_2(shifted)

        return single

    def double(x: Any) -> Any:
        shifted = x * D_INVERSE + D_ROUND
        k = shifted - D_ROUND
        return _rest64((x - k * D_HIGH) - k * D_LOW), power_of_2(shifted)

    return double


def exponential(x: Any) -> Any:
    """exp(x) for x <= 0, within 2 units in the last place; 0 where it is not a normal number."""


def exponential_minus_1(x: Any) -> Any:
    """exp(x) - 1 for x <= 0, within 2 units in the last place, also near 0."""


@overload(exponential, jit_options=FLAGS)
def _exponential(x: Any) -> Any:
    if isinstance(x, Lanes):

        def lanes(x: Any) -> Any:
            rest, scale = _parts(x)
            return where_less(x, _end(x), 0, (rest + 1) * scale)

        return lanes

    if x == types.float32:

        def single(x: Any) -> Any:
            shifted = x * S_INVERSE + S_ROUND
            k = shifted - S_ROUND
            r = (x - k * S_HIGH) - k * S_LOW
            return np.float32(0) if x < S_END else (_rest32(r) + np.float32(1)) * scaled_one(x, bits(shifted))

        return single

    def double(x: Any) -> Any:
        shifted = x * D_INVERSE + D_ROUND
        k = shifted - D_ROUND
        r = (x - k * D_HIGH) - k * D_LOW
        return 0.0 if x < D_END else (_rest64(r) + 1.0) * scaled_one(x, bits(shifted))

    return double


@overload(exponential_minus_1, jit_options=FLAGS)
def _exponential_minus_1(x: Any) -> Any:
    if isinstance(x, Lanes):

        def lanes(x: Any) -> Any:
            rest, scale = _parts(x)
            return where_less(x, _end(x), -1, rest * scale + (scale - 1))

        return lanes

    if x == types.float32:

        def single(x: Any) -> Any:
            shifted = x * S_INVERSE + S_ROUND
            k = shifted - S_ROUND
            r = (x - k * S_HIGH) - k * S_LOW
            scale = scaled_one(x, bits(shifted))
            return np.float32(-1) if x < S_END else _rest32(r) * scale + (scale - np.float32(1))

        return single

    def double(x: Any) -> Any:
        shifted = x * D_INVERSE + D_ROUND
        k = shifted - D_ROUND
        r = (x - k * D_HIGH) - k * D_LOW
        scale = scaled_one(x, bits(shifted))
        return -1.0 if x < D_END else _rest64(r) * scale + (scale - 1.0)

    return double
