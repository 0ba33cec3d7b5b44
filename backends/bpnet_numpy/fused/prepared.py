"""Calls that are not planned: what was bound for arguments of the same shapes is made again for others.

To bind a compiled body asks what each argument is, and writes its words anew; that costs more than a small array's
arithmetic. Both depend on the arguments' shapes, dtypes, layouts and constants alone. So the words are kept for these,
and a call copies them, sets the addresses in them, and runs.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from bpnet.dispatch import MISSED, Kernel, Variant, guarded
from bpnet_numpy.fused.instruction import ELSEWHERE, Program, address_of, machine

Array = Any
MOST = 512
"""Kinds of arguments that are known for one kernel; beyond, all are forgotten."""

LARGE = 1 << 18
"""Bytes of arguments beyond which a call is bound anew: that is little of its time, and what stands in is memory."""

_ndarray, _empty = np.ndarray, np.empty


class Prepared:
    """The shortcut of a kernel whose compiled variant is `variant`."""

    def __init__(self, kernel: Kernel, variant: Variant) -> None:
        self.kernel = kernel
        self.variant = variant
        self._known: dict[Any, _Template | None] = {}

    def __call__(self, args: tuple[Any, ...]) -> Any:
        """The kernel's result where its variant is the compiled one and nothing but a program, else MISSED."""
        if type(args[0]) is not _ndarray:
            return MISSED
        key: list[Any] = []
        arrays = []
        for arg in args:
            if type(arg) is _ndarray:
                arrays.append(arg)
                key += (arg.shape, arg.dtype, arg.flags.num)
            else:
                key += (type(arg), arg)
        try:
            kind = tuple(key)
            template = self._known[kind]
        except KeyError:
            template = self._learn(kind, args, arrays)
        except TypeError:  # what cannot be hashed, such as lists of arrays
            return MISSED
        return MISSED if template is None else template(arrays)

    def forget(self) -> None:
        """Know no arguments any more."""
        self._known.clear()

    def _learn(self, kind: Any, args: tuple[Any, ...], arrays: list[Array]) -> _Template | None:
        if len(self._known) >= MOST:
            self._known.clear()
        template = None
        compiled = self.kernel.choose(args) is self.variant and not guarded(_ndarray)
        small = sum(each.nbytes for each in arrays) <= LARGE
        if compiled and small and all(each.flags.c_contiguous for each in arrays):
            template = _Template.of(self.variant, args)
        self._known[kind] = template
        return template


class _Template:
    """Words, and which of them are addresses in which array."""

    __slots__ = ("_execute", "_kinds", "_own", "_places", "_single", "_words")

    def __init__(self, program: Program, places: Any, kinds: Any, single: bool, own: list[Array]) -> None:
        self._words = program.words
        self._places = places  # (word, number of the array: arguments, results, then its own; offset in bytes)
        self._kinds = kinds  # (shape, dtype) of each result, None where there is none
        self._single = single  # whether it is one result and not a tuple
        self._own = own  # what the program needs beside them, of which each call gets a copy
        self._execute = machine().execute

    @classmethod
    def of(cls, variant: Variant, args: tuple[Any, ...]) -> _Template | None:
        """None where a bound call is more than a program, or a result not an array of its own.

        It is bound to arrays that stand for the arguments, so that each is known by its address, also where one array
        is given twice.
        """
        stand_ins = tuple(_stand_in(arg) if type(arg) is _ndarray else arg for arg in args)
        out = variant.allocate(*stand_ins)  # type: ignore[misc]
        results = list(out) if isinstance(out, tuple) else [] if out is None else [out]
        made = [each for each in results if each is not None]
        if any(type(each) is not _ndarray or each.base is not None or not each.flags.c_contiguous for each in made):
            return None
        calls = variant.bind(out, *stand_ins)  # type: ignore[misc]
        if not calls or not all(isinstance(call, Program) for call in calls):
            return None
        program = Program.join(calls)  # type: ignore[arg-type]
        if ELSEWHERE in program.places:  # its parts point at arrays too
            return None
        known = [each for each in (*stand_ins, *made) if type(each) is _ndarray]
        ranges = [(address_of(each), each.nbytes) for each in known]
        places, own = [], list[Array]()
        for word, array in zip(program.places, program.arrays, strict=True):
            start = address_of(array)
            inside = [i for i, (first, size) in enumerate(ranges) if first <= start < first + max(size, 1)]
            if inside:
                places.append((word, inside[0], start - ranges[inside[0]][0]))
            else:
                places.append((word, len(known) + len(own), 0))
                own.append(array)
        if not _apart(own):
            return None
        kinds = tuple(None if each is None else (each.shape, each.dtype) for each in results)
        return cls(program, tuple(places), kinds, not isinstance(out, tuple), own)

    def __call__(self, arrays: list[Array]) -> Any:
        out = [None if kind is None else _empty(*kind) for kind in self._kinds]
        arrays += [each for each in out if each is not None]
        if self._own:
            arrays += [each.copy() for each in self._own]
        words = self._words.copy()
        for word, array, offset in self._places:
            words[word] = address_of(arrays[array]) + offset
        self._execute(words)
        if self._single:
            return out[0] if out else None
        return tuple(out)


def _apart(arrays: list[Array]) -> bool:
    """Whether each array is whole and has its memory for itself, so that a copy of each can take its place."""
    ranges = sorted((address_of(each), address_of(each) + each.nbytes) for each in arrays)
    return all(each.flags.c_contiguous for each in arrays) and all(a[1] <= b[0] for a, b in pairwise(ranges))


def _stand_in(array: Array) -> Array:
    """An array of the same kind; what is bound asks nothing about values."""
    found = np.empty(array.shape, array.dtype)
    found.flags.writeable = array.flags.writeable
    return found
