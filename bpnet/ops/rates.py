"""The learning rate as a function of the number of steps taken, computed where the counters lie.

A schedule states its formula once, as `rate(step, m)`. `step` is a Python float, or a (1,) float64 array of any
library, and `m` has what both need: `m.where`, `m.minimum`, `m.floor`, `m.cos`. Arithmetic is written with operators.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

from bpnet.dispatch import Array, kernel, namespace


class Formula(Protocol):
    """What a schedule is to a kernel; it must be hashable and comparable by value."""

    def rate(self, step: Any, m: Any) -> Any:
        """The learning rate of the step after `step` steps."""


class Floats:
    """The functions of a formula for Python numbers."""

    cos = staticmethod(math.cos)
    floor = staticmethod(math.floor)
    minimum = staticmethod(min)

    @staticmethod
    def where(condition: Any, a: Any, b: Any) -> Any:
        """`a` where the condition holds, else `b`."""
        return a if condition else b


class Arrays:
    """The functions of a formula for arrays like `step`."""

    def __init__(self, step: Array) -> None:
        self._xp = namespace(step)
        self._zero = 0 * step
        self.cos = self._xp.cos
        self.floor = self._xp.floor

    def minimum(self, a: Any, b: Any) -> Array:
        """The smaller of the two."""
        return self._xp.minimum(self._zero + a, self._zero + b)

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        """`a` where the condition holds, else `b`; both are computed."""
        return self._xp.where(condition, self._zero + a, self._zero + b)


@kernel(flops=0, unread=(0,))
def set_rate_(learning_rate: Array, counters: Array, schedule: Formula) -> None:
    """learning_rate = schedule's rate after counters[0] steps. A step reads no number on the host for it."""
    xp = namespace(learning_rate)
    step = xp.astype(counters[0:1], xp.float64)
    learning_rate[...] = xp.reshape(schedule.rate(step, Arrays(step)), ())


@kernel(flops=0, unread=(0,))
def scale_rate_(target: Array, learning_rate: Array, scale: float) -> None:
    """target = scale * learning_rate, both 0-d: the rate of a group of parameters."""
    target[...] = learning_rate * scale
