"""Adagrad, RMSprop and Lion over the store, chunk by chunk."""

from __future__ import annotations

from functools import partial

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_numpy.kernels.common import Array, constant, nothing
from bpnet_numpy.kernels.passes import Number, combine, decayed, follow
from bpnet_numpy.kernels.update import CHUNK, FLUSH_EVERY, chunks, flush_tiny, guarded, one_dimensional


@ops.adagrad_.register_bound(
    np.ndarray, accepts=lambda value, grad, total, *_: one_dimensional(value, grad, total), allocate=nothing
)
def _(
    _: None,
    value: Array,
    grad: Array,
    total: Array,
    ok: Array,
    learning_rate: Array,
    initial: float,
    epsilon: float,
    weight_decay: float,
) -> list[Call]:
    dtype = value.dtype
    decay, floor, start = (constant(x, dtype) for x in (weight_decay, epsilon, initial))
    rate = Number(0, dtype)
    scratch, other = np.empty((2, min(CHUNK, value.size)), dtype, like=value)
    calls: list[Call] = []
    for w, gradient, a in chunks(value, grad, total):
        s, g = scratch[: w.size], gradient
        if weight_decay:
            g = other[: w.size]
            calls += decayed(w, gradient, decay, g)
        calls += [partial(np.multiply, g, g, s), partial(np.add, a, s, a)]
        if initial:
            calls += [partial(np.add, a, start, s), partial(np.sqrt, s, s)]
        else:
            calls.append(partial(np.sqrt, a, s))
        calls += [
            partial(np.add, s, floor, s),
            partial(np.divide, g, s, s),
        ]
        calls += combine(w, s, rate, s)
    return guarded(ok, lambda: rate.set(-float(learning_rate)), calls)


@ops.rmsprop_.register_bound(
    np.ndarray,
    accepts=lambda value, grad, square, mean, velocity, *_: one_dimensional(value, grad, square, mean, velocity),
    allocate=nothing,
)
def _(
    _: None,
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
) -> list[Call]:
    dtype = value.dtype
    decay, floor, zero = constant(weight_decay, dtype), constant(epsilon, dtype), constant(0, dtype)
    rate, mu = Number(0, dtype), Number(momentum, dtype)
    scratch, other = np.empty((2, min(CHUNK, value.size)), dtype, like=value)
    slots = [slot for slot in (square, mean, velocity) if slot is not None]
    calls: list[Call] = []
    for w, gradient, *parts in chunks(value, grad, *slots):
        s, g, a = scratch[: w.size], gradient, parts[0]
        if weight_decay:
            g = other[: w.size]
            calls += decayed(w, gradient, decay, g)
        calls += [partial(np.multiply, g, g, s), *follow(a, s, 1 - rho, s)]
        if mean is not None:
            b = parts[1]
            calls += [
                *follow(b, g, 1 - rho, s),
                partial(np.multiply, b, b, s),
                partial(np.subtract, a, s, s),
                partial(np.maximum, s, zero, out=s),
                partial(np.sqrt, s, s),
            ]
        else:
            calls.append(partial(np.sqrt, a, s))
        calls += [partial(np.add, s, floor, s), partial(np.divide, g, s, s)]
        if velocity is not None:
            v = parts[-1]
            calls += combine(v, s, None, s, keep=mu)
        calls += combine(w, s if velocity is None else v, rate, s)

    def prepare() -> None:
        if (int(counters[0]) + 1) % FLUSH_EVERY == 0:
            for slot in slots:
                flush_tiny(slot, momentum if slot is velocity else rho)
        rate.set(-float(learning_rate))

    return guarded(ok, prepare, calls)


@ops.lion_.register_bound(
    np.ndarray, accepts=lambda value, grad, m, *_: one_dimensional(value, grad, m), allocate=nothing
)
def _(
    _: None,
    value: Array,
    grad: Array,
    m: Array,
    ok: Array,
    learning_rate: Array,
    counters: Array,
    beta1: float,
    beta2: float,
    weight_decay: float,
) -> list[Call]:
    dtype = value.dtype
    rate, keep = Number(0, dtype), Number(0, dtype) if weight_decay else None
    rest1, rest2 = constant(1 - beta1, dtype), Number(1 - beta2, dtype)
    tiny = constant(np.finfo(dtype).smallest_normal, dtype)
    scratch, other, third = np.empty((3, min(CHUNK, value.size)), dtype, like=value)
    calls: list[Call] = []
    for w, g, m1 in chunks(value, grad, m):
        s, difference, size = scratch[: w.size], other[: w.size], third[: w.size]
        calls += [
            partial(np.subtract, g, m1, difference),
            partial(np.multiply, difference, rest1, s),
            partial(np.add, m1, s, s),
            partial(np.absolute, s, size),
            partial(np.add, size, tiny, size),
            partial(np.divide, s, size, s),
            *combine(w, s, rate, s, keep=keep),
            *combine(m1, difference, rest2, difference),
        ]

    def prepare() -> None:
        if (int(counters[0]) + 1) % FLUSH_EVERY == 0:
            flush_tiny(m, 0.0)
        rate.set(-float(learning_rate))
        if keep is not None:
            keep.set(1 - float(learning_rate) * weight_decay)

    return guarded(ok, prepare, calls)
