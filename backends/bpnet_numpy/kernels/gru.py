"""The GRU, whose new part needs its share of the product by itself."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_numpy.kernels.common import Array, constant, ones
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
from bpnet_numpy.scratch import borrow


@ops.gru.register_bound(
    np.ndarray,
    accepts=accepts,
    allocate=lambda x, W, U, *_: (
        np.empty((*x.shape[:2], U.shape[0]), x.dtype, like=x),
        np.empty((x.shape[1], x.shape[0], 4 * U.shape[0]), x.dtype, like=x),
    ),
)
def _(
    out: Any, x: Array, W: Array, U: Array, b: Array, b_n: Array, lengths: Array | None = None, reverse: bool = False,
    h: None = None,
) -> list[Call]:  # fmt: skip
    y, gates = out
    n, n_steps, _ = x.shape
    width, dtype = len(U), x.dtype
    padding = Padding(lengths, n, n_steps)
    xs, calls = inputs(x, padding)
    half = constant(0.5, dtype)
    scale = np.repeat(np.asarray([0.5, 0.5, 1.0], dtype), width)
    (W, U, b), scaling = scaled(scale, W, U, b)
    products = borrow((n_steps, n, 3 * width), dtype, x)
    hs, product = borrow((n_steps, n, width), dtype, x), borrow((n, 3 * width), dtype, x)
    calls = [
        *padding.calls,
        *calls,
        *scaling,
        partial(np.dot, flat(xs), W, flat(products)),
        partial(np.add, products, b, products),
    ]
    for t, earlier in steps(n_steps, reverse):
        gate, state, own = gates[t], hs[t], products[t]
        both, r, z = gate[:, : 2 * width], gate[:, :width], gate[:, width : 2 * width]
        new, m = gate[:, 2 * width : 3 * width], gate[:, 3 * width :]
        if earlier is None:
            calls += [partial(np.tanh, own[:, : 2 * width], both), partial(np.copyto, m, b_n)]
        else:
            calls += [
                partial(np.dot, hs[earlier], U, product),
                partial(np.add, own[:, : 2 * width], product[:, : 2 * width], both),
                partial(np.tanh, both, both),
                partial(np.add, product[:, 2 * width :], b_n, m),
            ]
        calls += [
            partial(np.multiply, both, half, both),
            partial(np.add, both, half, both),
            partial(np.multiply, r, m, new),
            partial(np.add, new, own[:, 2 * width :], new),
            partial(np.tanh, new, new),
        ]
        if earlier is None:
            calls += [partial(np.multiply, z, new, state), partial(np.subtract, new, state, state)]
        else:
            calls += [
                partial(np.subtract, hs[earlier], new, state),
                partial(np.multiply, z, state, state),
                partial(np.add, new, state, state),
            ]
        calls += padding.clear(state, t)
    return [*calls, partial(np.copyto, y, by_step(hs))]


@ops.gru_backward.register_bound(
    np.ndarray,
    accepts=backward_accepts,
    allocate=lambda dy, y, x, W, U, gates, lengths=None, reverse=False, need_dx=True, need_weights=True: (
        *gradients(x, W, U, need_dx, need_weights),
        np.empty(U.shape[0], dy.dtype, like=dy) if need_weights else None,
    ),
)
def _(
    out: Any, dy: Array, y: Array, x: Array, W: Array, U: Array, gates: Array, lengths: Array | None = None,
    reverse: bool = False, need_dx: bool = True, need_weights: bool = True,
) -> list[Call]:  # fmt: skip
    n, n_steps, width = dy.shape
    dtype = dy.dtype
    padding = Padding(lengths, n, n_steps)
    xs, x_calls = inputs(x, padding)
    outer, inner = (borrow((n_steps, n, 3 * width), dtype, dy) for _ in range(2))
    hs = borrow((n_steps, n, width), dtype, dy)
    dh, s, q = (borrow((n, width), dtype, dy) for _ in range(3))
    one = constant(1, dtype)
    U, turning = turned(U)
    calls: list[Call] = [*padding.calls, *turning, partial(np.copyto, hs, by_step(y))]
    for index, (t, earlier) in enumerate(steps(n_steps, reverse)[::-1]):
        r, z, new, m = (gates[t][:, start * width : (start + 1) * width] for start in range(4))
        dr, dz, dn = (outer[t][:, start * width : (start + 1) * width] for start in range(3))
        both, dm = inner[t][:, : 2 * width], inner[t][:, 2 * width :]
        calls += [
            partial(np.add, dh, dy[:, t], dh) if index else partial(np.copyto, dh, dy[:, t]),
            *padding.clear(dh, t),
            partial(np.subtract, one, z, q),
            partial(np.multiply, q, dh, q),
            partial(np.multiply, new, new, s),
            partial(np.subtract, one, s, s),
            partial(np.multiply, q, s, dn),
            partial(np.negative, new, s) if earlier is None else partial(np.subtract, hs[earlier], new, s),
            partial(np.subtract, one, z, q),
            partial(np.multiply, q, z, q),
            partial(np.multiply, s, q, s),
            partial(np.multiply, s, dh, dz),
            partial(np.subtract, one, r, q),
            partial(np.multiply, q, r, q),
            partial(np.multiply, q, m, q),
            partial(np.multiply, q, dn, dr),
            partial(np.copyto, both, outer[t][:, : 2 * width]),
            partial(np.multiply, dn, r, dm),
        ]
        if earlier is not None:
            calls += [
                partial(np.multiply, dh, z, q),
                partial(np.dot, inner[t], U, dh),
                partial(np.add, dh, q, dh),
            ]
    calls += after(out[:4], xs, x_calls, W, hs, outer, inner, reverse)
    if out[4] is not None:
        total = np.empty(3 * width, dtype, like=dy)
        d = flat(inner)
        calls += [partial(np.dot, ones(len(d), d), d, total), partial(np.copyto, out[4], total[2 * width :])]
    return calls
