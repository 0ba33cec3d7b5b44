"""The entries of metrics, each with values worked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import bpnet as bp
from bpnet.errors import DTypeError
from bpnet.metrics import MAE, MSE, RMSE, Metric
from bpnet.testing.cases.entries import BadArguments, BadInputs, Entry, MetricCase, all_cases

SCORES = np.array([[3, 1, 0], [0, 2, 1], [1, 0, 5], [9, 0, 0], [0, 0, 1]], np.float32)  # answers 0 1 2 0 2
LABELS = np.array([0, 1, 1, 2, 2])
SINGLE = np.array([-1.0, 2.0, 0.5, -3.0, 1.0], np.float32)  # answers 0 1 1 0 1
BITS = np.array([0, 1, 0, 1, 1], np.float32)
ZEROS, FOUR = np.zeros((4, 5), np.float32), np.zeros(4, np.int64)
Y, T = np.array([[1.0, 2.0], [3.0, 1.0], [2.0, 6.0]]), np.array([[1.0, 4.0], [2.0, 1.0], [0.0, 4.0]])
NO_INTEGERS = BadInputs((ZEROS, ZEROS[:, 0]), "needs integer labels, got float32", DTypeError)


def of_rows(make: Callable[[], Metric], expected: Any) -> MetricCase:
    """Of scores a class."""
    return MetricCase(make, SCORES, LABELS, expected)


def of_bits(make: Callable[[], Metric], expected: Any) -> MetricCase:
    """Of one score a sample, which says whether."""
    return MetricCase(make, SINGLE, BITS, expected)


def of_numbers(make: Callable[[], Metric], expected: Any) -> MetricCase:
    """Of numbers: the errors are 0, -2; 1, 0; 2, 2."""
    return MetricCase(make, Y, T, expected)


def bad_average(make: Callable[..., Metric], name: str) -> tuple[BadArguments, ...]:
    """What precision, recall and F1 refuse."""
    return (
        BadArguments(
            lambda: make(average="makro"),
            f"{name}: average must be one of macro, micro, weighted, binary, or None for a value a class, got 'makro'; "
            "did you mean 'macro'",
        ),
    )


def not_of_classes(make: Callable[..., Metric], name: str) -> tuple[BadInputs, ...]:
    """What they refuse to measure."""
    return (
        NO_INTEGERS,
        BadInputs(
            (ZEROS, FOUR),
            rf"{name}\(average='binary'\) needs 2 classes.*use average='macro'",
            make=lambda: make(average="binary"),
        ),
        BadInputs(
            (ZEROS, ZEROS), rf"{name} needs.*or one score an element and targets of its shape, \(N,\) or \(N, 1\)"
        ),
    )


def not_of_one_shape(name: str) -> tuple[BadInputs, ...]:
    """What metrics of numbers refuse to measure."""
    return (
        BadInputs((ZEROS, ZEROS[:2]), rf"{name} needs one shape, got \(4, 5\) and \(2, 5\)"),
        BadInputs((ZEROS[:, :1], ZEROS[:, 0]), rf"{name} needs one shape, got \(4, 1\) and \(4,\)"),
    )


METRICS: dict[str, Entry[MetricCase]] = {
    "Accuracy": Entry(
        {
            "": of_rows(lambda: bp.Accuracy(), 3 / 5),
            "a class ignored": of_rows(lambda: bp.Accuracy(ignore_index=1), 2 / 3),
            "of soft targets": MetricCase(
                lambda: bp.Accuracy(soft_targets=True), SCORES, np.eye(3, dtype=np.float32)[LABELS], 3 / 5
            ),
        },
        (
            BadArguments(
                lambda: bp.Accuracy(ignore_index=1.5),  # type: ignore[arg-type]
                "Accuracy: ignore_index must be an integer or None, got 1.5",
            ),
            BadArguments(
                lambda: bp.Accuracy(ignore_index=1, soft_targets=True),
                "ignore_index is a label, and soft_targets=True has",
            ),
            BadArguments(
                lambda: bp.Accuracy(soft_targets=1),  # type: ignore[arg-type]
                "Accuracy: soft_targets must be True or False, got 1",
            ),
            BadArguments(lambda: bp.Accuracy(name=""), "Accuracy: name must be a text that is not empty, got ''"),
            BadArguments(lambda: bp.Accuracy(name="loss"), "histories have a 'loss' of their own; choose another name"),
            BadArguments(lambda: bp.Accuracy(name="val_x"), "histories have a 'val_x' of their own"),
        ),
        (
            NO_INTEGERS,
            BadInputs((ZEROS, FOUR[:3]), r"Accuracy needs predictions \(N, C\) and labels \(N,\), got \(4, 5\) and"),
            BadInputs((ZEROS[:, :1], ZEROS[:, :1]), "for one score an element use BinaryAccuracy"),
            BadInputs((ZEROS[:, 0], FOUR), "for one score an element use BinaryAccuracy"),
            BadInputs(
                (ZEROS[:, :1], ZEROS[:, 0]),
                r"needs integer labels, got float32; for one score an element use BinaryAccuracy\(\)",
                DTypeError,
            ),
        ),
    ),
    "TopKAccuracy": Entry(
        {
            "": of_rows(lambda: bp.TopKAccuracy(2), 3 / 5),  # row 2: 5 and 1 stand before label 1; row 3 likewise
            "of one": of_rows(lambda: bp.TopKAccuracy(1), 3 / 5),
            "of all": of_rows(lambda: bp.TopKAccuracy(3), 1.0),
        },
        (
            BadArguments(lambda: bp.TopKAccuracy(0), "TopKAccuracy: k must be an integer of at least 1, got 0"),
            BadArguments(lambda: bp.TopKAccuracy(True), "k must be an integer"),
            BadArguments(lambda: bp.TopKAccuracy(2.0), "k must be an integer"),  # type: ignore[arg-type]
        ),
        (
            NO_INTEGERS,
            BadInputs(
                (ZEROS, FOUR),
                r"TopKAccuracy\(k=6\) needs at least 6 classes, got predictions \(4, 5\)",
                make=lambda: bp.TopKAccuracy(6),
            ),
        ),
    ),
    "BinaryAccuracy": Entry(
        {
            "": of_bits(lambda: bp.BinaryAccuracy(), 3 / 5),
            "of probabilities": of_bits(lambda: bp.BinaryAccuracy(from_logits=False), 4 / 5),
        },
        (
            BadArguments(
                lambda: bp.BinaryAccuracy(from_logits=0),  # type: ignore[arg-type]
                "BinaryAccuracy: from_logits must be True or False, got 0",
            ),
        ),
        (BadInputs((ZEROS, FOUR), r"BinaryAccuracy needs one shape, got \(4, 5\) and \(4,\)"),),
    ),
    "ConfusionMatrix": Entry(
        {
            "": of_rows(lambda: bp.ConfusionMatrix(), [[1, 0, 0], [0, 1, 1], [1, 0, 1]]),
            "a class ignored": of_rows(lambda: bp.ConfusionMatrix(ignore_index=2), [[1, 0, 0], [0, 1, 1], [0, 0, 0]]),
            "of one score": of_bits(lambda: bp.ConfusionMatrix(), [[1, 1], [1, 2]]),
        },
        (
            BadArguments(
                lambda: bp.ConfusionMatrix(ignore_index="a"),  # type: ignore[arg-type]
                "ConfusionMatrix: ignore_index must be an integer or None, got 'a'",
            ),
        ),
        (
            NO_INTEGERS,
            BadInputs((ZEROS[:, :1], ZEROS[:, 0]), "or one score an element and targets of its shape"),
        ),
    ),
    "Precision": Entry(
        {
            "": of_rows(lambda: bp.Precision(), 2 / 3),
            "a value a class": of_rows(lambda: bp.Precision(average=None), [1 / 2, 1.0, 1 / 2]),
            "of one score": of_bits(lambda: bp.Precision(average="binary"), 2 / 3),
        },
        bad_average(bp.Precision, "Precision"),
        not_of_classes(bp.Precision, "Precision"),
    ),
    "Recall": Entry(
        {
            "": of_rows(lambda: bp.Recall(), 2 / 3),
            "a value a class": of_rows(lambda: bp.Recall(average=None), [1.0, 1 / 2, 1 / 2]),
            "weighted": of_rows(lambda: bp.Recall(average="weighted"), (1 + 2 / 2 + 2 / 2) / 5),
            "of one score": of_bits(lambda: bp.Recall(average="binary"), 2 / 3),
        },
        bad_average(bp.Recall, "Recall"),
        not_of_classes(bp.Recall, "Recall"),
    ),
    "F1": Entry(
        {
            "": of_rows(lambda: bp.F1(), (2 / 3 + 2 / 3 + 1 / 2) / 3),
            "a value a class": of_rows(lambda: bp.F1(average=None), [2 / 3, 2 / 3, 1 / 2]),
            "micro": of_rows(lambda: bp.F1(average="micro"), 3 / 5),
            "a class ignored": of_rows(lambda: bp.F1(ignore_index=2, average=None), [1.0, 2 / 3, 0.0]),
            "of one score": of_bits(lambda: bp.F1(average="binary"), 2 / 3),
            "of one score, macro": of_bits(lambda: bp.F1(average="macro"), (1 / 2 + 2 / 3) / 2),
            "of one score, a value a class": of_bits(lambda: bp.F1(average=None), [1 / 2, 2 / 3]),
        },
        bad_average(bp.F1, "F1"),
        not_of_classes(bp.F1, "F1"),
    ),
    "Perplexity": Entry(
        {
            "": MetricCase(
                lambda: bp.Perplexity(), np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]), np.array([1, 2]), math.sqrt(5.0)
            ),
            "of probabilities": MetricCase(
                lambda: bp.Perplexity(from_logits=False), np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([1, 0]), 2.0
            ),
        },
        (
            BadArguments(
                lambda: bp.Perplexity(from_logits="no"),  # type: ignore[arg-type]
                "Perplexity: from_logits must be True or False, got 'no'",
            ),
        ),
        (NO_INTEGERS, BadInputs((ZEROS, ZEROS), "Perplexity takes integer labels")),
    ),
    "MAE": Entry(
        {"": of_numbers(lambda: MAE(), 7 / 6)},
        (BadArguments(lambda: MAE(name="epoch"), "histories have a 'epoch' of their own"),),
        not_of_one_shape("MAE"),
    ),
    "MSE": Entry(
        {"": of_numbers(lambda: MSE(), 13 / 6)},
        (BadArguments(lambda: MSE(name=3), "MSE: name must be a text"),),  # type: ignore[arg-type]
        not_of_one_shape("MSE"),
    ),
    "RMSE": Entry(
        {"": of_numbers(lambda: RMSE(), math.sqrt(13 / 6))},
        (BadArguments(lambda: RMSE(name=""), "RMSE: name must be a text"),),
        not_of_one_shape("RMSE"),
    ),
    "R2": Entry(
        {
            "": of_numbers(lambda: bp.R2(), ((1 - 5 / 2) + (1 - 8 / 6)) / 2),
            "shifted": of_numbers(lambda: bp.R2(shift=2.0), ((1 - 5 / 2) + (1 - 8 / 6)) / 2),
        },
        (
            BadArguments(lambda: bp.R2(shift=math.nan), "R2: shift must be a finite number, got nan"),
            BadArguments(lambda: bp.R2(shift="mean"), "R2: shift must be a finite number, got 'mean'"),  # type: ignore[arg-type]
        ),
        not_of_one_shape("R2"),
    ),
}
METRIC_CASES: dict[str, MetricCase] = all_cases(METRICS)
