"""The CuPy backend of bpnet: arrays in a CUDA device's memory; every op runs on the generic Array API path."""

from __future__ import annotations

from typing import Any

from bpnet.errors import BackendError

__all__ = ["CupyBackend"]

INSTALL = 'pip install "bpnet-xp[cuda12]" (or [cuda13], to match the driver: `nvidia-smi` prints its CUDA version)'


class CupyBackend:
    """CuPy on one CUDA GPU. `device` is the GPU's index as text, or None for CuPy's current device."""

    def __init__(self, device: str | None = None) -> None:
        if device is not None and not device.isdecimal():
            raise BackendError(f"a CUDA device is a number, as in 'cupy:1'; got {device!r}")
        try:
            import array_api_compat.cupy as xp
            import cupy
        except ImportError as error:
            raise BackendError(f"CuPy cannot be imported ({error}); install it with {INSTALL}") from error
        self._cupy = cupy
        count = _device_count(cupy)
        self.index = int(device) if device is not None else cupy.cuda.Device().id
        if self.index >= count:
            raise BackendError(
                f"there is no CUDA device {self.index}; this machine has {count}: "
                + ", ".join(f"'cupy:{i}'" for i in range(count))
            )
        self.name = "cupy" if device is None else f"cupy:{device}"
        self.xp: Any = xp
        self.array_type: Any = cupy.ndarray
        self._device = cupy.cuda.Device(self.index)
        if device is not None:
            self._device.use()

    def asarray(self, x: Any, dtype: str | None = None) -> Any:
        """Return `x` (host or device) as a CuPy array on this device."""
        with self._device:
            return self._cupy.asarray(x, dtype=dtype, order="C")

    def to_numpy(self, x: Any) -> Any:
        """Copy `x` to the host; waits for the device."""
        return self._cupy.asnumpy(x)

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return zeros on the device; CuPy's pool starts every block at a multiple of 512 bytes."""
        with self._device:
            return self._cupy.zeros(shape, dtype=dtype)

    def __repr__(self) -> str:
        return f"<backend {self.name}, GPU {self.index}>"

    def describe(self) -> dict[str, str]:
        """Return CuPy's version, the GPU's name and the CUDA runtime and driver versions."""
        runtime = self._cupy.cuda.runtime
        with self._device:
            name = runtime.getDeviceProperties(self.index)["name"].decode()
        return {
            "version": self._cupy.__version__,
            "device": f"cuda:{self.index} {name}",
            "cuda runtime": str(runtime.runtimeGetVersion()),
            "cuda driver": str(runtime.driverGetVersion()),
        }

    def synchronize(self) -> None:
        """Wait until the device has finished all work of this process's current stream."""
        with self._device:
            self._cupy.cuda.get_current_stream().synchronize()


def _device_count(cupy: Any) -> int:
    """The number of usable CUDA devices, at least one; BackendError with the remedy otherwise."""
    try:
        count: int = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        text = str(error)
        if "InsufficientDriver" in text:
            remedy = (
                "there is no NVIDIA driver, or it is older than this CuPy needs: install or update the driver "
                "(`nvidia-smi` must work), or run on the CPU with BPNET_BACKEND=numpy"
            )
        else:
            remedy = "check `nvidia-smi` and CUDA_VISIBLE_DEVICES, or run on the CPU with BPNET_BACKEND=numpy"
        raise BackendError(f"CuPy {cupy.__version__} finds no usable GPU: {text}; {remedy}") from error
    if count < 1:
        raise BackendError(
            f"CuPy {cupy.__version__} sees no GPU (CUDA_VISIBLE_DEVICES hides all of them?); "
            "run on the CPU with BPNET_BACKEND=numpy"
        )
    return count
