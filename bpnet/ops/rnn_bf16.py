"""Recurrent networks whose products take bfloat16 and sum in float32: those of `recurrent`, of rounded factors.

x, W and U are bits as uint16; a state is rounded before it is multiplied with U, and what comes back to x_t W + b and
to h_{t-1} U before it is multiplied. States, cells, gates, biases, their gradients and all results are float32.
"""

from __future__ import annotations

from typing import Any

from bpnet.dispatch import Array, kernel
from bpnet.ops.bfloat16 import ROUNDED, from_bf16, rounded, three
from bpnet.ops.costs import kernel_flops, size
from bpnet.ops.gru import gru, gru_backward, gru_gradients, gru_states
from bpnet.ops.lstm import lstm, lstm_backward, lstm_gradients, lstm_states
from bpnet.ops.recurrent import rnn, rnn_backward, rnn_gradients, rnn_states


def _n_states(x: Array, U: Array) -> int:
    return int(x.shape[0]) * int(x.shape[1]) * int(U.shape[0])


def _forward_flops(op: Any) -> Any:
    def flops(x: Array, W: Array, U: Array, *rest: Any) -> int:
        return kernel_flops(op, (x, W, U, *rest)) + size((x, W, U)) + ROUNDED * _n_states(x, U)

    return flops


def _backward_flops(op: Any, products: int, n_kept: int) -> Any:
    """products : of every step's gradients, how many times they are rounded, the last time for dU alone"""

    def flops(dy: Array, y: Array, x: Array, W: Array, U: Array, *rest: Any) -> int:
        need_dx, need_weights = (*rest[n_kept + 2 :], True, True)[:2]
        gates = int(U.shape[1]) // int(U.shape[0])
        times = products * gates if need_weights else 2 * gates
        narrowed = ROUNDED * _n_states(x, U) * (times + bool(need_weights))
        widened = size(U) + (size(W) if need_dx else 0) + (size(x) if need_weights else 0)
        return kernel_flops(op, (dy, y, x, W, U, *rest)) + widened + narrowed

    return flops


@kernel(flops=_forward_flops(rnn))
def rnn_bf16(
    x: Array, W: Array, U: Array, b: Array, activation: str, lengths: Array | None = None, reverse: bool = False,
    h: Array | None = None,
) -> Array:  # fmt: skip
    """`rnn` with h_t = f(x_t W + r(h_{t-1}) U + b), where r rounds to bfloat16. x, W, U : bits; b, h, y : float32"""
    return rnn_states(*three(x, W, U), b, activation, lengths, reverse, h, rounded)


@kernel(flops=_backward_flops(rnn_backward, 2, 1), unread=rnn_backward.unread)
def rnn_bf16_backward(
    dy: Array, y: Array, x: Array, W: Array, U: Array, activation: str, lengths: Array | None = None,
    reverse: bool = False, need_dx: bool = True, need_weights: bool = True,
) -> tuple[Array | None, Array | None, Array | None, Array | None]:  # fmt: skip
    """`rnn_backward` with r(dz_t) and r(h_{t-1}) in the products, and db the sum of dz_t itself. All float32."""
    W, x = from_bf16(W) if need_dx else W, from_bf16(x) if need_weights else x
    return rnn_gradients(
        dy, y, x, W, from_bf16(U), activation, lengths, reverse, need_dx, need_weights, rounded
    )  # fmt: skip


@kernel(flops=_forward_flops(lstm))
def lstm_bf16(
    x: Array, W: Array, U: Array, b: Array, lengths: Array | None = None, reverse: bool = False,
    h: Array | None = None, c: Array | None = None,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """`lstm` with gates of x_t W + r(h_{t-1}) U + b, where r rounds to bfloat16. x, W, U : bits; the rest is float32"""
    return lstm_states(*three(x, W, U), b, lengths, reverse, h, c, rounded)


@kernel(flops=_backward_flops(lstm_backward, 2, 2), unread=lstm_backward.unread)
def lstm_bf16_backward(
    dy: Array, y: Array, x: Array, W: Array, U: Array, gates: Array, cells: Array, lengths: Array | None = None,
    reverse: bool = False, need_dx: bool = True, need_weights: bool = True,
) -> tuple[Array | None, Array | None, Array | None, Array | None]:  # fmt: skip
    """`lstm_backward` with r(dz_t) and r(h_{t-1}) in the products, and db the sum of dz_t itself. All float32."""
    W, x = from_bf16(W) if need_dx else W, from_bf16(x) if need_weights else x
    return lstm_gradients(
        dy, y, x, W, from_bf16(U), gates, cells, lengths, reverse, need_dx, need_weights, rounded
    )  # fmt: skip


@kernel(flops=_forward_flops(gru))
def gru_bf16(
    x: Array, W: Array, U: Array, b: Array, b_n: Array, lengths: Array | None = None, reverse: bool = False,
    h: Array | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """`gru` with the products x_t W and r(h_{t-1}) U, where r rounds to bfloat16. x, W, U : bits; the rest is float32

    The state that z keeps, z_t h_{t-1}, is not rounded.
    """
    return gru_states(*three(x, W, U), b, b_n, lengths, reverse, h, rounded)


@kernel(flops=_backward_flops(gru_backward, 3, 1), unread=gru_backward.unread)
def gru_bf16_backward(
    dy: Array, y: Array, x: Array, W: Array, U: Array, gates: Array, lengths: Array | None = None,
    reverse: bool = False, need_dx: bool = True, need_weights: bool = True,
) -> tuple[Array | None, Array | None, Array | None, Array | None, Array | None]:  # fmt: skip
    """`gru_backward` with r(p_t), r(q_t) and r(h_{t-1}) in the products, db and db_n sums of what is not rounded."""
    W, x = from_bf16(W) if need_dx else W, from_bf16(x) if need_weights else x
    return gru_gradients(
        dy, y, x, W, from_bf16(U), gates, lengths, reverse, need_dx, need_weights, rounded
    )  # fmt: skip
