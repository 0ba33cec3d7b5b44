"""A backend on array_api_strict, with the second device that it pretends to have.

That library raises for whatever the standard does not promise, so what runs on it runs everywhere, and what forgets to
pass on the device of an argument is found without a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet.backend import backend_names, register_backend
from bpnet.dispatch import Array
from bpnet.errors import BackendError

STRICT = "strict"


def register() -> None:
    """Make it known as the backend "strict", and "strict:device1" for its second device, unless it is."""
    if STRICT not in backend_names():
        register_backend(STRICT, StrictBackend)


class StrictBackend:
    """array_api_strict on `device`: None, "device1" or "device2"."""

    def __init__(self, device: str | None = None) -> None:
        try:
            import array_api_strict as strict
        except ImportError as error:
            raise BackendError(
                f"array_api_strict cannot be imported ({error}); install it with pip install array-api-strict"
            ) from error
        self.name = STRICT if device is None else f"{STRICT}:{device}"
        self.xp: Any = strict
        self.array_type: Any = type(strict.asarray(0))
        self.device = strict.Device(device or "CPU_DEVICE")

    def asarray(self, x: Any, dtype: str | None = None) -> Array:
        """Return `x` as an array of array_api_strict on this device."""
        kind = getattr(self.xp, dtype) if dtype else None
        if isinstance(x, self.array_type):
            moved = x if x.device == self.device else x.to_device(self.device)
            return moved if kind is None or moved.dtype == kind else self.xp.astype(moved, kind, device=self.device)
        return self.xp.asarray(np.asarray(x, dtype=dtype), device=self.device)

    def to_numpy(self, x: Array) -> Any:
        """Return a copy of `x`."""
        return np.array(x.to_device(self.xp.Device("CPU_DEVICE")))

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Return zeros on this device."""
        return self.xp.zeros(shape, dtype=getattr(self.xp, dtype), device=self.device)

    def describe(self) -> dict[str, str]:
        """Return the version and the device."""
        return {"version": self.xp.__version__, "device": str(self.device)}

    def synchronize(self) -> None:
        """Do nothing: its calls return when they are done."""
