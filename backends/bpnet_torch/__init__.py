"""The PyTorch backend of bpnet: tensors as plain arrays, without autograd; every op runs its reference body."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bpnet.errors import BackendError

__all__ = ["TorchBackend"]

ALIGNMENT = 256  # bytes; every parameter starts at such a multiple


class TorchBackend:
    """PyTorch on one device: None or "cpu", or "cuda", "cuda:1"."""

    def __init__(self, device: str | None = None) -> None:
        try:
            import array_api_compat.torch as xp
            import torch
        except ImportError as error:
            raise BackendError(
                f'PyTorch cannot be imported ({error}); install it with pip install "bpnet-xp[torch]"'
            ) from error
        try:
            xp.maximum(torch.zeros(1), 0)
        except TypeError as error:
            raise BackendError(
                "array-api-compat is older than 1.16, and its functions for PyTorch lack what the standard has since "
                'added; pip install "bpnet-xp[torch]"'
            ) from error
        self.name = "torch" if device is None else f"torch:{device}"
        self.xp: Any = xp
        self.array_type: Any = torch.Tensor
        self.alignment = ALIGNMENT
        self.device: Any = _device(torch, device or "cpu")
        self._torch: Any = torch
        import bpnet_torch.autograd  # noqa: F401  (refuses tensors that autograd follows)

    def asarray(self, x: Any, dtype: str | None = None) -> Any:
        """Return `x` (host or device) as a contiguous tensor on this device, detached.

        A tensor of this device, and a NumPy array where the device is the CPU, give their memory where nothing has to
        change.
        """
        kind = getattr(self._torch, dtype) if dtype else None
        if not isinstance(x, self.array_type):
            host = np.asarray(x, dtype=dtype, order="C")
            native = host.dtype.newbyteorder("=")
            x = self._torch.from_numpy(host.astype(native, copy=not host.flags.writeable))
        if x.requires_grad or type(x) is not self.array_type:
            x = x.detach()  # a plain tensor, also of a torch.nn.Parameter
        return x.to(self.device, kind).contiguous()

    def to_numpy(self, x: Any) -> Any:
        """Return `x` on the host; the same memory where it lies there, bfloat16 as float32."""
        return (x.float() if x.dtype is self._torch.bfloat16 else x).numpy(force=True)

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return zeros whose memory starts at a multiple of 256 bytes."""
        kind = getattr(self._torch, dtype)
        size = math.prod(shape)
        with self._torch.inference_mode(False):  # a model first used in inference may be trained later
            raw = self._torch.zeros(size + ALIGNMENT // kind.itemsize, dtype=kind, device=self.device)
        start = -raw.data_ptr() % ALIGNMENT // kind.itemsize
        return raw[start : start + size].reshape(shape)

    def carve(self, memory: Any, start: int, shape: tuple[int, ...], dtype: str) -> Any:
        """Return a contiguous tensor in the bytes of `memory`, a vector of uint8, from `start` on."""
        kind = getattr(self._torch, dtype)
        with self._torch.inference_mode(False):
            return memory[start : start + math.prod(shape) * kind.itemsize].view(kind).reshape(shape)

    def __repr__(self) -> str:
        return f"<backend {self.name}>"

    def describe(self) -> dict[str, str]:
        """Return PyTorch's version, the device with its name, and the threads that it uses on the CPU."""
        if self.device.type == "cuda":
            return {
                "version": self._torch.__version__,
                "device": f"{self.device} {self._torch.cuda.get_device_name(self.device)}",
            }
        return {
            "version": self._torch.__version__,
            "device": "cpu",
            "threads": str(self._torch.get_num_threads()),
        }

    def synchronize(self) -> None:
        """Wait for the GPU; on the CPU every call returns when it is done."""
        if self.device.type == "cuda":
            self._torch.cuda.synchronize(self.device)


def _device(torch: Any, name: str) -> Any:
    """The device of that name, with its index where there are several; BackendError where it cannot be used."""
    kind, _, index = name.partition(":")
    if kind == "cpu" and not index:
        return torch.device("cpu")
    if kind == "mps":
        raise BackendError(
            "Apple's GPUs have no float64, in which bpnet keeps the learning rate and the sums of losses; "
            "use 'torch', PyTorch on the CPU"
        )
    if kind != "cuda" or (index and not index.isdecimal()):
        raise BackendError(f"this backend has the devices 'torch', 'torch:cuda' and 'torch:cuda:1', no {name!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise BackendError(
            f"PyTorch {torch.__version__}, {built}, finds no usable GPU; check `nvidia-smi`, install a build that "
            "matches the driver (pytorch.org says which), or use 'torch', PyTorch on the CPU"
        )
    chosen = int(index) if index else torch.cuda.current_device()
    if chosen >= count:
        raise BackendError(
            f"there is no CUDA device {chosen}; this machine has {count}: "
            + ", ".join(f"'torch:cuda:{i}'" for i in range(count))
        )
    return torch.device("cuda", chosen)
