"""The affine map: a product by NumPy's own BLAS, and what is behind it in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call, Kernel
from bpnet_numpy.fused.instruction import Program, instruction
from bpnet_numpy.fused.team import pieces, split
from bpnet_numpy.fused.variants.activations import PASS
from bpnet_numpy.fused.variants.common import check_place, fused
from bpnet_numpy.fused.variants.products import (
    LEAST,
    STEP,
    at_once,
    by_terms,
    dealt,
    one_product,
    possible,
    product,
    shared,
)
from bpnet_numpy.kernels.common import Array, bound, floating
from bpnet_numpy.kernels.linear import (
    linear_accepts,
    linear_allocate,
    linear_backward_accepts,
    linear_backward_allocate,
)

SHIFTED = {ops.relu: "shift_relu", ops.sigmoid: "shift_sigmoid", ops.tanh: "shift_tanh"}


def _accepts(x: Array, W: Array, b: Array | None, activation: Kernel | None = None, *settings: Any) -> bool:
    fitting = x.ndim > 1 and W.ndim == 2 and x.shape[-1] == W.shape[0] and (b is None or b.shape == W.shape[1:])
    return fitting and linear_accepts(x, W, b, activation, *settings) and (b is None or b.flags.c_contiguous)


def _shift(y: Array, b: Array, activation: Kernel | None) -> Program:
    """The program that adds the bias to the rows of y and applies the activation, where that can be in one pass."""
    name = "shift" if activation is None else SHIFTED.get(activation, "shift")
    return instruction(name, y.dtype, y, b, *y.shape)


@fused(ops.linear, accepts=_accepts, allocate=linear_allocate)
def _(out: Array, x: Array, W: Array, b: Array | None, activation: Kernel | None = None, *settings: Any) -> list[Call]:
    n, m = W.shape
    check_place(out, (*x.shape[:-1], m), x.dtype)
    y, x2 = out.reshape(-1, m), x.reshape(-1, n)
    calls: list[Call]
    if b is not None and len(y) >= m and possible(y, x2, W):  # what a thread has multiplied is then in its cache

        def rows(some: slice) -> list[Program]:
            return [one_product(y[some], x2[some], W), _shift(y[some], b, activation)]

        calls = (
            split(len(y), y.size * n, rows, least=LEAST, step=STEP)
            if len(pieces(len(y), y.size * n, LEAST, STEP)) > 1
            else [*at_once([one_product(y, x2, W)], (x2.shape, W.shape, True)), _shift(y, b, activation)]
        )
    else:
        calls = product(y, x2, W)
        if b is not None:
            calls += split(len(y), y.size, lambda some: [_shift(y[some], b, activation)], least=PASS)
    if activation is not None and (b is None or activation not in SHIFTED):
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
    return derivatives(dx if dx is None else dx.reshape(x.shape), dW, db, dy, x, W.T)


def derivatives(dx: Array | None, dW: Array | None, db: Array | None, dy: Array, x: Array, back: Array) -> list[Call]:
    """The calls that set dx to dy back, dW to x^T dy, and db to the sum of the rows of dy, all at once."""
    sums: list[Program] = []
    after: list[Call] = []
    if db is not None:
        check_place(db, dy.shape[1:], dy.dtype)
        ranges = [] if dW is None else by_terms(dW, x.T, dy)
        if len(ranges) > 1:  # each thread sums the rows that it multiplies
            terms = np.empty((len(ranges), len(db)), db.dtype)
            sums = [column_sums(to, dy[some]) for to, some in zip(terms, ranges, strict=True)]
            after = [column_sums(db, terms)]
        else:
            sums = [column_sums(db[some], dy[:, some]) for some in pieces(len(db), dy.size, PASS, STEP)]
    return [*products_at_once([(dW, x.T, dy), (dx, dy, back)], sums), *after]


def products_at_once(
    wanted: list[tuple[Array | None, Array, Array]], others: list[Program] | None = None
) -> list[Call]:
    """The calls that make all products (out, a, b) whose place is not None, and what else can be done beside them."""
    products = [each for each in wanted if each[0] is not None]
    for out, a, b in products:
        check_place(out, (a.shape[0], b.shape[1]), a.dtype)
    if all(possible(*each) for each in products):
        hands = [shared(*each) for each in products]
        if max((len(programs) for programs, _ in hands), default=0) > 1:
            calls = dealt(*(programs for programs, _ in hands), others or [])
            return [*calls, *(call for _, after in hands for call in after)]
    rest = dealt(others) if others else []
    return [*rest, *(call for each in products for call in product(*each))]


def column_sums(out: Array, x: Array) -> Program:
    """The program that sets `out` to the sums of the columns of x, whose rows have no gaps within."""
    return instruction("sum_columns", x.dtype, out, x, *x.shape, x.strides[0] // x.itemsize)


@fused(
    ops.unembed,
    accepts=lambda x, W: floating(x, W) and x.ndim > 1 and W.ndim == 2 and x.size > 0 and x.shape[-1] == W.shape[1],
    allocate=lambda x, W: np.empty((*x.shape[:-1], W.shape[0]), x.dtype),
)
def _(out: Array, x: Array, W: Array) -> list[Call]:
    check_place(out, (*x.shape[:-1], W.shape[0]), x.dtype)
    return product(out.reshape(-1, W.shape[0]), x.reshape(-1, W.shape[1]), W.T)


@fused(
    ops.unembed_backward,
    accepts=lambda dy, x, W, *_: (
        floating(dy, x, W)
        and dy.ndim > 1
        and x.size > 0
        and (dy.shape[-1], x.shape[-1]) == W.shape
        and dy.shape[:-1] == x.shape[:-1]
    ),
    allocate=lambda dy, x, W, need_dx=True, need_dW=True: (
        np.empty_like(x) if need_dx else None,
        np.empty_like(W) if need_dW else None,
    ),
)
def _(out: Any, dy: Array, x: Array, W: Array, *_: bool) -> list[Call]:
    dx, dW = out
    dy, x = dy.reshape(-1, W.shape[0]), x.reshape(-1, W.shape[1])
    return products_at_once([(dW, dy.T, x), (None if dx is None else dx.reshape(x.shape), dy, W)])
