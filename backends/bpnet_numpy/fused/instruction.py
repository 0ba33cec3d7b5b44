"""A prepared call of a compiled body. Neighbours in a plan become one program: one call for a whole step."""

from __future__ import annotations

import importlib
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = Any

_machine: Any = None


def machine() -> Any:
    """The module that compiles and runs; numba is imported with it, when something is first computed."""
    global _machine
    if _machine is None:
        _machine = importlib.import_module("bpnet_numpy.fused.machine")
    return _machine


class Program:
    """Compiled bodies with their words, run one behind the other. It keeps the arrays that the words point at."""

    __slots__ = ("_execute", "arrays", "words")

    def __init__(self, words: Array, arrays: tuple[Any, ...]) -> None:
        self.words = words
        self.arrays = arrays
        self._execute = machine().execute

    def __call__(self) -> None:
        """Run it. Other threads of Python may run meanwhile."""
        self._execute(self.words)

    @staticmethod
    def join(programs: Sequence[Program]) -> Program:
        """One program that does what these do, in order."""
        if len(programs) == 1:
            return programs[0]
        words = np.concatenate([each.words for each in programs])
        return Program(words, tuple(array for each in programs for array in each.arrays))


def instruction(name: str, dtype: np.dtype[Any], *operands: Any) -> Program:
    """A program of one body. operands : arrays, whole numbers, and floats"""
    words = [machine().address(name, dtype), len(operands)]
    for each in operands:
        if isinstance(each, np.ndarray):
            words.append(each.ctypes.data)
        elif isinstance(each, float):
            words.append(struct.unpack("<q", struct.pack("<d", each))[0])
        else:
            words.append(int(each))
    return Program(np.array(words, np.int64), tuple(each for each in operands if isinstance(each, np.ndarray)))
