"""A backend whose arrays are on the host and whose kernels are those of kernels.cu: what the tests train on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bpnet_cupy.host.arrays import DEVICE, NAMESPACE, HostArray
from bpnet_cupy.host.driver import aligned_zeros


class HostBackend:
    """`HostArray` in the place of CuPy's arrays; the variants are registered by whoever makes the driver."""

    def __init__(self, device: str | None = None) -> None:
        self.name = "cuda_host"
        self.xp: Any = NAMESPACE
        self.array_type: Any = HostArray
        self.alignment = 256

    def asarray(self, x: Any, dtype: str | None = None) -> Any:
        """Return `x` as an array of this backend in C order, itself where nothing has to change."""
        if isinstance(x, HostArray):
            inside = x.array
            if (dtype is None or inside.dtype == dtype) and inside.flags.c_contiguous:
                return x
            return HostArray(np.array(inside, dtype=dtype, order="C"))
        return HostArray(np.array(x, dtype=dtype, order="C"))

    def to_numpy(self, x: Any) -> Any:
        """Return a copy of `x`."""
        return x.array.copy()

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return zeros in C order whose data start at a multiple of 256 bytes."""
        return HostArray(aligned_zeros(shape, dtype))

    def carve(self, memory: Any, start: int, shape: tuple[int, ...], dtype: str) -> Any:
        """Return an array in C order in the bytes of `memory`, a vector of uint8, from `start` on."""
        kind = np.dtype(dtype)
        inside = memory.array[start : start + math.prod(shape) * kind.itemsize]
        return HostArray(inside.view(kind).reshape(shape))

    def describe(self) -> dict[str, str]:
        """Return NumPy's version and the device."""
        return {"version": np.__version__, "device": DEVICE}

    def synchronize(self) -> None:
        """Do nothing: its calls return when they are done."""
