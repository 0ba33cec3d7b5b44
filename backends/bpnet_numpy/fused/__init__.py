"""Compiled bodies for the NumPy backend, by numba (the extra `fast`).

`variants` registers them behind the plain ones, so that they are asked first. numba is imported where a body has to be
compiled; what is kept of earlier processes runs without it. Which body runs depends on shapes and dtypes alone, never
on a measurement: the same steps give the same bits.

    variants/       for which arguments bodies are taken, and with which words
    code/           the bodies
    instruction.py  a prepared call, and how neighbours become one program
    parts.py        programs that threads run at the same time
    helpers.py      the threads that share long bodies
    prepared.py     calls outside of a plan: what was bound is bound again to other arrays
    machine.py      finds bodies: in memory, on disk, or by the compiler; and runs programs
    compiler.py     compiles; the one module, with code/, that imports numba
    elf.py          an object file of LLVM's becomes an image
    image.py        machine code as a file, and back in memory
    blas.py         NumPy's own matrix product by address
    sizes.py        what bodies and those who bind them agree on
    state.py        the words that a team of threads shares

To add a compiled body for a kernel, which must have a plain one in `bpnet_numpy.kernels`:

1. Write the body into a module of `code/`: a function of a pointer `p`, whose docstring says its words. It reads them
   by `code/intrinsics.py`, makes no arrays, and raises nothing. `compiler.py` lists the modules that have bodies.
2. Register it in a module of `variants/` with `@fused`: the arguments that it takes, and the calls, which are
   `instruction(name, dtype, *words)`. A name is looked up among all bodies, so it must be the only one.
3. Divide what is long: elementwise bodies by `variants.common.one_pass`, what has rows or samples by `parts.split`,
   what sums over them by `parts.sums_of_parts`, and what divides itself by `code/team.py`, as products do.
4. `tests/test_kernels.py` finds the variant, and `tests/test_images_of_code.py` the body. Beside what is divided
   belongs a test that the number of threads changes no bit.

Against the references they are exact to a few units in the last place of the largest term: 3e-5 in float32 and 1e-12 in
float64, the bounds that `bpnet.testing.kernels` holds every variant to. Exponentials below the smallest normal number
and moments of an optimizer that are about to become denormal are 0.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

from bpnet.checks import switched_off

ENVIRONMENT_VARIABLE = "BPNET_FUSED"


def why_not() -> str:
    """Why the compiled bodies are not used, or '' where they are. Raises BackendError for BPNET_FUSED=yes."""
    if switched_off(ENVIRONMENT_VARIABLE):
        return f"{ENVIRONMENT_VARIABLE}=0 turns them off"
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return "NUMBA_DISABLE_JIT turns numba's compiler off"
    if sys.byteorder != "little":
        return "they are made for little-endian processors"
    try:
        missing = [name for name in ("numba", "llvmlite") if find_spec(name) is None]
    except ValueError:  # a module that stands for it and has no spec
        missing = ["numba"]
    return 'numba is not installed: pip install "bpnet-xp[fast]"' if missing else ""


_installed = False


def made_by() -> str:
    """Who made the bodies that run in this process: "NumPy", or "numba" with its version."""
    if not _installed:
        return "NumPy"
    from bpnet_numpy.fused import instruction

    if instruction._broken:
        return "NumPy"
    if instruction._machine is not None:
        return str(instruction._machine.COMPILER)
    from importlib.metadata import version

    return f"numba {version('numba')}"


def install() -> None:
    """Register the compiled bodies where they can be used; it is asked once, when the plain ones are registered."""
    global _installed
    if not why_not():
        _installed = True
        from bpnet_numpy.fused import variants  # noqa: F401  (registers them)
