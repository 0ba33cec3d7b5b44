"""What a product is to cublasLt: sizes, how the factors lie in memory, alignments, precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from bpnet.dispatch import Array
from bpnet.errors import ConfigError, did_you_mean

MAX_ALIGNMENT = 256  # bytes
PRECISIONS = ("float32", "tf32", "bf16")

_precision: ContextVar[str] = ContextVar("bpnet_cupy_precision", default="float32")


@contextmanager
def precision(name: str) -> Iterator[None]:
    """In the block, products of float32 arrays are computed so: "float32", "tf32" or "bf16". Raises ConfigError.

    "tf32" and "bf16" round the operands to 11 and 8 bits on the way into the tensor cores; sums are float32.
    """
    if name not in PRECISIONS:
        raise ConfigError(
            f"matmul_precision must be one of {', '.join(map(repr, PRECISIONS))}, got {name!r}"
            f"{did_you_mean(name, PRECISIONS)}"
        )
    token = _precision.set(name)
    try:
        yield
    finally:
        _precision.reset(token)


def current_precision() -> str:
    """What `precision` says here."""
    return _precision.get()


@dataclass(frozen=True)
class Problem:
    """What an algorithm is chosen for: out (m, n) = a (m, k) b (k, n), `batch` times.

    *_transposed : whether the array is the transposed view of what lies in memory; *_stride : elements between matrices
    alignment    : of a, b, out and the epilogue's vector, in bytes
    aux_ld       : elements between the rows of the epilogue's auxiliary array, 0 without one
    """

    device: int
    dtype: str
    compute: str
    m: int
    n: int
    k: int
    batch: int
    a_transposed: bool
    b_transposed: bool
    a_stride: int
    b_stride: int
    alignment: tuple[int, int, int, int]
    epilogue: str = ""
    aux_ld: int = 0


class _Operand(NamedTuple):
    rows: int
    columns: int
    transposed: bool
    stride: int


def operand(x: Array) -> _Operand | None:
    """How a matrix, or the matrices along the first axis, lie in memory; None where cublasLt cannot take it so."""
    size = x.dtype.itemsize
    rows, columns = x.shape[-2:]
    s0, s1 = (stride // size for stride in x.strides[-2:])
    plain = (columns == 1 or s1 == 1) and (rows == 1 or s0 == columns)
    turned = (rows == 1 or s0 == 1) and (columns == 1 or s1 == rows)
    if not (plain or turned):
        return None
    stride = x.strides[0] // size if x.ndim == 3 and x.shape[0] > 1 else 0
    if stride not in (0, rows * columns):
        return None
    return _Operand(rows, columns, not plain, stride)


def alignment(pointer: int, stride_bytes: int = 0) -> int:
    """The largest power of two, up to 256, that divides the address of every matrix."""
    both = pointer | stride_bytes | MAX_ALIGNMENT
    return both & -both


def plain_of(problem: Problem) -> Problem:
    """The same product without its epilogue."""
    return replace(problem, epilogue="", aux_ld=0, alignment=(*problem.alignment[:3], MAX_ALIGNMENT))


def same_bits(a: Any, b: Any) -> bool:
    """Whether two host arrays hold the same numbers bit for bit; any NaN equals any other, and -0 equals 0."""
    return bool(np.array_equal(a, b, equal_nan=True))
