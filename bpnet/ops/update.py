"""The optimizers' arithmetic over a segment of the store, and the flag that guards it.

`ok` is a 0-d bool array. Where it is False nothing changes: a step whose loss is not finite leaves the parameters, the
optimizer's state and the counters as they were. `learning_rate` is a 0-d float64 array and `counters[0]` the number of
steps taken, so that a recorded step sees their present values.
"""

from __future__ import annotations

from bpnet.dispatch import Array, kernel, namespace
from bpnet.ops.costs import size


@kernel(flops=0)
def check_finite_(ok: Array, value: Array) -> None:
    """Make `ok` False where the 0-d `value` is NaN or infinite; it stays False once it is."""
    xp = namespace(ok)
    ok[...] = xp.logical_and(ok, xp.isfinite(value))


@kernel(flops=0)
def advance_(counters: Array, ok: Array) -> None:
    """counters[0], the step, grows by one where `ok`; all others, the micro-batches, return to 0."""
    counters[0] = counters[0] + namespace(ok).astype(ok, counters.dtype)
    counters[1:] = 0


@kernel(flops=3, unread=(0,))
def blend_(target: Array, source: Array, new: Array, momentum: float, factor: float) -> None:
    """target = (1 - momentum) source + momentum factor new: one step of a running average; `source` may be `target`."""
    target[...] = (1 - momentum) * source + (momentum * factor) * new


@kernel(flops=0)
def commit_(value: Array, pending: Array, ok: Array) -> None:
    """value = pending where `ok`."""
    value[...] = namespace(value).where(ok, pending, value)


@kernel(flops=lambda value, grad, ok, rate, decay: size(value) * (4 if decay else 2))
def sgd_(value: Array, grad: Array, ok: Array, learning_rate: Array, weight_decay: float) -> None:
    """value -= learning_rate * (grad + weight_decay * value)."""
    xp = namespace(value)
    rate = xp.astype(learning_rate, value.dtype)
    if weight_decay:
        grad = grad + weight_decay * value
    value[...] = xp.where(ok, value - rate * grad, value)


@kernel(flops=lambda value, *rest: size(value) * (4 + 2 * bool(rest[5]) + 2 * bool(rest[7])), writes=(0, 2))
def sgd_momentum_(
    value: Array,
    grad: Array,
    velocity: Array,
    ok: Array,
    learning_rate: Array,
    counters: Array,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
) -> None:
    """v = momentum v + g; value -= learning_rate * v, or with Nesterov's look-ahead learning_rate * (g + momentum v).

    g = grad + weight_decay * value. Writes into `value` and `velocity`. `counters` is not needed here: a backend may
    time by it when it sets velocities that are about to become denormal to 0. [Sutskever et al. 2013]
    """
    xp = namespace(value)
    rate = xp.astype(learning_rate, value.dtype)
    if weight_decay:
        grad = grad + weight_decay * value
    v = momentum * velocity + grad
    step = grad + momentum * v if nesterov else v
    velocity[...] = xp.where(ok, v, velocity)
    value[...] = xp.where(ok, value - rate * step, value)


@kernel(flops=lambda value, *rest: size(value) * (14 if rest[-1] else 12), writes=(0, 2, 3))
def adam_(
    value: Array,
    grad: Array,
    m: Array,
    v: Array,
    ok: Array,
    learning_rate: Array,
    counters: Array,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
) -> None:
    """Adam with decoupled weight decay; writes into `value`, `m` and `v`.

    m += (1 - beta1) (g - m); v += (1 - beta2) (g^2 - v); t = counters[0] + 1
    value -= learning_rate (weight_decay value + (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon))
    [Kingma & Ba 2015, alg. 1; decay: Loshchilov & Hutter 2019, alg. 2]
    The corrections are gathered into one factor, computed in float64:
    with c = sqrt(1 - beta2^t), the second term is (learning_rate c / (1 - beta1^t)) m / (sqrt(v) + epsilon c).
    """
    xp = namespace(value)
    t = xp.astype(counters[0:1] + 1, xp.float64)  # (1,), as all numbers of this step: some libraries lack 0-d results
    rate = xp.reshape(learning_rate, (1,))
    c = xp.sqrt(1 - beta2**t)
    factor = xp.astype(rate * c / (1 - beta1**t), value.dtype)
    floor = xp.astype(epsilon * c, value.dtype)
    new_m = m + (1 - beta1) * (grad - m)
    new_v = v + (1 - beta2) * (grad * grad - v)
    new = value - factor * (new_m / (xp.sqrt(new_v) + floor))
    if weight_decay:
        new = new - xp.astype(rate * weight_decay, value.dtype) * value
    value[...] = xp.where(ok, new, value)
    m[...] = xp.where(ok, new_m, m)
    v[...] = xp.where(ok, new_v, v)


@kernel(flops=lambda value, *rest: size(value) * (15 if rest[-1] else 13), writes=(0, 2, 3, 4))
def amsgrad_(
    value: Array,
    grad: Array,
    m: Array,
    v: Array,
    v_max: Array,
    ok: Array,
    learning_rate: Array,
    counters: Array,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
) -> None:
    """Adam whose second moment never falls: v_max = max(v_max, v) stands in the place of v. [Reddi et al. 2018, alg. 2]

    The maximum is taken before the correction 1 - beta2^t, as PyTorch does.
    """
    xp = namespace(value)
    t = xp.astype(counters[0:1] + 1, xp.float64)
    rate = xp.reshape(learning_rate, (1,))
    c = xp.sqrt(1 - beta2**t)
    factor = xp.astype(rate * c / (1 - beta1**t), value.dtype)
    floor = xp.astype(epsilon * c, value.dtype)
    new_m = m + (1 - beta1) * (grad - m)
    new_v = v + (1 - beta2) * (grad * grad - v)
    largest = xp.maximum(v_max, new_v)
    new = value - factor * (new_m / (xp.sqrt(largest) + floor))
    if weight_decay:
        new = new - xp.astype(rate * weight_decay, value.dtype) * value
    value[...] = xp.where(ok, new, value)
    m[...] = xp.where(ok, new_m, m)
    v[...] = xp.where(ok, new_v, v)
    v_max[...] = xp.where(ok, largest, v_max)
