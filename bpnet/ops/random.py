"""Counter-based random bits: NumPy's Philox4x64-10 in standard Array API vocabulary, and dropout made of them.

Philox turns a key (two 64-bit words) and a counter (four) into four random words by ten rounds of 64 x 64 -> 128 bit
products. [Salmon, Moraes, Dror, Shaw 2011: Parallel Random Numbers: As Easy as 1, 2, 3]
"""

from __future__ import annotations

import math
from typing import Any

from bpnet.dispatch import Array, kernel, namespace

_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_KEY_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS = 10
_MASK64 = (1 << 64) - 1


def _halves(xp: Any, value: int, device: Any) -> tuple[Array, Array]:
    """The upper and lower 32 bits of a 64-bit constant, as 0-d uint64 arrays."""
    return (
        xp.asarray(value >> 32, dtype=xp.uint64, device=device),
        xp.asarray(value & 0xFFFFFFFF, dtype=xp.uint64, device=device),
    )


def _multiply(xp: Any, a: Array, constant: tuple[Array, Array], thirty_two: Array, low: Array) -> tuple[Array, Array]:
    """The upper and the lower 64 bits of a * constant, by schoolbook products of 32-bit halves."""
    high_b, low_b = constant
    high_a, low_a = a >> thirty_two, a & low
    first = low_a * low_b
    middle = high_a * low_b + (first >> thirty_two)
    other = low_a * high_b + (middle & low)
    upper = high_a * high_b + (middle >> thirty_two) + (other >> thirty_two)
    return upper, (other << thirty_two) + (first & low)


@kernel
def philox(counters: Array, index: int, key: tuple[int, int], n_words: int) -> Array:
    """The first words of numpy.random.Philox(key=key, counter=[0, micro, step, 0]).random_raw(n_words).

    counters : (K,) int64 array in which counters[0] is the step and counters[index] the micro-batch
    Returns (n_words,) uint64.
    """
    xp = namespace(counters)
    device = counters.device
    n_blocks = -(-n_words // 4)
    thirty_two = xp.asarray(32, dtype=xp.uint64, device=device)
    low = xp.asarray(0xFFFFFFFF, dtype=xp.uint64, device=device)
    multipliers = [_halves(xp, m, device) for m in _MULTIPLIERS]
    c0 = xp.arange(1, n_blocks + 1, dtype=xp.uint64, device=device)  # NumPy counts up before it draws
    zero = xp.zeros((n_blocks,), dtype=xp.uint64, device=device)
    c1 = zero + xp.astype(counters[index : index + 1], xp.uint64)
    c2 = zero + xp.astype(counters[0:1], xp.uint64)
    c3 = zero
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(xp, c0, multipliers[0], thirty_two, low)
        high1, low1 = _multiply(xp, c2, multipliers[1], thirty_two, low)
        c0 = high1 ^ c1 ^ xp.asarray(k0, dtype=xp.uint64, device=device)
        c2 = high0 ^ c3 ^ xp.asarray(k1, dtype=xp.uint64, device=device)
        c1, c3 = low1, low0
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK64, (k1 + _KEY_STEPS[1]) & _MASK64
    return xp.reshape(xp.stack((c0, c1, c2, c3), axis=1), (4 * n_blocks,))[:n_words]


def drop_threshold(rate: float) -> int:
    """The number t such that an element is dropped where its 16 random bits are below t: round(65536 rate)."""
    return round(rate * 65536)


def keep_scale(rate: float) -> float:
    """The factor by which kept elements grow: 65536 / (65536 - t), exact for the rate that is really applied."""
    return 65536 / (65536 - drop_threshold(rate))


@kernel
def keep_mask(counters: Array, index: int, key: tuple[int, int], shape: tuple[int, ...], rate: float) -> Array:
    """A bool array of `shape`, False with probability `rate`, from 16 bits an element of the Philox stream.

    Element 4 w + j, counted in C order, uses bits 16 j to 16 j + 15 of word w.
    """
    xp = namespace(counters)
    size = math.prod(shape)
    n_words = -(-size // 4)
    words = philox(counters, index, key, n_words)
    shifts = xp.asarray([0, 16, 32, 48], dtype=xp.uint64, device=counters.device)
    bits = (words[:, None] >> shifts) & xp.asarray(0xFFFF, dtype=xp.uint64, device=counters.device)
    keep = bits >= xp.asarray(drop_threshold(rate), dtype=xp.uint64, device=counters.device)
    return xp.reshape(xp.reshape(keep, (4 * n_words,))[:size], shape)


@kernel
def dropout(x: Array, counters: Array, index: int, key: tuple[int, int], rate: float) -> tuple[Array, Array]:
    """Zero each element with probability `rate` and scale the others so that the expectation is x.

    x : any shape; counters, index, key : see `philox`
    Returns y and the mask of kept elements, bool, which the backward needs.
    [Srivastava et al. 2014; 'inverted', so that inference is the identity]
    """
    keep = keep_mask(counters, index, key, tuple(x.shape), rate)
    return namespace(x).where(keep, x * keep_scale(rate), 0), keep


@kernel
def dropout_backward(dy: Array, keep: Array, rate: float) -> Array:
    """dx = dy * scale where the element was kept, 0 elsewhere."""
    return namespace(dy).where(keep, dy * keep_scale(rate), 0)
