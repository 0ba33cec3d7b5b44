"""Normalization by the statistics of a batch (batch norm) or of each sample's groups of channels (group norm).

x is (N, ..., C), its features on the last axis. What is saved for a backward is x and the statistics.
"""

from __future__ import annotations

import math

from bpnet.dispatch import Array, kernel, namespace


def _leading(x: Array) -> tuple[int, ...]:
    return tuple(range(x.ndim - 1))


@kernel
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


@kernel
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


@kernel
def scale_shift(
    x: Array, mean: Array, variance: Array, weight: Array | None, bias: Array | None, epsilon: float
) -> Array:
    """y = (x - mean) / sqrt(variance + epsilon) * weight + bias, by given statistics: batch norm's inference."""
    return _normalized(x, mean, variance, weight, bias, epsilon)


@kernel
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


@kernel
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


@kernel
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
