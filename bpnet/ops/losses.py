"""Losses in one pass, as pairs, for batches without weights: the sum over all elements, as a 0-d array.

A forward returns the loss, and what its backward needs beside the inputs. Every forward divides by `normalizer`, the
total weight of the whole step's elements, and every backward multiplies by `scale / normalizer`; nothing else in bpnet
divides a gradient by a count. Batches with weights go by `weighting`.
"""

from __future__ import annotations

from bpnet.dispatch import Array, kernel, namespace
from bpnet.ops.costs import n_rows, size
from bpnet.ops.weighting import divided, factor_of, is_label, smallest_normal


@kernel(flops=lambda logits, labels, normalizer: 7 * size(logits) + n_rows(logits))
def softmax_cross_entropy(logits: Array, labels: Array, normalizer: float) -> tuple[Array, Array]:
    """Negative log-likelihood of `labels` under softmax(`logits`), summed and divided by `normalizer`, in nats.

    logits : (N, C) floating; labels : (N,) integer, 0 <= label < C
    Returns the loss, shape (), and p = softmax(logits), shape (N, C), which the backward needs.
    d loss / d logits = (p - onehot(labels)) / normalizer   [Bishop 2006, eq. 4.109]
    """
    xp = namespace(logits)
    z = logits - xp.max(logits, axis=1, keepdims=True)  # exp cannot overflow
    e = xp.exp(z)
    total = xp.sum(e, axis=1, keepdims=True)
    picked = xp.where(is_label(labels, z.shape[1]), z - xp.log(total), 0)
    return divided(xp.asarray(-xp.sum(picked)), normalizer), e / total


@kernel(flops=2)
def softmax_cross_entropy_backward(p: Array, labels: Array, normalizer: float, scale: float) -> Array:
    """(p - onehot(labels)) * scale / normalizer."""
    onehot = namespace(p).astype(is_label(labels, p.shape[1]), p.dtype)
    return (p - onehot) * factor_of(normalizer, scale, p)


@kernel(flops=lambda logits, labels, normalizer, scale: 9 * size(logits) + n_rows(logits))
def softmax_cross_entropy_gradient(
    logits: Array, labels: Array, normalizer: float, scale: float
) -> tuple[Array, Array]:
    """The loss and its derivative with respect to the logits in one pass; the plan puts it in the place of the pair."""
    loss, p = softmax_cross_entropy(logits, labels, normalizer)
    return loss, softmax_cross_entropy_backward(p, labels, normalizer, scale)


@kernel(flops=3)
def categorical_cross_entropy(p: Array, labels: Array, normalizer: float) -> Array:
    """-sum(log p[label]) / normalizer, with p raised to the smallest normal number so that the loss stays finite.

    p : (N, C) probabilities; labels : (N,) integer
    """
    xp = namespace(p)
    picked = xp.where(is_label(labels, p.shape[1]), xp.log(xp.maximum(p, smallest_normal(p))), 0)
    return divided(xp.asarray(-xp.sum(picked)), normalizer)


@kernel(flops=2)
def categorical_cross_entropy_backward(p: Array, labels: Array, normalizer: float, scale: float) -> Array:
    """-1 / p at each row's label, 0 elsewhere, times scale / normalizer."""
    xp = namespace(p)
    slope = factor_of(normalizer, -scale, p) / xp.maximum(p, smallest_normal(p))
    return xp.where(is_label(labels, p.shape[1]), slope, 0)


@kernel(flops=7)
def sigmoid_binary_cross_entropy(logits: Array, targets: Array, normalizer: float) -> Array:
    """Binary cross-entropy of sigmoid(`logits`) against `targets`, in nats, from the logits.

    -t log s(x) - (1 - t) log(1 - s(x)) = max(x, 0) - x t + log(1 + exp(-|x|)), which neither overflows nor cancels.
    logits, targets : one shape; 0 <= target <= 1
    """
    xp = namespace(logits)
    each = xp.maximum(logits, 0) - logits * targets + xp.log1p(xp.exp(-xp.abs(logits)))
    return divided(xp.asarray(xp.sum(each)), normalizer)


@kernel(flops=5)
def sigmoid_binary_cross_entropy_backward(logits: Array, targets: Array, normalizer: float, scale: float) -> Array:
    """(sigmoid(logits) - targets) * scale / normalizer."""
    xp = namespace(logits)
    e = xp.exp(-xp.abs(logits))
    p = xp.where(logits >= 0, 1, e) / (1 + e)
    return (p - targets) * factor_of(normalizer, scale, logits)


@kernel(flops=10)
def binary_cross_entropy(p: Array, targets: Array, normalizer: float) -> Array:
    """-sum(t log p + (1 - t) log(1 - p)) / normalizer, p and 1 - p raised to the smallest normal number.

    p, targets : one shape; 0 <= p, target <= 1
    """
    xp = namespace(p)
    tiny = smallest_normal(p)
    each = targets * xp.log(xp.maximum(p, tiny)) + (1 - targets) * xp.log(xp.maximum(1 - p, tiny))
    return divided(xp.asarray(-xp.sum(each)), normalizer)


@kernel(flops=8)
def binary_cross_entropy_backward(p: Array, targets: Array, normalizer: float, scale: float) -> Array:
    """((1 - t) / (1 - p) - t / p) * scale / normalizer."""
    xp = namespace(p)
    tiny = smallest_normal(p)
    each = (1 - targets) / xp.maximum(1 - p, tiny) - targets / xp.maximum(p, tiny)
    return each * factor_of(normalizer, scale, p)


@kernel(flops=3)
def mean_squared_error(y: Array, targets: Array, normalizer: float) -> Array:
    """sum((y - targets)^2) / normalizer for two arrays of one shape."""
    xp = namespace(y)
    error = y - targets
    return divided(xp.asarray(xp.sum(error * error)), normalizer)


@kernel(flops=2)
def mean_squared_error_backward(y: Array, targets: Array, normalizer: float, scale: float) -> Array:
    """2 (y - targets) * scale / normalizer."""
    return (y - targets) * factor_of(normalizer, 2 * scale, y)


@kernel(flops=2)
def mean_absolute_error(y: Array, targets: Array, normalizer: float) -> Array:
    """sum(|y - targets|) / normalizer for two arrays of one shape."""
    xp = namespace(y)
    return divided(xp.asarray(xp.sum(xp.abs(y - targets))), normalizer)


@kernel(flops=2)
def mean_absolute_error_backward(y: Array, targets: Array, normalizer: float, scale: float) -> Array:
    """sign(y - targets) * scale / normalizer; 0 where they are equal."""
    return namespace(y).sign(y - targets) * factor_of(normalizer, scale, y)
