"""The long short-term memory over a whole sequence, with the derivative written out."""

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


def _parts(x: Array, width: int) -> tuple[Array, ...]:
    """The four quarters of the last axis."""
    return tuple(x[..., start * width : (start + 1) * width] for start in range(4))


def _lstm_flops(
    x: Array, W: Array, U: Array, b: Array, lengths: Array | None = None, reverse: bool = False,
    h: Array | None = None, c: Array | None = None,
) -> int:  # fmt: skip
    width = int(U.shape[0])
    steps = int(x.shape[0]) * int(x.shape[1])
    return n_products(x, 4 * width) + steps * (8 * width * width + 23 * width)


def lstm_states(
    x: Array, W: Array, U: Array, b: Array, lengths: Array | None, reverse: bool, h: Array | None, c: Array | None,
    factor: Factor = exactly,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """What `lstm` returns. factor : what a state becomes before it is multiplied"""
    xp = namespace(x)
    width, n_steps = U.shape[0], x.shape[1]
    there = present(x, lengths, n_steps)
    z = input_products(x, W, b, there)
    h = zero_state(x, width) if h is None else h
    c = zero_state(x, width) if c is None else c
    outputs, gates, cells = [h] * n_steps, [h] * n_steps, [c] * n_steps
    for t in order(n_steps, reverse):
        i, f, g, o = _parts(z[t, ...] + factor(h) @ U, width)
        i, f, g, o = sigmoid(i), sigmoid(f), xp.tanh(g), sigmoid(o)
        here = None if there is None else there[t, ...]
        c = cells[t] = only(here, f * c + i * g)
        h = outputs[t] = only(here, o * xp.tanh(c))
        gates[t] = xp.stack((i, f, o, g), axis=0)
    return xp.stack(outputs, axis=1), xp.stack(gates, axis=0), xp.stack(cells, axis=0)


@kernel(flops=_lstm_flops)
def lstm(
    x: Array, W: Array, U: Array, b: Array, lengths: Array | None = None, reverse: bool = False,
    h: Array | None = None, c: Array | None = None,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """i, f, g, o are the quarters of x_t W + h_{t-1} U + b, s the logistic function:

    c_t = s(f) c_{t-1} + s(i) tanh(g), h_t = s(o) tanh(c_t), from h and c, or zeros. [Hochreiter & Schmidhuber 1997,
    with the forget gate of Gers et al. 2000] The order of the gates is PyTorch's, whose weights are W^T and U^T, and
    whose two biases add up to b.
    x : (N, T, I), T >= 1; W : (I, 4 H); U : (H, 4 H); b : (4 H,); h, c : (N, H)
    lengths, reverse : see bpnet.ops.recurrent
    Returns y (N, T, H), all h_t; s(i), s(f), s(o), tanh(g) of all steps (T, 4, N, H); all c_t (T, N, H).
    """
    return lstm_states(x, W, U, b, lengths, reverse, h, c)


def _lstm_backward_flops(
    dy: Array, y: Array, x: Array, W: Array, U: Array, gates: Array, cells: Array, lengths: Array | None = None,
    reverse: bool = False, need_dx: bool = True, need_weights: bool = True,
) -> int:  # fmt: skip
    width = int(U.shape[0])
    steps = int(x.shape[0]) * int(x.shape[1])
    once = n_products(x, 4 * width) * (need_dx + need_weights)
    weights = steps * (8 * width * width + 4 * width) if need_weights else 0
    return steps * (8 * width * width + 24 * width) + once + weights


def _lstm_backward_unread(
    dy: Array, y: Array, x: Array, W: Array, U: Array, gates: Array, cells: Array, lengths: Array | None = None,
    reverse: bool = False, need_dx: bool = True, need_weights: bool = True,
) -> tuple[int, ...]:  # fmt: skip
    return (*(() if need_weights else (1, 2)), *(() if need_dx else (3,)))


def lstm_gradients(
    dy: Array, y: Array, x: Array, W: Array, U: Array, gates: Array, cells: Array, lengths: Array | None,
    reverse: bool, need_dx: bool, need_weights: bool, factor: Factor = exactly,
) -> tuple[Array | None, Array | None, Array | None, Array | None]:  # fmt: skip
    """What `lstm_backward` returns. factor : what gradients and states become before they are multiplied"""
    xp = namespace(dy)
    width, n_steps = U.shape[0], x.shape[1]
    there = present(x, lengths, n_steps)
    dys, earlier = by_step(dy), before(cells, reverse)
    dh = dc = zero_state(dy, width)
    steps = [dh] * n_steps
    for t in order(n_steps, not reverse):
        here = None if there is None else there[t, ...]
        i, f, o, g = (gates[t, index, ...] for index in range(4))
        s = xp.tanh(cells[t, ...])
        dh = only(here, dys[t, ...] + dh)
        dc = only(here, dc + dh * o * (1 - s * s))
        quarters = (
            dc * g * (i * (1 - i)),
            dc * earlier[t, ...] * (f * (1 - f)),
            dc * i * (1 - g * g),
            dh * s * (o * (1 - o)),
        )
        dz = steps[t] = xp.concat(quarters, axis=-1)
        dc = dc * f
        dh = factor(dz) @ U.T
    d = xp.stack(steps, axis=0)
    rounded = factor(d)
    dx = input_gradient(rounded, W) if need_dx else None
    if not need_weights:
        return dx, None, None, None
    rounded, states = flat(rounded), factor(before(by_step(y), reverse))
    dW, dU = flat(only(there, by_step(x))).T @ rounded, flat(states).T @ rounded
    return dx, dW, dU, xp.sum(flat(d), axis=0)


@kernel(flops=_lstm_backward_flops, unread=_lstm_backward_unread)
def lstm_backward(
    dy: Array, y: Array, x: Array, W: Array, U: Array, gates: Array, cells: Array, lengths: Array | None = None,
    reverse: bool = False, need_dx: bool = True, need_weights: bool = True,
) -> tuple[Array | None, Array | None, Array | None, Array | None]:  # fmt: skip
    """The gradients of lstm that began with zeros, from the last step made to the first.

    With i, f, g, o the gates as kept, dh_t = dy_t + dz_{t+1} U^T, and
    dc_t = dc_{t+1} f_{t+1} + dh_t o (1 - tanh(c_t)^2), the quarters of dz_t are
    dc_t g i (1 - i), dc_t c_{t-1} f (1 - f), dc_t i (1 - g^2), dh_t tanh(c_t) o (1 - o);
    dx_t = dz_t W^T, dW = sum_t x_t^T dz_t, dU = sum_t h_{t-1}^T dz_t, db = sum_t dz_t.
    dy, y : (N, T, H). Returns (dx, dW, dU, db), None in place of what is not needed.
    """
    return lstm_gradients(dy, y, x, W, U, gates, cells, lengths, reverse, need_dx, need_weights)
