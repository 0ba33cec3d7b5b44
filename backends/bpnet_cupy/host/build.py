"""kernels.cu compiled by the host's C++ compiler and loaded by ctypes."""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from bpnet.errors import BackendError
from bpnet_cupy.driver import source
from bpnet_cupy.names import name_expressions

OPTIONS = ("-std=c++17", "-O1", "-fPIC", "-shared", "-ffp-contract=off", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE")
"""No product is fused with a sum, as `bpnet_cupy.driver.OPTIONS` asks of NVRTC."""

_TAIL = """
struct Instance { const char* name; void (*call)(void**); const char* (*signature)(); };
static const Instance instances[] = {
%s};
extern "C" {
int bpnet_count() { return sizeof instances / sizeof *instances; }
const char* bpnet_name(int i) { return instances[i].name; }
const char* bpnet_signature(int i) { return instances[i].signature(); }
const char* bpnet_failure() { return host::machine.failure.c_str(); }
int bpnet_launch(int i, void** arguments, const unsigned* grid, const unsigned* block, int order, int flush) {
#if defined(__SSE2__)
    unsigned before = _mm_getcsr();
    if (flush) _mm_setcsr(before | 0x8040);  // as -ftz=true: numbers below the smallest normal one are 0
#endif
    bool good = host::launch(instances[i].call, arguments, {grid[0], grid[1], grid[2]},
                             {block[0], block[1], block[2]}, order);
#if defined(__SSE2__)
    _mm_setcsr(before);
#endif
    return good;
}
}
"""


def compiler() -> str | None:
    """The C++ compiler that is used: that of the environment variable CXX, g++, or none."""
    return shutil.which(os.environ.get("CXX") or "g++")


@cache
def _kept() -> Path:
    """A folder that is removed when the interpreter ends."""
    found = tempfile.TemporaryDirectory(prefix="bpnet-cuda-host-")
    atexit.register(found.cleanup)
    return Path(found.name)


def program(text: str, names: tuple[str, ...]) -> str:
    """A C++ program with the kernels of `text` and a table of the named instances."""
    lines = (f'    {{"{n}", host::Entry<&{n}>::call, host::Entry<&{n}>::signature}},\n' for n in names)
    return f'#define BPNET_ON_HOST 1\n#line 1 "kernels.cu"\n{text}\n{_TAIL % "".join(lines)}'


def build(text: str, names: tuple[str, ...], folder: Path | None = None) -> Path:
    """Compile `text` and return the shared library; one of the same text in `folder` is taken as it is.

    Raises BackendError where there is no compiler, or with the compiler's words.
    """
    command = compiler()
    if command is None:
        raise BackendError(
            "kernels.cu cannot be compiled for the host: there is no C++ compiler; install g++, or set CXX to one"
        )
    header = resources.files("bpnet_cupy.host").joinpath("cuda_on_host.h").read_text()
    whole = program(text, names)
    mark = hashlib.sha256("\0".join((header, whole, command, *OPTIONS)).encode()).hexdigest()[:16]
    folder = _kept() if folder is None else folder
    library = folder / f"kernels-{mark}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory() as scratch:
            place = Path(scratch)
            (place / "cuda_on_host.h").write_text(header)
            (place / "kernels.cpp").write_text(whole)
            made = place / "kernels.so"
            run = subprocess.run(
                [command, *OPTIONS, "-o", str(made), str(place / "kernels.cpp")], capture_output=True, text=True
            )
            if run.returncode:
                raise BackendError(f"{command} cannot compile kernels.cu: {run.stderr[:2000]}")
            part = library.with_suffix(f".{os.getpid()}")
            shutil.copy(made, part)
            part.replace(library)  # another process may build the same one
    return library


class Kernels:
    """The compiled kernels by name, with their signatures as the compiler knows them."""

    def __init__(self, library: Path) -> None:
        self._library: Any = ctypes.PyDLL(str(library))  # holds the interpreter's lock: one launch at a time
        for function in ("bpnet_name", "bpnet_signature", "bpnet_failure"):
            getattr(self._library, function).restype = ctypes.c_char_p
        count = self._library.bpnet_count()
        self.index = {self._library.bpnet_name(i).decode(): i for i in range(count)}
        self.signatures = {name: self._library.bpnet_signature(i).decode() for name, i in self.index.items()}

    def run(
        self, name: str, pointers: Any, grid: tuple[int, ...], block: tuple[int, ...], order: int, flush: bool
    ) -> str:
        """Run a kernel; return what was found wrong with it, or ''.

        pointers : a ctypes array of the addresses of its arguments
        order    : of threads and blocks: 0 forward, 1 backward, any other number another shuffle
        flush    : whether float32 numbers below the smallest normal one count as 0, as -ftz=true has it
        """
        three = ctypes.c_uint * 3
        good = self._library.bpnet_launch(self.index[name], pointers, three(*grid), three(*block), order, int(flush))
        return "" if good else self._library.bpnet_failure().decode()


def load(folder: Path | None = None) -> Kernels:
    """The kernels of kernels.cu, compiled if need be."""
    return Kernels(build(source(), name_expressions(), folder))
