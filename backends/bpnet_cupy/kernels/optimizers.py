"""The optimizers' passes over segments of the store: one launch each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call, Kernel
from bpnet.ops.adaptive import LION_FLUSH_EVERY
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.common import BLOCK, Array, alike, counts, flag, halves, named, nothing, op, packs, rate


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

    # Each pass takes what the op of its name does, and then the copies in bfloat16 that it writes too, or None.

    def sgd(
        value: Array, grad: Array, ok: Array, learning_rate: Array, weight_decay: float, copy: Array | None = None
    ) -> list[Call]:
        numbers = (np.int64(value.size), value.dtype.type(weight_decay))
        return over(f"sgd<{named(value)}>", value, grad, ok, learning_rate, *numbers, copy)

    def sgd_momentum(
        value: Array,
        grad: Array,
        velocity: Array,
        ok: Array,
        learning_rate: Array,
        counters: Array,
        weight_decay: float,
        momentum: float,
        nesterov: bool,
        copy: Array | None = None,
    ) -> list[Call]:
        kind = value.dtype.type
        numbers = (np.int64(value.size), kind(weight_decay), kind(momentum), np.bool_(nesterov))
        return over(f"sgd_momentum<{named(value)}>", value, grad, velocity, ok, learning_rate, *numbers, copy)

    def adam(
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
        copy: Array | None = None,
        v_max: Array | None = None,
    ) -> list[Call]:
        kernel = f"adam<{named(value)}, {'false' if v_max is None else 'true'}>"
        numbers = (np.int64(value.size), *map(np.float64, (beta1, beta2, epsilon, weight_decay)))
        return over(kernel, value, grad, m, v, v_max, ok, learning_rate, counters, *numbers, copy)

    def amsgrad(
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
        copy: Array | None = None,
    ) -> list[Call]:
        settings = (beta1, beta2, epsilon, weight_decay)
        return adam(value, grad, m, v, ok, learning_rate, counters, *settings, copy, v_max)

    def adagrad(
        value: Array,
        grad: Array,
        total: Array,
        ok: Array,
        learning_rate: Array,
        initial: float,
        epsilon: float,
        weight_decay: float,
        copy: Array | None = None,
    ) -> list[Call]:
        numbers = (np.int64(value.size), *map(value.dtype.type, (initial, epsilon, weight_decay)))
        return over(f"adagrad<{named(value)}>", value, grad, total, ok, learning_rate, *numbers, copy)

    def rmsprop(
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
        copy: Array | None = None,
    ) -> list[Call]:
        flags = ", ".join("false" if slot is None else "true" for slot in (mean, velocity))
        numbers = (np.int64(value.size), *map(value.dtype.type, (1 - rho, epsilon, momentum, weight_decay)))
        kernel = f"rmsprop<{named(value)}, {flags}>"
        return over(kernel, value, grad, square, mean, velocity, ok, learning_rate, *numbers, copy)

    def lion(
        value: Array,
        grad: Array,
        m: Array,
        ok: Array,
        learning_rate: Array,
        counters: Array,
        beta1: float,
        beta2: float,
        weight_decay: float,
        copy: Array | None = None,
    ) -> list[Call]:
        numbers = (*map(np.float64, (beta1, beta2, weight_decay)), np.int64(LION_FLUSH_EVERY))
        kernel = f"lion<{named(value)}>"
        return over(kernel, value, grad, m, ok, learning_rate, counters, np.int64(value.size), *numbers, copy)

    # For every op its pass, and how many of its first arguments are flat buffers; the flag and the rate follow, and
    # the counters where the kernel reads them.
    passes: dict[str, tuple[Callable[..., list[Call]], int, bool]] = {
        "sgd_": (sgd, 2, False),
        "sgd_momentum_": (sgd_momentum, 3, False),
        "adam_": (adam, 4, True),
        "amsgrad_": (amsgrad, 5, True),
        "adagrad_": (adagrad, 3, False),
        "rmsprop_": (rmsprop, 5, False),
        "lion_": (lion, 3, True),
    }

    def takes(name: str, *args: Any) -> bool:
        _, buffers, counted = passes[name]
        ok, learning_rate, *rest = args[buffers:]
        return flat(*args[:buffers]) and guarded(ok, learning_rate, rest[0] if counted else None)

    for name, (whole, _, _) in passes.items():
        op(name).register_bound(array_type, accepts=partial(takes, name), allocate=nothing)(
            partial(_without_out, whole)
        )

    def takes_both(value: Array, copy: Array, update: Kernel, *rest: Any) -> bool:
        return update.name in passes and halves(copy) and copy.shape == value.shape and takes(update.name, value, *rest)

    @ops.update_bf16_.register_bound(array_type, accepts=takes_both, allocate=nothing)
    def both(_: None, value: Array, copy: Array, update: Kernel, *rest: Any) -> list[Call]:
        return passes[update.name][0](value, *rest, copy)


def _without_out(whole: Callable[..., list[Call]], _: None, *args: Any) -> list[Call]:
    """A pass as a `bind`, which is told where its result goes: nowhere."""
    return whole(*args)
