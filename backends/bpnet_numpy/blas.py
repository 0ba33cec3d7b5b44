"""Routines of NumPy's own BLAS that NumPy does not call: several products at once, and a x + b y in one pass.

They are found by name in the library that NumPy has loaded, by names that say the size of their integers. Where it does
not show one, or it computes something else than it must, None stands for it and NumPy's own calls do the work.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from bpnet.dispatch import Call

Array = Any

_NAMES = (  # with the bits of its integers; what NumPy's own wheels have stands first
    ("scipy_cblas_{}64_", 64),
    ("cblas_{}64_", 64),
    ("cblas_{}_64", 64),
    ("scipy_cblas_{}", 32),
)
_REALS: dict[np.dtype[Any], tuple[str, Any]] = {
    np.dtype("float32"): ("s", ctypes.c_float),
    np.dtype("float64"): ("d", ctypes.c_double),
}
ROW_MAJOR, AS_IT_IS, TRANSPOSED = 101, 111, 112

SMALL = 100**3
"""Multiplications up to which a product is left to NumPy: OpenBLAS has other kernels for these, and crashes where it
makes several at once. [https://github.com/OpenMathLib/OpenBLAS/pull/5980, mended in August 2026]"""


def candidates(routine: str, dtype: np.dtype[Any]) -> Iterator[tuple[Any, int]]:
    """Functions that the library shows for a routine ("gemm") of float32 or float64, and the bits of their integers."""
    if dtype not in _REALS:
        return
    try:
        module = importlib.import_module("numpy._core._multiarray_umath")
        library = ctypes.CDLL(str(module.__file__))  # its symbols, and those of what it depends on
    except (ImportError, OSError):
        return
    for name, bits in _NAMES:
        function = getattr(library, name.format(_REALS[dtype][0] + routine), None)
        if function is not None:
            function.restype = None
            yield function, bits


class Bound(partial[None]):
    """A call of the BLAS, which keeps the arrays that its arguments point to.

    name, operations : for who asks what a plan's calls are
    """

    arrays: tuple[Array, ...]
    name: str
    operations: int

    @classmethod
    def to(cls, function: Any, name: str, operations: int, arrays: Sequence[Array], *arguments: Any) -> Bound:
        """The call of `function`, which reads and writes nothing but `arrays`."""
        found = cls(function, *arguments)
        found.arrays, found.name, found.operations = tuple(arrays), name, operations
        return found


def _integer(bits: int) -> Any:
    return ctypes.c_int64 if bits == 64 else ctypes.c_int32


def _address(array: Array) -> Any:
    return ctypes.c_void_p(array.ctypes.data)


def _ours(*arrays: Array) -> bool:
    """Whether all are NumPy's own, aligned, and of one dtype that the BLAS knows."""
    dtype = arrays[0].dtype
    return dtype in _REALS and all(type(a) is np.ndarray and a.dtype == dtype and a.flags.aligned for a in arrays)


# --- a x + b y ---


def axpby(a: Any, x: Array, b: Any, y: Array) -> Call | None:
    """The call that sets `y` to a x + b y; None where NumPy has to do it.

    a, b : of `real(dtype)`, read at each call; x, y : contiguous vectors of one length
    """
    vectors = _ours(x, y) and x.ndim == 1 and x.shape == y.shape and x.flags.c_contiguous and y.flags.c_contiguous
    found = _axpby(y.dtype) if vectors and y.flags.writeable else None
    if found is None:
        return None
    function, integer = found
    one = integer(1)
    arguments = integer(y.size), a, _address(x), one, b, _address(y), one
    return Bound.to(function, "axpby", 3 * y.size, (x, y), *arguments)


def real(value: float, dtype: np.dtype[Any]) -> Any:
    """A number for `axpby`, whose `value` may be changed between its calls."""
    return _REALS[dtype][1](value)


@cache
def _axpby(dtype: np.dtype[Any]) -> tuple[Any, Any] | None:
    for function, bits in candidates("axpby", dtype):
        integer = _integer(bits)
        x, y = np.arange(1, 20, dtype=dtype), np.full(19, 2, dtype)
        one = integer(1)
        function(integer(19), real(3, dtype), _address(x), one, real(0.5, dtype), _address(y), one)
        if np.array_equal(y, 3 * x + 1):
            return function, integer
    return None


# --- several products at once ---


def products(matrices: Sequence[tuple[Array, Array, Array]]) -> Call | None:
    """The call that sets c to a @ b for each (a, b, c), each product on one thread; None where NumPy has to do it.

    The matrices may be transposed or parts of others, c in C order with a stride.
    """
    if not matrices or not _ours(*(each for some in matrices for each in some)):
        return None
    found = _gemm_batch(matrices[0][0].dtype)
    layouts = [(_layout(a), _layout(b), _layout(c)) for a, b, c in matrices]
    fitting = all(
        None not in some
        and some[2][0] == AS_IT_IS  # type: ignore[index]
        and c.flags.writeable
        and c.shape == (a.shape[0], b.shape[1])
        and a.shape[1] == b.shape[0]
        and a.size * b.shape[1] > SMALL
        for (a, b, c), some in zip(matrices, layouts, strict=True)
    )
    return _batch(*found, matrices, layouts) if found is not None and fitting else None


def _layout(matrix: Array) -> tuple[int, int] | None:
    """(whether it is transposed, as the BLAS says it; elements from one row to the next); None where it is neither."""
    if matrix.ndim != 2 or min(matrix.shape) < 2:
        return None
    for order, (far, near), least in (
        (AS_IT_IS, matrix.strides, matrix.shape[1]),
        (TRANSPOSED, matrix.strides[::-1], matrix.shape[0]),
    ):
        if near == matrix.itemsize and far % near == 0 and far // near >= least:
            return order, far // near
    return None


def _batch(function: Any, integer: Any, matrices: Sequence[tuple[Array, Array, Array]], layouts: Any) -> Call:
    count = len(matrices)
    flags, integers, addresses = ctypes.c_int32 * count, integer * count, ctypes.c_void_p * count
    reals = _REALS[matrices[0][0].dtype][1] * count
    (orders_a, steps_a), (orders_b, steps_b), (_, steps_c) = (
        zip(*(some[i] for some in layouts), strict=True) for i in range(3)
    )
    pointers = [addresses(*(each.ctypes.data for each in some)) for some in zip(*matrices, strict=True)]
    return Bound.to(
        function,
        " + ".join(f"{a.shape[0]}x{a.shape[1]}x{b.shape[1]}" for a, b, _ in matrices),
        sum(2 * a.size * b.shape[1] for a, b, _ in matrices),
        [each for some in matrices for each in some],
        ctypes.c_int32(ROW_MAJOR),
        flags(*orders_a),
        flags(*orders_b),
        integers(*(a.shape[0] for a, _, _ in matrices)),
        integers(*(b.shape[1] for _, b, _ in matrices)),
        integers(*(a.shape[1] for a, _, _ in matrices)),
        reals(*[1.0] * count),
        pointers[0],
        integers(*steps_a),
        pointers[1],
        integers(*steps_b),
        reals(*[0.0] * count),
        pointers[2],
        integers(*steps_c),
        integer(count),
        integers(*[1] * count),
    )


@cache
def _gemm_batch(dtype: np.dtype[Any]) -> tuple[Any, Any] | None:
    a = (np.arange(104 * 120) % 7 - 3).astype(dtype).reshape(104, 120)  # whole numbers: no sum is rounded
    b = (np.arange(120 * 104) % 5 - 2).astype(dtype).reshape(104, 120).T
    for function, bits in candidates("gemm_batch", dtype):
        integer = _integer(bits)
        c = np.full((2, 104, 104), np.nan, dtype)
        matrices = [(a, b, c[0]), (b.T, a.T, c[1])]
        _batch(function, integer, matrices, [tuple(map(_layout, some)) for some in matrices])()
        if np.array_equal(c[0], a @ b) and np.array_equal(c[1], b.T @ a.T):
            return function, integer
    return None
