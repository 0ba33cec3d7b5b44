"""Cross-entropies against weighted rows of targets, and others of their kind: one loss a row.

Q is (M, C), as `label_targets` and `soft_targets` make it: what -log p[i, c] is weighed with, samples' and classes'
weights, smoothing and ignored rows in it. A class of weight 0 counts for nothing, even where log p is -inf.
"""

from __future__ import annotations

from bpnet.dispatch import Array, kernel, namespace
from bpnet.ops.costs import n_rows, size
from bpnet.ops.weighting import divided, factor_of, smallest_normal, times


def _log_softmax(logits: Array) -> tuple[Array, Array]:
    """Return log p and p = softmax(logits), without overflow."""
    xp = namespace(logits)
    z = logits - xp.max(logits, axis=1, keepdims=True)
    e = xp.exp(z)
    total = xp.sum(e, axis=1, keepdims=True)
    return z - xp.log(total), e / total


def _minus(Q: Array, log_p: Array) -> Array:
    """-sum_c Q[i, c] log p[i, c], shape (M,)."""
    xp = namespace(Q)
    return -xp.sum(Q * xp.where(Q == 0, 0, log_p), axis=1)


def _slopes(p: Array, Q: Array) -> Array:
    """The derivative of that with respect to the logits: p[i, c] sum_k Q[i, k] - Q[i, c]."""
    xp = namespace(Q)
    total = xp.sum(Q, axis=1, keepdims=True)
    return xp.where(total == 0, 0, p) * total - Q


@kernel(flops=lambda logits, Q, normalizer: 8 * size(Q) + 2 * n_rows(Q))
def soft_cross_entropy(logits: Array, Q: Array, normalizer: float) -> tuple[Array, Array]:
    """-sum(Q log softmax(logits)) / normalizer, shape (), in nats, and p = softmax(logits), shape (M, C)."""
    xp = namespace(logits)
    log_p, p = _log_softmax(logits)
    return xp.asarray(divided(xp.asarray(xp.sum(_minus(Q, log_p))), normalizer)), p


@kernel(flops=4)
def soft_cross_entropy_backward(p: Array, Q: Array, normalizer: float, scale: float) -> Array:
    """dlogits[i, c] = (p[i, c] sum_k Q[i, k] - Q[i, c]) * scale / normalizer."""
    return _slopes(p, Q) * factor_of(normalizer, scale, p)


@kernel(flops=lambda logits, Q, normalizer, scale: 12 * size(Q) + 2 * n_rows(Q))
def soft_cross_entropy_gradient(logits: Array, Q: Array, normalizer: float, scale: float) -> tuple[Array, Array]:
    """The loss and its derivative with respect to the logits in one pass; the plan puts it in the place of the pair."""
    loss, p = soft_cross_entropy(logits, Q, normalizer)
    return loss, soft_cross_entropy_backward(p, Q, normalizer, scale)


@kernel(flops=lambda logits, Q: 8 * size(Q) + n_rows(Q))
def soft_cross_entropy_rows(logits: Array, Q: Array) -> Array:
    """-sum_c Q[i, c] log softmax(logits)[i, c], shape (M,), in nats. logits, Q : (M, C)"""
    return _minus(Q, _log_softmax(logits)[0])


@kernel(flops=lambda dl, logits, Q: 10 * size(Q) + n_rows(Q))
def soft_cross_entropy_rows_backward(dl: Array, logits: Array, Q: Array) -> Array:
    """dlogits[i, c] = dl_i (p[i, c] sum_k Q[i, k] - Q[i, c]). dl : (M,); logits, Q : (M, C)"""
    return times(dl[:, None], _slopes(_log_softmax(logits)[1], Q))


@kernel(flops=4)
def probability_cross_entropy_rows(p: Array, Q: Array) -> Array:
    """-sum_c Q[i, c] log p[i, c], shape (M,), in nats, with p raised to the smallest normal number. p, Q : (M, C)"""
    xp = namespace(p)
    return _minus(Q, xp.log(xp.maximum(p, smallest_normal(p))))


@kernel(flops=lambda dl, p, Q: 4 * size(Q))
def probability_cross_entropy_rows_backward(dl: Array, p: Array, Q: Array) -> Array:
    """Return dp[i, c] = -dl_i Q[i, c] / p[i, c]."""
    xp = namespace(p)
    return -times(dl[:, None] * Q, 1 / xp.maximum(p, smallest_normal(p)))


@kernel(flops=2)
def negative_log_likelihood_rows(log_p: Array, Q: Array) -> Array:
    """-sum_c Q[i, c] log p[i, c], shape (M,), in nats, of log-probabilities. log_p, Q : (M, C)"""
    return _minus(Q, log_p)


@kernel(flops=lambda dl, log_p, Q: size(Q))
def negative_log_likelihood_rows_backward(dl: Array, log_p: Array, Q: Array) -> Array:
    """Return dlog_p[i, c] = -dl_i Q[i, c]."""
    return -dl[:, None] * Q


@kernel(flops=4)
def kl_divergence_rows(log_p: Array, targets: Array) -> Array:
    """sum_c t[i, c] (log t[i, c] - log p[i, c]), shape (M,), in nats; a target of 0 adds 0. log_p, targets : (M, C)"""
    xp = namespace(log_p)
    log_t = xp.log(xp.where(targets == 0, 1, targets))
    return xp.sum(targets * xp.where(targets == 0, 0, log_t - log_p), axis=1)


@kernel(flops=lambda dl, log_p, targets: size(targets))
def kl_divergence_rows_backward(dl: Array, log_p: Array, targets: Array) -> Array:
    """Return dlog_p[i, c] = -dl_i t[i, c]."""
    return -dl[:, None] * targets


@kernel(flops=lambda logits, Q, gamma: 11 * size(Q) + n_rows(Q))
def focal_rows(logits: Array, Q: Array, gamma: float) -> Array:
    """-sum_c Q[i, c] (1 - p[i, c])^gamma log p[i, c], p = softmax(logits), shape (M,), in nats. [Lin et al. 2017]

    logits, Q : (M, C); gamma >= 0, and 0 is cross-entropy. 1 - p = -expm1(log p) does not cancel.
    """
    xp = namespace(logits)
    log_p, _ = _log_softmax(logits)
    rest = -xp.expm1(log_p)
    return -xp.sum(Q * xp.where(Q == 0, 0, rest**gamma * log_p), axis=1)


@kernel(flops=lambda dl, logits, Q, gamma: 18 * size(Q) + n_rows(Q))
def focal_rows_backward(dl: Array, logits: Array, Q: Array, gamma: float) -> Array:
    """dlogits[i, c] = dl_i (h[i, c] - p[i, c] sum_k h[i, k]), h = p dl/dp.

    h = Q (1 - p)^gamma (gamma p r - 1), r = log p / (1 - p), which tends to -1 where p tends to 1.
    """
    xp = namespace(logits)
    log_p, p = _log_softmax(logits)
    rest = -xp.expm1(log_p)
    r = xp.where(rest == 0, -1, log_p / xp.where(rest == 0, 1, rest))
    p_r = p * xp.where(p == 0, 0, r)
    h = Q * xp.where(Q == 0, 0, rest**gamma * (gamma * p_r - 1))
    total = xp.sum(h, axis=1, keepdims=True)
    return times(dl[:, None], h - total * xp.where(total == 0, 0, p))
