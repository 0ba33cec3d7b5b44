"""Normalization by the statistics of a batch (batch norm) or of each sample's groups of channels (group norm).

x is (N, ..., C), its features on the last axis. What is saved for a backward is x and the statistics.
"""

from __future__ import annotations

import math
from typing import Any

from bpnet.dispatch import Array, kernel, namespace
from bpnet.ops.costs import size


def _leading(x: Array) -> tuple[int, ...]:
    return tuple(range(x.ndim - 1))


def _norm_flops(x: Array, weight: Array | None, bias: Array | None, each: int, channel: int) -> int:
    c = int(x.shape[-1])
    return size(x) * (each + (bias is not None)) + c * (channel + (weight is not None))


def _group_norm_flops(x: Array, weight: Array | None, bias: Array | None, groups: int, epsilon: float) -> int:
    return size(x) * (5 + (weight is not None) + (bias is not None)) + 3 * int(x.shape[0]) * groups


def _group_norm_backward_flops(
    dy: Array, x: Array, mean: Array, variance: Array, weight: Any, groups: int, epsilon: float, dx: bool = True
) -> int:
    return size(x) * (5 + (7 + (weight is not None) if dx else 0)) + 3 * size(variance)


def _batch_norm_backward_flops(
    dy: Array, x: Array, mean: Array, variance: Array, weight: Array | None, epsilon: float, dx: bool = True
) -> int:
    return size(x) * (9 if dx else 5) + size(mean) * (3 + (2 + (weight is not None) if dx else 0))


def _scale_shift_backward_flops(
    dy: Array, x: Array, mean: Array, variance: Array, weight: Array | None, epsilon: float, dx: bool = True
) -> int:
    return size(x) * (6 if dx else 5) + size(mean) * (3 + (weight is not None and dx))


def _weight_unread(dy: Array, x: Array, mean: Array, variance: Array, weight: Any, *more: Any) -> tuple[int, ...]:
    need_dx = more[-1] if isinstance(more[-1], bool) else True
    return () if need_dx or weight is None else (4,)


@kernel(flops=lambda x, weight, bias, epsilon: _norm_flops(x, weight, bias, 6, 3))
def batch_norm(x: Array, weight: Array | None, bias: Array | None, epsilon: float) -> tuple[Array, Array, Array]:
    """y = (x - mean) / sqrt(variance + epsilon) * weight + bias, by the statistics over all axes but the last.

    x : (N, ..., C); weight, bias : (C,) or None
    Returns y, mean (C,) and variance (C,), the mean of (x - mean)^2. [Ioffe, Szegedy 2015]
    """
    xp = namespace(x)
    mean = xp.mean(x, axis=_leading(x))
    variance = xp.mean((x - mean) ** 2, axis=_leading(x))
    return _normalized(x, mean, variance, weight, bias, epsilon), mean, variance


def _normalized(
    x: Array, mean: Array, variance: Array, weight: Array | None, bias: Array | None, epsilon: float
) -> Array:
    scale = 1 / namespace(x).sqrt(variance + epsilon)
    y = (x - mean) * (scale if weight is None else scale * weight)
    return y if bias is None else y + bias


@kernel(flops=_batch_norm_backward_flops, unread=_weight_unread)
def batch_norm_backward(
    dy: Array, x: Array, mean: Array, variance: Array, weight: Array | None, epsilon: float, need_dx: bool = True
) -> tuple[Array | None, Array, Array]:
    """With n = (x - mean) / s, s = sqrt(variance + epsilon), both functions of x, and g = dy weight:

    dx = (g - mean(g) - n mean(g n)) / s, means over all axes but the last; dweight = sum(dy n); dbias = sum(dy)
    """
    xp = namespace(dy)
    axes, count = _leading(x), math.prod(x.shape[:-1])
    scale = 1 / xp.sqrt(variance + epsilon)
    n = (x - mean) * scale
    dbias, dweight = xp.sum(dy, axis=axes), xp.sum(dy * n, axis=axes)
    if not need_dx:
        return None, dweight, dbias
    dx = (dy - dbias / count - n * (dweight / count)) * (scale if weight is None else scale * weight)
    return dx, dweight, dbias


@kernel(flops=lambda x, mean, variance, weight, bias, epsilon: _norm_flops(x, weight, bias, 2, 3))
def scale_shift(
    x: Array, mean: Array, variance: Array, weight: Array | None, bias: Array | None, epsilon: float
) -> Array:
    """y = (x - mean) / sqrt(variance + epsilon) * weight + bias, by given statistics: batch norm's inference."""
    return _normalized(x, mean, variance, weight, bias, epsilon)


@kernel(flops=_scale_shift_backward_flops, unread=_weight_unread)
def scale_shift_backward(
    dy: Array, x: Array, mean: Array, variance: Array, weight: Array | None, epsilon: float, need_dx: bool = True
) -> tuple[Array | None, Array, Array]:
    """The statistics do not depend on x: dx = dy weight / s, dweight = sum(dy (x - mean) / s), dbias = sum(dy)."""
    xp = namespace(dy)
    scale = 1 / xp.sqrt(variance + epsilon)
    dweight = xp.sum(dy * ((x - mean) * scale), axis=_leading(x))
    dx = dy * (scale if weight is None else scale * weight) if need_dx else None
    return dx, dweight, xp.sum(dy, axis=_leading(x))


def _in_groups(x: Array, groups: int) -> Array:
    """(N, ..., C) as (N, P, groups, C / groups)."""
    shape = (x.shape[0], math.prod(x.shape[1:-1]), groups, x.shape[-1] // groups)
    return namespace(x).reshape(x, shape)


@kernel(flops=_group_norm_flops)
def group_norm(
    x: Array, weight: Array | None, bias: Array | None, groups: int, epsilon: float
) -> tuple[Array, Array, Array]:
    """y = (x - mean) / sqrt(variance + epsilon) * weight + bias, by statistics of each sample's groups of channels.

    x : (N, ..., C); weight, bias : (C,) or None
    Returns y, mean and variance, both (N, groups). [Wu, He 2018]
    """
    xp = namespace(x)
    grouped = _in_groups(x, groups)
    mean = xp.mean(grouped, axis=(1, 3), keepdims=True)
    centred = grouped - mean
    variance = xp.mean(centred * centred, axis=(1, 3), keepdims=True)
    y = xp.reshape(centred * (1 / xp.sqrt(variance + epsilon)), x.shape)
    y = y if weight is None else y * weight
    shape = (x.shape[0], groups)
    return y if bias is None else y + bias, xp.reshape(mean, shape), xp.reshape(variance, shape)


@kernel(flops=_group_norm_backward_flops, unread=_weight_unread)
def group_norm_backward(
    dy: Array,
    x: Array,
    mean: Array,
    variance: Array,
    weight: Array | None,
    groups: int,
    epsilon: float,
    need_dx: bool = True,
) -> tuple[Array | None, Array, Array]:
    """With n = (x - mean) / s and g = dy weight: dx = (g - mean(g) - n mean(g n)) / s, means over sample and group.

    dweight = sum(dy n) and dbias = sum(dy), over all axes but the last.
    """
    xp = namespace(dy)
    shape = (x.shape[0], 1, groups, 1)
    scale = 1 / xp.sqrt(xp.reshape(variance, shape) + epsilon)
    n = (_in_groups(x, groups) - xp.reshape(mean, shape)) * scale
    dweight = xp.sum(dy * xp.reshape(n, x.shape), axis=_leading(x))
    dbias = xp.sum(dy, axis=_leading(x))
    if not need_dx:
        return None, dweight, dbias
    g = _in_groups(dy if weight is None else dy * weight, groups)
    mean_g = xp.mean(g, axis=(1, 3), keepdims=True)
    mean_gn = xp.mean(g * n, axis=(1, 3), keepdims=True)
    return xp.reshape((g - mean_g - n * mean_gn) * scale, x.shape), dweight, dbias
