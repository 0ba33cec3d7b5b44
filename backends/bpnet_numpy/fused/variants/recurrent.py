"""Recurrent networks: a thread makes all steps of its samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_numpy.fused.blas import gemm
from bpnet_numpy.fused.instruction import Program, instruction
from bpnet_numpy.fused.parts import MULTIPLICATIONS, column_sums, split
from bpnet_numpy.fused.variants import windows
from bpnet_numpy.fused.variants.common import check_place, fused
from bpnet_numpy.fused.variants.linear import product
from bpnet_numpy.kernels import lstm, recurrent
from bpnet_numpy.kernels.common import INDICES, Array, floating
from bpnet_numpy.scratch import borrow

ACTIVATIONS = ("tanh", "relu")


def _laid(U: Array, turned: bool) -> tuple[list[Call], Array, Any]:
    """The calls that lay out U, or its transpose, as states are multiplied with it; that, and tables for tiles or 0."""
    k, n = U.shape[::-1] if turned else U.shape
    if windows.possible():
        return *windows.panels(U.reshape(1, 1, *U.shape), turned), windows.rows_and_steps(U, n, k)
    if not turned:
        return [], U, 0
    other = np.empty((k, n), U.dtype, like=U)
    return [instruction("turned_weight", U.dtype, other, U, 1, *U.shape)], other, 0


def _fits(gates: int, x: Array, W: Array, U: Array, lengths: Array | None) -> bool:
    """Whether the weights are those of so many gates for x, the lengths can be read, and NumPy shows its product."""
    width = U.shape[0] if U.ndim == 2 else 0
    shapes = x.ndim == 3 and W.shape == (x.shape[-1], gates * width) and U.shape == (width, gates * width)
    return shapes and x.size > 0 and width > 0 and _countable(lengths, x) and gemm(x.dtype) is not None


def _countable(lengths: Array | None, x: Array) -> bool:
    """Whether a compiled body can read the lengths."""
    if lengths is None:
        return True
    return bool(lengths.dtype in INDICES and lengths.shape == x.shape[:1] and lengths.flags.c_contiguous)


def _lengths(lengths: Array | None, some: slice) -> tuple[Any, int]:
    """The words of some samples' lengths."""
    return (0, 0) if lengths is None else (lengths[some], lengths.itemsize)


def _goes_on(x: Array, U: Array, *states: Array | None) -> bool:
    """Whether states are for these samples."""
    return all(each.shape == (x.shape[0], U.shape[0]) and floating(x, each) for each in states if each is not None)


def _goes_back(dy: Array, y: Array, x: Array, W: Array, U: Array) -> bool:
    return dy.shape == y.shape == (*x.shape[:2], U.shape[0]) and floating(dy, y, x, W, U)


class _Weights:
    """Where the gradients of a network are made of those of all positions' x W and h U, and of the states before."""

    def __init__(self, out: Any, x: Array, W: Array, U: Array, lengths: Array | None) -> None:
        self.dx, self.dW, self.dU, self.db = out
        self.x, self.W, self.lengths, self.width = x, W, lengths, len(U)
        for each, like in zip(out, (x, W, U, None), strict=True):
            if each is not None:
                check_place(each, W.shape[1:] if like is None else like.shape, x.dtype)
        self.states = None if self.dW is None else borrow((*x.shape[:2], self.width), x.dtype, x)

    def before(self, some: slice) -> Any:
        """The word of some samples' states."""
        return 0 if self.states is None else self.states[some]

    def calls(self, outer: Array, inner: Array) -> list[Call]:
        """The products. outer, inner : gradients of x W and of h U"""
        n, steps, n_in = self.x.shape
        rows, given, calls = outer.reshape(n * steps, -1), self.x.reshape(n * steps, n_in), list[Call]()
        if self.states is not None:
            if self.lengths is not None:  # what is behind a sequence's end may be anything, and is multiplied with 0
                given = borrow(given.shape, self.x.dtype, self.x)
                sizes = (self.lengths.itemsize, n, steps, n_in)
                calls.append(instruction("present_rows", self.x.dtype, given, self.x, self.lengths, *sizes))
            calls += product(self.dW, given, rows, transpose_a=True)
            earlier = self.states.reshape(-1, self.width)
            calls += product(self.dU, earlier, inner.reshape(rows.shape), transpose_a=True)
            calls += column_sums(self.db, rows)
        if self.dx is not None:
            calls += product(self.dx.reshape(given.shape), rows, self.W, transpose_b=True)
        return calls


# --- LSTM ---


def _accepts(
    x: Array, W: Array, U: Array, b: Array, lengths: Any = None, reverse: bool = False, *states: Array | None
) -> bool:
    fitting = _fits(4, x, W, U, lengths) and b.shape == W.shape[1:] and floating(x, W, U, b)
    return fitting and _goes_on(x, U, *states)


@fused(ops.lstm, accepts=_accepts, allocate=lstm.allocate)
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
    z = borrow((n, steps, 4 * width), x.dtype, x)
    laying, weight, tables = _laid(U, False)

    def make(some: slice) -> list[Program]:
        samples = len(y[some])
        scratch = borrow(6 * samples * width, x.dtype, x)
        states = (0 if each is None else each[some] for each in (h, c))
        own = (tables, scratch, *states, *_lengths(lengths, some))
        arrays = (y[some], gates[:, :, some], cells[:, some], z[some], weight, b, *own)
        sizes = (samples, n, steps, width, reverse, found.address, found.bits, x.itemsize)
        return [instruction("lstm", x.dtype, *arrays, *sizes)]

    calls = laying + product(z.reshape(-1, 4 * width), x.reshape(-1, n_in), W)
    return [*calls, *split(n, n * steps * 4 * width * width, make, least=MULTIPLICATIONS)]


def _accepts_backward(
    dy: Array, y: Array, x: Array, W: Array, U: Array, gates: Array, cells: Array, lengths: Any = None, *_: Any
) -> bool:
    if not (_fits(4, x, W, U, lengths) and _goes_back(dy, y, x, W, U) and floating(x, gates, cells)):
        return False
    (n, steps, _), width = x.shape, len(U)
    return bool(gates.shape == (steps, 4, n, width) and cells.shape == (steps, n, width))


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
    (n, steps, _), width, found = x.shape, len(U), gemm(x.dtype)
    assert found is not None
    weights = _Weights(out, x, W, U, lengths)
    dz = borrow((n, steps, 4 * width), x.dtype, x)
    laying, weight, tables = _laid(U, True)

    def make(some: slice) -> list[Program]:
        samples = len(y[some])
        scratch = borrow(6 * samples * width, x.dtype, x)
        kept = (dy[some], y[some], gates[:, :, some], cells[:, some])
        arrays = (dz[some], weights.before(some), *kept, weight, tables, scratch, *_lengths(lengths, some))
        sizes = (samples, n, steps, width, reverse, found.address, found.bits, x.itemsize)
        return [instruction("lstm_backward", x.dtype, *arrays, *sizes)]

    return [*laying, *split(n, n * steps * 4 * width * width, make, least=MULTIPLICATIONS), *weights.calls(dz, dz)]


# --- GRU ---


@fused(
    ops.gru,
    accepts=lambda x, W, U, b, b_n, lengths=None, reverse=False, h=None: (
        _fits(3, x, W, U, lengths) and b.shape == W.shape[1:] and b_n.shape == U.shape[:1]
        and floating(x, W, U, b, b_n) and _goes_on(x, U, h)
    ),
    allocate=lambda x, W, U, *_: (
        np.empty((*x.shape[:2], U.shape[0]), x.dtype, like=x),
        np.empty((x.shape[1], x.shape[0], 4 * U.shape[0]), x.dtype, like=x),
    ),
)  # fmt: skip
def _(
    out: Any, x: Array, W: Array, U: Array, b: Array, b_n: Array, lengths: Array | None = None, reverse: bool = False,
    h: Array | None = None,
) -> list[Call]:  # fmt: skip
    y, gates = out
    (n, steps, n_in), width, found = x.shape, len(U), gemm(x.dtype)
    assert found is not None
    for each, shape in ((y, (n, steps, width)), (gates, (steps, n, 4 * width))):
        check_place(each, shape, x.dtype)
    a = borrow((n, steps, 3 * width), x.dtype, x)
    laying, weight, tables = _laid(U, False)

    def make(some: slice) -> list[Program]:
        samples = len(y[some])
        scratch = borrow(4 * samples * width, x.dtype, x)
        own = (tables, scratch, 0 if h is None else h[some], *_lengths(lengths, some))
        sizes = (samples, n, steps, width, reverse, found.address, found.bits, x.itemsize)
        return [instruction("gru", x.dtype, y[some], gates[:, some], a[some], weight, b, b_n, *own, *sizes)]

    calls = laying + product(a.reshape(-1, 3 * width), x.reshape(-1, n_in), W)
    return [*calls, *split(n, n * steps * 3 * width * width, make, least=MULTIPLICATIONS)]


@fused(
    ops.gru_backward,
    accepts=lambda dy, y, x, W, U, gates, lengths=None, *_: (
        _fits(3, x, W, U, lengths) and _goes_back(dy, y, x, W, U) and floating(x, gates)
        and gates.shape == (x.shape[1], x.shape[0], 4 * U.shape[0])
    ),
    allocate=lambda dy, y, x, W, U, gates, lengths=None, reverse=False, need_dx=True, need_weights=True: (
        *recurrent.gradients(x, W, U, need_dx, need_weights),
        np.empty(U.shape[0], dy.dtype, like=dy) if need_weights else None,
    ),
)  # fmt: skip
def _(
    out: Any, dy: Array, y: Array, x: Array, W: Array, U: Array, gates: Array, lengths: Array | None = None,
    reverse: bool = False, need_dx: bool = True, need_weights: bool = True,
) -> list[Call]:  # fmt: skip
    (n, steps, _), width, found = x.shape, len(U), gemm(x.dtype)
    assert found is not None
    weights, db_n = _Weights(out[:4], x, W, U, lengths), out[4]
    outer, inner = (borrow((n, steps, 3 * width), x.dtype, x) for _ in range(2))
    laying, weight, tables = _laid(U, True)

    def make(some: slice) -> list[Program]:
        samples = len(y[some])
        scratch = borrow(5 * samples * width, x.dtype, x)
        arrays = (outer[some], inner[some], weights.before(some), dy[some], y[some], gates[:, some], weight, tables)
        sizes = (samples, n, steps, width, reverse, found.address, found.bits, x.itemsize)
        return [instruction("gru_backward", x.dtype, *arrays, scratch, *_lengths(lengths, some), *sizes)]

    calls: list[Call] = [
        *laying,
        *split(n, n * steps * 3 * width * width, make, least=MULTIPLICATIONS),
        *weights.calls(outer, inner),
    ]
    if db_n is not None:
        check_place(db_n, (width,), x.dtype)
        calls += column_sums(db_n, inner.reshape(n * steps, -1)[:, 2 * width :])
    return calls


# --- the plain one ---


@fused(
    ops.rnn,
    accepts=lambda x, W, U, b, activation, lengths=None, reverse=False, h=None: (
        _fits(1, x, W, U, lengths) and b.shape == W.shape[1:] and floating(x, W, U, b) and _goes_on(x, U, h)
        and activation in ACTIVATIONS
    ),
    allocate=lambda x, W, U, *_: np.empty((*x.shape[:2], U.shape[0]), x.dtype, like=x),
)  # fmt: skip
def _(
    y: Array, x: Array, W: Array, U: Array, b: Array, activation: str, lengths: Array | None = None,
    reverse: bool = False, h: Array | None = None,
) -> list[Call]:  # fmt: skip
    (n, steps, n_in), width, found = x.shape, len(U), gemm(x.dtype)
    assert found is not None
    check_place(y, (n, steps, width), x.dtype)
    z = borrow((n, steps, width), x.dtype, x)
    laying, weight, tables = _laid(U, False)

    def make(some: slice) -> list[Program]:
        samples = len(y[some])
        scratch = borrow(2 * samples * width, x.dtype, x)
        own = (tables, scratch, 0 if h is None else h[some], *_lengths(lengths, some), activation == "relu")
        sizes = (samples, steps, width, reverse, found.address, found.bits, x.itemsize)
        return [instruction("rnn", x.dtype, y[some], z[some], weight, b, *own, *sizes)]

    calls = laying + product(z.reshape(-1, width), x.reshape(-1, n_in), W)
    return [*calls, *split(n, n * steps * width * width, make, least=MULTIPLICATIONS)]


@fused(
    ops.rnn_backward,
    accepts=lambda dy, y, x, W, U, activation, lengths=None, *_: (
        _fits(1, x, W, U, lengths) and _goes_back(dy, y, x, W, U) and activation in ACTIVATIONS
    ),
    allocate=lambda dy, y, x, W, U, activation, lengths=None, reverse=False, need_dx=True, need_weights=True: (
        recurrent.gradients(x, W, U, need_dx, need_weights)
    ),
)
def _(
    out: Any, dy: Array, y: Array, x: Array, W: Array, U: Array, activation: str, lengths: Array | None = None,
    reverse: bool = False, need_dx: bool = True, need_weights: bool = True,
) -> list[Call]:  # fmt: skip
    (n, steps, _), width, found = x.shape, len(U), gemm(x.dtype)
    assert found is not None
    weights = _Weights(out, x, W, U, lengths)
    dz = borrow((n, steps, width), x.dtype, x)
    laying, weight, tables = _laid(U, True)

    def make(some: slice) -> list[Program]:
        samples = len(y[some])
        scratch = borrow(2 * samples * width, x.dtype, x)
        arrays = (dz[some], weights.before(some), dy[some], y[some], weight, tables, scratch)
        sizes = (activation == "relu", samples, steps, width, reverse, found.address, found.bits, x.itemsize)
        return [instruction("rnn_backward", x.dtype, *arrays, *_lengths(lengths, some), *sizes)]

    return [*laying, *split(n, n * steps * width * width, make, least=MULTIPLICATIONS), *weights.calls(dz, dz)]
