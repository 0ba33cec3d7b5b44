"""Passes over vectors that optimizers are made of: by the BLAS in one where it has that, else by NumPy's ufuncs."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bpnet.dispatch import Call
from bpnet_numpy.blas import axpby, real
from bpnet_numpy.kernels.common import Array, constant

DRIFT = 1.5e-5
"""How far a moving average may come to lie beside what it follows, relative to it, because 1 - rate is rounded: half of
the bound that every variant is held to in float32. That y itself is rounded may take it further, here as elsewhere."""


class Number:
    """A number that may be another one at each step, for NumPy's passes and for the BLAS."""

    __slots__ = ("array", "real")

    def __init__(self, value: float, dtype: np.dtype[Any]) -> None:
        self.array = constant(value, dtype)
        self.real = real(value, dtype)

    def set(self, value: float) -> None:
        """Let it be `value` from the next call on."""
        self.array[...] = value
        self.real.value = value


def combine(y: Array, x: Array, by: Number | None, scratch: Array, *, keep: Number | None = None) -> list[Call]:
    """The calls that set `y` to keep y + by x, both 1 where None; `scratch`, which may be x, is written over."""
    calls: list[Call] = [] if keep is None else [partial(np.multiply, y, keep.array, y)]
    if by is not None:
        calls.append(partial(np.multiply, x, by.array, scratch))
    calls.append(partial(np.add, y, x if by is None else scratch, y))
    by, keep = by or Number(1, y.dtype), keep or Number(1, y.dtype)
    found = axpby(by.real, x, keep.real, y)
    return calls if found is None else [partial(_in_one_pass, found, by.real, keep.real, calls)]


def _in_one_pass(found: Call, by: Any, keep: Any, calls: list[Call]) -> None:
    if by.value and keep.value:
        found()
    else:  # where one is 0 the BLAS does not look at the vector, but 0 times infinity is NaN
        for call in calls:
            call()


def decayed(w: Array, gradient: Array, decay: Array, out: Array) -> list[Call]:
    """The calls that set `out` to gradient + decay w, weight decay as a penalty's gradient."""
    return [partial(np.multiply, w, decay, out), partial(np.add, out, gradient, out)]


def follow(y: Array, x: Array, rate: float, scratch: Array) -> list[Call]:
    """The calls that add rate (x - y) to `y`, a moving average of x; `scratch`, which may be x, is written over.

    In one pass, rate x + (1 - rate) y, where 1 - rate is near enough to a number of the dtype: else y would in the long
    run be a little larger or smaller than an x that stays, by that difference over the rate.
    """
    kept = float(y.dtype.type(1 - rate))
    if kept > 0 and rate > 0 and abs(kept - (1 - rate)) <= DRIFT * rate:
        found = axpby(real(rate, y.dtype), x, real(kept, y.dtype), y)
        if found is not None:
            return [found]
    return [partial(np.subtract, x, y, scratch), *combine(y, scratch, Number(rate, y.dtype), scratch)]
