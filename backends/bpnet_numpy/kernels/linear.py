"""The affine map."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call, Kernel
from bpnet_numpy.kernels.common import Array, bound, floating, ones
from bpnet_numpy.threads import product, two_products


def linear_accepts(x: Array, W: Array, b: Array | None, activation: Kernel | None = None, *_: Any) -> bool:
    """Whether all is of one dtype, and there is something to multiply."""
    return floating(x, W) and (b is None or b.dtype == x.dtype) and x.ndim > 1 and x.size > 0 and W.size > 0


def linear_allocate(x: Array, W: Array, *_: Any) -> Array:
    """Where the result goes."""
    return np.empty((*x.shape[:-1], W.shape[1]), x.dtype, like=x)


@ops.linear.register_bound(np.ndarray, accepts=linear_accepts, allocate=linear_allocate)
def _(out: Array, x: Array, W: Array, b: Array | None, activation: Kernel | None = None, *settings: Any) -> list[Call]:
    y = out.reshape(-1, W.shape[1])
    calls: list[Call] = [product(x.reshape(-1, W.shape[0]), W, y)]
    if b is not None:
        calls.append(partial(np.add, y, b, y))
    if activation is not None:
        calls += bound(activation, out, out, *settings)
    return calls


def linear_backward_allocate(
    dy: Array, x: Array, W: Array, need_dx: bool = True, need_db: bool = True, need_dW: bool = True
) -> Any:
    """Where dx, dW and db go; None for what is not needed."""
    return (
        np.empty(x.shape, dy.dtype, like=dy) if need_dx else None,
        np.empty(W.shape, dy.dtype, like=dy) if need_dW else None,
        np.empty(W.shape[1:], dy.dtype, like=dy) if need_db else None,
    )


def linear_backward_accepts(dy: Array, x: Array, W: Array, *_: bool) -> bool:
    """Whether all is of one dtype, and there is something to multiply."""
    return floating(dy, x, W) and dy.ndim > 1 and dy.size > 0 and x.size > 0


@ops.linear_backward.register_bound(np.ndarray, accepts=linear_backward_accepts, allocate=linear_backward_allocate)
def _(out: Any, dy: Array, x: Array, W: Array, *_: bool) -> list[Call]:
    dx, dW, db = out
    dy, x = dy.reshape(-1, W.shape[1]), x.reshape(-1, W.shape[0])
    calls: list[Call] = [] if db is None else [partial(np.dot, ones(dy.shape[0], dy), dy, db)]
    for_dW = (x.T, dy, dW)
    for_dx = (dy, W.T, None if dx is None else dx.reshape(x.shape))
    if dW is not None and dx is not None:
        return calls + two_products(for_dW, for_dx)
    return calls + [product(*each) for each in (for_dW, for_dx) if each[2] is not None]
