"""More optimizers' arithmetic over a segment of the store; `bpnet.ops.update` says what the arguments are."""

from __future__ import annotations

from typing import Any

from bpnet.dispatch import Array, kernel, namespace
from bpnet.ops.costs import size


@kernel(flops=lambda value, *rest: size(value) * (10 if rest[-1] else 8), writes=(0, 2))
def adagrad_(
    value: Array,
    grad: Array,
    total: Array,
    ok: Array,
    learning_rate: Array,
    initial: float,
    epsilon: float,
    weight_decay: float,
) -> None:
    """total += g^2; value -= learning_rate * g / (sqrt(total + initial) + epsilon).

    g = grad + weight_decay * value. Writes into `value` and `total`, which starts at 0: the accumulator of the paper
    is total + initial. [Duchi et al. 2011]
    """
    xp = namespace(value)
    rate = xp.astype(learning_rate, value.dtype)
    g = grad + weight_decay * value if weight_decay else grad
    new_total = total + g * g
    new = value - rate * g / (xp.sqrt(new_total + initial) + epsilon)
    value[...] = xp.where(ok, new, value)
    total[...] = xp.where(ok, new_total, total)


def _rmsprop_flops(value: Array, *rest: Any) -> int:
    _, _, mean, velocity, *_, decay = rest
    return size(value) * (9 + 5 * (mean is not None) + 2 * (velocity is not None) + 2 * bool(decay))


@kernel(flops=_rmsprop_flops, writes=(0, 2, 3, 4))
def rmsprop_(
    value: Array,
    grad: Array,
    square: Array,
    mean: Array | None,
    velocity: Array | None,
    ok: Array,
    learning_rate: Array,
    counters: Array,
    rho: float,
    epsilon: float,
    momentum: float,
    weight_decay: float,
) -> None:
    """square += (1 - rho) (g^2 - square); u = g / (sqrt(square) + epsilon); value -= learning_rate * u.

    g = grad + weight_decay * value. With `mean`, which follows g as `square` follows g^2, the variance square - mean^2,
    at least 0, stands in the place of `square`. With `velocity`: v = momentum v + u, and value -= learning_rate * v.
    Writes into all of them. `counters` is there for the same reason as in `sgd_momentum_`. [Tieleman & Hinton 2012,
    lecture 6.5; centered: Graves 2013, eq. 38-45]
    """
    xp = namespace(value)
    rate = xp.astype(learning_rate, value.dtype)
    g = grad + weight_decay * value if weight_decay else grad
    new_square = square + (1 - rho) * (g * g - square)
    spread = new_square
    if mean is not None:
        new_mean = mean + (1 - rho) * (g - mean)
        spread = new_square - new_mean * new_mean
        spread = xp.where(spread < 0, xp.zeros_like(spread), spread)  # rounding may bring it below 0; NaN stays
        mean[...] = xp.where(ok, new_mean, mean)
    u = g / (xp.sqrt(spread) + epsilon)
    if velocity is not None:
        u = momentum * velocity + u
        velocity[...] = xp.where(ok, u, velocity)
    value[...] = xp.where(ok, value - rate * u, value)
    square[...] = xp.where(ok, new_square, square)


LION_FLUSH_EVERY = 64  # steps


@kernel(flops=lambda value, *rest: size(value) * (12 if rest[-1] else 10), writes=(0, 2))
def lion_(
    value: Array,
    grad: Array,
    m: Array,
    ok: Array,
    learning_rate: Array,
    counters: Array,
    beta1: float,
    beta2: float,
    weight_decay: float,
) -> None:
    """value -= learning_rate (sign(c) + weight_decay value) with c = m + (1 - beta1) (grad - m).

    Then m += (1 - beta2) (grad - m). Writes into `value` and `m`. [Chen et al. 2023, alg. 2]
    sign(c) = c / (|c| + the smallest normal number), which needs no branch and is +-1 for all but numbers next to that.
    In every 64th step, momenta below the smallest normal number times 1e8 become 0:
    a weight whose gradient stays 0 would walk on until its momentum underflows, which processors do differently.
    """
    xp = namespace(value)
    rate = xp.reshape(learning_rate, (1,))
    t = counters[0:1] + 1
    tiny = float(xp.finfo(m.dtype).smallest_normal)
    faded = xp.logical_and(t % LION_FLUSH_EVERY == 0, xp.abs(m) < tiny * 1e8)
    old = xp.where(faded, xp.zeros_like(m), m)
    c = old + (1 - beta1) * (grad - old)
    new = value
    if weight_decay:
        new = value - xp.astype(rate * weight_decay, value.dtype) * value
    new = new - xp.astype(rate, value.dtype) * (c / (xp.abs(c) + tiny))
    value[...] = xp.where(ok, new, value)
    m[...] = xp.where(ok, old + (1 - beta2) * (grad - old), m)
