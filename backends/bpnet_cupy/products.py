"""Matrix products on CuPy's arrays: by cublasLt, and by CuPy where that has no answer."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from bpnet import ops
from bpnet.dispatch import Array, Call
from bpnet_cupy import cublaslt
from bpnet_cupy.gemm import Gemm
from bpnet_cupy.memory import CupyMemory, say_once

NOT_IN_GRAPHS = "products are CuPy's then, which cannot be captured in a CUDA graph, so steps are made call by call"


@cache
def gemm() -> Gemm | None:
    """cublasLt on CuPy's arrays; None where it cannot be loaded, which is said once."""
    import cupy

    try:
        return Gemm(cublaslt.load(), CupyMemory(cupy))
    except cublaslt.CublasLtError as error:
        say_once(f"{error}; {NOT_IN_GRAPHS}")
        return None


def prepare_stream() -> None:
    """Have what products need on the current stream, before it is captured."""
    found = gemm()
    if found is not None:
        found.prepare_stream()


def product(
    out: Array,
    a: Array,
    b: Array,
    *,
    alpha: float = 1.0,
    beta: float = 0.0,
    bias: Array | None = None,
    activation: str = "",
    column_sums: Array | None = None,
) -> Call | None:
    """A prepared product as `Driver.matmul` has it; a plain one always has a call.

    column_sums : (N,), gets the sums of b's columns on the way
    """
    plain = bias is None and not activation and column_sums is None
    found = gemm()
    if found is not None and out.size and a.size:
        try:
            call = found.product(
                out, a, b, alpha=alpha, beta=beta, bias=bias, activation=activation, column_sums=column_sums
            )
        except cublaslt.CublasLtError as error:
            call = None
            if plain:
                say_once(f"{error}; {NOT_IN_GRAPHS}")
        if call is not None:
            return call
        if plain and alpha == 1.0 == beta:
            return _in_two(out, a, b)
        if plain:
            say_once(
                f"cublasLt has no algorithm for a product of {out.dtype}, {tuple(a.shape)} by {tuple(b.shape)}; "
                f"{NOT_IN_GRAPHS}"
            )
    return by_cupy(out, a, b, alpha, beta) if plain else None


def _in_two(out: Array, a: Array, b: Array) -> Call | None:
    """out = out + a @ b by a product of its own and an addition."""
    import cupy

    found = cupy.empty(out.shape, out.dtype)
    call = product(found, a, b)
    assert call is not None
    return partial(_then_add, call, cupy.add, out, found)


def _then_add(call: Call, add: Any, out: Array, found: Array) -> None:
    call()
    add(out, found, out)


def by_cupy(out: Array, a: Array, b: Array, alpha: float, beta: float) -> Call:
    """CuPy's product, which cuBLAS computes: never in a capture."""
    import cupy

    if a.dtype != out.dtype:
        return partial(_of_bits, cupy.matmul, out, a, b, alpha, beta)
    if alpha != 1.0 or beta != 0.0:
        return partial(_scaled, cupy.matmul, out, a, b, alpha, beta)
    return partial(cupy.matmul, a, b, out)


def _of_bits(matmul: Any, out: Array, a: Array, b: Array, alpha: float, beta: float) -> None:
    """The same of bits of bfloat16, which are widened: every product is exact then, as on tensor cores."""
    _scaled(matmul, out, _widened(a), _widened(b), alpha, beta)


def _widened(bits: Array) -> Array:
    return ops.from_bf16(bits) if bits.flags.c_contiguous else ops.from_bf16(bits.swapaxes(-2, -1)).swapaxes(-2, -1)


def _scaled(matmul: Any, out: Array, a: Array, b: Array, alpha: float, beta: float) -> None:
    found = alpha * matmul(a, b)
    out[...] = found + beta * out if beta else found
