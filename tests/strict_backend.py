"""A third party's backend as the tests need it: array_api_strict, with the second fake device it brings.

It is made exactly like a plug-in package would be and registered through the public door. array_api_strict raises for
whatever the standard does not promise, so running every op on it keeps NumPy-isms out.
"""

from __future__ import annotations

from typing import Any

import array_api_strict as strict
import numpy as np

import bpnet as bp


class StrictBackend:
    def __init__(self, device: str | None = None) -> None:
        self.name = "strict" if device is None else f"strict:{device}"
        self.xp: Any = strict
        self.array_type = type(strict.asarray(0))
        self.device = strict.Device(device or "CPU_DEVICE")

    def asarray(self, x: Any, dtype: str | None = None) -> Any:
        kind = getattr(strict, dtype) if dtype else None
        if isinstance(x, self.array_type):
            moved = x if x.device == self.device else x.to_device(self.device)
            return moved if kind is None or moved.dtype == kind else strict.astype(moved, kind, device=self.device)
        return strict.asarray(np.asarray(x, dtype=dtype), device=self.device)

    def to_numpy(self, x: Any) -> Any:
        return np.array(x.to_device(strict.Device("CPU_DEVICE")))

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Any:
        return strict.zeros(shape, dtype=getattr(strict, dtype), device=self.device)

    def describe(self) -> dict[str, str]:
        return {"version": strict.__version__, "device": str(self.device)}

    def synchronize(self) -> None:
        pass


def register() -> None:
    if "strict" not in bp.backend_names():
        bp.register_backend("strict", StrictBackend)
