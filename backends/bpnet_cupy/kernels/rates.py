"""The learning rate: a schedule's formula as a program for one thread, so that a step reads no number on the host."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.common import FLOAT64, Array, counts, nothing, rate

INSTRUCTIONS = (
    "NUMBER", "STEP", "ADD", "SUBTRACT", "MULTIPLY", "DIVIDE", "POWER", "LESS", "LESS_EQUAL", "MINIMUM", "FLOOR",
    "COSINE", "WHERE",
)  # fmt: skip
"""In the order of the enumeration in kernels.cu."""

DEPTH = 24
"""Numbers that the kernel can hold at once."""


class Term:
    """A part of a formula, in postfix form: pairs of an instruction and a number, which only NUMBER has."""

    def __init__(self, *program: tuple[str, float]) -> None:
        self.program = program

    def __bool__(self) -> bool:
        raise TypeError("a formula that branches on its step cannot be a program")

    def __add__(self, other: Any) -> Term:
        return combined("ADD", self, other)

    def __radd__(self, other: Any) -> Term:
        return combined("ADD", other, self)

    def __sub__(self, other: Any) -> Term:
        return combined("SUBTRACT", self, other)

    def __rsub__(self, other: Any) -> Term:
        return combined("SUBTRACT", other, self)

    def __mul__(self, other: Any) -> Term:
        return combined("MULTIPLY", self, other)

    def __rmul__(self, other: Any) -> Term:
        return combined("MULTIPLY", other, self)

    def __truediv__(self, other: Any) -> Term:
        return combined("DIVIDE", self, other)

    def __rtruediv__(self, other: Any) -> Term:
        return combined("DIVIDE", other, self)

    def __pow__(self, other: Any) -> Term:
        return combined("POWER", self, other)

    def __rpow__(self, other: Any) -> Term:
        return combined("POWER", other, self)

    def __neg__(self) -> Term:
        return combined("MULTIPLY", -1.0, self)

    def __lt__(self, other: Any) -> Term:
        return combined("LESS", self, other)

    def __le__(self, other: Any) -> Term:
        return combined("LESS_EQUAL", self, other)

    def __gt__(self, other: Any) -> Term:
        return combined("LESS", other, self)

    def __ge__(self, other: Any) -> Term:
        return combined("LESS_EQUAL", other, self)


def combined(instruction: str, *terms: Any) -> Term:
    """The instruction behind its terms; a number becomes one."""
    parts = [each if isinstance(each, Term) else Term(("NUMBER", float(each))) for each in terms]
    return Term(*(step for part in parts for step in part.program), (instruction, 0.0))


class Terms:
    """The functions of a formula, for terms."""

    @staticmethod
    def cos(x: Any) -> Term:
        """The cosine."""
        return combined("COSINE", x)

    @staticmethod
    def floor(x: Any) -> Term:
        """The largest whole number that is not larger."""
        return combined("FLOOR", x)

    @staticmethod
    def minimum(a: Any, b: Any) -> Term:
        """The smaller of the two."""
        return combined("MINIMUM", a, b)

    @staticmethod
    def where(condition: Any, a: Any, b: Any) -> Term:
        """`a` where the condition holds, else `b`."""
        return combined("WHERE", condition, a, b)


_TAKEN = {"NUMBER": 0, "STEP": 0, "FLOOR": 1, "COSINE": 1, "WHERE": 3}


@lru_cache(maxsize=256)
def program_of(schedule: Any) -> tuple[tuple[str, float], ...] | None:
    """The schedule's rate as a program, or None where it uses what no instruction stands for."""
    try:
        found = schedule.rate(Term(("STEP", 0.0)), Terms)
    except (TypeError, AttributeError, ValueError):
        return None
    if isinstance(found, (int, float)):
        found = Term(("NUMBER", float(found)))
    if not isinstance(found, Term):
        return None
    depth = deepest = 0
    for instruction, _ in found.program:
        depth += 1 - _TAKEN.get(instruction, 2)
        deepest = max(deepest, depth)
    return found.program if deepest <= DEPTH else None


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""

    @ops.set_rate_.register_bound(
        array_type,
        accepts=lambda learning_rate, counters, schedule: (
            rate(learning_rate) and counts(counters) and program_of(schedule) is not None
        ),
        allocate=nothing,
    )
    def _(_: None, learning_rate: Array, counters: Array, schedule: Any) -> list[Call]:
        program = program_of(schedule)
        assert program is not None
        codes = driver.constants([INSTRUCTIONS.index(instruction) for instruction, _ in program], np.dtype("int32"))
        numbers = driver.constants([value for _, value in program], FLOAT64)
        args = (learning_rate, counters, codes, numbers, np.int64(len(program)))
        return [driver.launch("set_rate", 1, 32, args)]

    @ops.scale_rate_.register_bound(
        array_type, accepts=lambda target, learning_rate, scale: rate(target) and rate(learning_rate), allocate=nothing
    )
    def _(_: None, target: Array, learning_rate: Array, scale: float) -> list[Call]:
        return [driver.launch("scale_rate", 1, 32, (target, learning_rate, np.float64(scale)))]
