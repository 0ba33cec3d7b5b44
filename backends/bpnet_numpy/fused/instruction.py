"""A prepared call of a compiled body. Neighbours in a plan become one program: one call for a whole step."""

from __future__ import annotations

import ctypes
import importlib
import struct
import warnings
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

Array = Any
FLOAT32 = np.dtype("float32")
"""What bodies are bound for that compute with no floating numbers: each is compiled for some dtype."""

_machine: Any = None
_broken = False


def machine() -> Any:
    """The module that compiles and runs; numba is imported with it, when something is first computed."""
    global _machine
    if _machine is None:
        _machine = importlib.import_module("bpnet_numpy.fused.machine")
    return _machine


def usable() -> bool:
    """Whether numba can be loaded; where it is installed and cannot, a warning says so, once, and NumPy computes."""
    global _broken
    if _machine is None and not _broken:
        try:
            machine()
        except Exception as error:  # such as a numba that does not know this NumPy, or half of an installation
            _broken = True
            warnings.warn(
                f"numba is installed and cannot be used ({type(error).__name__}: {error}), so NumPy computes alone; "
                "update or uninstall numba, or set BPNET_FUSED=0",
                RuntimeWarning,
                stacklevel=2,
            )
    return not _broken


def _find_address() -> Callable[[Array], int]:
    """A function that tells where an array's data begin.

    The first field of an ndarray, behind what all objects have, is that address: to read it takes a tenth of the time
    of `ctypes.data`, and counts where nothing is planned. It is taken where it proves to be right.
    """
    offset, read = object.__basicsize__, ctypes.c_size_t.from_address

    def fast(x: Array) -> int:
        return read(id(x) + offset).value

    some = np.arange(12.0).reshape(3, 4)
    for each in (some, some[1:, 2:], some.T, np.zeros((), np.bool_), some.view(np.int64)[::-1]):
        if fast(each) != each.ctypes.data:
            return lambda x: int(x.ctypes.data)
    return fast


address_of = _find_address()
_bits_of = struct.Struct("<d").pack
_word_of = struct.Struct("<q").unpack


ELSEWHERE = -1


def _nothing(_: Array) -> None:
    """What points a program at an array that it does not read."""


class Program:
    """Compiled bodies with their words, run one behind the other. It keeps the arrays that the words point at.

    places : which words these are, array by array; ELSEWHERE: words of its parts
    absorb : `absorb(program, next)` returns one program that does what both do, or None; None: there is none for any
    """

    __slots__ = ("_execute", "absorb", "arrays", "places", "words")

    def __init__(self, words: Array, arrays: tuple[Any, ...], places: tuple[int, ...]) -> None:
        self.words = words
        self.arrays = arrays
        self.places = places
        self.absorb: Callable[[Program, Program], Program | None] | None = None
        self._execute = machine().execute

    def __call__(self) -> None:
        """Run it. Other threads of Python may run meanwhile."""
        self._execute(self.words)

    def keeping(self, arrays: Iterable[Any]) -> Program:
        """The same program, which keeps these arrays too: its parts, which lie elsewhere, point at them."""
        more = tuple(arrays)
        return Program(self.words, (*self.arrays, *more), (*self.places, *[ELSEWHERE] * len(more)))

    @staticmethod
    def join(programs: Sequence[Program]) -> Program:
        """One program that does what these do, in order."""
        programs = absorbed(programs)
        if len(programs) == 1:
            return programs[0]
        words = np.concatenate([each.words for each in programs])
        starts = np.cumsum([0, *(each.words.size for each in programs)]).tolist()
        places = (
            place if place == ELSEWHERE else start + place
            for start, each in zip(starts, programs, strict=False)
            for place in each.places
        )
        return Program(words, tuple(array for each in programs for array in each.arrays), tuple(places))

    def pointer_to(self, buffer: Array) -> Callable[[Array], None] | None:
        """A function that lets the program read another C-contiguous array of that shape and dtype where it was bound
        to `buffer`, and None where it does not reach as far: where its arrays are views of something larger.

        The program does not keep that array; it must be there whenever the program runs.
        """
        start = address_of(buffer)
        found = [
            (place, address_of(array) - start)
            for place, array in zip(self.places, self.arrays, strict=True)
            if start <= address_of(array) < start + buffer.nbytes
        ]
        if any(offset or place == ELSEWHERE for place, offset in found):
            return None
        if not found:
            return _nothing
        words, places = self.words, [place for place, _ in found]

        def point(array: Array) -> None:
            there = address_of(array)
            for place in places:
                words[place] = there

        return point


def absorbed(programs: Sequence[Program]) -> list[Program]:
    """The programs, with those that another one before them can do as well made part of it."""
    found: list[Program] = []
    for each in programs:
        absorb = found[-1].absorb if found else None
        whole = None if absorb is None else absorb(found[-1], each)
        if whole is None:
            found.append(each)
        else:
            found[-1] = whole
    return found


def instruction(name: str, dtype: np.dtype[Any], *operands: Any) -> Program:
    """A program of one body. operands : arrays, whole numbers, and floats"""
    words = [machine().address(name, dtype), len(operands)]
    arrays, places = [], []
    for each in operands:
        if isinstance(each, np.ndarray):
            arrays.append(each)
            places.append(len(words))
            words.append(address_of(each))
        elif isinstance(each, float):
            words += _word_of(_bits_of(each))
        else:
            words.append(int(each))
    return Program(np.frombuffer(array("q", words), np.int64), tuple(arrays), tuple(places))
