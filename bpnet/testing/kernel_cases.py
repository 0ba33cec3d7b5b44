"""Sample arguments for every kernel: what the generic tests call reference and variants with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import bpnet as bp
from bpnet import ops

SHAPES = [(1, 1), (3, 4), (32, 10), (0, 3), (5, 1), (2, 3, 4), (257, 33)]
ROWS = [(1, 1), (3, 4), (32, 10), (5, 1), (129, 7)]
SIZES = [1, 5, 16384, 16385, 40000]
KEY = (7, 0xFFFFFFFFFFFFFFFF)


def _normal(rng: Any, shape: Any, dtype: str) -> Any:
    return rng.normal(size=shape).astype(dtype)


def _special(rng: Any, shape: Any, dtype: str) -> Any:
    """Numbers with zeros, infinities and NaN among them."""
    x = _normal(rng, shape, dtype)
    flat = x.reshape(-1)
    for value in (0.0, -0.0, np.inf, -np.inf, np.nan):
        if flat.size:
            flat[rng.integers(flat.size)] = value
    return x


def one_array(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in SHAPES:
        yield (_normal(rng, shape, dtype),)
        yield (_special(rng, shape, dtype),)
        yield (1e3 * _normal(rng, shape, dtype),)


def two_arrays(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in SHAPES:
        yield (_normal(rng, shape, dtype), _normal(rng, shape, dtype))
        yield (_special(rng, shape, dtype), _normal(rng, shape, dtype))


def _with(cases: Any, *more: Any) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def extended(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for case in cases(rng, dtype):
            yield (*case, *more)

    return extended


def linear(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for leading in ((1,), (4,), (0,), (2, 3), (130,)):
        for n_in, n_out in ((1, 1), (5, 3), (64, 33)):
            x, W = _normal(rng, (*leading, n_in), dtype), _normal(rng, (n_in, n_out), dtype)
            b = _normal(rng, (n_out,), dtype)
            yield (x, W, b)
            yield (x, W, None)
            for activation in (ops.relu, ops.sigmoid, ops.tanh):
                yield (x, W, b, activation)
            yield (x, W, b, ops.leaky_relu, 0.1)


def linear_backward(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for leading in ((1,), (4,), (0,), (2, 3), (130,)):
        for n_in, n_out in ((1, 1), (5, 3), (64, 33)):
            x, W = _normal(rng, (*leading, n_in), dtype), _normal(rng, (n_in, n_out), dtype)
            dy = _normal(rng, (*leading, n_out), dtype)
            for flags in ((True, True), (False, True), (True, False)):
                yield (dy, x, W, *flags)


def _labels(rng: Any, n: int, c: int) -> Iterator[Any]:
    yield rng.integers(0, c, n)
    yield rng.integers(0, c, n).astype(np.int32)
    outside = rng.integers(0, c, n)
    outside[0] = -1
    outside[-1] = c
    yield outside


def logits_and_labels(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for n, c in ROWS:
        for labels in _labels(rng, n, c):
            yield (_normal(rng, (n, c), dtype), labels, float(n))
            yield (100 * _normal(rng, (n, c), dtype), labels, 2.5)
            spread = _normal(rng, (n, c), dtype) + np.linspace(-500, 500, n)[:, None].astype(dtype)
            yield (spread, labels, float(n))
            masked = _normal(rng, (n, c), dtype)
            masked[:, 0] = -np.inf if c > 1 else 0.0
            yield (masked, np.maximum(labels, 1) if c > 1 else labels, float(n))


def probabilities_and_labels(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for n, c in ROWS:
        for labels in _labels(rng, n, c):
            p = np.exp(_normal(rng, (n, c), dtype))
            yield ((p / p.sum(axis=1, keepdims=True)).astype(dtype), labels, float(n))


def elementwise_loss(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in ((1,), (4, 1), (5, 3), (2, 3, 4)):
        t = rng.uniform(size=shape).astype(dtype)
        yield (_normal(rng, shape, dtype), t, 7.0)
        yield (rng.uniform(0.01, 0.99, size=shape).astype(dtype), t, 1.0)


def probability_loss(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in ((1,), (4, 1), (5, 3)):
        p = rng.uniform(0.01, 0.99, size=shape).astype(dtype)
        yield (p, rng.uniform(size=shape).astype(dtype), 7.0)
        yield (p, (rng.uniform(size=shape) > 0.5).astype(dtype), 1.0)


def _weights(rng: Any, n: int, dtype: str) -> Iterator[Any]:
    yield None
    weights = rng.uniform(size=n).astype(dtype)
    weights[0] = 0.0
    yield weights
    yield np.zeros(n, dtype)


def _normalizers() -> Iterator[Any]:
    yield 2.5
    yield 0.0
    yield np.array(3.25)
    yield np.array(0.0)


def rows_and_targets(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    """Logits, and matrices of weighted targets: smoothed, of labels with ignored rows, all 0."""
    for n, c in ROWS:
        smooth = rng.uniform(size=(n, c)).astype(dtype)
        onehot = np.eye(c, dtype=dtype)[rng.integers(0, c, n)] * rng.uniform(0.5, 2, (n, 1)).astype(dtype)
        ignoring = onehot.copy()
        ignoring[0] = 0.0
        yield (_normal(rng, (n, c), dtype), smooth)
        yield (100 * _normal(rng, (n, c), dtype), ignoring)
        yield (_normal(rng, (n, c), dtype) + np.linspace(-500, 500, n)[:, None].astype(dtype), onehot)
        masked = _normal(rng, (n, c), dtype)
        masked[onehot == 0] = -np.inf
        yield (masked, onehot)
        missing = _normal(rng, (n, c), dtype)
        missing[0] = np.nan  # of a row that counts for nothing
        yield (missing, ignoring)
        yield (missing, onehot)
        yield (_normal(rng, (n, c), dtype), np.zeros((n, c), dtype))


def row_probabilities(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for logits, Q in rows_and_targets(rng, dtype):
        e = np.exp(np.clip(np.nan_to_num(logits), -50, 50))
        yield ((e / e.sum(axis=1, keepdims=True)).astype(dtype), Q)


def row_log_probabilities(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for logits, Q in rows_and_targets(rng, dtype):
        z = np.clip(np.nan_to_num(logits), -80, 80)
        yield ((z - np.log(np.exp(z).sum(axis=1, keepdims=True))).astype(dtype), Q)


def _with_gradient_of_rows(cases: Any) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def extended(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for prediction, Q in cases(rng, dtype):
            dl = _normal(rng, (len(Q),), dtype)
            dl[-1] = 0.0
            yield (dl, prediction, Q)

    return extended


def _with_normalizers(cases: Any, *more: Any) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def extended(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for case in cases(rng, dtype):
            for normalizer in _normalizers():
                yield (*case, normalizer, *more)

    return extended


def single_losses(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    """Predictions and targets of one shape, with zeros and large numbers among them."""
    for shape in ((1,), (4, 1), (5, 3), (2, 3, 4)):
        t = rng.uniform(size=shape).astype(dtype)
        yield (_normal(rng, shape, dtype), t)
        yield (30 * _normal(rng, shape, dtype), np.round(t))
        yield (t.copy(), t)


def single_probabilities(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for p, t, _ in probability_loss(rng, dtype):
        yield (p, t)
    yield (np.array([0.0, 1.0, 0.0], dtype), np.array([0.0, 1.0, 1.0], dtype))


def signs(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for y, t in single_losses(rng, dtype):
        yield (y, np.where(t > 0.5, 1, -1).astype(dtype))


def _with_gradient(cases: Any, *more: Any) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def extended(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for y, t in cases(rng, dtype):
            dl = _normal(rng, y.shape, dtype)
            dl.reshape(-1)[-1] = 0.0
            yield (dl, y, t, *more)

    return extended


def _of_weights(*more: Any) -> Callable[..., Iterator[tuple[Any, ...]]]:
    """Values, weights by sample of which there may be fewer than rows, and normalizers."""

    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for shape, n in (((6,), 6), ((6,), 2), ((6, 4), 6), ((1, 1), 1), ((4, 2, 3), 4)):
            for weights in _weights(rng, n, dtype):
                for normalizer in _normalizers():
                    yield (_normal(rng, shape, dtype), weights, normalizer, *more)

    return cases


def weights_backward(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for values, weights, normalizer in _of_weights()(rng, dtype):
        yield (values, weights, normalizer, 3.0)
        yield (values, weights, normalizer, _normal(rng, values.shape, dtype))


def _class_weights(c: int) -> Iterator[tuple[float, ...] | None]:
    yield None
    yield tuple(float(i) for i in range(1, c + 1))


def _labelled(dtype_too: bool) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for n, c in ROWS:
            for labels in _labels(rng, n, c):
                for class_weights in _class_weights(c):
                    for ignored in (None, 0, -100):
                        for weights in _weights(rng, n, dtype):
                            if dtype_too:
                                yield (labels, c, dtype, 0.0, class_weights, ignored, weights)
                                yield (labels, c, dtype, 0.1, class_weights, ignored, weights)
                            else:
                                yield (labels, c, class_weights, ignored, weights)
        grid = rng.integers(0, 3, (4, 5)).astype(np.uint8)
        for weights in _weights(rng, 4, dtype):
            yield (grid, 3, dtype, 0.1, None, -1, weights) if dtype_too else (grid, 3, None, -1, weights)

    return cases


def _soft(smoothing_too: bool) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for shape in (*ROWS, (2, 3, 4)):
            t = rng.uniform(size=shape)
            t = (t / t.sum(axis=-1, keepdims=True)).astype(dtype)
            for weights in _weights(rng, shape[0], dtype):
                class_weights = tuple(float(i) for i in range(shape[-1]))
                if smoothing_too:
                    yield (t, 0.0, None, weights)
                    yield (t, 0.1, class_weights, weights)
                else:
                    yield (t, class_weights, weights)

    return cases


def _counters() -> Any:
    return np.array([5, 0, 2], dtype=np.int64)


def random_words(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for n in (0, 1, 3, 4, 5, 1000):
        yield (_counters(), 2, KEY, n)
    yield (np.array([2**40, 2**33], dtype=np.int64), 1, (0, 0), 9)


def masks(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in SHAPES:
        for rate in (0.0, 0.1, 0.5, 0.999):
            yield (_counters(), 1, KEY, shape, rate)


def dropout(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in SHAPES:
        yield (_special(rng, shape, dtype), _counters(), 2, KEY, 0.3)


def dropout_backward(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in SHAPES:
        yield (_special(rng, shape, dtype), rng.uniform(size=shape) > 0.5, 0.25)


def _flags() -> Iterator[Any]:
    yield np.array(True)
    yield np.array(False)


def sgd(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for size in SIZES:
        for ok in _flags():
            for decay in (0.0, 0.1):
                yield (_normal(rng, size, dtype), _normal(rng, size, dtype), ok, np.array(0.1), decay)


def sgd_momentum(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for size in SIZES:
        for ok in _flags():
            for decay, nesterov, step in ((0.0, False, 0), (0.1, True, 63)):
                arrays = (_normal(rng, size, dtype) for _ in range(3))
                yield (*arrays, ok, np.array(0.1), np.array([step, 0]), decay, 0.9, nesterov)


def adam(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for size in SIZES:
        for ok in _flags():
            for decay, step in ((0.0, 0), (0.1, 1000)):
                value, grad, m = (_normal(rng, size, dtype) for _ in range(3))
                v = _normal(rng, size, dtype) ** 2
                counters = np.array([step, 3], dtype=np.int64)
                yield (value, grad, m, v, ok, np.array(0.01), counters, 0.9, 0.999, 1e-8, decay)


def amsgrad(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for value, grad, m, v, *rest in adam(rng, dtype):
        yield (value, grad, m, v, _normal(rng, value.shape, dtype) ** 2, *rest)


def adagrad(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for size in SIZES:
        for ok in _flags():
            for decay, initial in ((0.0, 0.0), (0.1, 0.5)):
                value, grad, total = (_normal(rng, size, dtype) for _ in range(3))
                yield (value, grad, total**2, ok, np.array(0.1), initial, 1e-10, decay)


def rmsprop(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for size in SIZES:
        for ok in _flags():
            for decay, centered, momentum, step in ((0.0, False, 0.0, 0), (0.1, True, 0.9, 1000), (0.0, True, 0.0, 1)):
                value, grad = (_normal(rng, size, dtype) for _ in range(2))
                mean = _normal(rng, size, dtype) if centered else None
                square = 2 + (mean if mean is not None else _normal(rng, size, dtype)) ** 2
                velocity = _normal(rng, size, dtype) if momentum else None
                counters = np.array([step, 3])
                yield (value, grad, square, mean, velocity, ok, np.array(0.01), counters, 0.9, 1e-8, momentum, decay)


def lion(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for size in SIZES:
        for ok in _flags():
            for decay, step in ((0.0, 0), (0.1, 62), (0.0, 63)):
                value, grad, m = (_normal(rng, size, dtype) for _ in range(3))
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
            value = _normal(rng, shape, dtype)
            value.reshape(-1)[:1] = 0
            yield (_normal(rng, shape, dtype), value, l1, l2)


def penalty(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    yield ((_normal(rng, (3, 4), dtype),), (0.1,), (0.0,))
    yield ((_normal(rng, (1,), dtype), _normal(rng, (5, 1), dtype)), (0.1, 0.0), (0.2, 0.3))
    yield ((_special(rng, (50,), dtype),), (0.1,), (0.2,))


def _clipped(*more: Any) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for size in (0, *SIZES):
            yield (_normal(rng, size, dtype), *copy.deepcopy(more))
            yield (_special(rng, size, dtype), *copy.deepcopy(more))
        largest, smallest = np.finfo(dtype).max, np.finfo(dtype).smallest_normal
        for scale in (largest / 100, smallest * 100, 0.0, 1e-3):
            yield ((scale * rng.uniform(-1, 1, 7)).astype(dtype), *copy.deepcopy(more))

    return cases


def average(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for size in SIZES:
        for ok in _flags():
            for step in (0, 1, 63):
                yield (_normal(rng, size, dtype), _normal(rng, size, dtype), ok, np.array([step, 1]), 0.9)


def _zero_d(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for ok in _flags():
        for value in (1.0, np.nan, np.inf, -np.inf):
            yield (ok.copy(), np.array(value, dtype))


def tuples(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    yield (tuple(_normal(rng, (3, n), dtype) for n in (1, 4, 0)), 1)
    yield (tuple(_normal(rng, (n, 2), dtype) for n in (2, 5)), 0)


def _gate(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in ((1, 2), (5, 6), (0, 4), (2, 3, 8)):
        yield (_normal(rng, shape, dtype),)


def _gate_backward(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in ((1, 2), (5, 6), (0, 4), (2, 3, 8)):
        yield (_normal(rng, (*shape[:-1], shape[-1] // 2), dtype), _normal(rng, shape, dtype))


def _slopes(arrays: int) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for shape in SHAPES:
            for n in (1, shape[-1]):
                yield (*(_normal(rng, shape, dtype) for _ in range(arrays)), _normal(rng, (n,), dtype))

    return cases


def scores_and_labels(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for n, c in ROWS:
        for labels in _labels(rng, n, c):
            yield (_normal(rng, (n, c), dtype), labels)
            yield (_special(rng, (n, c), dtype), labels)
            yield (np.round(_normal(rng, (n, c), dtype)), labels)
    yield (_normal(rng, (2, 3, 4), dtype), rng.integers(0, 4, (2, 3)))


def ignoring(cases: Any) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def extended(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for case in cases(rng, dtype):
            for ignored in (None, 0, -1):
                yield (*case, ignored)

    return extended


def top_k(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for scores, labels, ignored in ignoring(scores_and_labels)(rng, dtype):
        for k in (1, min(3, scores.shape[-1])):
            yield (scores, labels, k, ignored)


def answers_and_labels(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for n, c in ROWS:
        for labels in _labels(rng, n, c):
            for ignored in (None, 0, -1):
                yield (rng.integers(0, c, n), labels, c, ignored)
    yield (rng.integers(0, 4, (2, 3)), rng.integers(0, 4, (2, 3)), 4, None)


def log_losses(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for n, c in ROWS:
        for labels in _labels(rng, n, c):
            for ignored in (None, 0):
                yield (10 * _normal(rng, (n, c), dtype), labels, True, ignored)
                yield (rng.uniform(size=(n, c)).astype(dtype), labels, False, ignored)
    yield (_normal(rng, (2, 3, 4), dtype), rng.integers(0, 4, (2, 3)), True, None)


def _statistics(arrays: int) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for shape in SHAPES:
            for own in (shape[-1:], (1,), (*shape[1:-1], 1), shape[1:]):
                given = [_normal(rng, own, dtype), np.abs(_normal(rng, own, dtype)) + np.asarray(0.1, dtype)]
                yield (_normal(rng, shape, dtype), *given[2 - arrays :])
                yield (_special(rng, shape, dtype), *given[2 - arrays :])

    return cases


CASES: dict[str, Callable[[Any, str], Iterator[tuple[Any, ...]]]] = {
    "relu": one_array,
    "relu_backward": two_arrays,
    "leaky_relu": _with(one_array, 0.1),
    "leaky_relu_backward": _with(two_arrays, 0.1),
    "sigmoid": one_array,
    "sigmoid_backward": two_arrays,
    "tanh": one_array,
    "tanh_backward": two_arrays,
    "normal_cdf": one_array,
    "gelu": one_array,
    "gelu_backward": two_arrays,
    "gelu_tanh": one_array,
    "gelu_tanh_backward": two_arrays,
    "elu": _with(one_array, 1.5),
    "elu_backward": _with(two_arrays, 1.5),
    "silu": one_array,
    "silu_backward": two_arrays,
    "softplus": one_array,
    "softplus_backward": two_arrays,
    "mish": one_array,
    "mish_backward": two_arrays,
    "hardswish": one_array,
    "hardswish_backward": two_arrays,
    "log_softmax": lambda rng, dtype: ((_normal(rng, s, dtype),) for s in (*ROWS, (2, 3, 4))),
    "log_softmax_backward": lambda rng, dtype: ((_normal(rng, s, dtype), _normal(rng, s, dtype)) for s in ROWS),
    "prelu": _slopes(1),
    "prelu_backward": _slopes(2),
    "glu": _gate,
    "glu_backward": _gate_backward,
    "standardize": _statistics(2),
    "standardize_backward": _statistics(1),
    "softmax": lambda rng, dtype: ((_normal(rng, s, dtype),) for s in (*ROWS, (2, 3, 4))),
    "softmax_backward": lambda rng, dtype: ((_normal(rng, s, dtype), _normal(rng, s, dtype)) for s in ROWS),
    "add": two_arrays,
    "copy": one_array,
    "reshape": lambda rng, dtype: iter([(_normal(rng, (2, 6), dtype), (3, 4)), (_normal(rng, (0, 2), dtype), (0,))]),
    "rows": lambda rng, dtype: iter([(_normal(rng, (5, 2), dtype), 1, 4), (_normal(rng, (2, 3), dtype), 0, 0)]),
    "concatenate": tuples,
    "split": lambda rng, dtype: iter(
        [(_normal(rng, (4, 6), dtype), (1, 2, 3), 1), (_normal(rng, (4, 2), dtype), (4, 0), 0)]
    ),
    "copy_": two_arrays,
    "add_": two_arrays,
    "fill_": _with(one_array, 0.0),
    "increment_": lambda rng, dtype: iter([(_counters(), 1)]),
    "mul": two_arrays,
    "mul_backward": lambda rng, dtype: (tuple(_normal(rng, s, dtype) for _ in range(3)) for s in SHAPES),
    "sum_terms": lambda rng, dtype: ((tuple(_normal(rng, s, dtype) for _ in range(4)),) for s in SHAPES),
    "sum_backward": _with(one_array, 3),
    "accumulate_": lambda rng, dtype: (
        (np.array([1.5, 32.0]), np.array(2.5, dtype), weight) for weight in (64.0, np.array(64.0, dtype))
    ),
    "largest": lambda rng, dtype: ((_special(rng, s, dtype),) for s in SHAPES),
    "above": lambda rng, dtype: ((_special(rng, s, dtype), t) for s in SHAPES for t in (0.0, 0.5)),
    "count_correct": ignoring(scores_and_labels),
    "count_top_k": top_k,
    "confusion": answers_and_labels,
    "class_counts": answers_and_labels,
    "sum_log_loss": log_losses,
    "sum_errors": lambda rng, dtype: ((*case, p) for case in two_arrays(rng, dtype) for p in (1, 2)),
    "sum_deviations": lambda rng, dtype: ((*case, c) for case in two_arrays(rng, dtype) for c in (0.0, -3.5)),
    "count_correct_binary": lambda rng, dtype: (
        (_normal(rng, s, dtype), (rng.uniform(size=s) > 0.5).astype(dtype), t) for s in SHAPES for t in (0.0, 0.5)
    ),
    "linear": linear,
    "linear_backward": linear_backward,
    "softmax_cross_entropy": logits_and_labels,
    "softmax_cross_entropy_gradient": _with(logits_and_labels, 3.0),
    "softmax_cross_entropy_backward": _with(probabilities_and_labels, 3.0),
    "categorical_cross_entropy": probabilities_and_labels,
    "categorical_cross_entropy_backward": _with(probabilities_and_labels, 3.0),
    "sigmoid_binary_cross_entropy": elementwise_loss,
    "sigmoid_binary_cross_entropy_backward": _with(elementwise_loss, 3.0),
    "binary_cross_entropy": probability_loss,
    "binary_cross_entropy_backward": _with(probability_loss, 3.0),
    "mean_squared_error": elementwise_loss,
    "mean_squared_error_backward": _with(elementwise_loss, 3.0),
    "mean_absolute_error": elementwise_loss,
    "mean_absolute_error_backward": _with(elementwise_loss, 3.0),
    "soft_cross_entropy": _with_normalizers(rows_and_targets),
    "soft_cross_entropy_backward": _with_normalizers(row_probabilities, 3.0),
    "soft_cross_entropy_gradient": _with_normalizers(rows_and_targets, 3.0),
    "soft_cross_entropy_rows": rows_and_targets,
    "soft_cross_entropy_rows_backward": _with_gradient_of_rows(rows_and_targets),
    "probability_cross_entropy_rows": row_probabilities,
    "probability_cross_entropy_rows_backward": _with_gradient_of_rows(row_probabilities),
    "negative_log_likelihood_rows": row_log_probabilities,
    "negative_log_likelihood_rows_backward": _with_gradient_of_rows(row_log_probabilities),
    "kl_divergence_rows": row_log_probabilities,
    "kl_divergence_rows_backward": _with_gradient_of_rows(row_log_probabilities),
    "focal_rows": _with(rows_and_targets, 2.0),
    "focal_rows_backward": _with(_with_gradient_of_rows(rows_and_targets), 1.5),
    "multiclass_hinge_rows": _with(rows_and_targets, 1.0),
    "multiclass_hinge_rows_backward": _with(_with_gradient_of_rows(rows_and_targets), 1.0),
    "squared_error": single_losses,
    "squared_error_backward": _with_gradient(single_losses),
    "absolute_error": single_losses,
    "absolute_error_backward": _with_gradient(single_losses),
    "huber": _with(single_losses, 0.5),
    "huber_backward": _with_gradient(single_losses, 0.5),
    "log_cosh": single_losses,
    "log_cosh_backward": _with_gradient(single_losses),
    "poisson": single_losses,
    "poisson_backward": _with_gradient(single_losses),
    "sigmoid_cross_entropy": single_losses,
    "sigmoid_cross_entropy_backward": _with_gradient(single_losses),
    "probability_cross_entropy": single_probabilities,
    "probability_cross_entropy_backward": _with_gradient(single_probabilities),
    "binary_focal": _with(single_losses, 2.0, 0.25, 0.75),
    "binary_focal_backward": _with_gradient(single_losses, 2.0, 0.25, 0.75),
    "hinge": lambda rng, dtype: ((*case, squared) for case in signs(rng, dtype) for squared in (False, True)),
    "hinge_backward": lambda rng, dtype: (
        (*case, squared) for case in _with_gradient(signs)(rng, dtype) for squared in (False, True)
    ),
    "weighted": _of_weights(),
    "weighted_sum": _of_weights(),
    "weighted_sum_backward": weights_backward,
    "sum_weights": lambda rng, dtype: ((w, 4.0) for n in (1, 5) for w in _weights(rng, n, dtype) if w is not None),
    "label_targets": _labelled(True),
    "label_weight": _labelled(False),
    "soft_targets": _soft(True),
    "soft_weight": _soft(False),
    "philox": random_words,
    "keep_mask": masks,
    "dropout": dropout,
    "dropout_backward": dropout_backward,
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
    "clip_value_": _clipped(0.5),
    "clip_norm_": _clipped(np.array(True), 1.5),
    "average_": average,
    "check_finite_": _zero_d,
    "advance_": lambda rng, dtype: ((_counters(), ok) for ok in _flags()),
}
