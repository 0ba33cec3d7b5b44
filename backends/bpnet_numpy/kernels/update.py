"""Gradients, counters and the optimizers' passes over the store."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_numpy.kernels.common import Array, constant, floating, nothing
from bpnet_numpy.kernels.passes import Number, combine, decayed, follow


@ops.copy_.register_bound(np.ndarray, allocate=nothing)
def _(_: None, target: Array, source: Array) -> list[Call]:
    return [partial(np.copyto, target, source)]


@ops.add_.register_bound(np.ndarray, allocate=nothing)
def _(_: None, target: Array, source: Array) -> list[Call]:
    return [partial(np.add, target, source, target)]


@ops.fill_.register_bound(np.ndarray, allocate=nothing)
def _(_: None, target: Array, value: float) -> list[Call]:
    return [partial(target.fill, value)]


@ops.accumulate_.register_bound(np.ndarray, allocate=nothing)
def _(_: None, total: Array, value: Array, weight: float | Array) -> list[Call]:
    def call() -> None:
        number = float(weight)
        total[0] += float(value) * number
        total[1] += number

    return [call]


@ops.increment_.register_bound(np.ndarray, allocate=nothing)
def _(_: None, counters: Array, index: int) -> list[Call]:
    def call() -> None:
        counters[index] += 1

    return [call]


@ops.check_finite_.register_bound(np.ndarray, allocate=nothing)
def _(_: None, ok: Array, value: Array) -> list[Call]:
    def call() -> None:
        number = float(value)
        if number - number != 0.0:  # NaN for NaN and for an infinity
            ok[...] = False

    return [call]


@ops.advance_.register_bound(np.ndarray, allocate=nothing)
def _(_: None, counters: Array, ok: Array) -> list[Call]:
    rest = counters[1:]

    def call() -> None:
        if ok:
            counters[0] += 1
        rest.fill(0)

    return [call]


CHUNK = 32768  # elements: value, gradient, two slots and a temporary stay in the second-level cache


FLUSH_EVERY = 64  # steps


def flush_tiny(array: Array, decay: float) -> None:
    """Set numbers that are about to become denormal to 0: the moment of a weight whose gradient stays 0 decays into
    them, and each costs the processor a hundred times as much as another number, for ever.

    decay : what each step multiplies them by. What stays normal until the next flush is left alone, or what is 1e8
            above denormal where it falls fast: so small are squares of gradients that a small epsilon lets count.
    """
    room = decay**-FLUSH_EVERY if decay > 0.75 else 1e8
    smallest = np.finfo(array.dtype).smallest_normal * room
    for start in range(0, array.size, CHUNK):  # in pieces, since what is compared would be as large as the model
        piece = array[start : start + CHUNK]
        piece[np.abs(piece) < smallest] = 0


def chunks(*arrays: Array) -> list[tuple[Array, ...]]:
    """The arrays, all of one length, cut into parts that the second-level cache holds together."""
    size = arrays[0].size
    return [tuple(a[i : i + CHUNK] for a in arrays) for i in range(0, size, CHUNK)]


def guarded(ok: Array, prepare: Any, calls: list[Call]) -> list[Call]:
    """One call that makes `calls` where `ok` holds, after `prepare()` has set this step's numbers."""

    def call() -> None:
        if ok:
            prepare()
            for each in calls:
                each()

    return [call]


def one_dimensional(value: Array, grad: Array, *slots: Any) -> bool:
    """Whether all are flat buffers of one dtype, float32 or float64, in the memory's order."""
    return value.ndim == 1 and floating(value, grad, *(s for s in slots if isinstance(s, np.ndarray) and s.ndim))


@ops.sgd_.register_bound(np.ndarray, accepts=lambda value, grad, *_: one_dimensional(value, grad), allocate=nothing)
def _(_: None, value: Array, grad: Array, ok: Array, learning_rate: Array, weight_decay: float) -> list[Call]:
    rate, decay = Number(0, value.dtype), constant(weight_decay, value.dtype)
    scratch = np.empty(min(CHUNK, value.size), value.dtype, like=value)
    calls: list[Call] = []
    for w, g in chunks(value, grad):
        s = scratch[: w.size]
        if weight_decay:
            calls += decayed(w, g, decay, s)
        calls += combine(w, s if weight_decay else g, rate, s)
    return guarded(ok, lambda: rate.set(-float(learning_rate)), calls)


@ops.sgd_momentum_.register_bound(
    np.ndarray,
    accepts=lambda value, grad, velocity, *_: one_dimensional(value, grad, velocity),
    allocate=nothing,
)
def _(
    _: None,
    value: Array,
    grad: Array,
    velocity: Array,
    ok: Array,
    learning_rate: Array,
    counters: Array,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
) -> list[Call]:
    dtype = value.dtype
    rate, decay, mu = Number(0, dtype), constant(weight_decay, dtype), Number(momentum, dtype)
    scratch, other = np.empty((2, min(CHUNK, value.size)), dtype, like=value)
    calls: list[Call] = []
    for w, gradient, v in chunks(value, grad, velocity):
        s, g = scratch[: w.size], gradient
        if weight_decay:
            g = other[: w.size]
            calls += decayed(w, gradient, decay, g)
        calls += combine(v, g, None, s, keep=mu)
        if nesterov:
            calls += [partial(np.multiply, v, mu.array, s), partial(np.add, s, g, s)]
        calls += combine(w, s if nesterov else v, rate, s)

    def prepare() -> None:
        if (int(counters[0]) + 1) % FLUSH_EVERY == 0:
            flush_tiny(velocity, momentum)
        rate.set(-float(learning_rate))

    return guarded(ok, prepare, calls)


@ops.adam_.register_bound(
    np.ndarray,
    accepts=lambda value, grad, m, v, *_: one_dimensional(value, grad, m, v),
    allocate=nothing,
)
def _(_: None, value: Array, grad: Array, m: Array, v: Array, *settings: Any) -> list[Call]:
    return _adam(value, grad, m, v, v, *settings)


@ops.amsgrad_.register_bound(
    np.ndarray,
    accepts=lambda value, grad, m, v, v_max, *_: one_dimensional(value, grad, m, v, v_max),
    allocate=nothing,
)
def _(_: None, value: Array, grad: Array, m: Array, v: Array, v_max: Array, *settings: Any) -> list[Call]:
    return _adam(value, grad, m, v, v_max, *settings)


def _adam(
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
) -> list[Call]:
    dtype = value.dtype
    floor, factor = constant(0, dtype), Number(0, dtype)
    keep = Number(0, dtype) if weight_decay else None
    scratch = np.empty(min(CHUNK, value.size), dtype, like=value)
    calls: list[Call] = []
    for w, g, m1, v1, top in chunks(value, grad, m, v, v_max):
        s = scratch[: w.size]
        calls += [*follow(m1, g, 1 - beta1, s), partial(np.multiply, g, g, s), *follow(v1, s, 1 - beta2, s)]
        if v_max is not v:
            calls.append(partial(np.maximum, top, v1, out=top))
        calls += [
            partial(np.sqrt, top, s),
            partial(np.add, s, floor, s),
            partial(np.divide, m1, s, s),
        ]
        calls += combine(w, s, factor, s, keep=keep)

    def prepare() -> None:
        t = int(counters[0]) + 1
        if t % FLUSH_EVERY == 0:
            flush_tiny(m, beta1)
            flush_tiny(v, beta2)
        rate = float(learning_rate)
        c = (1 - beta2**t) ** 0.5
        factor.set(-rate * c / (1 - beta1**t))
        floor[...] = epsilon * c
        if keep is not None:
            keep.set(1 - rate * weight_decay)

    return guarded(ok, prepare, calls)
