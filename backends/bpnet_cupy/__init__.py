"""The CuPy backend of bpnet: arrays in a CUDA device's memory, products by cublasLt, steps as CUDA graphs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from bpnet.checks import switched_off
from bpnet.dispatch import Call
from bpnet.errors import BackendError
from bpnet_cupy.cublaslt import products_by
from bpnet_cupy.cudnn import convolutions_by
from bpnet_cupy.graph import Graph, capture
from bpnet_cupy.problem import precision
from bpnet_cupy.transfer import CupyUploader
from bpnet_cupy.trouble import check_compiler, device_count, import_cupy, memory_report

__all__ = ["CupyBackend"]


class CupyBackend:
    """CuPy on one CUDA GPU. `device` is the GPU's index as text, or None for CuPy's current device.

    Three streams, none of which waits for the default one by itself: `stream` for all work inside `scope`, one that is
    only captured on, and one for copies from the host. Outside of a scope work goes to CuPy's current stream.
    """

    precisions = ("float32", "tf32", "bf16")
    alignment = 256

    def __init__(self, device: str | None = None) -> None:
        if device is not None and not device.isdecimal():
            raise BackendError(f"a CUDA device is a number, as in 'cupy:1'; got {device!r}")
        switched_off("BPNET_CUDNN")  # what the environment says must be sound
        cupy, xp = import_cupy()
        self._cupy = cupy
        count = device_count(cupy)
        self.index = int(device) if device is not None else cupy.cuda.Device().id
        if self.index >= count:
            raise BackendError(
                f"there is no CUDA device {self.index}; this machine has {count}: "
                + ", ".join(f"'cupy:{i}'" for i in range(count))
            )
        self.name = "cupy" if device is None else f"cupy:{device}"
        self.xp: Any = xp
        self.array_type: Any = cupy.ndarray
        check_compiler(cupy, self._here)
        with self._here:
            self.stream, self._capture_stream, self._copy_stream = (
                cupy.cuda.Stream(non_blocking=True) for _ in range(3)
            )
        if count > 1:
            from bpnet_cupy.devices import follow_the_array

            follow_the_array(cupy)

    @property
    def _here(self) -> Any:
        """The device, to be entered: such an object remembers what was current before, so each thread needs its own."""
        return self._cupy.cuda.Device(self.index)

    def asarray(self, x: Any, dtype: str | None = None) -> Any:
        """Return `x` (host or device) as a CuPy array on this device."""
        with self._here:
            return self._cupy.asarray(x, dtype=dtype, order="C")

    def to_numpy(self, x: Any) -> Any:
        """Copy `x` to the host; waits for the device."""
        with self._here:
            return self._cupy.asnumpy(x)

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return zeros on the device; CuPy's pool starts every block at a multiple of 512 bytes."""
        with self._here:
            return self._cupy.zeros(shape, dtype=dtype)

    def carve(self, memory: Any, start: int, shape: tuple[int, ...], dtype: str) -> Any:
        """Return an array in C order in the bytes of `memory`, a vector of uint8, from `start` on."""
        kind = np.dtype(dtype)
        with self._here:
            return memory[start : start + math.prod(shape) * kind.itemsize].view(kind).reshape(shape)

    def __repr__(self) -> str:
        return f"<backend {self.name}, GPU {self.index}>"

    def describe(self) -> dict[str, str]:
        """Return CuPy's version, the GPU's name, CUDA's runtime and driver, and who makes products and convolutions."""
        runtime = self._cupy.cuda.runtime
        with self._here:
            name = runtime.getDeviceProperties(self.index)["name"].decode()
        return {
            "version": self._cupy.__version__,
            "device": f"cuda:{self.index} {name}",
            "cuda runtime": str(runtime.runtimeGetVersion()),
            "cuda driver": str(runtime.driverGetVersion()),
            "products": products_by(),
            "convolutions": convolutions_by(),
        }

    def synchronize(self) -> None:
        """Wait until the device has finished the work of this backend's streams and of the current one."""
        with self._here:
            self._cupy.cuda.get_current_stream().synchronize()
            self.stream.synchronize()
            self._copy_stream.synchronize()

    # --- what a backend may offer beyond the protocol: `bpnet.abilities` ---

    @contextmanager
    def scope(self, matmul_precision: str = "float32") -> Iterator[None]:
        """A block on this device and on this backend's stream, in any thread.

        Events join it with what the thread's current stream had to do before, and has to do behind it.
        """
        cuda = self._cupy.cuda
        with self._here, precision(matmul_precision):
            outer = cuda.get_current_stream()
            if outer.ptr == self.stream.ptr:
                yield
                return
            self.stream.wait_event(outer.record())
            try:
                with self.stream:
                    yield
            finally:
                outer.wait_event(self.stream.record())

    def capture(self, calls: Sequence[Call]) -> Graph:
        """Record prepared calls, all of which were made before, as one CUDA graph."""
        from bpnet_cupy import cudnn, products

        def prepare() -> None:
            products.prepare_stream()
            cudnn.prepare_stream()

        return capture(self._cupy, self._here, self._capture_stream, calls, prepare)

    def writer(self, buffer: Any) -> Callable[[Any], None]:
        """A function that copies arrays like `buffer` into it: one asynchronous copy where they are contiguous."""
        copy, size = buffer.data.copy_from_device_async, buffer.nbytes

        def write(x: Any) -> None:
            if x.flags.c_contiguous:
                copy(x.data, size)
            else:
                buffer[...] = x

        return write

    def uploader(self) -> CupyUploader:
        """A way for batches through page-locked memory, on a stream of their own."""
        from cupyx import empty_pinned

        return CupyUploader(self._cupy, empty_pinned, self.index, self._copy_stream)

    def explain_memory_error(self, error: MemoryError) -> str:
        """How much was asked for, what is used, and what limits it; the pool then gives back what nobody uses."""
        return memory_report(self._cupy, self._here, error)
