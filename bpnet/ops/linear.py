"""The affine map, alone or followed by an elementwise activation."""

from __future__ import annotations

import math
from typing import Any

from bpnet.dispatch import Array, Kernel, kernel, namespace
from bpnet.ops.costs import Shaped, kernel_flops, n_rows, size


def rows(x: Array) -> Array:
    """(..., I) as (N, I), sharing memory where that is possible."""
    return x if x.ndim == 2 else namespace(x).reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))


def _linear_flops(x: Array, W: Array, b: Array | None, activation: Kernel | None = None, *settings: Any) -> int:
    n = n_rows(x)
    n_in, n_out = map(int, W.shape)
    after = 0 if activation is None else kernel_flops(activation, (Shaped((n, n_out)), *settings))
    return 2 * n * n_in * n_out + (0 if b is None else n * n_out) + after


@kernel(flops=_linear_flops, activation_at=3)
def linear(x: Array, W: Array, b: Array | None, activation: Kernel | None = None, *settings: Any) -> Array:
    """y = activation(x W + b).

    x : (..., I); W : (I, O); b : (O,) or None; activation : an elementwise kernel called with (y, *settings), or None
    Returns (..., O).
    """
    y = rows(x) @ W
    if b is not None:
        y = y + b
    if activation is not None:
        y = activation(y, *settings)
    return y if x.ndim == 2 else namespace(y).reshape(y, (*x.shape[:-1], W.shape[1]))


def _linear_backward_flops(
    dy: Array, x: Array, W: Array, need_dx: bool = True, need_db: bool = True, need_dW: bool = True
) -> int:
    product = 2 * size(x) * int(W.shape[1])
    return product * (bool(need_dx) + bool(need_dW)) + (size(dy) if need_db else 0)


def _linear_backward_unread(
    dy: Array, x: Array, W: Array, need_dx: bool = True, need_db: bool = True, need_dW: bool = True
) -> tuple[int, ...]:
    return (*(() if need_dW else (1,)), *(() if need_dx else (2,)))


@kernel(flops=_linear_backward_flops, unread=_linear_backward_unread)
def linear_backward(
    dy: Array, x: Array, W: Array, need_dx: bool = True, need_db: bool = True, need_dW: bool = True
) -> tuple[Array | None, Array | None, Array | None]:
    """dx = dy W^T, dW = x^T dy, db = sum of dy over all leading axes; each is None where it is not needed.

    dy : (..., O); x : (..., I); W : (I, O)
    """
    xp = namespace(dy)
    dy2 = rows(dy)
    dx = xp.reshape(dy2 @ W.T, x.shape) if need_dx else None
    db = xp.sum(dy2, axis=0) if need_db else None
    return dx, rows(x).T @ dy2 if need_dW else None, db


def _linear_backward_add_flops(gW: Array, gb: Array | None, dy: Array, x: Array, W: Array, need_dx: bool = True) -> int:
    return _linear_backward_flops(dy, x, W, need_dx, gb is not None) + size(gW) + size(gb)


def _linear_backward_add_unread(
    gW: Array, gb: Array | None, dy: Array, x: Array, W: Array, need_dx: bool = True
) -> tuple[int, ...]:
    return () if need_dx else (4,)


@kernel(flops=_linear_backward_add_flops, unread=_linear_backward_add_unread, writes=(0, 1))
def linear_backward_add_(
    gW: Array, gb: Array | None, dy: Array, x: Array, W: Array, need_dx: bool = True
) -> Array | None:
    """Add dW and db of `linear_backward` to gW (I, O) and to gb (O,), where that is no None; return dx or None.

    A plan puts it in the place of the product and the additions behind it, where a backend can add on the way.
    """
    dx, dW, db = linear_backward.reference.body(dy, x, W, need_dx, gb is not None)
    gW[...] = gW + dW
    if gb is not None:
        gb[...] = gb + db
    return dx
