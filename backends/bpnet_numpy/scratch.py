"""Scratch: what a body writes and reads while it runs, and nobody before or behind it.

The calls of a plan are made one after the other, so that what one call writes on the way may lie where another one did.
`shared()` is a block in which the calls of one plan are bound. Before each kernel the plan lends memory that nobody
else uses while its calls run: what one kernel borrowed, the next one may borrow again, and arrays lie there before and
after.
Calls that run at the same time are parts of one kernel, and so have memory of their own. Where nothing is shared, as in
an eager step, what is borrowed is a new array, which goes with the call.

What must outlive a call (a border of zeros, a table) is not scratch: a body makes it by NumPy's functions.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

Array = Any

SMALL = 1 << 12
"""Bytes up to which an array is made for itself."""

CACHE_LINE = 64
"""Bytes; what is borrowed of one piece begins with one of its own."""

_here = threading.local()


class Scratch:
    """Memory of which bodies take one piece after the other, or which tells how much it would have to be.

    asked : the bytes that have been asked for since the last `lend`
    """

    def __init__(self) -> None:
        self.asked = 0
        self._memory: Array | None = None

    def lend(self, memory: Array | None) -> None:
        """Let the next bodies use this vector of uint8; where it is too small or None, memory of their own."""
        self._memory, self.asked = memory, 0

    def take(self, shape: tuple[int, ...], dtype: Any, like: Array) -> Array:
        """An array in what was lent, behind those taken before."""
        start, size = self.asked, math.prod(shape) * dtype.itemsize
        self.asked += -(-size // CACHE_LINE) * CACHE_LINE
        if self._memory is None or start + size > len(self._memory):
            return np.empty(shape, dtype, like=like)
        return self._memory[start : start + size].view(dtype).reshape(shape)


@contextmanager
def shared() -> Iterator[Scratch]:
    """A block in which this thread binds the calls of one plan."""
    before = getattr(_here, "scratch", None)
    _here.scratch = scratch = Scratch()
    try:
        yield scratch
    finally:
        _here.scratch = before


def borrow(shape: tuple[int, ...] | int, dtype: Any, like: Array) -> Array:
    """An array, C-contiguous, of which nothing may be read before it was written in the same call.

    like : an argument of the kernel, so that what stands for an array gives its like
    """
    scratch: Scratch | None = getattr(_here, "scratch", None)
    shape, dtype = (shape,) if isinstance(shape, int) else tuple(shape), np.dtype(dtype)
    if scratch is None or math.prod(shape) * dtype.itemsize <= SMALL:
        return np.empty(shape, dtype, like=like)
    return scratch.take(shape, dtype, like)


def borrow_like(x: Array) -> Array:
    """Scratch of the shape, dtype and layout of x."""
    return borrow(x.shape, x.dtype, x) if x.flags.c_contiguous else np.empty_like(x)
