"""How many threads NumPy's OpenBLAS may use: as many as this process has processors, and one for small products.

OpenBLAS starts a thread for every processor that the process may run on. It does not see a container's share of time,
and it divides products among threads from 262,144 multiplications on, where waking a thread costs more than it brings.
Both are put right here through the library's own functions; `python -m benchmarks.threads` shows what it is worth.
Another BLAS is left alone.
"""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from bpnet.errors import BackendError
from bpnet.processors import usable
from bpnet_numpy.blas import products

ENVIRONMENT_VARIABLE = "BPNET_THREADS"
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")

DIVIDED = 1 << 18
"""Multiplications from which OpenBLAS divides a product. [OpenBLAS, interface/gemm.c: SMP_THRESHOLD_MIN]"""
DIVIDED_WITH_SMALL_KERNELS = 100**3
"""The same for products without a transposed second factor, where OpenBLAS has kernels for small matrices."""
WORTH_DIVIDING = 1 << 21
"""Multiplications from which a second thread made products faster on a machine that does nothing else."""
FEW_ROWS = 16
"""Below, a product reads more than it computes, and threads help to read."""
MOST_PARTS = 4
"""Threads up to which a product is cut into parts for each; tried with two."""
STEP = 16
LARGE_RESULT = 1 << 15
"""Numbers of a result from which not to fill it with zeros is worth more than a call that begins at once."""
SMALL_KERNELS = ("skylakex", "cooperlake", "sapphirerapids")


class OpenBlas(NamedTuple):
    """Functions of the library that NumPy has loaded, and the name of the kernel that it chose for this processor."""

    get: Callable[[], int]
    set: Callable[[int], None]
    kernel: str


@cache
def openblas() -> OpenBlas | None:
    """NumPy's OpenBLAS; None where NumPy has another BLAS, or one that does not show these functions."""
    try:
        module = importlib.import_module("numpy._core._multiarray_umath")
        library = ctypes.PyDLL(str(module.__file__))  # its symbols, and those of what it depends on
    except (ImportError, OSError):
        return None
    for name in ("scipy_openblas_{}64_", "scipy_openblas_{}", "openblas_{}64_", "openblas_{}"):
        try:
            get, set_, kernel = (
                getattr(library, name.format(each)) for each in ("get_num_threads", "set_num_threads", "get_corename")
            )
        except AttributeError:
            continue
        get.argtypes, get.restype = [], ctypes.c_int
        set_.argtypes, set_.restype = [ctypes.c_int], None
        kernel.argtypes, kernel.restype = [], ctypes.c_char_p
        return OpenBlas(get, set_, kernel().decode().lower())
    return None


@cache
def settle() -> None:
    """Set the number of threads, once a process, when the backend is made.

    BPNET_THREADS decides. Without it the number is only ever lowered, to what `bpnet.processors.usable` finds, and not
    where a variable that OpenBLAS reads says what is wanted. Raises BackendError for a value that is no number of
    threads, or that cannot be set.
    """
    asked = os.environ.get(ENVIRONMENT_VARIABLE, "").strip()
    library = openblas()
    if asked:
        if not asked.isdecimal() or int(asked) < 1:
            raise BackendError(f"{ENVIRONMENT_VARIABLE} must be a whole number of threads, at least 1, got {asked!r}")
        if library is None:
            raise BackendError(
                f"{ENVIRONMENT_VARIABLE}={asked} cannot be set: NumPy's BLAS is not an OpenBLAS that shows its "
                "functions; unset it, and set that library's own variable before Python starts"
            )
        library.set(int(asked))
        return
    wanted_elsewhere = any(os.environ.get(name) for name in THREAD_VARIABLES)
    if library is not None and not wanted_elsewhere and library.get() > (most := usable()):
        library.set(most)


def product(a: Any, b: Any, out: Any) -> Callable[[], Any]:
    """The call that writes a @ b to `out`: on one thread where more would not pay, in parts where that is divided well.

    Which products these are depends on shapes, layout and the number of threads, never on a measurement.
    """
    library = openblas()
    if library is not None:
        if one_thread_is_enough(a.shape, b.shape, b.flags.c_contiguous, library.kernel):
            return partial(_on_one_thread, library.get, library.set, a, b, out)
        threads = library.get()
        divided = products(cut(a, b, out, threads)) if 1 < threads <= MOST_PARTS else None
        if divided is not None:
            return divided
    # With a place for its result np.dot fills that with zeros first; np.matmul takes longer to begin.
    return partial(np.dot if out.size < LARGE_RESULT else np.matmul, a, b, out)


def two_products(first: tuple[Any, Any, Any], second: tuple[Any, Any, Any]) -> list[Callable[[], Any]]:
    """The calls that make `product(*first)` and `product(*second)`, of which neither reads the other's result.

    Where both are divided they are made at the same time, each on half of the threads: larger parts pack less.
    """
    library = openblas()
    threads = 1 if library is None else library.get()
    if threads % 2 == 0 and threads <= MOST_PARTS:
        parts = [cut(*each, threads // 2) for each in (first, second)]
        together = products(parts[0] + parts[1]) if all(parts) else None
        if together is not None:
            return [together]
    return [product(*first), product(*second)]


def cut(a: Any, b: Any, out: Any, count: int) -> list[tuple[Any, Any, Any]]:
    """A product as `count` products of its parts, which one thread each can make; [] where that would not pay.

    OpenBLAS lets its threads share what they pack, and wait for it. Parts are made without waiting; they read more in
    all, so each is as square as it can be, and there are none for many threads.
    """
    (m, k), n = a.shape, b.shape[1]
    if min(m, k, n) < 2 or m < FEW_ROWS or m * k * n <= WORTH_DIVIDING:
        return []
    ways = [each for each in range(1, count + 1) if count % each == 0]
    down = min(ways, key=lambda each: (m / each + n * each / count, -each))
    return [
        (a[rows], b[:, columns], out[rows, columns])
        for rows in _slices(m, down)
        for columns in _slices(n, count // down)
    ]


def _slices(size: int, count: int) -> list[slice]:
    """`count` slices whose ends, but for the last, are multiples of what the kernels compute at once."""
    ends = [size * i // count // STEP * STEP for i in range(count)] + [size]
    return [slice(start, stop) for start, stop in pairwise(ends)]


def one_thread_is_enough(a: tuple[int, ...], b: tuple[int, ...], plain: bool, kernel: str) -> bool:
    """Whether OpenBLAS would divide a product of these shapes among threads and gain nothing by it.

    plain : whether the second factor is in C order; kernel : as in `OpenBlas`
    """
    (m, k), n = a, b[1]
    if min(m, k, n) < 2 or m < FEW_ROWS:  # with vectors it has rules of its own
        return False
    small = DIVIDED_WITH_SMALL_KERNELS if plain and kernel in SMALL_KERNELS else DIVIDED
    return small < m * k * n <= WORTH_DIVIDING


def _on_one_thread(get: Callable[[], int], set_: Callable[[int], None], a: Any, b: Any, out: Any) -> None:
    before = get()  # read each time: threadpoolctl may have changed it
    if before == 1:
        np.dot(a, b, out)
        return
    set_(1)
    try:
        np.dot(a, b, out)
    finally:
        set_(before)
