"""The threads that run parts of programs, and the instruction that hands them out.

A helper is a thread of Python that spends its time in compiled code: it waits for parts in a loop while programs run
and a fraction of a millisecond longer, then sleeps until the next program wakes it. There is one for every thread that
OpenBLAS may use, less one; none where that is one. How work is divided depends on its size and on that number alone.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from bpnet_numpy.fused.blas import address
from bpnet_numpy.fused.instruction import Program, instruction, machine
from bpnet_numpy.threads import openblas, settle

LOOKS = 20_000  # at an empty place before a helper sleeps: some hundred microseconds
Array = Any
FLOAT32 = np.dtype("float32")


class Team:
    """The helpers of this process."""

    def __init__(self, size: int) -> None:
        raw = np.zeros(8 * size + 8, np.int64)
        start = -raw.ctypes.data % 64 // 8
        self.state = raw[start : start + 8 * size]  # a cache line for every thread
        self.size, self.address = size, self.state.ctypes.data
        self._compiled = machine()
        self._bells: list[threading.Event] = []
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self.state.fill(0)
        self.state[9::8] = 1  # all are asleep

    def execute(self, words: Array) -> None:
        """Run a program that forks, with helpers that are awake or about to be."""
        if not self._compiled.execute_together(words, self.address, self.size, False):
            self._rouse()
            self._compiled.execute_together(words, self.address, self.size, True)

    def _rouse(self) -> None:
        """Wake the helpers; start them if there are none yet."""
        with self._lock:
            for index in range(1, self.size) if not self._bells else ():
                self._bells.append(threading.Event())
                arguments = (index, self._bells[-1])
                threading.Thread(target=self._serve, args=arguments, name=f"bpnet-{index}", daemon=True).start()
            for bell in self._bells:
                bell.set()

    def _serve(self, index: int, bell: threading.Event) -> None:
        while True:
            bell.wait()
            bell.clear()
            self._compiled.serve(self.address, index, LOOKS)

    def forget(self) -> None:
        """In a process that was forked there are no helpers yet, and nobody who has begun a part."""
        self._begin()
        self._bells = []
        self._lock = threading.Lock()


_TEAM: list[Team] = []


def team() -> Team:
    """The team of this process."""
    if not _TEAM:
        settle()
        library = openblas()
        _TEAM.append(Team(1 if library is None else max(1, library.get())))
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_TEAM[0].forget)
    return _TEAM[0]


def _execute(words: Array) -> None:
    """Run a program that forks, with helpers that are awake."""
    _TEAM[0].execute(words)


@cache
def _give_way() -> int:
    """Where the function begins that offers the processor to others; 0 where none is known."""
    try:
        if sys.platform == "win32":
            return address(ctypes.WinDLL("kernel32").SwitchToThread)
        return address(ctypes.CDLL(None).sched_yield)
    except (AttributeError, OSError, TypeError):
        return 0


def together(parts: Sequence[Program]) -> Program:
    """A program that runs these programs at the same time; no part may touch what another one writes."""
    if len(parts) == 1:
        return parts[0]
    library = openblas()
    functions = (0, 0) if library is None else (address(library.get), address(library.set))
    laid = [np.concatenate((np.array([each.words.size], np.int64), each.words)) for each in parts]
    whole = instruction("fork", FLOAT32, team().state, *functions, _give_way(), len(parts), *laid)
    return Program(whole.words, (*whole.arrays, *(array for each in parts for array in each.arrays)), _execute)


def pieces(n: int, work: int, least: int, step: int = 1) -> list[slice]:
    """Ranges of n rows of equal length, nearly, whose ends are multiples of `step`: one for every thread, fewer where
    the work of one would be less than `least`."""
    count = max(1, min(team().size, work // max(1, least), n // step))
    ends = [round(n / step * k / count) * step for k in range(count)] + [n]
    return [slice(a, b) for a, b in pairwise(ends)]


def split(n: int, work: int, make: Callable[[slice], list[Program]], *, least: int, step: int = 1) -> list[Program]:
    """One program of what `make` returns for ranges of n rows, which are made at the same time.

    work : what there is to do in all, least : what is worth a thread, in the same unit; make : rows -> programs
    """
    return [together([Program.join(make(rows)) for rows in pieces(n, work, least, step)])]
