"""Arrays without memory: shape, dtype and strides are true, and what would be allocated is written in a ledger.

An `Outline` is a NumPy array, so every rule of shapes, views and dtypes is NumPy's own, and kernels choose for it the
bodies that they would choose for an array. Its data are pages of the address space that nobody touches: all outlines
lie on the same ones. What computes is asked by NumPy's two protocols (`__array_ufunc__`, `__array_function__`) and
answers with an outline of the result. A block of the ledger lives as long as an array, or a view of it, does.
"""

from __future__ import annotations

import math
import mmap
import platform
import sys
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from bpnet.memory.ledger import Block, OutlineError, ledger

Array = Any
_KNOWN = {"linux": 0x4000 if platform.machine() in ("x86_64", "aarch64", "riscv64") else 0, "darwin": 0x40}
NO_RESERVE: int = getattr(mmap, "MAP_NORESERVE", _KNOWN.get(sys.platform, 0))
"""The flag of a mapping for which no memory is set aside; Python has its name from 3.13 on."""
SMALL = 1 << 12  # bytes that something may really allocate on the way
NEVER_COPY: dict[str, Any] = {"copy": False} if np.lib.NumpyVersion(np.__version__) >= "2.1.0" else {}

Found = tuple[list[tuple[int, ...]], tuple[Any, ...]]
FUNCTIONS: dict[Any, Callable[..., Any]] = {}
"""What functions of NumPy give, filled by `bpnet.memory.rules`."""
METHODS: dict[str, Callable[..., Found]] = {}
"""Shapes and dtypes of what the methods of a ufunc give, filled there too."""


_region: mmap.mmap | None = None


def _pages(n: int) -> mmap.mmap:
    """At least n bytes of the address space that no memory stands behind until somebody writes there."""
    global _region
    found = _region
    if found is None or len(found) < n:
        size = max(1 << 30, 1 << (n - 1).bit_length())
        try:
            if NO_RESERVE:
                found = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
            else:
                found = mmap.mmap(-1, size)
        except (OSError, OverflowError, ValueError) as error:
            raise OutlineError(f"an array of {n:,} bytes is more than this process may address: {error}") from error
        _region = found
    return found


def outline(shape: Any, dtype: Any, extra: int = 0) -> Outline:
    """A new array without memory. extra : bytes that are allocated beside it"""
    shape = tuple(int(k) for k in shape) if isinstance(shape, (tuple, list)) else (int(shape),)
    kind = np.dtype(dtype)
    n = math.prod(shape) * kind.itemsize
    found: Outline = np.ndarray.__new__(Outline, shape, kind, buffer=_pages(n))
    found.block = Block(n + extra)
    return found


def reduced(shape: tuple[int, ...], axis: Any, keepdims: bool) -> tuple[int, ...]:
    """A shape without an axis, some axes, or (None) all of them."""
    axes = range(len(shape)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    gone = {int(each) % max(1, len(shape)) for each in axes}
    if keepdims:
        return tuple(1 if k in gone else n for k, n in enumerate(shape))
    return tuple(n for k, n in enumerate(shape) if k not in gone)


class Outline(np.ndarray):
    """An array that has shape, dtype and strides, and no memory."""

    block: Block | None

    def __array_finalize__(self, source: Any) -> None:
        self.block = getattr(source, "block", None)
        if self.flags.owndata and self.nbytes > SMALL:
            raise OutlineError("an operation on an array that has no memory would have allocated some")

    @staticmethod
    def constants(name: Hashable) -> dict[Hashable, Array]:
        """What is made once and kept, under this ledger."""
        return ledger().known.setdefault(name, {})

    # --- what computes ---

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **keywords: Any) -> Any:
        if method == "at":
            return None
        shapes, dtypes = METHODS[method](ufunc, inputs, keywords)
        places = (None,) * len(dtypes) if out is None else out if isinstance(out, tuple) else (out,)
        found = [
            outline(shape, dtype) if place is None else place
            for place, shape, dtype in zip(places, shapes, dtypes, strict=True)
        ]
        return found[0] if len(found) == 1 else tuple(found)

    def __array_function__(self, function: Any, types: Any, args: Any, keywords: Any) -> Any:
        handler = FUNCTIONS.get(function)
        if handler is not None:
            return handler(*args, **keywords)
        return super().__array_function__(function, types, args, keywords)

    # --- what NumPy would do without asking ---

    def __getitem__(self, key: Any) -> Any:
        keys = key if isinstance(key, tuple) else (key,)
        if any(isinstance(each, (np.ndarray, list)) for each in keys):
            return FUNCTIONS["picked"](self, keys)
        if not any(each is Ellipsis for each in keys):
            key = (*keys, Ellipsis)  # so that a single number stays an array
        return super().__getitem__(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def reshape(self, *shape: Any, **keywords: Any) -> Any:
        """A view, or a new outline where NumPy would copy."""
        new = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        new = tuple(int(k) for k in new)
        if -1 in new:
            rest = -math.prod(new)
            new = tuple((self.size // rest if rest else 0) if k == -1 else k for k in new)
        if math.prod(new) != self.size or min(new, default=0) < 0:
            raise ValueError(f"cannot reshape array of size {self.size} into shape {new}")
        if self.flags.c_contiguous:
            return super().reshape(new)
        try:
            return self._seen_as(new)
        except (ValueError, AttributeError):  # NumPy would copy
            return outline(new, self.dtype)

    def _seen_as(self, shape: tuple[int, ...]) -> Any:
        if NEVER_COPY:
            return super().reshape(shape, **NEVER_COPY)
        view = self.view()
        view.shape = shape
        return view

    def astype(self, dtype: Any, *_: Any, copy: Any = True, **keywords: Any) -> Any:
        """A new outline, or the same where no copy is asked for and the dtype is this."""
        return self if not copy and self.dtype == dtype else outline(self.shape, dtype)

    def copy(self, *_: Any, **keywords: Any) -> Any:
        """A new outline."""
        return outline(self.shape, self.dtype)

    def flatten(self, *_: Any, **keywords: Any) -> Any:
        """A new outline."""
        return outline((self.size,), self.dtype)

    def ravel(self, *_: Any, **keywords: Any) -> Any:
        """A view where NumPy makes one."""
        return self.reshape(-1)

    def fill(self, value: Any) -> None:
        """Nothing."""

    def sort(self, *_: Any, **keywords: Any) -> None:
        """Nothing."""

    def argsort(self, *_: Any, **keywords: Any) -> Any:
        """Integers of this shape."""
        return outline(self.shape, np.int64)

    def argmax(self, axis: Any = None, out: Any = None, *, keepdims: bool = False) -> Any:
        """Integers, one for each line along the axis."""
        return out if out is not None else outline(reduced(self.shape, axis, keepdims), np.int64)

    argmin = argmax

    def take(self, indices: Any, axis: Any = None, out: Any = None, mode: str = "raise") -> Any:
        """As many as there are indices."""
        if out is not None:
            return out
        at = 0 if axis is None else axis % self.ndim
        shape = np.shape(indices) if axis is None else (*self.shape[:at], *np.shape(indices), *self.shape[at + 1 :])
        return outline(shape, self.dtype)

    def repeat(self, repeats: Any, axis: Any = None) -> Any:
        """Each element as often as `repeats`, a number, says."""
        if not isinstance(repeats, int):
            raise OutlineError("how long the result of repeat is depends on values")
        if axis is None:
            return outline((self.size * repeats,), self.dtype)
        return outline([n * (repeats if k == axis % self.ndim else 1) for k, n in enumerate(self.shape)], self.dtype)

    def dot(self, other: Any, out: Any = None) -> Any:
        """The product."""
        return FUNCTIONS[np.dot](self, other, out)

    def _value(self) -> Any:
        if not ledger().trusted:
            raise OutlineError("the value of an array is asked for, on which nothing of a step may depend")
        return 0

    def __bool__(self) -> bool:
        return bool(self._value())

    def __float__(self) -> float:
        return float(self._value())

    def __int__(self) -> int:
        return int(self._value())

    __index__ = __int__

    def item(self, *_: Any) -> Any:
        """0 to a body of bpnet's; else OutlineError."""
        return self._value()

    def tolist(self) -> Any:
        """OutlineError."""
        raise OutlineError("the values of an array are asked for, on which nothing of a step may depend")

    def __repr__(self) -> str:
        return f"<outline {self.dtype} {self.shape}>"

    __str__ = __repr__
