"""Scratch: what a body writes and reads while it runs, and nobody before or behind it.

The calls of a plan are made one after the other, so that what one call writes on the way may lie where another one did.
`shared()` is a block in which the calls of one plan are bound; what one kernel borrowed, the next one may borrow again.
Calls that run at the same time are parts of one kernel, and so have memory of their own. Where nothing is shared, as in
an eager step, what is borrowed is a new array, which goes with the call.

What must outlive a call (a border of zeros, a table) is not scratch: a body makes it by NumPy's functions.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

Array = Any

SMALL = 1 << 12
"""Bytes up to which an array is made for itself."""

_here = threading.local()


class Blocks:
    """Pieces of memory of which each may be many arrays, one after the other."""

    def __init__(self) -> None:
        self._free: list[Array] = []  # by size
        self._taken: list[Array] = []

    def release(self) -> None:
        """What was taken is free again."""
        self._free = sorted(self._free + self._taken, key=len)
        self._taken = []

    def take(self, shape: tuple[int, ...], dtype: Any, like: Array) -> Array:
        """An array in the smallest free piece that holds it, or in a new one."""
        size = math.prod(shape) * dtype.itemsize
        place = next((i for i, each in enumerate(self._free) if len(each) >= size), None)
        block = np.empty(size, np.uint8, like=like) if place is None else self._free.pop(place)
        self._taken.append(block)
        return block[:size].view(dtype).reshape(shape)


@contextmanager
def shared() -> Iterator[Callable[[], None]]:
    """A block in which this thread binds the calls of one plan; what it gives is called between two kernels."""
    before = getattr(_here, "blocks", None)
    _here.blocks = blocks = Blocks()
    try:
        yield blocks.release
    finally:
        _here.blocks = before


def borrow(shape: tuple[int, ...] | int, dtype: Any, like: Array) -> Array:
    """An array, C-contiguous, of which nothing may be read before it was written in the same call.

    like : an argument of the kernel, so that what stands for an array gives its like
    """
    blocks = getattr(_here, "blocks", None)
    shape, dtype = (shape,) if isinstance(shape, int) else tuple(shape), np.dtype(dtype)
    if blocks is None or math.prod(shape) * dtype.itemsize <= SMALL:
        return np.empty(shape, dtype, like=like)
    return blocks.take(shape, dtype, like)


def borrow_like(x: Array) -> Array:
    """Scratch of the shape, dtype and layout of x."""
    return borrow(x.shape, x.dtype, x) if x.flags.c_contiguous else np.empty_like(x)
