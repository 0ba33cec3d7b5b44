"""What samples, classes and ignored labels count for, and the weighted sum that makes a loss of single losses.

What has the weight 0 counts for nothing, whatever its prediction is. A total weight of 0 gives the loss 0 and the
gradient 0. `normalizer` is a number, or a 0-d array where it depends on values.
"""

from __future__ import annotations

import math
from typing import Any

from bpnet.dispatch import Array, kernel, namespace
from bpnet.ops.costs import size


def is_label(labels: Array, n_classes: int) -> Array:
    """(N,) integer -> (N, C) bool, true at each row's label; a label outside 0..C-1, such as -1, matches nothing."""
    xp = namespace(labels)
    wide = xp.astype(labels, xp.int64)  # a narrow dtype may not hold all class numbers
    return wide[:, None] == xp.arange(n_classes, dtype=xp.int64, device=labels.device)


def factor_of(normalizer: Any, scale: Any, like: Array) -> Any:
    """scale / normalizer, 0 where the normalizer is 0: a number, or an array of the dtype of `like`."""
    if isinstance(normalizer, (int, float)):
        return scale / normalizer if normalizer else 0.0
    xp = namespace(like)
    safe = xp.where(normalizer == 0, 1, normalizer)
    inverse = xp.astype(xp.where(normalizer == 0, 0, 1 / safe), like.dtype)
    return scale * inverse


def divided(x: Array, normalizer: Any) -> Array:
    """x / normalizer, 0 where the normalizer is 0, of the dtype of `x`."""
    xp = namespace(x)
    if isinstance(normalizer, (int, float)):
        return xp.asarray(x / normalizer) if normalizer else xp.zeros_like(x)
    total = xp.astype(normalizer, x.dtype)
    return xp.where(total == 0, 0, x / xp.where(total == 0, 1, total))


def times(dl: Array, slope: Array) -> Array:
    """Return dl * slope, and 0 where dl is 0 even if the slope is not finite."""
    return dl * namespace(dl).where(dl == 0, 0, slope)


def by_row(values: Array, weights: Array) -> Array:
    """Each of `values`, whose leading axes count n k rows, times the weight of its sample; 0 where that is 0.

    values : (n k, ...); weights : (n,)
    """
    xp = namespace(values)
    n = weights.shape[0]
    flat = xp.reshape(values, (n, math.prod(values.shape) // max(n, 1)))
    column = weights[:, None]
    return xp.reshape(column * xp.where(column == 0, 0, flat), values.shape)


def _divides(normalizer: Any) -> bool:
    """Whether something is divided by it: a constant 0 is seen before."""
    return not isinstance(normalizer, (int, float)) or bool(normalizer)


@kernel(flops=lambda values, weights, normalizer: size(values) * (_divides(normalizer) + (weights is not None)))
def weighted(values: Array, weights: Array | None, normalizer: float) -> Array:
    """Return values * weights / normalizer, unreduced. values : (n k, ...); weights : (n,) or None, all 1"""
    return divided(values if weights is None else by_row(values, weights), normalizer)


@kernel(flops=lambda values, weights, normalizer: size(values) * (1 + (weights is not None)))
def weighted_sum(values: Array, weights: Array | None, normalizer: float) -> Array:
    """sum(values * weights) / normalizer, shape (). values : (n k, ...); weights : (n,) or None, all 1"""
    xp = namespace(values)
    total = xp.asarray(xp.sum(values if weights is None else by_row(values, weights)))
    return xp.asarray(divided(total, normalizer))


def _weighted_sum_backward_flops(values: Array, weights: Array | None, normalizer: Any, scale: Any) -> int:
    return size(values) * (1 + (weights is not None)) + size(scale) * _divides(normalizer)


@kernel(flops=_weighted_sum_backward_flops, unread=(0,))
def weighted_sum_backward(values: Array, weights: Array | None, normalizer: float, scale: float) -> Array:
    """dvalues = weights * scale / normalizer. Only the shape of `values` counts; `scale` may be an array of it."""
    xp = namespace(values)
    dvalues = xp.ones_like(values) * factor_of(normalizer, scale, values)
    return dvalues if weights is None else by_row(dvalues, weights)


@kernel(flops=1)
def sum_weights(weights: Array, repeats: float) -> Array:
    """sum(weights) * repeats, shape (), float64. weights : (n,)"""
    xp = namespace(weights)
    return xp.asarray(xp.sum(xp.astype(weights, xp.float64)) * repeats)


def _label_targets_flops(labels: Array, n_classes: int, *settings: Any) -> int:
    _, smoothing, class_weights, _, sample_weight = settings
    each = 2 * bool(smoothing) + (class_weights is not None) + (sample_weight is not None)
    return size(labels) * n_classes * each


@kernel(flops=_label_targets_flops)
def label_targets(
    labels: Array,
    n_classes: int,
    dtype: str,
    smoothing: float,
    class_weights: tuple[float, ...] | None,
    ignore_index: int | None,
    sample_weight: Array | None,
) -> Array:
    """Q[i, c] = s_i w_c ((1 - smoothing) [c = label_i] + smoothing / C), the matrix that labels weigh -log p with.

    labels : integer, M = n k of them in any shape; sample_weight : (n,). The row of a label that is ignored or names no
    class is 0. Returns Q, shape (M, C), of the dtype named. [smoothing: Szegedy et al. 2016, sec. 7]
    """
    xp = namespace(labels)
    kind = getattr(xp, dtype)
    flat = xp.reshape(xp.astype(labels, xp.int64), (math.prod(labels.shape),))
    Q = xp.astype(is_label(flat, n_classes), kind)
    if smoothing:
        Q = Q * (1 - smoothing) + smoothing / n_classes
    if class_weights is not None:
        Q = Q * xp.asarray(class_weights, dtype=kind, device=labels.device)[None, :]
    if sample_weight is not None:
        Q = by_row(Q, sample_weight)
    return xp.where(_counted(flat, n_classes, ignore_index)[:, None], Q, 0)


@kernel(flops=lambda labels, n, classes, ignored, w: size(labels) * (1 + (classes is not None) + (w is not None)))
def label_weight(
    labels: Array,
    n_classes: int,
    class_weights: tuple[float, ...] | None,
    ignore_index: int | None,
    sample_weight: Array | None,
) -> Array:
    """The sum of s_i w[label_i] over the labels that are not ignored and name a class, shape (), float64."""
    xp = namespace(labels)
    flat = xp.reshape(xp.astype(labels, xp.int64), (math.prod(labels.shape),))
    counted = _counted(flat, n_classes, ignore_index)
    weights = xp.astype(counted, xp.float64)
    if class_weights is not None:
        table = xp.asarray(class_weights, dtype=xp.float64, device=labels.device)
        weights = weights * xp.take(table, xp.where(counted, flat, 0), axis=0)
    if sample_weight is not None:
        weights = by_row(weights, xp.astype(sample_weight, xp.float64))
    return xp.asarray(xp.sum(weights))


def _counted(labels: Array, n_classes: int, ignore_index: int | None) -> Array:
    named = (labels >= 0) & (labels < n_classes)
    return named if ignore_index is None else named & (labels != ignore_index)


@kernel(flops=lambda t, smoothing, c, w: size(t) * (2 * bool(smoothing) + (c is not None) + (w is not None)))
def soft_targets(
    targets: Array, smoothing: float, class_weights: tuple[float, ...] | None, sample_weight: Array | None
) -> Array:
    """Q[i, c] = s_i w_c ((1 - smoothing) t[i, c] + smoothing / C), as `label_targets` for rows of probabilities.

    targets : (..., C), M = n k rows; sample_weight : (n,). Returns Q, shape (M, C).
    """
    xp = namespace(targets)
    n_classes = targets.shape[-1]
    Q = xp.reshape(targets, (math.prod(targets.shape[:-1]), n_classes))
    if smoothing:
        Q = Q * (1 - smoothing) + smoothing / n_classes
    if class_weights is not None:
        Q = Q * xp.asarray(class_weights, dtype=targets.dtype, device=targets.device)[None, :]
    if sample_weight is not None:
        return by_row(Q, sample_weight)
    return xp.asarray(Q, copy=True)


@kernel(flops=lambda targets, class_weights, sample_weight: size(targets) * (2 + (sample_weight is not None)))
def soft_weight(targets: Array, class_weights: tuple[float, ...], sample_weight: Array | None) -> Array:
    """The sum of s_i w_c t[i, c], shape (), float64. targets : (..., C); sample_weight : (n,)"""
    xp = namespace(targets)
    wide = xp.astype(targets, xp.float64) * xp.asarray(class_weights, dtype=xp.float64, device=targets.device)
    if sample_weight is not None:
        wide = by_row(wide, xp.astype(sample_weight, xp.float64))
    return xp.asarray(xp.sum(wide))


def smallest_normal(p: Array) -> float:
    """The smallest normal number of the dtype of `p`: what a probability of 0 is raised to before its logarithm."""
    return float(namespace(p).finfo(p.dtype).smallest_normal)
