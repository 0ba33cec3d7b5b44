"""What recurrent ops share, the plain recurrent network, and the last step of a sequence.

Sequences are (N, T, I). Every op runs over a whole sequence in one direction: the products of all inputs with W are
made as one before the loop, those for dx, dW, dU and db as one after it. What steps make is kept step by step, as
(T, N, ...).

`lengths` (N,) integer, or None, says how many positions of each sequence there are; T of them where it is larger, none
where it is below 1. Beyond, outputs and states are 0, x is not looked at, and nothing has a gradient. With `reverse`
steps are made from the last position to the first: of a padded sequence from its own last one.
"""

from __future__ import annotations

from collections.abc import Sequence

from bpnet.dispatch import Array, kernel, namespace
from bpnet.ops.costs import size
from bpnet.ops.factors import Factor, exactly


def order(n_steps: int, reverse: bool) -> Sequence[int]:
    """The positions in the order in which steps are made."""
    return range(n_steps - 1, -1, -1) if reverse else range(n_steps)


def present(x: Array, lengths: Array | None, n_steps: int) -> Array | None:
    """(T, N, 1) bool: whether there is a position t in sequence n; None where all are there. x : on their device"""
    if lengths is None:
        return None
    xp = namespace(x)
    positions = xp.arange(n_steps, dtype=xp.int64, device=x.device)
    return (positions[:, None] < xp.astype(lengths, xp.int64)[None, :])[:, :, None]


def only(there: Array | None, x: Array) -> Array:
    """x where `there`, 0 elsewhere."""
    return x if there is None else namespace(x).where(there, x, 0)


def by_step(x: Array) -> Array:
    """(N, T, C) as (T, N, C)."""
    return namespace(x).permute_dims(x, (1, 0, 2))


def flat(x: Array) -> Array:
    """(T, N, C) as (T N, C)."""
    return namespace(x).reshape(x, (x.shape[0] * x.shape[1], x.shape[2]))


def before(states: Array, reverse: bool) -> Array:
    """(T, N, H): the state that each step started from, zeros at the first one."""
    xp = namespace(states)
    none = xp.zeros((1, *states.shape[1:]), dtype=states.dtype, device=states.device)
    return xp.concat((states[1:, ...], none) if reverse else (none, states[:-1, ...]), axis=0)


def input_products(x: Array, W: Array, b: Array, there: Array | None) -> Array:
    """(T, N, G): x W + b of all steps."""
    xp = namespace(x)
    x = only(there, by_step(x))
    return xp.reshape(flat(x) @ W, (*x.shape[:2], W.shape[1])) + b


def zero_state(x: Array, width: int) -> Array:
    """(N, H) of zeros."""
    return namespace(x).zeros((x.shape[0], width), dtype=x.dtype, device=x.device)


def input_gradient(d: Array, W: Array) -> Array:
    """dx (N, T, I) = d W^T for the gradients d (T, N, G) of all steps' x W + b."""
    xp = namespace(d)
    dx = xp.reshape(flat(d) @ W.T, (*d.shape[:2], W.shape[0]))
    return xp.permute_dims(dx, (1, 0, 2))


def n_products(x: Array, width: int) -> int:
    """The operations of a product of every position of x (N, T, I) with a matrix (I, width)."""
    return 2 * size(x) * width


def _rnn_flops(
    x: Array, W: Array, U: Array, b: Array, activation: str, lengths: Array | None = None, reverse: bool = False,
    h: Array | None = None,
) -> int:  # fmt: skip
    width = int(U.shape[0])
    steps = int(x.shape[0]) * int(x.shape[1])
    return n_products(x, width) + steps * (2 * width * width + 3 * width)


def rnn_states(
    x: Array, W: Array, U: Array, b: Array, activation: str, lengths: Array | None, reverse: bool, h: Array | None,
    factor: Factor = exactly,
) -> Array:  # fmt: skip
    """What `rnn` returns. factor : what a state becomes before it is multiplied"""
    xp = namespace(x)
    n_steps = x.shape[1]
    there = present(x, lengths, n_steps)
    z = input_products(x, W, b, there)
    state = zero_state(x, U.shape[0]) if h is None else h
    states = [state] * n_steps
    for t in order(n_steps, reverse):
        a = z[t, ...] + factor(state) @ U
        a = xp.tanh(a) if activation == "tanh" else xp.maximum(a, 0)
        state = states[t] = only(None if there is None else there[t, ...], a)
    return xp.stack(states, axis=1)


@kernel(flops=_rnn_flops)
def rnn(
    x: Array, W: Array, U: Array, b: Array, activation: str, lengths: Array | None = None, reverse: bool = False,
    h: Array | None = None,
) -> Array:  # fmt: skip
    """h_t = f(x_t W + h_{t-1} U + b), from h_{-1} = h, or zeros. [Elman 1990]

    x : (N, T, I), T >= 1; W : (I, H); U : (H, H); b : (H,); activation : "tanh" or "relu", which f is; h : (N, H)
    lengths, reverse : see bpnet.ops.recurrent
    Returns y (N, T, H), all h_t.
    """
    return rnn_states(x, W, U, b, activation, lengths, reverse, h)


def _rnn_backward_flops(
    dy: Array, y: Array, x: Array, W: Array, U: Array, activation: str, lengths: Array | None = None,
    reverse: bool = False, need_dx: bool = True, need_weights: bool = True,
) -> int:  # fmt: skip
    width = int(U.shape[0])
    steps = int(x.shape[0]) * int(x.shape[1])
    each = 2 * width * width + (4 if activation == "tanh" else 1) * width
    once = n_products(x, width) * (need_dx + need_weights)
    return steps * each + once + (steps * (2 * width * width + width) if need_weights else 0)


def _rnn_backward_unread(
    dy: Array, y: Array, x: Array, W: Array, U: Array, activation: str, lengths: Array | None = None,
    reverse: bool = False, need_dx: bool = True, need_weights: bool = True,
) -> tuple[int, ...]:  # fmt: skip
    return (*(() if need_weights else (2,)), *(() if need_dx else (3,)))  # y is f's derivative too


def rnn_gradients(
    dy: Array, y: Array, x: Array, W: Array, U: Array, activation: str, lengths: Array | None, reverse: bool,
    need_dx: bool, need_weights: bool, factor: Factor = exactly,
) -> tuple[Array | None, Array | None, Array | None, Array | None]:  # fmt: skip
    """What `rnn_backward` returns. factor : what dz and states become before they are multiplied"""
    xp = namespace(dy)
    n_steps = x.shape[1]
    there = present(x, lengths, n_steps)
    dys, states = by_step(dy), by_step(y)
    dh = zero_state(dy, U.shape[0])
    steps = [dh] * n_steps
    for t in order(n_steps, not reverse):
        dh = only(None if there is None else there[t, ...], dys[t, ...] + dh)
        h = states[t, ...]
        dz = steps[t] = dh * (1 - h * h) if activation == "tanh" else xp.where(h > 0, dh, 0)
        dh = factor(dz) @ U.T
    d = xp.stack(steps, axis=0)
    rounded = factor(d)
    dx = input_gradient(rounded, W) if need_dx else None
    if not need_weights:
        return dx, None, None, None
    rounded = flat(rounded)
    dW, dU = flat(only(there, by_step(x))).T @ rounded, flat(factor(before(states, reverse))).T @ rounded
    return dx, dW, dU, xp.sum(flat(d), axis=0)


@kernel(flops=_rnn_backward_flops, unread=_rnn_backward_unread)
def rnn_backward(
    dy: Array, y: Array, x: Array, W: Array, U: Array, activation: str, lengths: Array | None = None,
    reverse: bool = False, need_dx: bool = True, need_weights: bool = True,
) -> tuple[Array | None, Array | None, Array | None, Array | None]:  # fmt: skip
    """The gradients of rnn that began with zeros, from the last step made to the first.

    dh_t = dy_t + dz_{t+1} U^T, dz_t = dh_t f'(z_t), where tanh' = 1 - h_t^2 and relu' is 1 where h_t > 0;
    dx_t = dz_t W^T, dW = sum_t x_t^T dz_t, dU = sum_t h_{t-1}^T dz_t, db = sum_t dz_t.
    dy, y : (N, T, H). Returns (dx, dW, dU, db), None in place of what is not needed.
    """
    return rnn_gradients(dy, y, x, W, U, activation, lengths, reverse, need_dx, need_weights)


def _is_last(like: Array, lengths: Array | None, n_steps: int) -> Array:
    """(N or 1, T, 1) bool: which position is the last one that is there."""
    xp = namespace(like)
    positions = xp.arange(n_steps, dtype=xp.int64, device=like.device)[None, :, None]
    at_end = positions == n_steps - 1
    if lengths is None:
        return at_end
    ends = xp.astype(lengths, xp.int64)[:, None, None]
    return (positions == ends - 1) | (at_end & (ends > n_steps))


@kernel(flops=lambda y, lengths=None, reverse=False: 0 if lengths is None or reverse else size(y))
def last_step(y: Array, lengths: Array | None = None, reverse: bool = False) -> Array:
    """(N, T, H) -> (N, H): what the step made last gave: at the last position that is there, with `reverse` the first.

    A sequence of length 0 gives zeros.
    """
    xp = namespace(y)
    if lengths is None or reverse:
        return xp.asarray(y[:, 0 if reverse else y.shape[1] - 1, :], copy=True)
    return xp.sum(only(_is_last(y, lengths, y.shape[1]), y), axis=1)


@kernel(flops=0)
def last_step_backward(dy: Array, n_steps: int, lengths: Array | None = None, reverse: bool = False) -> Array:
    """(N, H) -> (N, T, H): dy at the position that last_step looked at, 0 elsewhere."""
    xp = namespace(dy)
    first = xp.arange(n_steps, device=dy.device)[None, :, None] == 0
    return xp.where(first if reverse else _is_last(dy, lengths, n_steps), dy[:, None, :], 0)
