"""The optimizers' passes over the store, counters and the flag."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet.ops.adaptive import LION_FLUSH_EVERY
from bpnet_numpy.fused.instruction import FLOAT32, instruction
from bpnet_numpy.fused.variants.common import alike, elements, fused, plain_number, single, writable
from bpnet_numpy.kernels.common import Array, floating, nothing
from bpnet_numpy.kernels.update import one_dimensional


def update(name: str, arrays: int, ok: Array, rate: Any, counters: Any, value: Array, *operands: Any) -> list[Call]:
    """The calls of a pass over `value` and the `arrays` - 1 first operands, on all threads where it is long."""
    return elements(name, value, 4, arrays, ok, rate, counters, value.size, value, *operands)


FLAG, RATE, COUNTERS = np.dtype("bool"), np.dtype("float64"), np.dtype("int64")


def _tiny(array: Array, rest: float = 1.0) -> float:
    """Below this a number counts as 0: it is denormal, or `rest` times it would be."""
    return float(np.finfo(array.dtype).smallest_normal) / min(max(rest, 1e-8), 1.0)


def _flat(*arrays: Array | None) -> bool:
    some = [each for each in arrays if each is not None]
    return bool(one_dimensional(*some) and alike(*some) and writable(*some))


def _guarded(ok: Array, rate: Array, counters: Array | None = None) -> bool:
    return single(ok, FLAG) and single(rate, RATE) and (counters is None or _counters(counters))


def _counters(counters: Array) -> bool:
    return bool(counters.dtype == COUNTERS and counters.flags.c_contiguous and counters.size > 0)


@fused(ops.sgd_, accepts=lambda w, g, ok, rate, _: _flat(w, g) and _guarded(ok, rate), allocate=nothing)
def _(_: None, value: Array, grad: Array, ok: Array, rate: Array, weight_decay: float) -> list[Call]:
    return update("sgd", 2, ok, rate, 0, value, grad, float(weight_decay))


@fused(
    ops.sgd_momentum_,
    accepts=lambda w, g, v, ok, rate, counters, *_: _flat(w, g, v) and _guarded(ok, rate, counters),
    allocate=nothing,
)
def _(
    _: None,
    value: Array,
    grad: Array,
    velocity: Array,
    ok: Array,
    rate: Array,
    counters: Array,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
) -> list[Call]:
    numbers = (float(weight_decay), float(momentum), bool(nesterov), _tiny(velocity, momentum))
    return update("sgd_momentum", 3, ok, rate, counters, value, grad, velocity, *numbers)


def _moments(m: Array, v: Array, beta1: float, beta2: float) -> tuple[float, float]:
    """Below which moments are 0: where a share of a difference of them would be denormal."""
    return _tiny(m, 1 - beta1), _tiny(v, 1 - beta2)


@fused(
    ops.adam_,
    accepts=lambda w, g, m, v, ok, rate, counters, *_: _flat(w, g, m, v) and _guarded(ok, rate, counters),
    allocate=nothing,
)
def _(
    _: None, value: Array, grad: Array, m: Array, v: Array, ok: Array, rate: Array, counters: Array, *numbers: float
) -> list[Call]:
    operands = (value, grad, m, v, *map(float, numbers), *_moments(m, v, *numbers[:2]))
    return update("adam", 4, ok, rate, counters, *operands)


@fused(
    ops.amsgrad_,
    accepts=lambda w, g, m, v, top, ok, rate, counters, *_: _flat(w, g, m, v, top) and _guarded(ok, rate, counters),
    allocate=nothing,
)
def _(
    _: None,
    value: Array,
    grad: Array,
    m: Array,
    v: Array,
    top: Array,
    ok: Array,
    rate: Array,
    counters: Array,
    *numbers: float,
) -> list[Call]:
    operands = (value, grad, m, v, top, *map(float, numbers), *_moments(m, v, *numbers[:2]))
    return update("amsgrad", 5, ok, rate, counters, *operands)


@fused(
    ops.adagrad_, accepts=lambda w, g, total, ok, rate, *_: _flat(w, g, total) and _guarded(ok, rate), allocate=nothing
)
def _(_: None, value: Array, grad: Array, total: Array, ok: Array, rate: Array, *numbers: float) -> list[Call]:
    return update("adagrad", 3, ok, rate, 0, value, grad, total, *map(float, numbers))


@fused(
    ops.rmsprop_,
    accepts=lambda w, g, square, mean, velocity, ok, rate, counters, *_: (
        _flat(w, g, square, mean, velocity) and _guarded(ok, rate, counters)
    ),
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
    rate: Array,
    counters: Array,
    rho: float,
    epsilon: float,
    momentum: float,
    weight_decay: float,
) -> list[Call]:
    slots = (square, *(0 if slot is None else slot for slot in (mean, velocity)))
    numbers = (float(rho), float(epsilon), float(momentum), float(weight_decay))
    limits = (_tiny(value, 1 - rho), _tiny(value, momentum))
    return update("rmsprop", 5, ok, rate, counters, value, grad, *slots, *numbers, *limits)


@fused(
    ops.lion_,
    accepts=lambda w, g, m, ok, rate, counters, *_: _flat(w, g, m) and _guarded(ok, rate, counters),
    allocate=nothing,
)
def _(
    _: None, value: Array, grad: Array, m: Array, ok: Array, rate: Array, counters: Array, *numbers: float
) -> list[Call]:
    limits = (_tiny(m), _tiny(m, 1e-8), LION_FLUSH_EVERY)
    return update("lion", 3, ok, rate, counters, value, grad, m, *map(float, numbers), *limits)


@fused(
    ops.average_,
    accepts=lambda average, value, ok, counters, _: _flat(average, value) and single(ok, FLAG) and _counters(counters),
    allocate=nothing,
)
def _(_: None, average: Array, value: Array, ok: Array, counters: Array, decay: float) -> list[Call]:
    numbers = (float(decay), _tiny(average, 1 - decay))
    return update("average", 2, ok, 0, counters, average, value, *numbers)


@fused(
    ops.check_finite_,
    accepts=lambda ok, value: single(ok, FLAG) and writable(ok) and floating(value) and value.size == 1,
    allocate=nothing,
)
def _(_: None, ok: Array, value: Array) -> list[Call]:
    return [instruction("check_finite", value.dtype, ok, value)]


@fused(
    ops.advance_,
    accepts=lambda counters, ok: single(ok, FLAG) and _counters(counters) and writable(counters),
    allocate=nothing,
)
def _(_: None, counters: Array, ok: Array) -> list[Call]:
    return [instruction("advance", FLOAT32, counters, counters.size, ok)]


@fused(
    ops.increment_,
    accepts=lambda counters, index: _counters(counters) and writable(counters) and 0 <= index < counters.size,
    allocate=nothing,
)
def _(_: None, counters: Array, index: int) -> list[Call]:
    return [instruction("increment", FLOAT32, counters, index)]


@fused(
    ops.accumulate_,
    accepts=lambda total, value, weight: (
        (total.dtype, total.shape) == (RATE, (2,))
        and total.flags.c_contiguous
        and writable(total)
        and floating(value)
        and value.size == 1
        and (plain_number(weight) or single(weight, RATE))
    ),
    allocate=nothing,
)
def _(_: None, total: Array, value: Array, weight: Any) -> list[Call]:
    return [instruction("accumulate", value.dtype, total, value, np.asarray(weight, RATE))]
