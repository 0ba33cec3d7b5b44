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
    scaled,
    steps,
    turned,
)


def _lstm_allocate(x: Array, W: Array, U: Array, *_: Any) -> Any:
    n, n_steps, _ = x.shape
    width, dtype = U.shape[0], x.dtype
    return (
        np.empty((n, n_steps, width), dtype),
        np.empty((n_steps, n, 4 * width), dtype),
        np.empty((n_steps, n, width), dtype),
    )


@ops.lstm.register_bound(np.ndarray, accepts=accepts, allocate=_lstm_allocate)
def _(
    out: Any, x: Array, W: Array, U: Array, b: Array, lengths: Array | None = None, reverse: bool = False,
    h: None = None, c: None = None,
) -> list[Call]:  # fmt: skip
    y, gates, cells = out
    n, n_steps, _ = x.shape
    width, dtype = len(U), x.dtype
    padding = Padding(lengths, n, n_steps)
    xs, calls = inputs(x, padding)
    scale = np.repeat(np.asarray([0.5, 0.5, 1.0, 0.5], dtype), width)
    shift = 1 - scale
    (W, U, b), scaling = scaled(scale, W, U, b)
    hs, product = np.empty((n_steps, n, width), dtype), np.empty((n, 4 * width), dtype)
    scratch = np.empty((n, width), dtype)
    calls = [*padding.calls, *calls, *scaling, partial(np.dot, flat(xs), W, flat(gates))]
    for t, earlier in steps(n_steps, reverse):
        gate, cell, state = gates[t], cells[t], hs[t]
        i, f, g, o = (gate[:, start * width : (start + 1) * width] for start in range(4))
        calls.append(partial(np.add, gate, b, gate))
        if earlier is not None:
            calls += [partial(np.dot, hs[earlier], U, product), partial(np.add, gate, product, gate)]
        calls += [
            partial(np.tanh, gate, gate),
            partial(np.multiply, gate, scale, gate),
            partial(np.add, gate, shift, gate),
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
    d = np.empty((n_steps, n, 4 * width), dtype)
    hs = np.empty((n_steps, n, width), dtype)
    dh, dc, s, q = (np.empty((n, width), dtype) for _ in range(4))
    one = constant(1, dtype)
    U, turning = turned(U)
    calls: list[Call] = [*padding.calls, *turning]
    if need_weights:
        x_calls.append(partial(np.copyto, hs, by_step(y)))
    for index, (t, earlier) in enumerate(steps(n_steps, reverse)[::-1]):
        gate, cell, dz = gates[t], cells[t], d[t]
        i, f, g, o = (gate[:, start * width : (start + 1) * width] for start in range(4))
        di, df, dg, do = (dz[:, start * width : (start + 1) * width] for start in range(4))
        both, dboth = gate[:, : 2 * width], dz[:, : 2 * width]
        calls += [
            partial(np.add, dh, dy[:, t], dh) if index else partial(np.copyto, dh, dy[:, t]),
            *padding.clear(dh, t),
            partial(np.tanh, cell, s),
            partial(np.multiply, s, s, q),
            partial(np.subtract, one, q, q),
            partial(np.multiply, q, o, q),
            partial(np.multiply, q, dh, q),
            partial(np.add, dc, q, dc) if index else partial(np.copyto, dc, q),
            *padding.clear(dc, t),
            partial(np.multiply, gate, gate, dz),
            partial(np.subtract, both, dboth, dboth),
            partial(np.subtract, one, dg, dg),
            partial(np.subtract, o, do, do),
            partial(np.multiply, di, g, di),
            partial(df.fill, 0) if earlier is None else partial(np.multiply, df, cells[earlier], df),
            partial(np.multiply, dg, i, dg),
            partial(np.multiply, do, s, do),
            partial(np.multiply, do, dh, do),
        ]
        three = dz.reshape(n, 4, width)[:, :3]
        calls.append(partial(np.multiply, three, dc[:, None], three))
        if earlier is not None:
            calls += [partial(np.multiply, dc, f, dc), partial(np.dot, dz, U, dh)]
    return calls + after(out, xs, x_calls, W, hs, d, d, reverse)
