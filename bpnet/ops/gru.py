"""The gated recurrent unit over a whole sequence, with the derivative written out."""

from __future__ import annotations

from bpnet.dispatch import Array, kernel, namespace
from bpnet.ops.activations import sigmoid
from bpnet.ops.factors import Factor, exactly
from bpnet.ops.recurrent import (
    before,
    by_step,
    flat,
    input_gradient,
    input_products,
    n_products,
    only,
    order,
    present,
    zero_state,
)


def _gru_flops(
    x: Array, W: Array, U: Array, b: Array, b_n: Array, lengths: Array | None = None, reverse: bool = False,
    h: Array | None = None,
) -> int:  # fmt: skip
    width = int(U.shape[0])
    steps = int(x.shape[0]) * int(x.shape[1])
    return n_products(x, 3 * width) + steps * (6 * width * width + 18 * width)


def gru_states(
    x: Array, W: Array, U: Array, b: Array, b_n: Array, lengths: Array | None, reverse: bool, h: Array | None,
    factor: Factor = exactly,
) -> tuple[Array, Array]:  # fmt: skip
    """What `gru` returns. factor : what a state becomes before it is multiplied"""
    xp = namespace(x)
    width, n_steps = U.shape[0], x.shape[1]
    there = present(x, lengths, n_steps)
    a = input_products(x, W, b, there)
    h = zero_state(x, width) if h is None else h
    outputs, gates = [h] * n_steps, [h] * n_steps
    for t in order(n_steps, reverse):
        product, own = factor(h) @ U, a[t, ...]
        both = sigmoid(own[:, : 2 * width] + product[:, : 2 * width])
        r, z = both[:, :width], both[:, width:]
        m = product[:, 2 * width :] + b_n
        n = xp.tanh(own[:, 2 * width :] + r * m)
        h = outputs[t] = only(None if there is None else there[t, ...], n + z * (h - n))
        gates[t] = xp.concat((both, n, m), axis=-1)
    return xp.stack(outputs, axis=1), xp.stack(gates, axis=0)


@kernel(flops=_gru_flops)
def gru(
    x: Array, W: Array, U: Array, b: Array, b_n: Array, lengths: Array | None = None, reverse: bool = False,
    h: Array | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """With the thirds r, z, n of x_t W + b and of h_{t-1} U, and s the logistic function:

    r_t = s(r_x + r_h), z_t = s(z_x + z_h), m_t = n_h + b_n, n_t = tanh(n_x + r_t m_t),
    h_t = (1 - z_t) n_t + z_t h_{t-1}, from h, or zeros. [Cho et al. 2014, with r behind the product] Order and formula
    are PyTorch's, whose weights are W^T and U^T, whose biases of r and z add up, and whose bias of n_h is b_n.
    x : (N, T, I), T >= 1; W : (I, 3 H); U : (H, 3 H); b : (3 H,); b_n : (H,); h : (N, H)
    lengths, reverse : see bpnet.ops.recurrent
    Returns y (N, T, H), all h_t; and r_t, z_t, n_t, m_t of all steps (T, N, 4 H).
    """
    return gru_states(x, W, U, b, b_n, lengths, reverse, h)


def _gru_backward_flops(
    dy: Array, y: Array, x: Array, W: Array, U: Array, gates: Array, lengths: Array | None = None,
    reverse: bool = False, need_dx: bool = True, need_weights: bool = True,
) -> int:  # fmt: skip
    width = int(U.shape[0])
    steps = int(x.shape[0]) * int(x.shape[1])
    once = n_products(x, 3 * width) * (need_dx + need_weights)
    weights = steps * (6 * width * width + 4 * width) if need_weights else 0
    return steps * (6 * width * width + 18 * width) + once + weights


def _gru_backward_unread(
    dy: Array, y: Array, x: Array, W: Array, U: Array, gates: Array, lengths: Array | None = None,
    reverse: bool = False, need_dx: bool = True, need_weights: bool = True,
) -> tuple[int, ...]:  # fmt: skip
    return (*(() if need_weights else (2,)), *(() if need_dx else (3,)))  # the states are factors of dz


def gru_gradients(
    dy: Array, y: Array, x: Array, W: Array, U: Array, gates: Array, lengths: Array | None, reverse: bool,
    need_dx: bool, need_weights: bool, factor: Factor = exactly,
) -> tuple[Array | None, Array | None, Array | None, Array | None, Array | None]:  # fmt: skip
    """What `gru_backward` returns. factor : what gradients and states become before they are multiplied"""
    xp = namespace(dy)
    width, n_steps = U.shape[0], x.shape[1]
    there = present(x, lengths, n_steps)
    dys, earlier = by_step(dy), before(by_step(y), reverse)
    dh = zero_state(dy, width)
    inner, outer = [dh] * n_steps, [dh] * n_steps
    for t in order(n_steps, not reverse):
        kept = gates[t, ...]
        r, z, n, m = (kept[:, start * width : (start + 1) * width] for start in range(4))
        dh = only(None if there is None else there[t, ...], dys[t, ...] + dh)
        dn = dh * (1 - z) * (1 - n * n)
        dz = dh * (earlier[t, ...] - n) * (z * (1 - z))
        dr = dn * m * (r * (1 - r))
        outer[t] = xp.concat((dr, dz, dn), axis=-1)
        q = inner[t] = xp.concat((dr, dz, dn * r), axis=-1)
        dh = dh * z + factor(q) @ U.T
    p = xp.stack(outer, axis=0)
    rounded = factor(p)
    dx = input_gradient(rounded, W) if need_dx else None
    if not need_weights:
        return dx, None, None, None, None
    q = xp.stack(inner, axis=0)
    dW = flat(only(there, by_step(x))).T @ flat(rounded)
    dU = flat(factor(earlier)).T @ flat(factor(q))
    return dx, dW, dU, xp.sum(flat(p), axis=0), xp.sum(flat(q)[:, 2 * width :], axis=0)


@kernel(flops=_gru_backward_flops, unread=_gru_backward_unread)
def gru_backward(
    dy: Array, y: Array, x: Array, W: Array, U: Array, gates: Array, lengths: Array | None = None,
    reverse: bool = False, need_dx: bool = True, need_weights: bool = True,
) -> tuple[Array | None, Array | None, Array | None, Array | None, Array | None]:  # fmt: skip
    """The gradients of gru that began with zeros, from the last step made to the first.

    dh_t = dy_t + dh_{t+1} z_{t+1} + q_{t+1} U^T; the gradients of what the three functions are applied to are
    dn = dh_t (1 - z) (1 - n^2), dz = dh_t (h_{t-1} - n) z (1 - z), dr = dn m r (1 - r); dm = dn r.
    With p_t = (dr, dz, dn) and q_t = (dr, dz, dm) side by side:
    dx_t = p_t W^T, dW = sum_t x_t^T p_t, db = sum_t p_t, dU = sum_t h_{t-1}^T q_t, db_n = sum_t dm.
    dy, y : (N, T, H). Returns (dx, dW, dU, db, db_n), None in place of what is not needed.
    """
    return gru_gradients(dy, y, x, W, U, gates, lengths, reverse, need_dx, need_weights)
