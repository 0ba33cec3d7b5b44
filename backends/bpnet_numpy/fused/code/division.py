"""Passes over long arrays, divided among the threads of a team.

Words: team, the BLAS's function that tells its threads or 0, the body of a share, the body that is divided, how many
words it has, which of them is the number of elements, the first of those that are addresses of as many, how many these
are; then its words. An address that is 0 stays 0.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from bpnet_numpy.fused.code.intrinsics import FLAGS, call, int64s, release, reserve, vector, word, words
from bpnet_numpy.fused.code.team import next_unit, shared

TEAM, THREADS, SHARE, BODY, COUNT, LENGTH, FIRST, ARRAYS, WORDS = range(9)

UNIT = 1 << 14
"""The most elements of a unit: what a pass has of them in all arrays finds room in the second-level cache."""
ALIGNED = 16
"""Units begin at multiples of so many elements."""


@njit(**FLAGS)
def _units(n: Any) -> Any:
    """How many units n elements are: an even number, so that two threads make as much."""
    return 2 * ((n + 2 * UNIT - 1) // (2 * UNIT))


@njit(**FLAGS)
def _start(n: Any, unit: Any) -> Any:
    """The first element of a unit."""
    return n if unit == _units(n) else n // ALIGNED * unit // _units(n) * ALIGNED


def share(p: Any, team: Any, place: Any) -> None:
    """One thread's part."""
    a = words(p)
    count, length, size = word(a, COUNT), word(a, LENGTH), vector(p, a, 1).itemsize
    given = int64s(a + 8 * WORDS, count)
    own = reserve(8 * count)
    now = int64s(own, count)
    for i in range(count):
        now[i] = given[i]
    unit = next_unit(team, place)
    while unit >= 0:
        start = _start(given[length], unit)
        now[length] = _start(given[length], unit + 1) - start
        for i in range(word(a, FIRST), word(a, FIRST) + word(a, ARRAYS)):
            now[i] = given[i] + start * size if given[i] != 0 else 0
        call(word(a, BODY), own)
        unit = next_unit(team, place)
    release(own)


def divided(p: Any) -> None:
    """A pass over all elements."""
    a = words(p)
    n = word(a, WORDS + word(a, LENGTH))
    shared(word(a, TEAM), word(a, THREADS), word(a, SHARE), a, _units(n))
