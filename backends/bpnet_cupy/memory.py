"""Where the arrays lie, as ctypes needs to know it."""

from __future__ import annotations

import warnings
from typing import Any, Protocol

from bpnet.dispatch import Array


class Memory(Protocol):
    """Where the arrays lie."""

    def pointer(self, x: Array) -> int:
        """The address of the first element."""

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        """A C-contiguous array whose values are not set."""

    def asarray(self, host: Any) -> Array:
        """A copy of a NumPy array."""

    def to_numpy(self, x: Array) -> Any:
        """A NumPy array with the contents of `x`."""

    def device(self) -> int:
        """The number of the current device."""

    def stream(self) -> int:
        """The handle of the current stream."""


class CupyMemory:
    """CuPy's arrays on its current device and stream."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._runtime = cupy.cuda.runtime
        self._current = cupy.cuda.get_current_stream

    def pointer(self, x: Array) -> int:
        """The address in the device's memory."""
        return int(x.data.ptr)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        """From CuPy's pool, whose blocks start at multiples of 512 bytes."""
        return self._cupy.empty(shape, dtype)

    def asarray(self, host: Any) -> Array:
        """Copied to the device."""
        return self._cupy.asarray(host)

    def to_numpy(self, x: Array) -> Any:
        """Copied to the host; waits."""
        return self._cupy.asnumpy(x)

    def device(self) -> int:
        """CuPy's current device."""
        return int(self._runtime.getDevice())

    def stream(self) -> int:
        """CuPy's current stream."""
        return int(self._current().ptr)


_said: set[str] = set()


def say_once(message: str) -> None:
    """Warn, the first time that this is to be said in the process."""
    if message not in _said:
        _said.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=3)
