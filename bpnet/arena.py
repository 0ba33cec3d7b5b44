"""Which values of a recorded step lie in the same memory, and where in it.

A value is in use from the call that makes it to the last one that reads it, or a view of it. What is never in use at
the same time may have the same bytes, whatever its shape and dtype. How to lay out spans of time and bytes in the least
memory is a hard problem; the rule here is greedy: the largest first, each into the smallest gap that holds it between
those already laid out that are in use meanwhile (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net
Inference", 2020).
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bpnet.dispatch import Array, Kernel
from bpnet.trace import Step, Value, flat


@dataclass(eq=False)
class Storage:
    """Memory of one value, or of several of one shape and dtype each of which is written over the one before.

    first, last : the indices of the calls between which it is in use, both included
    """

    values: list[Value]
    first: int
    last: int

    @property
    def bytes(self) -> int:
        """Of each of its values."""
        return bytes_of(self.values[0])


def bytes_of(value: Value) -> int:
    """The size of a value's array."""
    bits = value.dtype.lstrip("abcdefghijklmnopqrstuvwxyz")
    return math.prod(value.shape) * (int(bits) // 8 if bits else 1)


def roots(steps: Iterable[Step]) -> dict[Value, Value]:
    """For every view of an intermediate or an input, the value whose memory it shows."""
    root: dict[Value, Value] = {}
    for step in steps:
        source = step.args[0] if step.kernel.view and isinstance(step.out, Value) else None
        if isinstance(source, Value) and source.fixed is None and step.out is not source:
            root[step.out] = root.get(source, source)
    return root


def storages(
    steps: Sequence[Step], inputs: Iterable[Value], result: Value, overwrites: Callable[[Kernel], bool]
) -> list[Storage]:
    """What the steps need of memory beside fixed arrays and inputs, in the order in which it comes into use.

    A view needs none. The result is in use until the end.
    overwrites : whether a kernel's result may be written over its first argument
    """
    root = roots(steps)
    given = set(inputs)
    first: dict[Value, int] = {}
    last: dict[Value, int] = {}
    for index, step in enumerate(steps):
        for value in flat((step.args, step.out)):
            if isinstance(value, Value) and value.fixed is None:
                owner = root.get(value, value)
                if owner not in given:
                    first.setdefault(owner, index)
                    last[owner] = index
    kept = root.get(result, result)
    if kept in last:
        last[kept] = len(steps)
    found = {value: Storage([value], first[value], last[value]) for value in first}
    for index, step in enumerate(steps):
        over, out = step.args[0], step.out
        if (
            isinstance(over, Value)
            and isinstance(out, Value)
            and last.get(over) == index == first.get(out)
            and (over.shape, over.dtype) == (out.shape, out.dtype)
            and overwrites(step.kernel)
            and not any(root.get(each) is over for each in flat(step.args) if isinstance(each, Value))
        ):
            own = found[out] = found[over]
            own.values.append(out)
            own.last = last[out]
    return list(dict.fromkeys(found.values()))


@dataclass(frozen=True)
class Span:
    """Bytes that are in use from one call to another, both included."""

    first: int
    last: int
    size: int


def rounded(size: int, alignment: int) -> int:
    """The next multiple of the alignment."""
    return -(-size // alignment) * alignment


def laid_out(spans: Sequence[Span]) -> tuple[list[int], int]:
    """Where each span begins, and the bytes of all: no two that are in use at the same time overlap.

    The same spans are laid out in the same way. With sizes that are multiples of a number, so are the places.
    """
    places = [0] * len(spans)
    total = 0
    done: list[tuple[int, int, int, int]] = []  # begin, end, first, last; by where they begin
    for index in sorted(range(len(spans)), key=lambda i: (-spans[i].size, spans[i].first, i)):
        span = spans[index]
        best, room, end = -1, 0, 0
        for begin, behind, first, last in done:
            if first <= span.last and span.first <= last:
                if begin - end >= span.size and (best < 0 or begin - end < room):
                    best, room = end, begin - end
                end = max(end, behind)
        place = end if best < 0 else best
        places[index] = place
        insort(done, (place, place + span.size, span.first, span.last))
        total = max(total, place + span.size)
    return places, total


class Arena:
    """One memory of a backend that has `carve`, for values and for the scratch of calls.

    asked  : bytes of scratch, by the index of the call
    arrays : of the values of all storages; lent : the scratch, vectors of uint8 by the index of the call
    """

    def __init__(self, backend: Any, stored: Sequence[Storage], asked: Mapping[int, int]) -> None:
        spans = [Span(each.first, each.last, rounded(each.bytes, backend.alignment)) for each in stored]
        spans += [Span(index, index, rounded(size, backend.alignment)) for index, size in asked.items()]
        places, self.bytes = laid_out(spans)
        self.memory: Array = backend.zeros((self.bytes,), "uint8")
        self.arrays: dict[Value, Array] = {}
        for each, place in zip(stored, places, strict=False):
            value = each.values[0]
            self.arrays |= dict.fromkeys(each.values, backend.carve(self.memory, place, value.shape, value.dtype))
        scratch = zip(asked.items(), places[len(stored) :], strict=True)
        self.lent = {index: self.memory[place : place + size] for (index, size), place in scratch}


def of_equal_shapes(stored: Iterable[Storage], new: Callable[[Value], Array]) -> dict[Value, Array]:
    """An array for each value, where one array may serve values of its shape and dtype alone.

    new : makes an array for such a value
    """
    found: dict[Value, Array] = {}
    known: dict[tuple[tuple[int, ...], str], list[tuple[int, Array]]] = {}
    for each in stored:
        value = each.values[0]
        arrays = known.setdefault((value.shape, value.dtype), [])
        place = next((i for i, (last, _) in enumerate(arrays) if last < each.first), None)
        array = new(value) if place is None else arrays.pop(place)[1]
        arrays.append((each.last, array))
        found |= dict.fromkeys(each.values, array)
    return found
