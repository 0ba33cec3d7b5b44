"""Sample arguments for losses, and for what weighs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bpnet.testing.cases.common import ROWS, Cases, extended, normal, some_labels


def logits_and_labels(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for n, c in ROWS:
        for labels in some_labels(rng, n, c):
            yield (normal(rng, (n, c), dtype), labels, float(n))
            yield (100 * normal(rng, (n, c), dtype), labels, 2.5)
            spread = normal(rng, (n, c), dtype) + np.linspace(-500, 500, n)[:, None].astype(dtype)
            yield (spread, labels, float(n))
            masked = normal(rng, (n, c), dtype)
            masked[:, 0] = -np.inf if c > 1 else 0.0
            yield (masked, np.maximum(labels, 1) if c > 1 else labels, float(n))


def probabilities_and_labels(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for n, c in ROWS:
        for labels in some_labels(rng, n, c):
            p = np.exp(normal(rng, (n, c), dtype))
            yield ((p / p.sum(axis=1, keepdims=True)).astype(dtype), labels, float(n))


def elementwise_loss(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in ((1,), (4, 1), (5, 3), (2, 3, 4)):
        t = rng.uniform(size=shape).astype(dtype)
        yield (normal(rng, shape, dtype), t, 7.0)
        yield (rng.uniform(0.01, 0.99, size=shape).astype(dtype), t, 1.0)


def probability_loss(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in ((1,), (4, 1), (5, 3)):
        p = rng.uniform(0.01, 0.99, size=shape).astype(dtype)
        yield (p, rng.uniform(size=shape).astype(dtype), 7.0)
        yield (p, (rng.uniform(size=shape) > 0.5).astype(dtype), 1.0)


def some_weights(rng: Any, n: int, dtype: str) -> Iterator[Any]:
    yield None
    weights = rng.uniform(size=n).astype(dtype)
    weights[0] = 0.0
    yield weights
    yield np.zeros(n, dtype)


def normalizers() -> Iterator[Any]:
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
        yield (normal(rng, (n, c), dtype), smooth)
        yield (100 * normal(rng, (n, c), dtype), ignoring)
        yield (normal(rng, (n, c), dtype) + np.linspace(-500, 500, n)[:, None].astype(dtype), onehot)
        masked = normal(rng, (n, c), dtype)
        masked[onehot == 0] = -np.inf
        yield (masked, onehot)
        missing = normal(rng, (n, c), dtype)
        missing[0] = np.nan  # of a row that counts for nothing
        yield (missing, ignoring)
        yield (missing, onehot)
        yield (normal(rng, (n, c), dtype), np.zeros((n, c), dtype))


def row_probabilities(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for logits, Q in rows_and_targets(rng, dtype):
        e = np.exp(np.clip(np.nan_to_num(logits), -50, 50))
        yield ((e / e.sum(axis=1, keepdims=True)).astype(dtype), Q)


def row_log_probabilities(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for logits, Q in rows_and_targets(rng, dtype):
        z = np.clip(np.nan_to_num(logits), -80, 80)
        yield ((z - np.log(np.exp(z).sum(axis=1, keepdims=True))).astype(dtype), Q)


def with_gradient_of_rows(cases: Any) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def extended(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for prediction, Q in cases(rng, dtype):
            dl = normal(rng, (len(Q),), dtype)
            dl[-1] = 0.0
            yield (dl, prediction, Q)

    return extended


def with_normalizers(cases: Any, *more: Any) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def extended(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for case in cases(rng, dtype):
            for normalizer in normalizers():
                yield (*case, normalizer, *more)

    return extended


def single_losses(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    """Predictions and targets of one shape, with zeros and large numbers among them."""
    for shape in ((1,), (4, 1), (5, 3), (2, 3, 4)):
        t = rng.uniform(size=shape).astype(dtype)
        yield (normal(rng, shape, dtype), t)
        yield (30 * normal(rng, shape, dtype), np.round(t))
        yield (t.copy(), t)


def single_probabilities(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for p, t, _ in probability_loss(rng, dtype):
        yield (p, t)
    yield (np.array([0.0, 1.0, 0.0], dtype), np.array([0.0, 1.0, 1.0], dtype))


def signs(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for y, t in single_losses(rng, dtype):
        yield (y, np.where(t > 0.5, 1, -1).astype(dtype))


def with_gradient(cases: Any, *more: Any) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def extended(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for y, t in cases(rng, dtype):
            dl = normal(rng, y.shape, dtype)
            dl.reshape(-1)[-1] = 0.0
            yield (dl, y, t, *more)

    return extended


def of_weights(*more: Any) -> Callable[..., Iterator[tuple[Any, ...]]]:
    """Values, weights by sample of which there may be fewer than rows, and normalizers."""

    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for shape, n in (((6,), 6), ((6,), 2), ((6, 4), 6), ((1, 1), 1), ((4, 2, 3), 4)):
            for weights in some_weights(rng, n, dtype):
                for normalizer in normalizers():
                    yield (normal(rng, shape, dtype), weights, normalizer, *more)

    return cases


def weights_backward(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for values, weights, normalizer in of_weights()(rng, dtype):
        yield (values, weights, normalizer, 3.0)
        yield (values, weights, normalizer, normal(rng, values.shape, dtype))


def some_class_weights(c: int) -> Iterator[tuple[float, ...] | None]:
    yield None
    yield tuple(float(i) for i in range(1, c + 1))


def labelled(dtype_too: bool) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for n, c in ROWS:
            for labels in some_labels(rng, n, c):
                for class_weights in some_class_weights(c):
                    for ignored in (None, 0, -100):
                        for weights in some_weights(rng, n, dtype):
                            if dtype_too:
                                yield (labels, c, dtype, 0.0, class_weights, ignored, weights)
                                yield (labels, c, dtype, 0.1, class_weights, ignored, weights)
                            else:
                                yield (labels, c, class_weights, ignored, weights)
        grid = rng.integers(0, 3, (4, 5)).astype(np.uint8)
        for weights in some_weights(rng, 4, dtype):
            yield (grid, 3, dtype, 0.1, None, -1, weights) if dtype_too else (grid, 3, None, -1, weights)

    return cases


def soft(smoothing_too: bool) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for shape in (*ROWS, (2, 3, 4)):
            t = rng.uniform(size=shape)
            t = (t / t.sum(axis=-1, keepdims=True)).astype(dtype)
            for weights in some_weights(rng, shape[0], dtype):
                class_weights = tuple(float(i) for i in range(shape[-1]))
                if smoothing_too:
                    yield (t, 0.0, None, weights)
                    yield (t, 0.1, class_weights, weights)
                else:
                    yield (t, class_weights, weights)

    return cases


CASES: dict[str, Cases] = {
    "softmax_cross_entropy": logits_and_labels,
    "softmax_cross_entropy_gradient": extended(logits_and_labels, 3.0),
    "softmax_cross_entropy_backward": extended(probabilities_and_labels, 3.0),
    "categorical_cross_entropy": probabilities_and_labels,
    "categorical_cross_entropy_backward": extended(probabilities_and_labels, 3.0),
    "sigmoid_binary_cross_entropy": elementwise_loss,
    "sigmoid_binary_cross_entropy_backward": extended(elementwise_loss, 3.0),
    "binary_cross_entropy": probability_loss,
    "binary_cross_entropy_backward": extended(probability_loss, 3.0),
    "mean_squared_error": elementwise_loss,
    "mean_squared_error_backward": extended(elementwise_loss, 3.0),
    "mean_absolute_error": elementwise_loss,
    "mean_absolute_error_backward": extended(elementwise_loss, 3.0),
    "soft_cross_entropy": with_normalizers(rows_and_targets),
    "soft_cross_entropy_backward": with_normalizers(row_probabilities, 3.0),
    "soft_cross_entropy_gradient": with_normalizers(rows_and_targets, 3.0),
    "soft_cross_entropy_rows": rows_and_targets,
    "soft_cross_entropy_rows_backward": with_gradient_of_rows(rows_and_targets),
    "probability_cross_entropy_rows": row_probabilities,
    "probability_cross_entropy_rows_backward": with_gradient_of_rows(row_probabilities),
    "negative_log_likelihood_rows": row_log_probabilities,
    "negative_log_likelihood_rows_backward": with_gradient_of_rows(row_log_probabilities),
    "kl_divergence_rows": row_log_probabilities,
    "kl_divergence_rows_backward": with_gradient_of_rows(row_log_probabilities),
    "focal_rows": extended(rows_and_targets, 2.0),
    "focal_rows_backward": extended(with_gradient_of_rows(rows_and_targets), 1.5),
    "multiclass_hinge_rows": extended(rows_and_targets, 1.0),
    "multiclass_hinge_rows_backward": extended(with_gradient_of_rows(rows_and_targets), 1.0),
    "squared_error": single_losses,
    "squared_error_backward": with_gradient(single_losses),
    "absolute_error": single_losses,
    "absolute_error_backward": with_gradient(single_losses),
    "huber": extended(single_losses, 0.5),
    "huber_backward": with_gradient(single_losses, 0.5),
    "log_cosh": single_losses,
    "log_cosh_backward": with_gradient(single_losses),
    "poisson": single_losses,
    "poisson_backward": with_gradient(single_losses),
    "sigmoid_cross_entropy": single_losses,
    "sigmoid_cross_entropy_backward": with_gradient(single_losses),
    "probability_cross_entropy": single_probabilities,
    "probability_cross_entropy_backward": with_gradient(single_probabilities),
    "binary_focal": extended(single_losses, 2.0, 0.25, 0.75),
    "binary_focal_backward": with_gradient(single_losses, 2.0, 0.25, 0.75),
    "hinge": lambda rng, dtype: ((*case, squared) for case in signs(rng, dtype) for squared in (False, True)),
    "hinge_backward": lambda rng, dtype: (
        (*case, squared) for case in with_gradient(signs)(rng, dtype) for squared in (False, True)
    ),
    "weighted": of_weights(),
    "weighted_sum": of_weights(),
    "weighted_sum_backward": weights_backward,
    "sum_weights": lambda rng, dtype: ((w, 4.0) for n in (1, 5) for w in some_weights(rng, n, dtype) if w is not None),
    "label_targets": labelled(True),
    "label_weight": labelled(False),
    "soft_targets": soft(True),
    "soft_weight": soft(False),
}
