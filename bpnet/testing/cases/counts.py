"""Sample arguments for metrics and totals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bpnet.testing.cases.common import ROWS, SHAPES, Cases, normal, some_labels, special, two_arrays


def scores_and_labels(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for n, c in ROWS:
        for labels in some_labels(rng, n, c):
            yield (normal(rng, (n, c), dtype), labels)
            yield (special(rng, (n, c), dtype), labels)
            yield (np.round(normal(rng, (n, c), dtype)), labels)
    yield (normal(rng, (2, 3, 4), dtype), rng.integers(0, 4, (2, 3)))


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
        for labels in some_labels(rng, n, c):
            for ignored in (None, 0, -1):
                yield (rng.integers(0, c, n), labels, c, ignored)
    yield (rng.integers(0, 4, (2, 3)), rng.integers(0, 4, (2, 3)), 4, None)


def log_losses(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for n, c in ROWS:
        for labels in some_labels(rng, n, c):
            for ignored in (None, 0):
                yield (10 * normal(rng, (n, c), dtype), labels, True, ignored)
                yield (rng.uniform(size=(n, c)).astype(dtype), labels, False, ignored)
    yield (normal(rng, (2, 3, 4), dtype), rng.integers(0, 4, (2, 3)), True, None)


CASES: dict[str, Cases] = {
    "accumulate_": lambda rng, dtype: (
        (np.array([1.5, 32.0]), np.array(2.5, dtype), weight) for weight in (64.0, np.array(64.0, dtype))
    ),
    "largest": lambda rng, dtype: ((special(rng, s, dtype),) for s in SHAPES),
    "above": lambda rng, dtype: ((special(rng, s, dtype), t) for s in SHAPES for t in (0.0, 0.5)),
    "count_correct": ignoring(scores_and_labels),
    "count_top_k": top_k,
    "confusion": answers_and_labels,
    "class_counts": answers_and_labels,
    "sum_log_loss": log_losses,
    "sum_errors": lambda rng, dtype: ((*case, p) for case in two_arrays(rng, dtype) for p in (1, 2)),
    "sum_deviations": lambda rng, dtype: ((*case, c) for case in two_arrays(rng, dtype) for c in (0.0, -3.5)),
    "count_correct_binary": lambda rng, dtype: (
        (normal(rng, s, dtype), (rng.uniform(size=s) > 0.5).astype(dtype), t) for s in SHAPES for t in (0.0, 0.5)
    ),
}
