"""Losses of single elements, as pairs: f(prediction, target) has their shape, f_backward(dl, prediction, target) too.

`weighted_sum` makes one number of them. Where dl is 0 the derivative is 0.
"""

from __future__ import annotations

import math

from bpnet.dispatch import Array, kernel, namespace
from bpnet.ops.activations import sigmoid
from bpnet.ops.smooth import softplus
from bpnet.ops.weighting import smallest_normal, times


@kernel(flops=2)
def squared_error(y: Array, targets: Array) -> Array:
    """(y - t)^2."""
    error = y - targets
    return error * error


@kernel(flops=3)
def squared_error_backward(dl: Array, y: Array, targets: Array) -> Array:
    """Return dy = 2 dl (y - t)."""
    return times(dl, 2 * (y - targets))


@kernel(flops=1)
def absolute_error(y: Array, targets: Array) -> Array:
    """|y - t|."""
    return namespace(y).abs(y - targets)


@kernel(flops=2)
def absolute_error_backward(dl: Array, y: Array, targets: Array) -> Array:
    """Return dy = dl sign(y - t); 0 where they are equal."""
    return times(dl, namespace(y).sign(y - targets))


@kernel(flops=5)
def huber(y: Array, targets: Array, delta: float) -> Array:
    """With e = |y - t|: e^2 / 2 where e <= delta, delta (e - delta / 2) elsewhere. [Huber 1964]

    With c = min(e, delta) both are c (e - c / 2), which cannot overflow where it is linear.
    """
    xp = namespace(y)
    e = xp.abs(y - targets)
    c = xp.minimum(e, delta)
    return c * (e - 0.5 * c)


@kernel(flops=4)
def huber_backward(dl: Array, y: Array, targets: Array, delta: float) -> Array:
    """Return dy = dl (y - t), clipped to -delta ... delta before it is multiplied."""
    xp = namespace(y)
    return times(dl, xp.maximum(xp.minimum(y - targets, delta), -delta))


@kernel(flops=6)
def log_cosh(y: Array, targets: Array) -> Array:
    """Return log(cosh(e)), e = y - t, as |e| + log(1 + exp(-2 |e|)) - log 2, which cannot overflow."""
    xp = namespace(y)
    e = xp.abs(y - targets)
    return e + xp.log1p(xp.exp(-2 * e)) - math.log(2)


@kernel(flops=3)
def log_cosh_backward(dl: Array, y: Array, targets: Array) -> Array:
    """Return dy = dl tanh(y - t)."""
    return times(dl, namespace(y).tanh(y - targets))


@kernel(flops=3)
def poisson(log_rate: Array, targets: Array) -> Array:
    """exp(x) - t x: -log of the probability of counts t under a Poisson distribution of rate exp(x), less log(t!)."""
    return namespace(log_rate).exp(log_rate) - targets * log_rate


@kernel(flops=3)
def poisson_backward(dl: Array, log_rate: Array, targets: Array) -> Array:
    """Return dx = dl (exp(x) - t)."""
    return times(dl, namespace(log_rate).exp(log_rate) - targets)


@kernel(flops=6)
def sigmoid_cross_entropy(logits: Array, targets: Array) -> Array:
    """-t log s(x) - (1 - t) log(1 - s(x)) = max(x, 0) - x t + log(1 + exp(-|x|)), in nats. 0 <= t <= 1"""
    xp = namespace(logits)
    return xp.maximum(logits, 0) - logits * targets + xp.log1p(xp.exp(-xp.abs(logits)))


@kernel(flops=5)
def sigmoid_cross_entropy_backward(dl: Array, logits: Array, targets: Array) -> Array:
    """Return dx = dl (sigmoid(x) - t)."""
    return times(dl, sigmoid(logits) - targets)


@kernel(flops=9)
def probability_cross_entropy(p: Array, targets: Array) -> Array:
    """-t log p - (1 - t) log(1 - p), in nats, p and 1 - p raised to the smallest normal number. 0 <= p, t <= 1"""
    xp = namespace(p)
    tiny = smallest_normal(p)
    return -(targets * xp.log(xp.maximum(p, tiny)) + (1 - targets) * xp.log(xp.maximum(1 - p, tiny)))


@kernel(flops=8)
def probability_cross_entropy_backward(dl: Array, p: Array, targets: Array) -> Array:
    """Return dp = dl ((1 - t) / (1 - p) - t / p)."""
    xp = namespace(p)
    tiny = smallest_normal(p)
    return times(dl, (1 - targets) / xp.maximum(1 - p, tiny) - targets / xp.maximum(p, tiny))


@kernel(flops=24)
def binary_focal(logits: Array, targets: Array, gamma: float, positive: float, negative: float) -> Array:
    """-positive t (1 - p)^gamma log p - negative (1 - t) p^gamma log(1 - p), p = sigmoid(x), in nats.

    gamma >= 0; 0 <= t <= 1. log p = -softplus(-x), log(1 - p) = -softplus(x). [Lin et al. 2017, eq. 5]
    """
    p, q = sigmoid(logits), sigmoid(-logits)
    hit = positive * targets * q**gamma * softplus(-logits)
    return hit + negative * (1 - targets) * p**gamma * softplus(logits)


@kernel(flops=31)
def binary_focal_backward(
    dl: Array, logits: Array, targets: Array, gamma: float, positive: float, negative: float
) -> Array:
    """With q = 1 - p: d/dx of -q^gamma log p is q^gamma (gamma p log p - q), and the other term its mirror image."""
    p, q = sigmoid(logits), sigmoid(-logits)
    hit = positive * targets * q**gamma * (-gamma * p * softplus(-logits) - q)
    miss = negative * (1 - targets) * p**gamma * (gamma * q * softplus(logits) + p)
    return times(dl, hit + miss)
