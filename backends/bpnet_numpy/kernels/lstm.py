"""The LSTM: one product and one tanh a step for all four gates."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_numpy.kernels.common import Array, constant
from bpnet_numpy.kernels.recurrent import (
    Padding,
    accepts,
    after,
    backward_accepts,
    by_step,
    flat,
    gradients,
    inputs,
    steps,
    turned,
)
from bpnet_numpy.scratch import borrow


def allocate(x: Array, W: Array, U: Array, *_: Any) -> Any:
    """Where y, the gates and the cells go."""
    n, n_steps, _ = x.shape
    width, dtype = U.shape[0], x.dtype
    return (
        np.empty((n, n_steps, width), dtype, like=x),
        np.empty((n_steps, 4, n, width), dtype, like=x),
        np.empty((n_steps, n, width), dtype, like=x),
    )


def _as_kept(source: Array, target: Array, width: int) -> list[Call]:
    """Write the columns i, f, g, o to i, f, o, g, all but g halved."""
    half = constant(0.5, source.dtype)
    return [
        partial(np.multiply, source[..., : 2 * width], half, target[..., : 2 * width]),
        partial(np.multiply, source[..., 3 * width :], half, target[..., 2 * width : 3 * width]),
        partial(np.copyto, target[..., 3 * width :], source[..., 2 * width : 3 * width]),
    ]


@ops.lstm.register_bound(np.ndarray, accepts=accepts, allocate=allocate)
def _(
    out: Any, x: Array, W: Array, U: Array, b: Array, lengths: Array | None = None, reverse: bool = False,
    h: None = None, c: None = None,
) -> list[Call]:  # fmt: skip
    y, gates, cells = out
    n, n_steps, n_in = x.shape
    width, dtype = len(U), x.dtype
    padding = Padding(lengths, n, n_steps)
    xs = np.ones((n_steps, n, n_in + 1), dtype, like=x)  # a column of ones, which b is multiplied with
    own_W, own_U = borrow((n_in + 1, 4 * width), dtype, x), borrow((width, 4 * width), dtype, x)
    products, product = borrow((n_steps, n, 4 * width), dtype, x), borrow((n, 4 * width), dtype, x)
    hs, scratch = borrow((n_steps, n, width), dtype, x), borrow((n, width), dtype, x)
    half = constant(0.5, dtype)
    calls: list[Call] = [
        *padding.calls,
        partial(np.copyto, xs[:, :, :n_in], by_step(x)),
        *padding.clear(xs[:, :, :n_in]),
        *_as_kept(W, own_W[:n_in], width),
        *_as_kept(b, own_W[n_in], width),
        *_as_kept(U, own_U, width),
        partial(np.dot, flat(xs), own_W, flat(products)),
    ]
    for t, earlier in steps(n_steps, reverse):
        gate, cell, state, own = gates[t], cells[t], hs[t], products[t]
        i, f, o, g = gate
        if earlier is not None:
            calls += [partial(np.dot, hs[earlier], own_U, product), partial(np.add, own, product, product)]
            own = product
        columns = own.reshape(n, 4, width).transpose(1, 0, 2)
        calls += [
            partial(np.tanh, own, own),
            partial(np.multiply, columns[:3], half, gate[:3]),
            partial(np.add, gate[:3], half, gate[:3]),
            partial(np.copyto, g, columns[3]),
            partial(np.multiply, i, g, cell),
        ]
        if earlier is not None:
            calls += [partial(np.multiply, f, cells[earlier], scratch), partial(np.add, cell, scratch, cell)]
        calls += [
            *padding.clear(cell, t),
            partial(np.tanh, cell, scratch),
            partial(np.multiply, o, scratch, state),
            *padding.clear(state, t),
        ]
    return [*calls, partial(np.copyto, y, by_step(hs))]


@ops.lstm_backward.register_bound(
    np.ndarray,
    accepts=backward_accepts,
    allocate=lambda dy, y, x, W, U, gates, cells, lengths=None, reverse=False, need_dx=True, need_weights=True: (
        gradients(x, W, U, need_dx, need_weights)
    ),
)
def _(
    out: Any, dy: Array, y: Array, x: Array, W: Array, U: Array, gates: Array, cells: Array,
    lengths: Array | None = None, reverse: bool = False, need_dx: bool = True, need_weights: bool = True,
) -> list[Call]:  # fmt: skip
    n, n_steps, width = dy.shape
    dtype = dy.dtype
    padding = Padding(lengths, n, n_steps)
    xs, x_calls = inputs(x, padding)
    d = borrow((n_steps, n, 4 * width), dtype, dy)
    hs, slopes = borrow((n_steps, n, width), dtype, dy), borrow((4, n, width), dtype, dy)
    dh, dc, s, q = (borrow((n, width), dtype, dy) for _ in range(4))
    one = constant(1, dtype)
    U, turning = turned(U)
    calls: list[Call] = [*padding.calls, *turning]
    if need_weights:
        x_calls.append(partial(np.copyto, hs, by_step(y)))
    for index, (t, earlier) in enumerate(steps(n_steps, reverse)[::-1]):
        gate, dz = gates[t], d[t]
        i, f, o, g = gate
        di, df, do, dg = slopes
        places = dz.reshape(n, 4, width).transpose(1, 0, 2)  # of i, f, g, o
        calls += [
            partial(np.add, dh, dy[:, t], dh) if index else partial(np.copyto, dh, dy[:, t]),
            *padding.clear(dh, t),
            partial(np.tanh, cells[t], s),
            partial(np.multiply, s, s, q),
            partial(np.subtract, one, q, q),
            partial(np.multiply, q, o, q),
            partial(np.multiply, q, dh, q),
            partial(np.add, dc, q, dc) if index else partial(np.copyto, dc, q),
            *padding.clear(dc, t),
            partial(np.multiply, gate, gate, slopes),
            partial(np.subtract, gate[:3], slopes[:3], slopes[:3]),
            partial(np.subtract, one, dg, dg),
            partial(np.multiply, di, g, di),
            partial(df.fill, 0) if earlier is None else partial(np.multiply, df, cells[earlier], df),
            partial(np.multiply, dg, i, dg),
            partial(np.multiply, do, s, do),
            partial(np.multiply, slopes[:2], dc, places[:2]),
            partial(np.multiply, dg, dc, places[2]),
            partial(np.multiply, do, dh, places[3]),
        ]
        if earlier is not None:
            calls += [partial(np.multiply, dc, f, dc), partial(np.dot, dz, U, dh)]
    return calls + after(out, xs, x_calls, W, hs, d, d, reverse)
