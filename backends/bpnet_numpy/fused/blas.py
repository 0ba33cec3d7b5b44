"""The BLAS that NumPy brings, by address: so a compiled program makes its matrix products itself."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from bpnet_numpy.blas import AS_IT_IS, ROW_MAJOR, TRANSPOSED, candidates


class Gemm(NamedTuple):
    """Where cblas_sgemm or cblas_dgemm begins, the bits of its sizes, and the name of the body that calls it."""

    address: int
    bits: int
    body: str


@cache
def gemm(dtype: np.dtype[np.generic]) -> Gemm | None:
    """The product for float32 or float64; None where NumPy's library does not show it.

    Only names that say the size of their integers are taken, and a product must come out right.
    """
    for function, bits in candidates("gemm", np.dtype(dtype)):
        if _right(function, dtype, bits):
            return Gemm(address(function), bits, f"product_{bits}")
    return None


def address(function: Any) -> int:
    """Where a function that ctypes found begins."""
    return int(ctypes.cast(function, ctypes.c_void_p).value or 0)


def _right(function: object, dtype: np.dtype[np.generic], bits: int) -> bool:
    """Whether [[1, 2, 3], [4, 5, 6]] times its transpose is what it must be."""
    real = ctypes.c_float if dtype == np.float32 else ctypes.c_double
    size = ctypes.c_int64 if bits == 64 else ctypes.c_int32
    place, flag = ctypes.c_void_p, ctypes.c_int32
    prototype = ctypes.CFUNCTYPE(
        None, flag, flag, flag, size, size, size, real, place, size, place, size, real, place, size
    )
    a, c = np.arange(1, 7, dtype=dtype), np.full(4, -1, dtype)
    call = ctypes.cast(function, prototype)  # type: ignore[arg-type]
    call(ROW_MAJOR, AS_IT_IS, TRANSPOSED, 2, 2, 3, 1.0, a.ctypes.data, 3, a.ctypes.data, 3, 0.0, c.ctypes.data, 2)
    return bool(c.tolist() == [14.0, 32.0, 32.0, 77.0])
