"""More optimizers' arithmetic over a segment of the store; `bpnet.ops.update` says what the arguments are."""

from __future__ import annotations

from bpnet.dispatch import Array, kernel, namespace


@kernel
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


@kernel
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


def lion_tiny(dtype: object, xp: object) -> float:
    """Below this size a momentum of Lion counts as none."""
    return float(xp.finfo(dtype).smallest_normal) * 1e8  # type: ignore[attr-defined]


@kernel
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
    """value -= learning_rate (sign(m + (1 - beta1) (grad - m)) + weight_decay value); m += (1 - beta2) (grad - m).

    Writes into `value` and `m`. In every 64th step, momenta below the smallest normal number times 1e8 become 0: the
    sign knows no small numbers, so a weight whose gradient stays 0 would walk on until its momentum underflows, and
    where that is, is up to the processor. [Chen et al. 2023, alg. 2]
    """
    xp = namespace(value)
    rate = xp.reshape(learning_rate, (1,))
    t = counters[0:1] + 1
    tiny = xp.logical_and(t % LION_FLUSH_EVERY == 0, xp.abs(m) < lion_tiny(m.dtype, xp))
    old = xp.where(tiny, xp.zeros_like(m), m)
    new = value
    if weight_decay:
        new = value - xp.astype(rate * weight_decay, value.dtype) * value
    new = new - xp.astype(rate, value.dtype) * xp.sign(old + (1 - beta1) * (grad - old))
    value[...] = xp.where(ok, new, value)
    m[...] = xp.where(ok, old + (1 - beta2) * (grad - old), m)
