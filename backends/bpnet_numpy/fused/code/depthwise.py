"""Convolutions of every channel with a window of its own, a vector of channels at a time; the words of `windows`.

The weight is (elements, channels). Four places, or four elements, are summed together, so that what all of them are
multiplied with is read once.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from bpnet_numpy.fused.code.intrinsics import FLAGS, real, vector, word, words
from bpnet_numpy.fused.code.simd import load, numbers, spread, store, where_at_most
from bpnet_numpy.fused.code.windows import (
    CHANNELS,
    COLUMNS,
    DOWN,
    HIGH,
    ITEM,
    KH,
    KW,
    LEAP,
    ROWS,
    SAMPLES,
    STEP,
    WIDE,
    add_rows,
    corner_of,
)

BLOCK = 32
"""Places at a time of which the weight's gradient is summed: what they see stays in the first-level cache."""


@njit(**FLAGS)
def _finish(p: Any, x: Any, out: Any, bias: Any, left: Any, rectified: Any) -> None:
    if bias != 0:
        x = x + load(p, bias, left)
    if rectified != 0:
        x = where_at_most(x, 0, 0, x)  # NaN stays
    store(x, out, left)


@njit(**FLAGS)
def _at_four(p: Any, weight: Any, x: Any, starts: Any, steps: Any, depth: Any, c: Any, left: Any, item: Any) -> Any:
    """The sums of four places."""
    zero = spread(p, 0)
    one, two, three, four = zero, zero, zero, zero
    first, second = x + item * word(starts, 0), x + item * word(starts, 1)
    third, fourth = x + item * word(starts, 2), x + item * word(starts, 3)
    for e in range(depth):
        at = item * word(steps, e)
        factor = load(p, weight + item * e * c, left)
        one = one + load(p, first + at, left) * factor
        two = two + load(p, second + at, left) * factor
        three = three + load(p, third + at, left) * factor
        four = four + load(p, fourth + at, left) * factor
    return one, two, three, four


def depthwise_windows(p: Any) -> None:
    """Words: out, x, weight, bias or 0, scratch or 0, places, elements, where the rows of the result begin, whether
    max(x, 0) follows, what is convolved."""
    a = words(p)
    own = a + 8 * 9
    step, item, rows, columns = word(own, STEP), word(own, ITEM), word(own, ROWS), word(own, COLUMNS)
    c, depth = word(own, CHANNELS), word(own, KH) * word(own, KW)
    size = item * word(own, HIGH) * word(own, WIDE) * c
    for s in range(word(own, SAMPLES)):
        for first in range(0, rows, step):
            last = min(first + step, rows)
            corner = corner_of(p, own, word(a, 1) + s * size, word(a, 4), first, last)
            places = (last - first) * columns
            result = word(a, 0) + item * (s * word(own, LEAP) + first * word(own, DOWN))
            whole = places // 4 * 4
            for t in range(0, whole, 4):
                starts, targets = word(a, 5) + 8 * t, word(a, 7) + 8 * t
                for j in range(0, c, numbers(p)):
                    at, left = item * j, c - j
                    bias = word(a, 3) + at if word(a, 3) != 0 else 0
                    one, two, three, four = _at_four(
                        p, word(a, 2) + at, corner + at, starts, word(a, 6), depth, c, left, item
                    )
                    _finish(p, one, result + item * word(targets, 0) + at, bias, left, word(a, 8))
                    _finish(p, two, result + item * word(targets, 1) + at, bias, left, word(a, 8))
                    _finish(p, three, result + item * word(targets, 2) + at, bias, left, word(a, 8))
                    _finish(p, four, result + item * word(targets, 3) + at, bias, left, word(a, 8))
            for t in range(whole, places):
                x, out = corner + item * word(word(a, 5), t), result + item * word(word(a, 7), t)
                for j in range(0, c, numbers(p)):
                    at, left = item * j, c - j
                    found = spread(p, 0)
                    for e in range(depth):
                        seen = load(p, x + item * word(word(a, 6), e) + at, left)
                        found = found + seen * load(p, word(a, 2) + item * e * c + at, left)
                    _finish(p, found, out + at, word(a, 3) + at if word(a, 3) != 0 else 0, left, word(a, 8))


@njit(**FLAGS)
def _add_four(
    p: Any, dW: Any, dy: Any, x: Any, starts: Any, steps: Any, places: Any, c: Any, left: Any, item: Any
) -> None:
    """What some places add to four elements."""
    one, two = load(p, dW, left), load(p, dW + item * c, left)
    three, four = load(p, dW + 2 * item * c, left), load(p, dW + 3 * item * c, left)
    first, second = x + item * word(steps, 0), x + item * word(steps, 1)
    third, fourth = x + item * word(steps, 2), x + item * word(steps, 3)
    for t in range(places):
        at = item * word(starts, t)
        given = load(p, dy + item * t * c, left)
        one = one + load(p, first + at, left) * given
        two = two + load(p, second + at, left) * given
        three = three + load(p, third + at, left) * given
        four = four + load(p, fourth + at, left) * given
    store(one, dW, left)
    store(two, dW + item * c, left)
    store(three, dW + 2 * item * c, left)
    store(four, dW + 3 * item * c, left)


def depthwise_weights(p: Any) -> None:
    """dW, of these samples, and db where it is wanted. Words: dW, db or 0, dy, x, scratch or 0, places, elements, a
    word that is not read, what is convolved."""
    a = words(p)
    own = a + 8 * 8
    step, item, rows, columns = word(own, STEP), word(own, ITEM), word(own, ROWS), word(own, COLUMNS)
    c, depth = word(own, CHANNELS), word(own, KH) * word(own, KW)
    size, even = item * word(own, HIGH) * word(own, WIDE) * c, depth // 4 * 4
    whole = vector(p, word(a, 0), depth * c)
    for k in range(depth * c):
        whole[k] = real(p, 0)
    adding = 0
    for s in range(word(own, SAMPLES)):
        for first in range(0, rows, step):
            last = min(first + step, rows)
            corner = corner_of(p, own, word(a, 3) + s * size, word(a, 4), first, last)
            places = (last - first) * columns
            given = word(a, 2) + item * (s * rows + first) * columns * c
            for start in range(0, places, BLOCK):
                count, starts = min(BLOCK, places - start), word(a, 5) + 8 * start
                for j in range(0, c, numbers(p)):
                    at, left = item * j, c - j
                    dy, x, dW = given + item * start * c + at, corner + at, word(a, 0) + at
                    for e in range(0, even, 4):
                        _add_four(p, dW + item * e * c, dy, x, starts, word(a, 6) + 8 * e, count, c, left, item)
                    for e in range(even, depth):
                        sums = load(p, dW + item * e * c, left)
                        seen = x + item * word(word(a, 6), e)
                        for t in range(count):
                            sums = sums + load(p, seen + item * word(starts, t), left) * load(
                                p, dy + item * t * c, left
                            )
                        store(sums, dW + item * e * c, left)
            if word(a, 1) != 0:
                add_rows(p, word(a, 1), given, places, c, adding)
            adding = 1


def chosen_rows(p: Any) -> None:
    """Some rows of a matrix. Words: out, x, which, how many, columns."""
    a = words(p)
    rows, c = word(a, 3), word(a, 4)
    item = vector(p, word(a, 0), 1).itemsize
    for i in range(rows):
        to = vector(p, word(a, 0) + item * i * c, c)
        source = vector(p, word(a, 1) + item * word(word(a, 2), i) * c, c)
        for j in range(c):
            to[j] = source[j]
