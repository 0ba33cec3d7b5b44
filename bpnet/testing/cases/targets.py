"""Predictions, targets and mistakes, of which the entries of losses are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bpnet.errors import DataError, DTypeError
from bpnet.losses import Loss
from bpnet.testing.cases.entries import BadArguments, BadInputs, LossCase, exactly

RNG = np.random.default_rng(1)


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def probabilities(*shape: int) -> Any:
    return softmax(RNG.normal(size=shape))


def weights(n: int) -> Any:
    w = RNG.uniform(0.2, 3.0, n)
    if n > 2:
        w[1] = 0.0
    return w


LABELS = np.array([0, 3, 1, 1, 2, 3])
SOME_IGNORED = np.array([0, -100, 1, 1, -100, 3])
GRID = np.array([[0, 3, -1], [1, -1, 2], [3, 3, 0]])  # labels of sequences, -1 for padding
FOUR = [0.5, 2.0, 0.0, 1.5]
LOGITS, SEQUENCES = RNG.normal(size=(6, 4)), RNG.normal(size=(3, 3, 4))
Y, T, BITS = RNG.normal(size=(5, 3)), RNG.normal(size=(5, 3)), RNG.uniform(size=(5, 3))
SIGNS = np.where(BITS > 0.5, 1.0, -1.0)


def same(x: Any) -> Any:
    return x


def doubled(x: Any) -> Any:
    return 2 * x


def log_softmax(x: Any) -> Any:
    return np.log(softmax(x))


def of_classes(
    make: Callable[..., Loss], predict: Callable[[Any], Any], *, smooths: bool = False, soft: bool = False
) -> Iterator[tuple[str, LossCase]]:
    """A class loss with every option, alone and together. predict : makes predictions of logits"""
    rows, sequences = predict(LOGITS), predict(SEQUENCES)
    every = {"class_weight": FOUR} | ({"label_smoothing": 0.2} if smooths else {})
    yield "", LossCase(make, rows, LABELS)
    yield "batch of 1", LossCase(make, rows[:1], LABELS[:1])
    yield "one class", LossCase(make, rows[:, :1], 0 * LABELS)
    yield "class weights", LossCase(make, rows, LABELS, None, {"class_weight": FOUR})
    yield "class weights in a dict", LossCase(make, rows, LABELS, None, {"class_weight": {3: 2.5}})
    yield "ignored", LossCase(make, rows, SOME_IGNORED, None, {"ignore_index": -100})
    yield "a class ignored", LossCase(make, rows, LABELS, None, {"ignore_index": 3})
    yield "sample weights", LossCase(make, rows, LABELS, weights(6))
    yield "all at once", LossCase(make, rows, SOME_IGNORED, weights(6), every | {"ignore_index": -100})
    yield "sequences", LossCase(make, sequences, np.maximum(GRID, 0))
    yield "sequences, all at once", LossCase(make, sequences, GRID, weights(3), every | {"ignore_index": -1})
    if smooths:
        yield "smoothed", LossCase(make, rows, LABELS, None, {"label_smoothing": 0.1})
    if soft:
        yield "soft", LossCase(make, rows, probabilities(6, 4))
        yield "one-hot", LossCase(make, rows, np.eye(4)[LABELS])
        yield "soft, all at once", LossCase(make, rows, probabilities(6, 4), weights(6), every)
        yield "soft sequences", LossCase(make, sequences, probabilities(3, 3, 4), weights(3), every)


def of_elements(
    make: Callable[..., Loss], prediction: Any, target: Any, *, by_row: bool = False
) -> Iterator[tuple[str, LossCase]]:
    """A loss of elements (or of rows), in several shapes and weighted."""
    yield "", LossCase(make, prediction, target)
    yield "batch of 1", LossCase(make, prediction[:1], target[:1])
    yield "weighted", LossCase(make, prediction, target, weights(len(target)))
    three = (*prediction.shape[:1], 1, *prediction.shape[1:])
    yield "three axes, weighted", LossCase(make, prediction.reshape(three), target.reshape(three), weights(len(target)))
    if not by_row:
        yield "one axis", LossCase(make, prediction[:, 0], target[:, 0], weights(len(target)))


def named(name: str, cases: Iterator[tuple[str, LossCase]]) -> dict[str, LossCase]:
    """The cases of a variant of a loss."""
    return {f"{name}, {case}" if case else name: each for case, each in cases}


# --- what a network is trained on ---

OPTIONS: dict[str, Any] = {"class_weight": [0.5, 2.0, 0.0, 1.5], "ignore_index": -1}


def any_labels(rng: Any, n: int, c: int) -> Any:
    return rng.integers(0, c, n)


def padded_labels(rng: Any, n: int, c: int) -> Any:
    labels = rng.integers(0, c, n)
    labels[rng.integers(n, size=2)] = -1
    return labels


def soft_rows(rng: Any, n: int, c: int) -> Any:
    return rng.dirichlet(np.ones(c), n).astype(np.float32)


def values(rng: Any, n: int, c: int) -> Any:
    return rng.normal(size=(n, c)).astype(np.float32)


def unit(rng: Any, n: int, c: int) -> Any:
    return rng.uniform(size=(n, c)).astype(np.float32)


def signs(rng: Any, n: int, c: int) -> Any:
    return np.where(rng.uniform(size=(n, c)) > 0.5, 1, -1).astype(np.float32)


# --- what is refused ---

X = np.zeros((8, 4), np.float32)
EIGHT = np.array([0, 1, 2, 3, 0, 1, 2, 3])
W = np.ones(8, np.float32)


def not_of_one_shape(name: str) -> tuple[BadInputs, ...]:
    """What every loss refuses whose target has the prediction's shape."""
    return (
        BadInputs((X, X[:5]), r"shape \(8, 4\), got \(5, 4\)$"),
        BadInputs((X, X.astype(float)), "prediction's dtype float32, got float64", DTypeError),
        BadInputs((X, X.astype(int)), "got int64", DTypeError),
        BadInputs((X[:0], X[:0]), f"^{name}.* empty batch", DataError),
        BadInputs((X, X.tolist()), "needs arrays, got a target of list", DTypeError),
        BadInputs((X, X, W[:5]), exactly(f"{name} needs a sample_weight of shape (8,), one a row, got (5,)")),
    )


def no_labels(name: str) -> tuple[BadInputs, ...]:
    """What every loss refuses whose targets are labels."""
    return (
        BadInputs((X, EIGHT[:5]), r"labels of shape \(8,\), one a row, got \(5,\)"),
        BadInputs((X, EIGHT[:, None]), r"got \(8, 1\)"),
        BadInputs((X, EIGHT.astype(float)), "needs integer labels, got float64", DTypeError),
        BadInputs((X[0], EIGHT), r"shape \(N, C\), got \(4,\)"),
        BadInputs((X[:0], EIGHT[:0]), r"empty batch, the prediction has shape \(0, 4\)", DataError),
        BadInputs(
            (X, EIGHT, W[:, None]), exactly(f"{name} needs a sample_weight of shape (8,), one a row, got (8, 1)")
        ),
    )


def bad_reduction(make: Callable[..., Loss]) -> BadArguments:
    """What the constructor of every loss refuses."""
    return BadArguments(lambda: make(reduction="average"), "reduction must be 'mean', 'sum' or 'none', got 'average'$")


def bad_options(make: Callable[..., Loss], name: str) -> tuple[BadArguments, ...]:
    """What the constructor of every class loss refuses."""
    return (
        bad_reduction(make),
        BadArguments(
            lambda: make(class_weight="balanced"),
            exactly(
                f"{name}: class_weight must be a sequence of numbers, one a class, or a dict {{class: weight}}, "
                "got 'balanced'"
            ),
        ),
        BadArguments(
            lambda: make(class_weight=[1, -2]),
            exactly(f"{name}: class_weight of class 1 must be a number of at least 0, got -2"),
        ),
        BadArguments(
            lambda: make(class_weight=[[1, 2], [3, 4]]),
            exactly(f"{name}: class_weight of class 0 must be a number of at least 0, got [1, 2]"),
        ),
        BadArguments(
            lambda: make(class_weight=[0, 0]),
            exactly(f"{name}: class_weight needs a number above 0 for some class, got (0, 0)"),
        ),
        BadArguments(
            lambda: make(class_weight={"cat": 2.0}),
            exactly(
                f"{name}: class_weight must be a sequence of numbers, one a class, or a dict {{class: weight}}; the "
                "key 'cat' is no class, which are 0, 1, 2 and so on"
            ),
        ),
        BadArguments(
            lambda: make(ignore_index=1.5), exactly(f"{name}: ignore_index must be an integer or None, got 1.5")
        ),
    )


def bad_smoothing(make: Callable[..., Loss], name: str) -> tuple[BadArguments, ...]:
    """What the constructors of the losses that smooth labels refuse too."""
    text = f"{name}: label_smoothing must be a number in [0, 1), got"
    return (
        BadArguments(lambda: make(label_smoothing=1.0), exactly(f"{text} 1.0")),
        BadArguments(lambda: make(label_smoothing=float("nan")), exactly(f"{text} nan")),
    )
