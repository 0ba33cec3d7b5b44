"""The CuPy backend's variants on the host: kernels.cu compiled by g++, for arrays that are not NumPy's.

Everything between dispatch and the kernel's result is what runs on a GPU too, but for CuPy, the GPU and its compiler.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import bpnet as bp
from bpnet.dispatch import Kernel, Variant, kernels
from bpnet_cupy.host.arrays import HostArray
from bpnet_cupy.host.backend import HostBackend
from bpnet_cupy.host.build import Kernels, compiler, load
from bpnet_cupy.host.driver import HostDriver
from bpnet_cupy.kernels import register as register_variants
from bpnet_cupy.launches import CheckingDriver

NAME = "cuda_host"
_folder: list[Path] = []


def why_not() -> str:
    """Why the kernels cannot be compiled here, or '' when they can."""
    if sys.platform != "linux":
        return f"the kernels are run on the host on Linux only, this is {sys.platform}"
    return "" if compiler() else "no C++ compiler (g++, or what CXX names)"


@cache
def driver() -> CheckingDriver:
    """The one driver that the variants of `HostArray` launch by, which are registered when it is first asked for."""
    found = CheckingDriver(HostDriver(load(_folder[0] if _folder else None)))
    register_variants(HostArray, found)
    return found


@contextmanager
def mode(**settings: Any) -> Iterator[CheckingDriver]:
    """The driver with other settings of `HostDriver` (orders, epilogues, flush) within the block."""
    inner = driver().driver
    before = {name: getattr(inner, name) for name in settings}
    for name, value in settings.items():
        setattr(inner, name, value)
    try:
        yield driver()
    finally:
        for name, value in before.items():
            setattr(inner, name, value)


class Patched:
    """The kernels as they are, but for one."""

    def __init__(self, plain: Kernels, name: str, changed: Kernels) -> None:
        self.plain, self.name, self.changed = plain, name, changed
        self.index = plain.index
        self.used = 0

    def run(self, name: str, *rest: Any) -> str:
        self.used += name == self.name
        return (self.changed if name == self.name else self.plain).run(name, *rest)


def make(device: str | None) -> HostBackend:
    if reason := why_not():
        raise bp.BackendError(reason)
    driver()
    return HostBackend(device)


def register(folder: Path | None) -> None:
    """Make the backend known; the compiled kernels are kept in `folder` from run to run."""
    if folder is not None:
        _folder[:] = [folder]
    if NAME not in bp.backend_names():
        bp.register_backend(NAME, make)


def variants() -> list[tuple[Kernel, Variant]]:
    """Every variant for `HostArray`, with its op."""
    driver()
    return [(k, v) for k in kernels() for cls, v in k.variants() if cls is HostArray]


def brought(x: Any) -> Any:
    """Copies of NumPy arrays as arrays of the backend, within tuples too."""
    if isinstance(x, tuple):
        return tuple(brought(each) for each in x)
    return HostArray(np.array(x, order="C")) if isinstance(x, np.ndarray) else x


def back(x: Any) -> Any:
    """The NumPy arrays within."""
    if isinstance(x, tuple):
        return tuple(back(each) for each in x)
    return x.array if isinstance(x, HostArray) else x
