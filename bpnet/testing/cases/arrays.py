"""Sample arguments for activations, products, dropout, and the kernels that move values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.testing.cases.common import (
    KEY,
    ROWS,
    SHAPES,
    Cases,
    counters,
    extended,
    normal,
    one_array,
    special,
    two_arrays,
)


def linear(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for leading in ((1,), (4,), (0,), (2, 3), (130,)):
        for n_in, n_out in ((1, 1), (5, 3), (64, 33)):
            x, W = normal(rng, (*leading, n_in), dtype), normal(rng, (n_in, n_out), dtype)
            b = normal(rng, (n_out,), dtype)
            yield (x, W, b)
            yield (x, W, None)
            for activation in (ops.relu, ops.sigmoid, ops.tanh):
                yield (x, W, b, activation)
            yield (x, W, b, ops.leaky_relu, 0.1)


def linear_backward(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for leading in ((1,), (4,), (0,), (2, 3), (130,)):
        for n_in, n_out in ((1, 1), (5, 3), (64, 33)):
            x, W = normal(rng, (*leading, n_in), dtype), normal(rng, (n_in, n_out), dtype)
            dy = normal(rng, (*leading, n_out), dtype)
            for flags in ((True, True), (False, True), (True, False)):
                yield (dy, x, W, *flags)


def linear_backward_add(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for dy, x, W, need_dx, need_db in linear_backward(rng, dtype):
        yield (normal(rng, W.shape, dtype), normal(rng, W.shape[1:], dtype) if need_db else None, dy, x, W, need_dx)


def random_words(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for n in (0, 1, 3, 4, 5, 1000):
        yield (counters(), 2, KEY, n)
    yield (np.array([2**40, 2**33], dtype=np.int64), 1, (0, 0), 9)


def masks(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in SHAPES:
        for rate in (0.0, 0.1, 0.5, 0.999):
            yield (counters(), 1, KEY, shape, rate)


def dropout(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in SHAPES:
        yield (special(rng, shape, dtype), counters(), 2, KEY, 0.3)


def dropout_backward(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in SHAPES:
        yield (special(rng, shape, dtype), rng.uniform(size=shape) > 0.5, 0.25)
    yield (special(rng, (2, 3, 4), dtype), rng.uniform(size=(2, 1, 4)) > 0.5, 0.25)


def tuples(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    yield (tuple(normal(rng, (3, n), dtype) for n in (1, 4, 0)), 1)
    yield (tuple(normal(rng, (n, 2), dtype) for n in (2, 5)), 0)


def gate(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in ((1, 2), (5, 6), (0, 4), (2, 3, 8)):
        yield (normal(rng, shape, dtype),)


def gate_backward(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in ((1, 2), (5, 6), (0, 4), (2, 3, 8)):
        yield (normal(rng, (*shape[:-1], shape[-1] // 2), dtype), normal(rng, shape, dtype))


def slopes(arrays: int) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for shape in SHAPES:
            for n in (1, shape[-1]):
                yield (*(normal(rng, shape, dtype) for _ in range(arrays)), normal(rng, (n,), dtype))

    return cases


def statistics(arrays: int) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for shape in SHAPES:
            for own in (shape[-1:], (1,), (*shape[1:-1], 1), shape[1:]):
                given = [normal(rng, own, dtype), np.abs(normal(rng, own, dtype)) + np.asarray(0.1, dtype)]
                yield (normal(rng, shape, dtype), *given[2 - arrays :])
                yield (special(rng, shape, dtype), *given[2 - arrays :])

    return cases


CASES: dict[str, Cases] = {
    "relu": one_array,
    "relu_backward": two_arrays,
    "leaky_relu": extended(one_array, 0.1),
    "leaky_relu_backward": extended(two_arrays, 0.1),
    "sigmoid": one_array,
    "sigmoid_backward": two_arrays,
    "tanh": one_array,
    "tanh_backward": two_arrays,
    "normal_cdf": one_array,
    "gelu": one_array,
    "gelu_backward": two_arrays,
    "gelu_tanh": one_array,
    "gelu_tanh_backward": two_arrays,
    "elu": extended(one_array, 1.5),
    "elu_backward": extended(two_arrays, 1.5),
    "silu": one_array,
    "silu_backward": two_arrays,
    "softplus": one_array,
    "softplus_backward": two_arrays,
    "mish": one_array,
    "mish_backward": two_arrays,
    "hardswish": one_array,
    "hardswish_backward": two_arrays,
    "log_softmax": lambda rng, dtype: ((normal(rng, s, dtype),) for s in (*ROWS, (2, 3, 4))),
    "log_softmax_backward": lambda rng, dtype: ((normal(rng, s, dtype), normal(rng, s, dtype)) for s in ROWS),
    "prelu": slopes(1),
    "prelu_backward": slopes(2),
    "glu": gate,
    "glu_backward": gate_backward,
    "standardize": statistics(2),
    "standardize_backward": statistics(1),
    "softmax": lambda rng, dtype: ((normal(rng, s, dtype),) for s in (*ROWS, (2, 3, 4))),
    "softmax_backward": lambda rng, dtype: ((normal(rng, s, dtype), normal(rng, s, dtype)) for s in ROWS),
    "add": two_arrays,
    "copy": one_array,
    "reshape": lambda rng, dtype: iter([(normal(rng, (2, 6), dtype), (3, 4)), (normal(rng, (0, 2), dtype), (0,))]),
    "rows": lambda rng, dtype: iter([(normal(rng, (5, 2), dtype), 1, 4), (normal(rng, (2, 3), dtype), 0, 0)]),
    "concatenate": tuples,
    "split": lambda rng, dtype: iter(
        [(normal(rng, (4, 6), dtype), (1, 2, 3), 1), (normal(rng, (4, 2), dtype), (4, 0), 0)]
    ),
    "copy_": two_arrays,
    "add_": two_arrays,
    "fill_": extended(one_array, 0.0),
    "increment_": lambda rng, dtype: iter([(counters(), 1)]),
    "mul": two_arrays,
    "mul_backward": lambda rng, dtype: (tuple(normal(rng, s, dtype) for _ in range(3)) for s in SHAPES),
    "sum_terms": lambda rng, dtype: ((tuple(normal(rng, s, dtype) for _ in range(4)),) for s in SHAPES),
    "sum_backward": extended(one_array, 3),
    "linear": linear,
    "linear_backward": linear_backward,
    "linear_backward_add_": linear_backward_add,
    "philox": random_words,
    "keep_mask": masks,
    "dropout": dropout,
    "dropout_backward": dropout_backward,
}
