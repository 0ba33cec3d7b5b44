"""Counter-based random bits: NumPy's Philox4x64-10 in standard Array API vocabulary, and dropout made of them.

Philox turns a key (two 64-bit words) and a counter (four) into four random words by ten rounds of 64 x 64 -> 128 bit
products. [Salmon, Moraes, Dror, Shaw 2011: Parallel Random Numbers: As Easy as 1, 2, 3]
"""

from __future__ import annotations

import math

from bpnet.dispatch import Array, kernel, namespace

_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_KEY_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS = 10
_MASK64 = (1 << 64) - 1
_LOW = (1 << 32) - 1


def _signed(word: int) -> int:
    """The int64 of the same bits."""
    return word - (1 << 64) if word >> 63 else word


def _multiply(a: Array, b: int) -> tuple[Array, Array]:
    """The upper and the lower 64 bits of the unsigned product a * b, by schoolbook products of 32-bit halves.

    a : int64 words; b : an unsigned constant. Halves are cut out with a mask because `>>` repeats the sign.
    """
    high_a, low_a = (a >> 32) & _LOW, a & _LOW
    high_b, low_b = b >> 32, b & _LOW
    first = low_a * low_b
    middle = high_a * low_b + ((first >> 32) & _LOW)
    other = low_a * high_b + (middle & _LOW)
    upper = high_a * high_b + ((middle >> 32) & _LOW) + ((other >> 32) & _LOW)
    return upper, (other << 32) | (first & _LOW)


def _words(counters: Array, index: int, key: tuple[int, int], n_words: int) -> Array:
    """The words of `philox` in int64: libraries that lack arithmetic in uint64 have this, and it wraps the same."""
    xp = namespace(counters)
    n_blocks = -(-n_words // 4)
    c0 = xp.arange(1, n_blocks + 1, dtype=xp.int64, device=counters.device)  # NumPy counts up before it draws
    c3 = xp.zeros((n_blocks,), dtype=xp.int64, device=counters.device)
    c1, c2 = c3 + counters[index : index + 1], c3 + counters[0:1]
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1 = high1 ^ c1 ^ _signed(k0), low1
        c2, c3 = high0 ^ c3 ^ _signed(k1), low0
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK64, (k1 + _KEY_STEPS[1]) & _MASK64
    return xp.reshape(xp.stack((c0, c1, c2, c3), axis=1), (4 * n_blocks,))[:n_words]


@kernel(flops=0)
def philox(counters: Array, index: int, key: tuple[int, int], n_words: int) -> Array:
    """The first words of numpy.random.Philox(key=key, counter=[0, micro, step, 0]).random_raw(n_words).

    counters : (K,) int64 array in which counters[0] is the step and counters[index] the micro-batch
    Returns (n_words,) uint64.
    """
    xp = namespace(counters)
    return xp.astype(_words(counters, index, key, n_words), xp.uint64)


def drop_threshold(rate: float) -> int:
    """The number t such that an element is dropped where its 16 random bits are below t: round(65536 rate)."""
    return round(rate * 65536)


def keep_scale(rate: float) -> float:
    """The factor by which kept elements grow: 65536 / (65536 - t), exact for the rate that is really applied."""
    return 65536 / (65536 - drop_threshold(rate))


@kernel(flops=0)
def keep_mask(counters: Array, index: int, key: tuple[int, int], shape: tuple[int, ...], rate: float) -> Array:
    """A bool array of `shape`, False with probability `rate`, from 16 bits an element of the Philox stream.

    Element 4 w + j, counted in C order, uses bits 16 j to 16 j + 15 of word w.
    """
    xp = namespace(counters)
    size = math.prod(shape)
    n_words = -(-size // 4)
    words = _words(counters, index, key, n_words)
    shifts = xp.asarray([0, 16, 32, 48], dtype=xp.int64, device=counters.device)
    keep = ((words[:, None] >> shifts) & 0xFFFF) >= drop_threshold(rate)
    return xp.reshape(xp.reshape(keep, (4 * n_words,))[:size], shape)


@kernel(flops=1)
def dropout(x: Array, counters: Array, index: int, key: tuple[int, int], rate: float) -> tuple[Array, Array]:
    """Zero each element with probability `rate` and scale the others so that the expectation is x.

    x : any shape; counters, index, key : see `philox`
    Returns y and the mask of kept elements, bool, which the backward needs.
    [Srivastava et al. 2014; 'inverted', so that inference is the identity]
    """
    keep = keep_mask(counters, index, key, tuple(x.shape), rate)
    return namespace(x).where(keep, x * keep_scale(rate), 0), keep


@kernel(flops=1)
def dropout_channels(
    x: Array, counters: Array, index: int, key: tuple[int, int], rate: float, axis: int
) -> tuple[Array, Array]:
    """Zero each channel of each sample with probability `rate`, at all its places, and scale the others.

    x : (N, ...) with its channels along `axis`; counters, index, key : see `philox`
    Returns y and the mask of kept channels, bool, of x's shape with 1 in the place of all other axes.
    [Tompson et al. 2015]
    """
    shape = tuple(n if i in (0, axis) else 1 for i, n in enumerate(x.shape))
    keep = keep_mask(counters, index, key, shape, rate)
    return namespace(x).where(keep, x * keep_scale(rate), 0), keep


@kernel(flops=1)
def dropout_backward(dy: Array, keep: Array, rate: float) -> Array:
    """dx = dy * scale where the element was kept, 0 elsewhere. keep : of dy's shape, or one that broadcasts to it"""
    return namespace(dy).where(keep, dy * keep_scale(rate), 0)
