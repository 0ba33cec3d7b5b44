"""What the bodies of recurrent networks share, and that of the plain one.

Buffers lie by step, so that what one step touches is contiguous and stays in the cache. The logistic function is
(1 + tanh(z / 2)) / 2: its halves are multiplied into copies of W, U and b beforehand, which is exact, so that one tanh
serves all gates.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet.ops.recurrent import order
from bpnet_numpy.kernels.common import Array, constant, floating, ones
from bpnet_numpy.scratch import borrow, borrow_like


def accepts(x: Array, W: Array, U: Array, *rest: Any) -> bool:
    """Whether a forward's arrays are ours; with states to go on from, the reference is called."""
    biases, states = ([a for a in rest if isinstance(a, np.ndarray) and a.ndim == n] for n in (1, 2))
    floats = [b for b in biases if b.dtype.kind == "f"]
    return not states and floating(x, W, U, *floats) and x.size > 0


def by_step(x: Array) -> Array:
    """(N, T, C) as (T, N, C), or the other way round, a view."""
    return x.transpose(1, 0, 2)


def flat(x: Array) -> Array:
    """(T, N, C), contiguous, as (T N, C)."""
    return x.reshape(-1, x.shape[-1])


class Padding:
    """Which steps of which sequences are not there: (T, N, 1) bool, found by a call, as lengths may change."""

    def __init__(self, lengths: Array | None, n: int, n_steps: int) -> None:
        self.gone = None if lengths is None else borrow((n_steps, n, 1), bool, lengths)
        self.calls: list[Call] = []
        if lengths is not None:
            positions = np.arange(n_steps, like=lengths)[:, None]
            self.calls.append(partial(_is_beyond, positions, lengths, self.gone))

    def clear(self, x: Array, t: int | None = None) -> list[Call]:
        """The call that sets x (N, C) of step t, or x (T, N, C), to 0 where there is no step."""
        if self.gone is None:
            return []
        return [partial(np.copyto, x, 0, where=self.gone if t is None else self.gone[t])]


def _is_beyond(positions: Array, lengths: Array, out: Array) -> None:
    np.greater_equal(positions, lengths, out[:, :, 0])


def inputs(x: Array, padding: Padding) -> tuple[Array, list[Call]]:
    """x by step, with zeros where nothing is there, and the calls that make it so."""
    n, n_steps, n_in = x.shape
    xs = borrow((n_steps, n, n_in), x.dtype, x)
    return xs, [partial(np.copyto, xs, by_step(x)), *padding.clear(xs)]


def scaled(scale: Array, *arrays: Array) -> tuple[list[Array], list[Call]]:
    """Copies of arrays times `scale` along the last axis."""
    copies = [borrow_like(each) for each in arrays]
    return copies, [partial(np.multiply, a, scale, b) for a, b in zip(arrays, copies, strict=True)]


def turned(U: Array) -> tuple[Array, list[Call]]:
    """U^T, contiguous, as small products take it faster, and the call that makes it."""
    copy = borrow(U.shape[::-1], U.dtype, U)
    return copy, [partial(np.copyto, copy, U.T)]


def after(
    out: Any, xs: Array, x_calls: list[Call], W: Array, hs: Array, outer: Array, inner: Array, reverse: bool
) -> list[Call]:
    """What is made once all steps' gradients are known: dx, dW, dU, db.

    hs : (T, N, H) states; outer : (T, N, G) of x W + b; inner : (T, N, G) of h U
    """
    dx, dW, dU, db = out
    d = flat(outer)
    calls: list[Call] = []
    if dx is not None:
        found = borrow((len(d), W.shape[0]), d.dtype, d)
        calls += [
            partial(np.dot, d, W.T, found),
            partial(np.copyto, dx, by_step(found.reshape(*outer.shape[:2], W.shape[0]))),
        ]
    if dW is not None:
        calls += [*x_calls, partial(np.dot, flat(xs).T, d, dW), partial(np.dot, ones(len(d), d), d, db)]
        earlier, later = (hs[1:], inner[:-1]) if reverse else (hs[:-1], inner[1:])
        if len(later):
            calls.append(partial(np.dot, flat(earlier).T, flat(later), dU))
        else:
            calls.append(partial(dU.fill, 0))
    return calls


def gradients(x: Array, W: Array, U: Array, need_dx: bool, need_weights: bool) -> tuple[Array | None, ...]:
    """Places for dx, dW, dU, db."""
    weights = (W.shape, U.shape, W.shape[1:])
    return (
        np.empty(x.shape, x.dtype, like=x) if need_dx else None,
        *(np.empty(shape, x.dtype, like=x) if need_weights else None for shape in weights),
    )


def steps(n_steps: int, reverse: bool) -> list[tuple[int, int | None]]:
    """(position, that of the step made before, None at the first) in the order in which steps are made."""
    places = list(order(n_steps, reverse))
    return list(zip(places, [None, *places[:-1]], strict=True))


def backward_accepts(dy: Array, y: Array, x: Array, W: Array, U: Array, *rest: Any) -> bool:
    """Whether a backward's arrays are ours."""
    kept = [a for a in rest if isinstance(a, np.ndarray) and a.ndim > 2]
    return floating(dy, y, x, W, U, *kept) and x.size > 0


@ops.rnn.register_bound(
    np.ndarray,
    accepts=accepts,
    allocate=lambda x, W, U, *_: np.empty((*x.shape[:2], U.shape[0]), x.dtype, like=x),
)
def _(
    y: Array, x: Array, W: Array, U: Array, b: Array, activation: str, lengths: Array | None = None,
    reverse: bool = False, h: None = None,
) -> list[Call]:  # fmt: skip
    n, n_steps, _ = x.shape
    padding = Padding(lengths, n, n_steps)
    xs, calls = inputs(x, padding)
    hs, product = borrow((n_steps, n, len(U)), x.dtype, x), borrow((n, len(U)), x.dtype, x)
    calls = [*padding.calls, *calls, partial(np.dot, flat(xs), W, flat(hs)), partial(np.add, hs, b, hs)]
    zero = constant(0, x.dtype)
    for t, earlier in steps(n_steps, reverse):
        state = hs[t]
        if earlier is not None:
            calls += [partial(np.dot, hs[earlier], U, product), partial(np.add, state, product, state)]
        calls.append(
            partial(np.tanh, state, state) if activation == "tanh" else partial(np.maximum, state, zero, out=state)
        )
        calls += padding.clear(state, t)
    return [*calls, partial(np.copyto, y, by_step(hs))]


@ops.rnn_backward.register_bound(
    np.ndarray,
    accepts=backward_accepts,
    allocate=lambda dy, y, x, W, U, activation, lengths=None, reverse=False, need_dx=True, need_weights=True: gradients(
        x, W, U, need_dx, need_weights
    ),
)
def _(
    out: Any, dy: Array, y: Array, x: Array, W: Array, U: Array, activation: str, lengths: Array | None = None,
    reverse: bool = False, need_dx: bool = True, need_weights: bool = True,
) -> list[Call]:  # fmt: skip
    n, n_steps, width = dy.shape
    padding = Padding(lengths, n, n_steps)
    xs, x_calls = inputs(x, padding)
    hs, d = (borrow((n_steps, n, width), dy.dtype, dy) for _ in range(2))
    dh, slope, positive = (
        borrow((n, width), dy.dtype, dy),
        borrow((n, width), dy.dtype, dy),
        borrow((n, width), bool, dy),
    )
    one, zero = constant(1, dy.dtype), constant(0, dy.dtype)
    U, turning = turned(U)
    calls: list[Call] = [*padding.calls, *turning, partial(np.copyto, hs, by_step(y))]
    backwards = steps(n_steps, reverse)[::-1]
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
            calls.append(partial(np.dot, d[t], U, dh))
    return calls + after(out, xs, x_calls, W, hs, d, d, reverse)
