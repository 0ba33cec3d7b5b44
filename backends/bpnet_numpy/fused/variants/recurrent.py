"""The LSTM: a thread makes all steps of its samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_numpy.fused.blas import gemm
from bpnet_numpy.fused.instruction import Program, instruction
from bpnet_numpy.fused.parts import split
from bpnet_numpy.fused.variants import windows
from bpnet_numpy.fused.variants.common import check_place, fused
from bpnet_numpy.fused.variants.linear import column_sums, product
from bpnet_numpy.kernels import lstm, recurrent
from bpnet_numpy.kernels.common import Array, floating
from bpnet_numpy.kernels.sequences import INDICES

LEAST = 1 << 18
"""Multiplications that are worth a thread."""


def _laid(U: Array, turned: bool) -> tuple[list[Call], Array, Any]:
    """The calls that lay out U, or its transpose, as states are multiplied with it; that, and tables for tiles or 0."""
    k, n = U.shape[::-1] if turned else U.shape
    if windows.possible():
        return *windows.panels(U.reshape(1, 1, *U.shape), turned), windows.rows_and_steps(U, n, k)
    if not turned:
        return [], U, 0
    other = np.empty((k, n), U.dtype, like=U)
    return [instruction("turned_weight", U.dtype, other, U, 1, *U.shape)], other, 0


def _fits(x: Array, W: Array, U: Array, *rest: Any) -> bool:
    """Whether the weights are an LSTM's for x, and NumPy shows its product."""
    width = U.shape[0] if U.ndim == 2 else 0
    shapes = x.ndim == 3 and W.shape == (x.shape[-1], 4 * width) and U.shape == (width, 4 * width)
    return shapes and width > 0 and gemm(x.dtype) is not None


def _countable(lengths: Array | None, x: Array) -> bool:
    """Whether a compiled body can read the lengths."""
    given = lengths is not None
    return not given or (lengths.dtype in INDICES and lengths.shape == x.shape[:1] and lengths.flags.c_contiguous)


def _lengths(lengths: Array | None, some: slice) -> tuple[Any, int]:
    """The words of some samples' lengths."""
    return (0, 0) if lengths is None else (lengths[some], lengths.itemsize)


def _accepts(
    x: Array, W: Array, U: Array, b: Array, lengths: Any = None, reverse: bool = False, *states: Array | None
) -> bool:
    given = [each for each in states if each is not None]
    going_on = all(each.shape == (x.shape[0], U.shape[0]) for each in given)
    fitting = _fits(x, W, U) and b.shape == W.shape[1:] and floating(x, W, U, b, *given)
    return fitting and going_on and _countable(lengths, x) and x.size > 0


@fused(ops.lstm, accepts=_accepts, allocate=lstm._allocate)
def _(
    out: Any, x: Array, W: Array, U: Array, b: Array, lengths: Array | None = None, reverse: bool = False,
    h: Array | None = None, c: Array | None = None,
) -> list[Call]:  # fmt: skip
    y, gates, cells = out
    (n, steps, n_in), width, found = x.shape, len(U), gemm(x.dtype)
    assert found is not None
    shapes = ((n, steps, width), (steps, 4, n, width), (steps, n, width))
    for each, shape in zip(out, shapes, strict=True):
        check_place(each, shape, x.dtype)
    z = np.empty((n, steps, 4 * width), x.dtype, like=x)
    laying, weight, tables = _laid(U, False)

    def make(some: slice) -> list[Program]:
        samples = len(y[some])
        scratch = np.empty(6 * samples * width, x.dtype, like=x)
        states = (0 if each is None else each[some] for each in (h, c))
        own = (tables, scratch, *states, *_lengths(lengths, some))
        arrays = (y[some], gates[:, :, some], cells[:, some], z[some], weight, b, *own)
        sizes = (samples, n, steps, width, reverse, found.address, found.bits, x.itemsize)
        return [instruction("lstm", x.dtype, *arrays, *sizes)]

    calls = laying + product(z.reshape(-1, 4 * width), x.reshape(-1, n_in), W)
    return [*calls, *split(n, n * steps * 4 * width * width, make, least=LEAST)]


def _accepts_backward(
    dy: Array, y: Array, x: Array, W: Array, U: Array, gates: Array, cells: Array, lengths: Any = None, *rest: Any
) -> bool:
    if not _fits(x, W, U) or not _countable(lengths, x):
        return False
    (n, steps, _), width = x.shape, len(U)
    shapes = (dy.shape, y.shape, gates.shape, cells.shape)
    whole = (n, steps, width)
    fitting = shapes == (whole, whole, (steps, 4, n, width), (steps, n, width))
    contiguous = gates.flags.c_contiguous and cells.flags.c_contiguous
    return fitting and contiguous and recurrent.backward_accepts(dy, y, x, W, U, gates, cells, *rest)


@fused(
    ops.lstm_backward,
    accepts=_accepts_backward,
    allocate=lambda dy, y, x, W, U, gates, cells, lengths=None, reverse=False, need_dx=True, need_weights=True: (
        recurrent.gradients(x, W, U, need_dx, need_weights)
    ),
)
def _(
    out: Any, dy: Array, y: Array, x: Array, W: Array, U: Array, gates: Array, cells: Array,
    lengths: Array | None = None, reverse: bool = False, need_dx: bool = True, need_weights: bool = True,
) -> list[Call]:  # fmt: skip
    dx, dW, dU, db = out
    (n, steps, n_in), width, found = x.shape, len(U), gemm(x.dtype)
    assert found is not None
    dz = np.empty((n, steps, 4 * width), x.dtype, like=x)
    states = None if dW is None else np.empty((n, steps, width), x.dtype, like=x)
    laying, weight, tables = _laid(U, True)

    def make(some: slice) -> list[Program]:
        samples = len(y[some])
        scratch = np.empty(6 * samples * width, x.dtype, like=x)
        earlier = 0 if states is None else states[some]
        arrays = (dz[some], earlier, dy[some], y[some], gates[:, :, some], cells[:, some], weight, tables, scratch)
        arrays += _lengths(lengths, some)
        sizes = (samples, n, steps, width, reverse, found.address, found.bits, x.itemsize)
        return [instruction("lstm_backward", x.dtype, *arrays, *sizes)]

    calls: list[Call] = laying + list(split(n, n * steps * 4 * width * width, make, least=LEAST))
    rows, given = dz.reshape(-1, 4 * width), x.reshape(-1, n_in)
    if states is not None:
        if lengths is not None:  # what is behind a sequence's end may be anything, and is multiplied with 0
            given = np.empty(given.shape, x.dtype, like=x)
            sizes = (lengths.itemsize, n, steps, n_in)
            calls.append(instruction("present_rows", x.dtype, given, x, lengths, *sizes))
        calls += product(dW, given, rows, transpose_a=True)
        calls += product(dU, states.reshape(-1, width), rows, transpose_a=True)
        check_place(db, (4 * width,), x.dtype)
        calls += column_sums(db, rows)
    if dx is not None:
        check_place(dx, x.shape, x.dtype)
        calls += product(dx.reshape(given.shape), rows, W, transpose_b=True)
    return calls
