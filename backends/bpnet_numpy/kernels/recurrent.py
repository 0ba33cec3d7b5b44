"""Recurrent networks: buffers by step, so that what one step touches is contiguous and stays in the cache.

The logistic function is (1 + tanh(z / 2)) / 2: its halves are multiplied into copies of W, U and b beforehand, which is
exact, so that one tanh serves all gates.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet.ops.recurrent import order
from bpnet_numpy.kernels.common import Array, constant, floating, ones


def _accepts(x: Array, W: Array, U: Array, *rest: Any) -> bool:
    """Whether a forward's arrays are ours; with states to go on from, the reference is called."""
    biases, states = ([a for a in rest if isinstance(a, np.ndarray) and a.ndim == n] for n in (1, 2))
    floats = [b for b in biases if b.dtype.kind == "f"]
    return not states and floating(x, W, U, *floats) and x.size > 0


def _by_step(x: Array) -> Array:
    return x.transpose(1, 0, 2)


def _flat(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


class _Padding:
    """Which steps of which sequences are not there: (T, N, 1) bool, found by a call, as lengths may change."""

    def __init__(self, lengths: Array | None, n: int, n_steps: int) -> None:
        self.gone = None if lengths is None else np.empty((n_steps, n, 1), bool)
        self.calls: list[Call] = []
        if lengths is not None:
            positions = np.arange(n_steps)[:, None]
            self.calls.append(partial(_is_beyond, positions, lengths, self.gone))

    def clear(self, x: Array, t: int | None = None) -> list[Call]:
        """The call that sets x (N, C) of step t, or x (T, N, C), to 0 where there is no step."""
        if self.gone is None:
            return []
        return [partial(np.copyto, x, 0, where=self.gone if t is None else self.gone[t])]


def _is_beyond(positions: Array, lengths: Array, out: Array) -> None:
    np.greater_equal(positions, lengths, out[:, :, 0])


def _inputs(x: Array, padding: _Padding) -> tuple[Array, list[Call]]:
    """x by step, with zeros where nothing is there, and the calls that make it so."""
    n, n_steps, n_in = x.shape
    xs = np.empty((n_steps, n, n_in), x.dtype)
    return xs, [partial(np.copyto, xs, _by_step(x)), *padding.clear(xs)]


def _scaled(scale: Array, *arrays: Array) -> tuple[list[Array], list[Call]]:
    """Copies of arrays times `scale` along the last axis."""
    copies = [np.empty_like(each) for each in arrays]
    return copies, [partial(np.multiply, a, scale, b) for a, b in zip(arrays, copies, strict=True)]


def _after(
    out: Any, xs: Array, x_calls: list[Call], W: Array, hs: Array, outer: Array, inner: Array, reverse: bool
) -> list[Call]:
    """What is made once all steps' gradients are known: dx, dW, dU, db.

    hs : (T, N, H) states; outer : (T, N, G) of x W + b; inner : (T, N, G) of h U
    """
    dx, dW, dU, db = out
    d = _flat(outer)
    calls: list[Call] = []
    if dx is not None:
        found = np.empty((len(d), W.shape[0]), d.dtype)
        calls += [
            partial(np.dot, d, W.T, found),
            partial(np.copyto, dx, _by_step(found.reshape(*outer.shape[:2], W.shape[0]))),
        ]
    if dW is not None:
        calls += [*x_calls, partial(np.dot, _flat(xs).T, d, dW), partial(np.dot, ones(len(d), d.dtype), d, db)]
        earlier, later = (hs[1:], inner[:-1]) if reverse else (hs[:-1], inner[1:])
        if len(later):
            calls.append(partial(np.dot, _flat(earlier).T, _flat(later), dU))
        else:
            calls.append(partial(dU.fill, 0))
    return calls


def _gradients(x: Array, W: Array, U: Array, need_dx: bool, need_weights: bool) -> tuple[Array | None, ...]:
    """Places for dx, dW, dU, db."""
    weights = (W.shape, U.shape, W.shape[1:])
    return (
        np.empty(x.shape, x.dtype) if need_dx else None,
        *(np.empty(shape, x.dtype) if need_weights else None for shape in weights),
    )


def _steps(n_steps: int, reverse: bool) -> list[tuple[int, int | None]]:
    """(position, that of the step made before, None at the first) in the order in which steps are made."""
    places = list(order(n_steps, reverse))
    return list(zip(places, [None, *places[:-1]], strict=True))


# --- RNN ---


@ops.rnn.register_bound(
    np.ndarray,
    accepts=_accepts,
    allocate=lambda x, W, U, *_: np.empty((*x.shape[:2], U.shape[0]), x.dtype),
)
def _(
    y: Array, x: Array, W: Array, U: Array, b: Array, activation: str, lengths: Array | None = None,
    reverse: bool = False, h: None = None,
) -> list[Call]:  # fmt: skip
    n, n_steps, _ = x.shape
    padding = _Padding(lengths, n, n_steps)
    xs, calls = _inputs(x, padding)
    hs, product = np.empty((n_steps, n, len(U)), x.dtype), np.empty((n, len(U)), x.dtype)
    calls = [*padding.calls, *calls, partial(np.dot, _flat(xs), W, _flat(hs)), partial(np.add, hs, b, hs)]
    zero = constant(0, x.dtype)
    for t, earlier in _steps(n_steps, reverse):
        state = hs[t]
        if earlier is not None:
            calls += [partial(np.dot, hs[earlier], U, product), partial(np.add, state, product, state)]
        calls.append(
            partial(np.tanh, state, state) if activation == "tanh" else partial(np.maximum, state, zero, out=state)
        )
        calls += padding.clear(state, t)
    return [*calls, partial(np.copyto, y, _by_step(hs))]


def _backward_accepts(dy: Array, y: Array, x: Array, W: Array, U: Array, *rest: Any) -> bool:
    kept = [a for a in rest if isinstance(a, np.ndarray) and a.ndim == 3]
    return floating(dy, y, x, W, U, *kept) and x.size > 0


@ops.rnn_backward.register_bound(
    np.ndarray,
    accepts=_backward_accepts,
    allocate=lambda dy, y, x, W, U, activation, lengths=None, reverse=False, need_dx=True, need_weights=True: (
        _gradients(x, W, U, need_dx, need_weights)
    ),
)
def _(
    out: Any, dy: Array, y: Array, x: Array, W: Array, U: Array, activation: str, lengths: Array | None = None,
    reverse: bool = False, need_dx: bool = True, need_weights: bool = True,
) -> list[Call]:  # fmt: skip
    n, n_steps, width = dy.shape
    padding = _Padding(lengths, n, n_steps)
    xs, x_calls = _inputs(x, padding)
    hs, d = np.empty((n_steps, n, width), dy.dtype), np.empty((n_steps, n, width), dy.dtype)
    dh, slope, positive = np.empty((n, width), dy.dtype), np.empty((n, width), dy.dtype), np.empty((n, width), bool)
    one, zero = constant(1, dy.dtype), constant(0, dy.dtype)
    calls: list[Call] = [*padding.calls, partial(np.copyto, hs, _by_step(y))]
    backwards = _steps(n_steps, reverse)[::-1]
    for index, (t, earlier) in enumerate(backwards):
        add = partial(np.add, dh, dy[:, t], dh) if index else partial(np.copyto, dh, dy[:, t])
        calls += [add, *padding.clear(dh, t)]
        if activation == "tanh":
            calls += [
                partial(np.multiply, hs[t], hs[t], slope),
                partial(np.subtract, one, slope, slope),
                partial(np.multiply, dh, slope, d[t]),
            ]
        else:
            calls += [
                partial(np.less_equal, hs[t], zero, positive),
                partial(np.copyto, d[t], dh),
                partial(np.copyto, d[t], 0, where=positive),
            ]
        if earlier is not None:
            calls.append(partial(np.dot, d[t], U.T, dh))
    return calls + _after(out, xs, x_calls, W, hs, d, d, reverse)


# --- LSTM ---


def _lstm_allocate(x: Array, W: Array, U: Array, *_: Any) -> Any:
    n, n_steps, _ = x.shape
    width, dtype = U.shape[0], x.dtype
    return (
        np.empty((n, n_steps, width), dtype),
        np.empty((n_steps, n, 4 * width), dtype),
        np.empty((n_steps, n, width), dtype),
    )


@ops.lstm.register_bound(np.ndarray, accepts=_accepts, allocate=_lstm_allocate)
def _(
    out: Any, x: Array, W: Array, U: Array, b: Array, lengths: Array | None = None, reverse: bool = False,
    h: None = None, c: None = None,
) -> list[Call]:  # fmt: skip
    y, gates, cells = out
    n, n_steps, _ = x.shape
    width, dtype = len(U), x.dtype
    padding = _Padding(lengths, n, n_steps)
    xs, calls = _inputs(x, padding)
    scale = np.repeat(np.asarray([0.5, 0.5, 1.0, 0.5], dtype), width)
    shift = 1 - scale
    (W, U, b), scaling = _scaled(scale, W, U, b)
    hs, product = np.empty((n_steps, n, width), dtype), np.empty((n, 4 * width), dtype)
    scratch = np.empty((n, width), dtype)
    calls = [*padding.calls, *calls, *scaling, partial(np.dot, _flat(xs), W, _flat(gates))]
    for t, earlier in _steps(n_steps, reverse):
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
    return [*calls, partial(np.copyto, y, _by_step(hs))]


@ops.lstm_backward.register_bound(
    np.ndarray,
    accepts=_backward_accepts,
    allocate=lambda dy, y, x, W, U, gates, cells, lengths=None, reverse=False, need_dx=True, need_weights=True: (
        _gradients(x, W, U, need_dx, need_weights)
    ),
)
def _(
    out: Any, dy: Array, y: Array, x: Array, W: Array, U: Array, gates: Array, cells: Array,
    lengths: Array | None = None, reverse: bool = False, need_dx: bool = True, need_weights: bool = True,
) -> list[Call]:  # fmt: skip
    n, n_steps, width = dy.shape
    dtype = dy.dtype
    padding = _Padding(lengths, n, n_steps)
    xs, x_calls = _inputs(x, padding)
    d = np.empty((n_steps, n, 4 * width), dtype)
    hs = np.empty((n_steps, n, width), dtype)
    dh, dc, s, q = (np.empty((n, width), dtype) for _ in range(4))
    one = constant(1, dtype)
    calls: list[Call] = [*padding.calls]
    if need_weights:
        x_calls.append(partial(np.copyto, hs, _by_step(y)))
    for index, (t, earlier) in enumerate(_steps(n_steps, reverse)[::-1]):
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
            calls += [partial(np.multiply, dc, f, dc), partial(np.dot, dz, U.T, dh)]
    return calls + _after(out, xs, x_calls, W, hs, d, d, reverse)


# --- GRU ---


@ops.gru.register_bound(
    np.ndarray,
    accepts=_accepts,
    allocate=lambda x, W, U, *_: (
        np.empty((*x.shape[:2], U.shape[0]), x.dtype),
        np.empty((x.shape[1], x.shape[0], 4 * U.shape[0]), x.dtype),
    ),
)
def _(
    out: Any, x: Array, W: Array, U: Array, b: Array, b_n: Array, lengths: Array | None = None, reverse: bool = False,
    h: None = None,
) -> list[Call]:  # fmt: skip
    y, gates = out
    n, n_steps, _ = x.shape
    width, dtype = len(U), x.dtype
    padding = _Padding(lengths, n, n_steps)
    xs, calls = _inputs(x, padding)
    half = constant(0.5, dtype)
    scale = np.repeat(np.asarray([0.5, 0.5, 1.0], dtype), width)
    (W, U, b), scaling = _scaled(scale, W, U, b)
    inputs = np.empty((n_steps, n, 3 * width), dtype)
    hs, product = np.empty((n_steps, n, width), dtype), np.empty((n, 3 * width), dtype)
    calls = [
        *padding.calls,
        *calls,
        *scaling,
        partial(np.dot, _flat(xs), W, _flat(inputs)),
        partial(np.add, inputs, b, inputs),
    ]
    for t, earlier in _steps(n_steps, reverse):
        gate, state, own = gates[t], hs[t], inputs[t]
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
    return [*calls, partial(np.copyto, y, _by_step(hs))]


@ops.gru_backward.register_bound(
    np.ndarray,
    accepts=_backward_accepts,
    allocate=lambda dy, y, x, W, U, gates, lengths=None, reverse=False, need_dx=True, need_weights=True: (
        *_gradients(x, W, U, need_dx, need_weights),
        np.empty(U.shape[0], dy.dtype) if need_weights else None,
    ),
)
def _(
    out: Any, dy: Array, y: Array, x: Array, W: Array, U: Array, gates: Array, lengths: Array | None = None,
    reverse: bool = False, need_dx: bool = True, need_weights: bool = True,
) -> list[Call]:  # fmt: skip
    n, n_steps, width = dy.shape
    dtype = dy.dtype
    padding = _Padding(lengths, n, n_steps)
    xs, x_calls = _inputs(x, padding)
    outer, inner = (np.empty((n_steps, n, 3 * width), dtype) for _ in range(2))
    hs = np.empty((n_steps, n, width), dtype)
    dh, s, q = (np.empty((n, width), dtype) for _ in range(3))
    one = constant(1, dtype)
    calls: list[Call] = [*padding.calls, partial(np.copyto, hs, _by_step(y))]
    for index, (t, earlier) in enumerate(_steps(n_steps, reverse)[::-1]):
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
                partial(np.dot, inner[t], U.T, dh),
                partial(np.add, dh, q, dh),
            ]
    calls += _after(out[:4], xs, x_calls, W, hs, outer, inner, reverse)
    if out[4] is not None:
        total = np.empty(3 * width, dtype)
        d = _flat(inner)
        calls += [partial(np.dot, ones(len(d), dtype), d, total), partial(np.copyto, out[4], total[2 * width :])]
    return calls
