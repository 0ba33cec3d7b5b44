"""Sample arguments for optimizers, and for what surrounds an update."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import bpnet as bp
from bpnet.testing.cases.common import SHAPES, SIZES, Cases, counters, flags, normal, special


def sgd(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for size in SIZES:
        for ok in flags():
            for decay in (0.0, 0.1):
                yield (normal(rng, size, dtype), normal(rng, size, dtype), ok, np.array(0.1), decay)


def sgd_momentum(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for size in SIZES:
        for ok in flags():
            for decay, nesterov, step in ((0.0, False, 0), (0.1, True, 63)):
                arrays = (normal(rng, size, dtype) for _ in range(3))
                yield (*arrays, ok, np.array(0.1), np.array([step, 0]), decay, 0.9, nesterov)


def adam(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for size in SIZES:
        for ok in flags():
            for decay, step in ((0.0, 0), (0.1, 1000)):
                value, grad, m = (normal(rng, size, dtype) for _ in range(3))
                v = normal(rng, size, dtype) ** 2
                counters = np.array([step, 3], dtype=np.int64)
                yield (value, grad, m, v, ok, np.array(0.01), counters, 0.9, 0.999, 1e-8, decay)


def amsgrad(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for value, grad, m, v, *rest in adam(rng, dtype):
        yield (value, grad, m, v, normal(rng, value.shape, dtype) ** 2, *rest)


def adagrad(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for size in SIZES:
        for ok in flags():
            for decay, initial in ((0.0, 0.0), (0.1, 0.5)):
                value, grad, total = (normal(rng, size, dtype) for _ in range(3))
                yield (value, grad, total**2, ok, np.array(0.1), initial, 1e-10, decay)


def rmsprop(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for size in SIZES:
        for ok in flags():
            for decay, centered, momentum, step in ((0.0, False, 0.0, 0), (0.1, True, 0.9, 1000), (0.0, True, 0.0, 1)):
                value, grad = (normal(rng, size, dtype) for _ in range(2))
                mean = normal(rng, size, dtype) if centered else None
                square = 2 + (mean if mean is not None else normal(rng, size, dtype)) ** 2
                velocity = normal(rng, size, dtype) if momentum else None
                counters = np.array([step, 3])
                yield (value, grad, square, mean, velocity, ok, np.array(0.01), counters, 0.9, 1e-8, momentum, decay)


def lion(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for size in SIZES:
        for ok in flags():
            for decay, step in ((0.0, 0), (0.1, 62), (0.0, 63)):
                value, grad, m = (normal(rng, size, dtype) for _ in range(3))
                m[::2], grad[::2] = np.finfo(dtype).smallest_normal, 0  # walks on in step 63, stands still in step 64
                yield (value, grad, m, ok, np.array(0.01), np.array([step, 3]), 0.9, 0.99, decay)


def rates(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    schedules = (
        bp.Constant(0.1),
        bp.InverseTime(0.1, decay=0.01),
        bp.StepDecay(0.1, every=10, factor=0.5),
        bp.Exponential(0.1, factor=0.9, every=10),
        bp.Cosine(0.1, 100, warmup=10, final=0.01),
        bp.OneCycle(0.1, 100),
        bp.WarmUp(bp.Exponential(0.1, factor=0.99), 20),
    )
    for schedule in schedules:
        for step in (0, 1, 9, 10, 11, 29, 30, 99, 100, 101, 10**9):
            yield (np.array(0.0), np.array([step, 2]), schedule)


def penalties(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in SHAPES:
        for l1, l2 in ((0.1, 0.0), (0.0, 0.1), (0.1, 0.2)):
            value = normal(rng, shape, dtype)
            value.reshape(-1)[:1] = 0
            yield (normal(rng, shape, dtype), value, l1, l2)


def penalty(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    yield ((normal(rng, (3, 4), dtype),), (0.1,), (0.0,))
    yield ((normal(rng, (1,), dtype), normal(rng, (5, 1), dtype)), (0.1, 0.0), (0.2, 0.3))
    yield ((special(rng, (50,), dtype),), (0.1,), (0.2,))


def clipped(*more: Any) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for size in (0, *SIZES):
            yield (normal(rng, size, dtype), *copy.deepcopy(more))
            yield (special(rng, size, dtype), *copy.deepcopy(more))
        largest, smallest = np.finfo(dtype).max, np.finfo(dtype).smallest_normal
        for scale in (largest / 100, smallest * 100, 0.0, 1e-3):
            yield ((scale * rng.uniform(-1, 1, 7)).astype(dtype), *copy.deepcopy(more))

    return cases


def average(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for size in SIZES:
        for ok in flags():
            for step in (0, 1, 63):
                yield (normal(rng, size, dtype), normal(rng, size, dtype), ok, np.array([step, 1]), 0.9)


def zero_d(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for ok in flags():
        for value in (1.0, np.nan, np.inf, -np.inf):
            yield (ok.copy(), np.array(value, dtype))


def checked(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for ok in flags():
        for grads, _ in clipped(1.5)(rng, dtype):
            yield (ok.copy(), grads)


CASES: dict[str, Cases] = {
    "sgd_": sgd,
    "sgd_momentum_": sgd_momentum,
    "adam_": adam,
    "amsgrad_": amsgrad,
    "adagrad_": adagrad,
    "rmsprop_": rmsprop,
    "lion_": lion,
    "set_rate_": rates,
    "scale_rate_": lambda rng, dtype: iter([(np.array(0.0), np.array(0.3), 0.1)]),
    "penalty": penalty,
    "penalty_gradient_": penalties,
    "clip_value_": clipped(0.5),
    "clip_norm_": clipped(np.array(True), 1.5),
    "average_": average,
    "check_finite_": zero_d,
    "check_norm_": checked,
    "advance_": lambda rng, dtype: ((counters(), ok) for ok in flags()),
}
