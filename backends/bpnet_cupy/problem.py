"""What a product is to cublasLt: sizes, how the factors lie in memory, alignments, precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from bpnet.dispatch import Array, dtype_name
from bpnet.errors import ConfigError, did_you_mean
from bpnet_cupy.cublaslt import REAL
from bpnet_cupy.memory import Memory

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
    factors      : the type of a and b: "bfloat16" where they are its bits in uint16, else that of out
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
    factors: str = ""


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


def factor_type(out: Array, a: Array, b: Array) -> str:
    """The type of a product's factors; '' where such cannot give `out`."""
    result, left, right = (dtype_name(x.dtype) for x in (out, a, b))
    if left == right == "uint16" and result == "float32":
        return "bfloat16"
    return result if left == right == result else ""


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


def problem_of(
    memory: Memory, out: Array, a: Array, b: Array, epilogue: str, vector: Array | None, aux: Array | None
) -> Problem | None:
    """What a product is; None where cublasLt cannot take it."""
    dtype = dtype_name(out.dtype)
    factors = factor_type(out, a, b)
    if dtype not in REAL or not factors or 0 in out.shape or 0 in a.shape:
        return None
    found_a, found_b, found_out = operand(a), operand(b), operand(out)
    if found_a is None or found_b is None or found_out is None or found_out.transposed:
        return None
    m, n = out.shape[-2:]
    size, pointer = a.dtype.itemsize, memory.pointer
    return Problem(
        device=memory.device(),
        dtype=dtype,
        compute=current_precision() if factors == "float32" else dtype,
        m=m,
        n=n,
        k=found_a.columns,
        batch=out.shape[0] if out.ndim == 3 else 1,
        a_transposed=found_a.transposed,
        b_transposed=found_b.transposed,
        a_stride=found_a.stride,
        b_stride=found_b.stride,
        alignment=(
            alignment(pointer(a), found_a.stride * size),
            alignment(pointer(b), found_b.stride * size),
            alignment(pointer(out), m * n * out.dtype.itemsize if out.ndim == 3 else 0),
            MAX_ALIGNMENT if vector is None else alignment(pointer(vector)),
        ),
        epilogue=epilogue,
        aux_ld=0 if aux is None else aux.shape[1] * (8 if "relu" in epilogue else 1),
        factors=factors,
    )
