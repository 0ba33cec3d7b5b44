"""The LSTM of sequences of one length: a thread makes all steps of its samples."""

from __future__ import annotations

from typing import Any

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_numpy.fused.blas import gemm
from bpnet_numpy.fused.instruction import Program, instruction
from bpnet_numpy.fused.parts import split
from bpnet_numpy.fused.variants.common import check_place, fused
from bpnet_numpy.fused.variants.linear import column_sums, product
from bpnet_numpy.kernels import lstm, recurrent
from bpnet_numpy.kernels.common import Array
from bpnet_numpy.scratch import borrow

LEAST = 1 << 18
"""Multiplications that are worth a thread."""


def _fits(x: Array, W: Array, U: Array, *rest: Any) -> bool:
    """Whether the weights are an LSTM's for x, and NumPy shows its product."""
    width = U.shape[0] if U.ndim == 2 else 0
    shapes = x.ndim == 3 and W.shape == (x.shape[-1], 4 * width) and U.shape == (width, 4 * width)
    return shapes and width > 0 and gemm(x.dtype) is not None


def _of_one_length(x: Array, W: Array, U: Array, b: Array, lengths: Any = None, *rest: Any) -> bool:
    return lengths is None and _fits(x, W, U) and b.shape == W.shape[1:] and recurrent.accepts(x, W, U, b, *rest)


@fused(ops.lstm, accepts=_of_one_length, allocate=lstm._allocate)
def _(
    out: Any, x: Array, W: Array, U: Array, b: Array, lengths: None = None, reverse: bool = False, h: None = None,
    c: None = None,
) -> list[Call]:  # fmt: skip
    y, gates, cells = out
    (n, steps, n_in), width, found = x.shape, len(U), gemm(x.dtype)
    assert found is not None
    shapes = ((n, steps, width), (steps, 4, n, width), (steps, n, width))
    for each, shape in zip(out, shapes, strict=True):
        check_place(each, shape, x.dtype)
    z = borrow((n, steps, 4 * width), x.dtype, x)

    def make(some: slice) -> list[Program]:
        arrays = (y[some], gates[:, :, some], cells[:, some], z[some], U, b)
        sizes = (len(y[some]), n, steps, width, reverse, found.address, found.bits, x.itemsize)
        return [instruction("lstm", x.dtype, *arrays, *sizes)]

    calls = product(z.reshape(-1, 4 * width), x.reshape(-1, n_in), W)
    return [*calls, *split(n, n * steps * 4 * width * width, make, least=LEAST)]


def _backward_of_one_length(
    dy: Array, y: Array, x: Array, W: Array, U: Array, gates: Array, cells: Array, lengths: Any = None, *rest: Any
) -> bool:
    if lengths is not None or not _fits(x, W, U):
        return False
    (n, steps, _), width = x.shape, len(U)
    shapes = (dy.shape, y.shape, gates.shape, cells.shape)
    whole = (n, steps, width)
    fitting = shapes == (whole, whole, (steps, 4, n, width), (steps, n, width))
    contiguous = gates.flags.c_contiguous and cells.flags.c_contiguous
    return fitting and contiguous and recurrent.backward_accepts(dy, y, x, W, U, gates, cells, *rest)


@fused(
    ops.lstm_backward,
    accepts=_backward_of_one_length,
    allocate=lambda dy, y, x, W, U, gates, cells, lengths=None, reverse=False, need_dx=True, need_weights=True: (
        recurrent.gradients(x, W, U, need_dx, need_weights)
    ),
)
def _(
    out: Any, dy: Array, y: Array, x: Array, W: Array, U: Array, gates: Array, cells: Array, lengths: None = None,
    reverse: bool = False, need_dx: bool = True, need_weights: bool = True,
) -> list[Call]:  # fmt: skip
    dx, dW, dU, db = out
    (n, steps, n_in), width, found = x.shape, len(U), gemm(x.dtype)
    assert found is not None
    dz = borrow((n, steps, 4 * width), x.dtype, x)
    states = None if dW is None else borrow((n, steps, width), x.dtype, x)

    def make(some: slice) -> list[Program]:
        samples = len(y[some])
        own = borrow((2 * samples + 1) * width, x.dtype, x)
        earlier = 0 if states is None else states[some]
        arrays = (dz[some], earlier, dy[some], y[some], gates[:, :, some], cells[:, some], U, own)
        sizes = (samples, n, steps, width, reverse, found.address, found.bits, x.itemsize)
        return [instruction("lstm_backward", x.dtype, *arrays, *sizes)]

    calls: list[Call] = list(split(n, n * steps * 4 * width * width, make, least=LEAST))
    rows, given = dz.reshape(-1, 4 * width), x.reshape(-1, n_in)
    if states is not None:
        calls += product(dW, given, rows, transpose_a=True)
        calls += product(dU, states.reshape(-1, width), rows, transpose_a=True)
        check_place(db, (4 * width,), x.dtype)
        calls += column_sums(db, rows)
    if dx is not None:
        check_place(dx, x.shape, x.dtype)
        calls += product(dx.reshape(given.shape), rows, W, transpose_b=True)
    return calls
