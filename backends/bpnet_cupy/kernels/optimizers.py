"""The optimizers' passes over segments of the store: one launch each."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet.ops.adaptive import LION_FLUSH_EVERY
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.common import BLOCK, Array, alike, counts, flag, named, nothing, packs, rate


def flat(*arrays: Array | None) -> bool:
    """Whether all that are there are flat buffers of one length and dtype."""
    there = [a for a in arrays if a is not None]
    return there[0].ndim == 1 and alike(*there)


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""

    def over(kernel: str, value: Array, *args: Any) -> list[Call]:
        return [driver.launch(kernel, packs(driver, value.size, value.dtype), BLOCK, (value, *args))]

    def guarded(ok: Array, learning_rate: Array, counters: Array | None = None) -> bool:
        return flag(ok) and rate(learning_rate) and (counters is None or counts(counters))

    @ops.sgd_.register_bound(
        array_type,
        accepts=lambda value, grad, ok, learning_rate, *_: flat(value, grad) and guarded(ok, learning_rate),
        allocate=nothing,
    )
    def _(_: None, value: Array, grad: Array, ok: Array, learning_rate: Array, weight_decay: float) -> list[Call]:
        kind = value.dtype.type
        kernel = f"sgd<{named(value)}>"
        return over(kernel, value, grad, ok, learning_rate, np.int64(value.size), kind(weight_decay))

    @ops.sgd_momentum_.register_bound(
        array_type,
        accepts=lambda value, grad, velocity, ok, learning_rate, *_: (
            flat(value, grad, velocity) and guarded(ok, learning_rate)
        ),
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
        kind = value.dtype.type
        numbers = (np.int64(value.size), kind(weight_decay), kind(momentum), np.bool_(nesterov))
        return over(f"sgd_momentum<{named(value)}>", value, grad, velocity, ok, learning_rate, *numbers)

    def adam(
        value: Array,
        grad: Array,
        m: Array,
        v: Array,
        v_max: Array | None,
        ok: Array,
        learning_rate: Array,
        counters: Array,
        *settings: float,
    ) -> list[Call]:
        kernel = f"adam<{named(value)}, {'false' if v_max is None else 'true'}>"
        numbers = (np.int64(value.size), *map(np.float64, settings))
        return over(kernel, value, grad, m, v, v_max, ok, learning_rate, counters, *numbers)

    @ops.adam_.register_bound(
        array_type,
        accepts=lambda value, grad, m, v, ok, learning_rate, counters, *_: (
            flat(value, grad, m, v) and guarded(ok, learning_rate, counters)
        ),
        allocate=nothing,
    )
    def _(_: None, value: Array, grad: Array, m: Array, v: Array, *rest: Any) -> list[Call]:
        return adam(value, grad, m, v, None, *rest)

    @ops.amsgrad_.register_bound(
        array_type,
        accepts=lambda value, grad, m, v, v_max, ok, learning_rate, counters, *_: (
            flat(value, grad, m, v, v_max) and guarded(ok, learning_rate, counters)
        ),
        allocate=nothing,
    )
    def _(_: None, value: Array, grad: Array, m: Array, v: Array, v_max: Array, *rest: Any) -> list[Call]:
        return adam(value, grad, m, v, v_max, *rest)

    @ops.adagrad_.register_bound(
        array_type,
        accepts=lambda value, grad, total, ok, learning_rate, *_: (
            flat(value, grad, total) and guarded(ok, learning_rate)
        ),
        allocate=nothing,
    )
    def _(
        _: None, value: Array, grad: Array, total: Array, ok: Array, learning_rate: Array, *settings: float
    ) -> list[Call]:
        numbers = (np.int64(value.size), *map(value.dtype.type, settings))
        return over(f"adagrad<{named(value)}>", value, grad, total, ok, learning_rate, *numbers)

    @ops.rmsprop_.register_bound(
        array_type,
        accepts=lambda value, grad, square, mean, velocity, ok, learning_rate, *_: (
            flat(value, grad, square, mean, velocity) and guarded(ok, learning_rate)
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
        learning_rate: Array,
        counters: Array,
        rho: float,
        epsilon: float,
        momentum: float,
        weight_decay: float,
    ) -> list[Call]:
        flags = ", ".join("false" if slot is None else "true" for slot in (mean, velocity))
        numbers = (np.int64(value.size), *map(value.dtype.type, (1 - rho, epsilon, momentum, weight_decay)))
        kernel = f"rmsprop<{named(value)}, {flags}>"
        return over(kernel, value, grad, square, mean, velocity, ok, learning_rate, *numbers)

    @ops.lion_.register_bound(
        array_type,
        accepts=lambda value, grad, m, ok, learning_rate, counters, *_: (
            flat(value, grad, m) and guarded(ok, learning_rate, counters)
        ),
        allocate=nothing,
    )
    def _(
        _: None,
        value: Array,
        grad: Array,
        m: Array,
        ok: Array,
        learning_rate: Array,
        counters: Array,
        *settings: float,
    ) -> list[Call]:
        numbers = (np.int64(value.size), *map(np.float64, settings), np.int64(LION_FLUSH_EVERY))
        return over(f"lion<{named(value)}>", value, grad, m, ok, learning_rate, counters, *numbers)
