"""Programs that a team runs at the same time: each is a unit of its work.

A part is its number of words, and its words, as in a program. What parts write, no other one may touch; so what is
computed does not depend on who runs them.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from bpnet_numpy.fused.code.intrinsics import FLAGS, call, set_threads, threads_of, word, words
from bpnet_numpy.fused.code.team import next_unit, shared

TEAM, TELL, SET, SHARE, COUNT, PARTS = range(6)


@njit(**FLAGS)
def _run(part: Any) -> None:
    """Make the instructions of a part."""
    end = part + 8 * (word(part, 0) + 1)
    at = part + 8
    while at < end:
        call(word(at, 0), at + 16)
        at += 8 * (word(at, 1) + 2)


def fork_share(p: Any, team: Any, place: Any) -> None:
    """One thread's parts."""
    a = words(p)
    unit = next_unit(team, place)
    while unit >= 0:
        _run(word(a, PARTS + unit))
        unit = next_unit(team, place)


def fork(p: Any) -> None:
    """Words: team, OpenBLAS's functions that tell and set its threads or 0, body of a share, parts, their addresses.

    Products of the parts use one thread each. Where OpenBLAS is to use one in all, so does this.
    """
    a = words(p)
    before = threads_of(word(a, TELL)) if word(a, TELL) != 0 else 0
    if before > 1:
        set_threads(word(a, SET), 1)
    shared(word(a, TEAM) if before != 1 else 0, 0, word(a, SHARE), a, word(a, COUNT))
    if before > 1:
        set_threads(word(a, SET), before)
