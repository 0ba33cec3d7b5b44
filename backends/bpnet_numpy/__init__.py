"""The NumPy backend of bpnet: arrays in the host's memory, products by NumPy's BLAS."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from bpnet.abilities import Scratch
from bpnet.errors import BackendError

__all__ = ["NumpyBackend"]

ALIGNMENT = 256  # bytes; every parameter starts at such a multiple
CACHE_LINE = 64  # bytes; every array of a plan does
BLOCK = 512
"""Samples: what a layer some hundreds wide makes of them stays in the second-level cache."""


class NumpyBackend:
    """NumPy on the CPU. `device` may be None or "cpu"; `BPNET_THREADS` sets the threads of NumPy's OpenBLAS."""

    def __init__(self, device: str | None = None) -> None:
        if device not in (None, "cpu"):
            raise BackendError(f"NumPy has no device {device!r}; use 'numpy'")
        self.name = "numpy"
        self.xp: Any = np
        self.array_type: Any = np.ndarray
        self.block = BLOCK
        self.alignment = CACHE_LINE
        from bpnet_numpy import fused

        fused.why_not()  # what the environment says must be sound before anything is registered
        import bpnet_numpy.kernels  # noqa: F401  (registers the variants)
        from bpnet_numpy import threads

        threads.settle()

    def asarray(self, x: Any, dtype: str | None = None) -> Any:
        """Return `x` as an ndarray in C order, itself where nothing has to change."""
        return np.asarray(x, dtype=dtype, order="C")

    def to_numpy(self, x: Any) -> Any:
        """Return `x`."""
        return np.asarray(x)

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return zeros in C order whose data start at a multiple of 256 bytes."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = np.zeros(size + ALIGNMENT, dtype=np.uint8)
        start = -raw.__array_interface__["data"][0] % ALIGNMENT
        return raw[start : start + size].view(dtype).reshape(shape)

    def carve(self, memory: Any, start: int, shape: tuple[int, ...], dtype: str) -> Any:
        """Return an array in C order in the bytes of `memory`, a vector of uint8, from `start` on."""
        kind = np.dtype(dtype)
        return memory[start : start + math.prod(shape) * kind.itemsize].view(kind).reshape(shape)

    def shared_scratch(self) -> AbstractContextManager[Scratch]:
        """A block in which calls are bound that are made one after the other, and may share their scratch."""
        from bpnet_numpy.scratch import shared

        return shared()

    def __repr__(self) -> str:
        return "<backend numpy>"

    def describe(self) -> dict[str, str]:
        """Return NumPy's version, the device, and who makes the kernels; `bpnet doctor` reports the BLAS."""
        from bpnet_numpy import fused

        return {"version": np.__version__, "device": "cpu", "kernels": fused.made_by()}

    def synchronize(self) -> None:
        """Do nothing: NumPy's calls return when they are done."""
