"""Normalization of every position by itself: over the last axis."""

from __future__ import annotations

import math

from bpnet.dispatch import Array, kernel, namespace
from bpnet.ops.costs import n_rows, size


def _sum_over_rows(x: Array) -> Array:
    xp = namespace(x)
    return xp.sum(xp.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1])), axis=0)


def _layer_norm_flops(x: Array, gain: Array, bias: Array | None, epsilon: float) -> int:
    return (6 if bias is None else 7) * size(x) + 3 * n_rows(x)


@kernel(flops=_layer_norm_flops)
def layer_norm(x: Array, gain: Array, bias: Array | None, epsilon: float) -> tuple[Array, Array, Array]:
    """y = gain * h + bias, h = (x - mean) / sqrt(variance + epsilon), both over the last axis. [Ba, Kiros, Hinton 2016]

    x : (..., D); gain : (D,); bias : (D,) or None. The variance divides by D.
    Returns y, h, and r = 1 / sqrt(variance + epsilon) of shape (..., 1), of which the backward is made.
    """
    xp = namespace(x)
    centred = x - xp.mean(x, axis=-1, keepdims=True)
    r = 1 / xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True) + epsilon)
    h = centred * r
    y = h * gain
    return (y if bias is None else y + bias), h, r


def _backward_flops(each: int, dy: Array, need_dx: bool, need_dgain: bool, need_dbias: bool) -> int:
    return size(dy) * (each * bool(need_dx) + 2 * bool(need_dgain) + bool(need_dbias))


def _layer_norm_backward_flops(
    dy: Array, h: Array, r: Array, gain: Array, need_dx: bool = True, need_dgain: bool = True, need_dbias: bool = True
) -> int:
    return _backward_flops(8, dy, need_dx, need_dgain, need_dbias)


def _unread(
    dy: Array, h: Array, r: Array, gain: Array, need_dx: bool = True, need_dgain: bool = True, need_dbias: bool = False
) -> tuple[int, ...]:
    if need_dx:
        return ()
    return (2, 3) if need_dgain else (1, 2, 3)


@kernel(flops=_layer_norm_backward_flops, unread=_unread)
def layer_norm_backward(
    dy: Array, h: Array, r: Array, gain: Array, need_dx: bool = True, need_dgain: bool = True, need_dbias: bool = True
) -> tuple[Array | None, Array | None, Array | None]:
    """dx = r (dh - mean(dh) - h mean(dh h)), dh = dy gain; dgain = sum of dy h and dbias = sum of dy over positions.

    h depends on x by its own term, by the mean and by the variance: dh_j/dx_i = r ([i = j] - 1/D - h_i h_j / D).
    Each result is None where it is not needed.
    """
    xp = namespace(dy)
    dx = None
    if need_dx:
        dh = dy * gain
        dx = r * (dh - xp.mean(dh, axis=-1, keepdims=True) - h * xp.mean(dh * h, axis=-1, keepdims=True))
    return dx, _sum_over_rows(dy * h) if need_dgain else None, _sum_over_rows(dy) if need_dbias else None


@kernel(flops=lambda x, gain, epsilon: 4 * size(x) + 3 * n_rows(x))
def rms_norm(x: Array, gain: Array, epsilon: float) -> tuple[Array, Array, Array]:
    """y = gain * h, h = x / sqrt(mean of x^2 + epsilon), over the last axis. [Zhang & Sennrich 2019]

    x : (..., D); gain : (D,). Returns y, h, and r = 1 / sqrt(mean of x^2 + epsilon) of shape (..., 1).
    """
    xp = namespace(x)
    r = 1 / xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True) + epsilon)
    h = x * r
    return h * gain, h, r


def _rms_norm_backward_flops(
    dy: Array, h: Array, r: Array, gain: Array, need_dx: bool = True, need_dgain: bool = True
) -> int:
    return _backward_flops(6, dy, need_dx, need_dgain, False)


@kernel(flops=_rms_norm_backward_flops, unread=_unread)
def rms_norm_backward(
    dy: Array, h: Array, r: Array, gain: Array, need_dx: bool = True, need_dgain: bool = True
) -> tuple[Array | None, Array | None]:
    """dx = r (dh - h mean(dh h)), dh = dy gain; dgain = sum of dy h over all positions.

    dh_j/dx_i = r ([i = j] - h_i h_j / D). Each result is None where it is not needed.
    """
    xp = namespace(dy)
    dx = None
    if need_dx:
        dh = dy * gain
        dx = r * (dh - h * xp.mean(dh * h, axis=-1, keepdims=True))
    return dx, _sum_over_rows(dy * h) if need_dgain else None
