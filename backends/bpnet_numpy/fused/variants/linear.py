"""The affine map: a product by NumPy's own BLAS, and what is behind it in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call, Kernel
from bpnet_numpy.blas import AS_IT_IS, TRANSPOSED
from bpnet_numpy.fused.blas import address, gemm
from bpnet_numpy.fused.helpers import MOST, team
from bpnet_numpy.fused.instruction import FLOAT32, Program, address_of, instruction, machine
from bpnet_numpy.fused.parts import CACHE_LINE, column_sums
from bpnet_numpy.fused.sizes import TURNED
from bpnet_numpy.fused.variants.common import LONG, check_place, elements, fused
from bpnet_numpy.kernels.common import Array, bound, floating
from bpnet_numpy.kernels.linear import (
    linear_accepts,
    linear_allocate,
    linear_backward_accepts,
    linear_backward_allocate,
)
from bpnet_numpy.scratch import borrow
from bpnet_numpy.threads import FEW_ROWS, WORTH_DIVIDING, one_thread_is_enough, openblas
from bpnet_numpy.threads import product as plain_product

SHIFTED = {ops.relu: "shift_relu", ops.sigmoid: "shift_sigmoid", ops.tanh: "shift_tanh"}
PART = 1 << 19
"""Bytes of a matrix that is multiplied with one row from which there are as many parts of it, a power of two."""
NARROW = 1 << 18
"""Multiplications with one vector of columns that are worth a second thread."""


def tiled(m: int, n: int, k: int, dtype: Any = FLOAT32, transpose_a: bool = False) -> bool:
    """Whether a product is made by tiles here and not by the BLAS: where the processor has registers for them, and
    there is so much to multiply that the packing is little of it. Beside one vector of columns no rows are packed."""
    loose = not transpose_a and n * np.dtype(dtype).itemsize <= machine().VECTOR and k >= FEW_ROWS
    least = NARROW if loose else WORTH_DIVIDING
    return min(m, n, k) > 1 and m >= FEW_ROWS and m * n * k > least and bool(machine().VECTOR)


def direct(m: int, n: int, k: int, transpose_a: bool, transpose_b: bool, itemsize: int) -> bool:
    """Whether a product is made here from where its factors lie: where it is small, and its rows fill most of a vector.

    Narrow products the BLAS makes faster, where they read their first factor by columns anyway.
    """
    vector = machine().VECTOR // itemsize
    wide = n >= vector or (not transpose_a and 2 * n >= vector)
    kept = not transpose_b or k <= TURNED
    short = m >= FEW_ROWS or n * k < LONG  # else threads help to read
    return m > 1 and k > 0 < vector and m * n * k <= WORTH_DIVIDING and wide and kept and short


def one_row(a: Array, b: Array, transpose_a: bool, transpose_b: bool) -> bool:
    """Whether a product is that of one row with a matrix that lies as it is read."""
    return a.shape[0] == 1 and a.size > 0 and b.size > 0 and not (transpose_a or transpose_b)


def row_product(out: Array, x: Array, W: Array, bias: Array | None = None, relu: bool = False) -> Call:
    """As `tiled_product`, for one row."""
    n, m = W.shape
    parts = 1 if W.size < LONG else min(max(2, 1 << max(0, (W.nbytes // PART).bit_length() - 1)), MOST, n)
    pitch = -(-m // CACHE_LINE) * CACHE_LINE
    space = borrow((parts, pitch), out.dtype, out) if parts > 1 else 0
    workers = (*team(), machine().address("row_share", out.dtype)) if parts > 1 else (0, 0, 0)
    behind = (0 if bias is None else bias, relu, parts, space, pitch)
    return instruction("row_product", out.dtype, *workers, out, x, W, n, m, *behind)


def direct_product(
    out: Array, a: Array, b: Array, transpose_a: bool, transpose_b: bool, bias: Array | None = None, relu: bool = False
) -> Call:
    """As `tiled_product`, without packing."""
    inner = a.shape[0] if transpose_a else a.shape[1]
    operands = (a, a.shape[1], b, b.shape[1], out, out.shape[1], 0 if bias is None else bias)
    call = instruction("direct_product", out.dtype, transpose_a, transpose_b, *out.shape, inner, *operands, relu, 0)
    call.absorb = _with_gate
    return call


def _with_gate(product: Program, behind: Program) -> Program | None:
    """The product with ReLU's derivative over its result, where that is what is behind it."""
    if len(behind.arrays) != 3:
        return None
    out, gate = product.arrays[2], behind.arrays[2]
    wanted: Any = elements("relu_backward", out, 0, 3, out, out, gate, out.size)[0]
    if not np.array_equal(behind.words, wanted.words):
        return None
    places = (*product.places, product.words.size - 1)
    whole = Program(product.words.copy(), (*product.arrays, gate), places)
    whole.words[-1] = address_of(gate)
    return whole


def tiled_product(
    out: Array, a: Array, b: Array, transpose_a: bool, transpose_b: bool, bias: Array | None = None, relu: bool = False
) -> Call:
    """The call that sets `out` to the product, then adds a bias and applies max(x, 0) where that is wanted.

    ReLU's derivative right behind it, over its result, becomes part of it.
    """
    body = machine().address("multiply", out.dtype)
    inner = a.shape[0] if transpose_a else a.shape[1]
    operands = (a, a.shape[1], b, b.shape[1], out, out.shape[1], 0 if bias is None else bias)
    call = instruction(
        "tiled_product", out.dtype, *team(), body, transpose_a, transpose_b, *out.shape, inner, *operands, relu, 0
    )
    call.absorb = _with_gate
    return call


def product(out: Array, a: Array, b: Array, *, transpose_a: bool = False, transpose_b: bool = False) -> list[Call]:
    """The calls that set `out` to the product of two C-contiguous matrices, or of their transposes.

    On one thread where more would not pay, as `bpnet_numpy.threads` says.
    """
    rows, inner = a.shape[::-1] if transpose_a else a.shape
    check_place(out, (rows, b.shape[0] if transpose_b else b.shape[1]), a.dtype)
    if one_row(a, b, transpose_a, transpose_b):
        return [row_product(out, a, b)]
    if tiled(rows, out.shape[1], inner, out.dtype, transpose_a):
        return [tiled_product(out, a, b, transpose_a, transpose_b)]
    if direct(rows, out.shape[1], inner, transpose_a, transpose_b, out.itemsize):
        return [direct_product(out, a, b, transpose_a, transpose_b)]
    found = gemm(out.dtype)
    if found is None or 0 in a.shape or 0 in b.shape:
        return [plain_product(a.T if transpose_a else a, b.T if transpose_b else b, out)]
    flags = TRANSPOSED if transpose_a else AS_IT_IS, TRANSPOSED if transpose_b else AS_IT_IS
    operands = (a, a.shape[1], b, b.shape[1], out, out.shape[1])
    call = instruction(found.body, out.dtype, found.address, *flags, *out.shape, inner, *operands)
    library = openblas()
    shapes = (out.shape[0], inner), (inner, out.shape[1])
    if library is None or not one_thread_is_enough(*shapes, not transpose_b, library.kernel):
        return [call]
    threads = (address(library.get), address(library.set), np.zeros(1, np.int64))
    return [instruction("one_thread", FLOAT32, *threads), call, instruction("threads_again", FLOAT32, *threads)]


def _accepts(x: Array, W: Array, b: Array | None, activation: Kernel | None = None, *settings: Any) -> bool:
    fitting = x.ndim > 1 and W.ndim == 2 and x.shape[-1] == W.shape[0] and (b is None or b.shape == W.shape[1:])
    return fitting and linear_accepts(x, W, b, activation, *settings) and (b is None or b.flags.c_contiguous)


@fused(ops.linear, accepts=_accepts, allocate=linear_allocate)
def _(out: Array, x: Array, W: Array, b: Array | None, activation: Kernel | None = None, *settings: Any) -> list[Call]:
    n, m = W.shape
    check_place(out, (*x.shape[:-1], m), x.dtype)
    y, x = out.reshape(-1, m), x.reshape(-1, n)
    if b is not None and activation in (None, ops.relu):
        rectified = activation is not None
        if one_row(x, W, False, False):
            return [row_product(y, x, W, b, rectified)]
        if tiled(y.shape[0], m, n, y.dtype):
            return [tiled_product(y, x, W, False, False, b, rectified)]
        if direct(y.shape[0], m, n, False, False, y.itemsize):
            return [direct_product(y, x, W, False, False, b, rectified)]
    calls: list[Call] = product(y, x, W)
    joined = b is not None and activation in SHIFTED
    if b is not None:
        name = SHIFTED[activation] if joined and activation is not None else "shift"
        calls.append(instruction(name, y.dtype, y, b, *y.shape))
    if activation is not None and not joined:
        calls += bound(activation, out, out, *settings)
    return calls


@fused(
    ops.linear_backward,
    accepts=lambda dy, x, W, *_: (
        linear_backward_accepts(dy, x, W)
        and x.ndim > 1
        and W.shape == (x.shape[-1], dy.shape[-1])
        and x.size // x.shape[-1] == dy.size // dy.shape[-1]
    ),
    allocate=linear_backward_allocate,
)
def _(out: Any, dy: Array, x: Array, W: Array, *_: bool) -> list[Call]:
    dx, dW, db = out
    n, m = W.shape
    if dx is not None:
        check_place(dx, x.shape, dy.dtype)
    dy, x = dy.reshape(-1, m), x.reshape(-1, n)
    calls: list[Call] = []
    if dW is not None:
        calls += product(dW, x, dy, transpose_a=True)
    if db is not None:
        check_place(db, (m,), dy.dtype)
        calls += column_sums(db, dy)
    if dx is not None:
        calls += product(dx.reshape(x.shape), dy, W, transpose_b=True)
    return calls


@fused(
    ops.unembed,
    accepts=lambda x, W: floating(x, W) and x.ndim > 1 and W.ndim == 2 and x.size > 0 and x.shape[-1] == W.shape[1],
    allocate=lambda x, W: np.empty((*x.shape[:-1], W.shape[0]), x.dtype, like=x),
)
def _(out: Array, x: Array, W: Array) -> list[Call]:
    check_place(out, (*x.shape[:-1], W.shape[0]), x.dtype)
    return product(out.reshape(-1, W.shape[0]), x.reshape(-1, W.shape[1]), W, transpose_b=True)


@fused(
    ops.unembed_backward,
    accepts=lambda dy, x, W, *_: (
        floating(dy, x, W) and dy.ndim > 1 and x.size > 0 and W.shape == (dy.shape[-1], x.shape[-1])
        and dy.shape[:-1] == x.shape[:-1]
    ),
    allocate=lambda dy, x, W, need_dx=True, need_dW=True: (
        np.empty_like(x) if need_dx else None,
        np.empty_like(W) if need_dW else None,
    ),
)  # fmt: skip
def _(out: Any, dy: Array, x: Array, W: Array, *_: bool) -> list[Call]:
    dx, dW = out
    rows, given = dy.reshape(-1, W.shape[0]), x.reshape(-1, W.shape[1])
    calls: list[Call] = [] if dW is None else product(dW, rows, given, transpose_a=True)
    return calls if dx is None else calls + product(dx.reshape(given.shape), rows, W)
