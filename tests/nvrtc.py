"""kernels.cu compiled by NVRTC, NVIDIA's own compiler: that needs CuPy and libnvrtc, and no GPU.

    python tests/nvrtc.py sm_90    # registers, spilled bytes and shared memory of every kernel

The functions of CuPy that are used here are private, and CuPy's version is pinned by bpnet's extras.
"""

from __future__ import annotations

import io
import re
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

from bpnet_cupy.driver import OPTIONS, source
from bpnet_cupy.names import name_expressions

CUPY_ADDS = "-ftz=true"  # behind the options of a RawModule


@cache
def why_not() -> str:
    """Why NVRTC cannot be used here, or ''."""
    try:
        import cupy  # noqa: F401
        from cupy.cuda import compiler  # noqa: F401
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()
    except ImportError as error:
        return f"CuPy cannot be imported ({error})"
    except Exception as error:  # whatever the loader of libnvrtc says
        return f"NVRTC cannot be loaded ({type(error).__name__}: {error})"
    return ""


@dataclass(frozen=True)
class Resources:
    """What ptxas says of one kernel; spilled and shared in bytes."""

    registers: int
    spilled: int
    stack: int
    shared: int


def compiled(names: tuple[str, ...], architecture: str, method: str = "cubin", *more: str) -> tuple[Any, Any, str]:
    """The binary (or PTX), the mangled names by name, and the compiler's log. Raises CuPy's CompileException."""
    from cupy._core import core
    from cupy.cuda import compiler

    log = io.StringIO()
    options = (*core.assemble_cupy_compiler_options(()), f"-arch={architecture}", *OPTIONS, CUPY_ADDS, *more)
    program = compiler._NVRTCProgram(source(), "kernels.cu", method=method, name_expressions=names)
    binary, mangled = program.compile(options, log)
    return binary, mangled, log.getvalue()


_ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?\n.*?Function properties for (?P=name)\n"
    r".*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads\n"
    r".*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)"
)


def resources(names: tuple[str, ...], architecture: str) -> tuple[bytes, dict[str, Resources], str]:
    """The cubin of the named instances, what each kernel of it needs, and the log without that."""
    binary, mangled, log = compiled(names, architecture, "cubin", "--ptxas-options=-v")
    plain = {mangled[name]: name for name in names}
    found = {}
    for match in _ENTRY.finditer(log):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        found[plain.get(match["name"], match["name"])] = Resources(
            int(match["registers"]),
            int(match["stores"]) + int(match["loads"]),
            int(match["stack"]),
            int(shared[1]) if shared else 0,
        )
    return binary, found, "\n".join(line for line in log.splitlines() if not line.startswith("ptxas")).rstrip("\0")


def main(architecture: str) -> None:
    """Print the table."""
    print(f"{'kernel':<66} registers  spilled  stack  shared")
    for kind in ("float", "double"):
        _, found, _ = resources(name_expressions(kind), architecture)
        for name in name_expressions(kind):
            each = found[name]
            print(f"{name:<66} {each.registers:>9} {each.spilled:>8} {each.stack:>6} {each.shared:>7}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sm_90")
