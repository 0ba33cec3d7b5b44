"""The affine map, alone or followed by an elementwise activation."""

from __future__ import annotations

import math
from typing import Any

from bpnet.dispatch import Array, Kernel, kernel, namespace


def rows(x: Array) -> Array:
    """(..., I) as (N, I), sharing memory where that is possible."""
    return x if x.ndim == 2 else namespace(x).reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))


@kernel
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


@kernel
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


@kernel
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
