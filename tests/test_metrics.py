"""Metrics: each against a plain count over rows, by hand, and against scikit-learn; and what they refuse."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from conftest import read_only
from hypothesis import given, settings
from hypothesis import strategies as st

import bpnet as bp
from bpnet import metrics
from bpnet.testing.cases.entries import MetricCase
from bpnet.testing.cases.metrics import BITS, METRIC_CASES, SINGLE

RNG = np.random.default_rng(5)
BY_CLASS = {"precision": bp.Precision, "recall": bp.Recall, "f1": bp.F1}
AVERAGES = ("macro", "micro", "weighted", None)


def value(metric: bp.Metric, *batches: tuple[Any, Any], backend: Any = None) -> Any:
    """The result over batches, whose sums are added as a fit adds them."""
    backend = backend or bp.get_backend("numpy")
    total: Any = 0.0
    for prediction, target in batches:
        sums = metric.measure(backend.asarray(prediction), backend.asarray(target))
        host = bp.to_numpy(sums)
        assert host.dtype == np.float64
        assert np.ndim(total) == 0 or total.shape == host.shape
        total = total + host
    return metric.result(total)


def scores(n: int, c: int) -> Any:
    return RNG.normal(size=(n, c)).astype(np.float32)


def answers(prediction: Any) -> list[int]:
    """The first largest score of every row."""
    return [max(range(len(row)), key=lambda j: (row[j], -j)) for row in prediction.tolist()]


# --- by hand ---

every_case = pytest.mark.parametrize("case", METRIC_CASES.values(), ids=METRIC_CASES)


@every_case
def test_a_hand_worked_case(case: MetricCase, backend: bp.Backend) -> None:
    metric, prediction, target = case.make(), case.prediction, case.target
    pairs = [(prediction, target)]
    found = [value(metric, *pairs, backend=backend)]
    found.append(value(metric, (prediction[:2], target[:2]), (prediction[2:], target[2:]), backend=backend))
    if target.dtype.kind == "i" and target.ndim < prediction.ndim:  # sequences of rows
        found.append(value(metric, (prediction[None], target[None]), backend=backend))
    for each in found:
        np.testing.assert_allclose(each, case.expected, rtol=1e-14)
        assert type(each) is type(case.expected)


@every_case
def test_arrays_of_any_layout_that_cannot_be_written_are_measured_alike(case: MetricCase) -> None:
    metric = case.make()
    expected = value(metric, (case.prediction, case.target))
    strided = [read_only(np.repeat(each, 2, axis=0))[::2] for each in (case.prediction, case.target)]
    assert value(metric, tuple(strided)) == expected
    if case.target.dtype.kind == "i":
        assert value(metric, (case.prediction, case.target.astype(np.int8))) == expected


SINGLE_CASES = {name: case for name, case in METRIC_CASES.items() if case.prediction.ndim == 1}


@pytest.mark.parametrize("case", SINGLE_CASES.values(), ids=SINGLE_CASES)
def test_one_score_an_element_may_be_a_column_of_integers_or_of_probabilities(
    case: MetricCase, backend: bp.Backend
) -> None:
    metric = case.make()
    column = case.prediction[:, None], case.target[:, None]
    of_integers = column[0], column[1].astype(np.int64)
    for pair in (column, of_integers):
        np.testing.assert_allclose(value(metric, pair, backend=backend), case.expected, rtol=1e-15)
    if metric.from_logits:  # type: ignore[attr-defined]
        of_probabilities = copy.copy(metric)
        of_probabilities.from_logits = False  # type: ignore[attr-defined]
        probabilities = 1 / (1 + np.exp(-column[0].astype(float)))
        np.testing.assert_allclose(value(of_probabilities, (probabilities, column[1])), case.expected, rtol=1e-15)


def test_two_scores_a_row_are_binary_too() -> None:
    logits = np.stack([np.zeros(5, np.float32), SINGLE], axis=1)
    assert value(bp.F1(average="binary"), (logits, BITS.astype(np.int64))) == pytest.approx(2 / 3, rel=1e-15)


REGRESSION: list[tuple[bp.Metric, Callable[[Any, Any], float]]] = [
    (metrics.MAE(), lambda y, t: float(np.mean(np.abs(y - t)))),
    (metrics.MSE(), lambda y, t: float(np.mean((y - t) ** 2))),
    (metrics.RMSE(), lambda y, t: math.sqrt(np.mean((y - t) ** 2))),
    (
        bp.R2(),
        lambda y, t: float(np.mean(1 - np.sum((y - t) ** 2, axis=0) / np.sum((t - t.mean(axis=0)) ** 2, axis=0))),
    ),
]


@pytest.mark.parametrize("shape", [(7,), (7, 1), (9, 3), (6, 2, 2)])
@pytest.mark.parametrize(("metric", "formula"), REGRESSION, ids=lambda each: getattr(each, "name", ""))
def test_a_regression_metric_is_its_formula_over_all_batches(
    metric: bp.Metric, formula: Any, shape: Any, backend: bp.Backend
) -> None:
    t = RNG.normal(size=shape) + 2
    y = t + 0.3 * RNG.normal(size=shape)
    batches = [(y[:4], t[:4]), (y[4:5], t[4:5]), (y[5:], t[5:])]
    assert value(metric, *batches, backend=backend) == pytest.approx(formula(y, t), rel=1e-12)


# --- against plain counts, and scikit-learn ---


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 30),
    c=st.integers(2, 6),
    k=st.integers(1, 6),
    ignored=st.sampled_from([None, 0, 2, -1]),
    seed=st.integers(0, 999),
)
def test_counts_are_those_of_a_loop_over_rows(n: int, c: int, k: int, ignored: int | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prediction, labels = np.round(rng.normal(size=(n, c))), rng.integers(0, c, n)
    k = min(k, c)
    counted = [i for i in range(n) if labels[i] != ignored]
    given_ = answers(prediction)
    matrix = [[sum(labels[i] == a and given_[i] == b for i in counted) for b in range(c)] for a in range(c)]
    assert value(bp.ConfusionMatrix(ignore_index=ignored), (prediction, labels)) == matrix
    right = sum(matrix[a][a] for a in range(c))
    accuracy = value(bp.Accuracy(ignore_index=ignored), (prediction, labels))
    first = value(bp.TopKAccuracy(1, ignore_index=ignored), (prediction, labels))
    if not counted:
        assert math.isnan(accuracy)
        assert math.isnan(first)
        return
    assert accuracy == first == right / len(counted)
    orders = [sorted(range(c), key=lambda j, row=row: (-row[j], j))[:k] for row in prediction.tolist()]
    among = sum(labels[i] in orders[i] for i in counted) / len(counted)
    assert value(bp.TopKAccuracy(k, ignore_index=ignored), (prediction, labels)) == among
    for cls, score in (
        (bp.Precision, lambda j: Fraction(matrix[j][j], sum(row[j] for row in matrix) or 1)),
        (bp.Recall, lambda j: Fraction(matrix[j][j], sum(matrix[j]) or 1)),
    ):
        exact = [score(j) for j in range(c)]
        present = [j for j in range(c) if sum(matrix[j]) + sum(row[j] for row in matrix)]
        each = value(cls(average=None, ignore_index=ignored), (prediction, labels))
        assert each == pytest.approx([float(e) for e in exact], rel=1e-15)
        macro = float(sum(exact[j] for j in present) / len(present))
        assert value(cls(ignore_index=ignored), (prediction, labels)) == pytest.approx(macro, rel=1e-14)


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("name", BY_CLASS)
@pytest.mark.parametrize(("n", "c"), [(1, 2), (40, 3), (200, 10), (6, 9)])
def test_precision_recall_and_f1_are_scikit_learns(name: str, average: str | None, n: int, c: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    prediction, labels = scores(n, c), RNG.integers(0, c, n)
    theirs = getattr(sklearn, f"{name}_score")
    classes = list(range(c)) if average is None else None
    expected = theirs(labels, answers(prediction), average=average, labels=classes, zero_division=0)
    found = value(BY_CLASS[name](average=average), (prediction, labels))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert isinstance(found, list if average is None else float)


def test_the_other_metrics_are_scikit_learns() -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    prediction, labels = scores(300, 7), RNG.integers(0, 7, 300)
    given_ = answers(prediction)
    assert value(bp.ConfusionMatrix(), (prediction, labels)) == sklearn.confusion_matrix(labels, given_).tolist()
    assert value(bp.Accuracy(), (prediction, labels)) == sklearn.accuracy_score(labels, given_)
    for k in (1, 3, 6):
        expected = sklearn.top_k_accuracy_score(labels, prediction, k=k, labels=range(7))
        assert value(bp.TopKAccuracy(k), (prediction, labels)) == pytest.approx(expected, rel=1e-15)
    p = np.exp(prediction.astype(float))
    p /= p.sum(axis=1, keepdims=True)
    expected = math.exp(sklearn.log_loss(labels, p, labels=range(7)))
    assert value(bp.Perplexity(), (prediction.astype(float), labels)) == pytest.approx(expected, rel=1e-12)
    assert value(bp.Perplexity(from_logits=False), (p, labels)) == pytest.approx(expected, rel=1e-12)
    t, y = RNG.normal(size=(50, 3)), RNG.normal(size=(50, 3))
    t[:, 1] = 4.25  # does not vary
    for metric, theirs in (
        (bp.R2(), sklearn.r2_score),
        (metrics.MAE(), sklearn.mean_absolute_error),
        (metrics.RMSE(), lambda t, y: sklearn.root_mean_squared_error(t.ravel(), y.ravel())),
    ):
        assert value(metric, (y, t)) == pytest.approx(theirs(t, y), rel=1e-12)
        assert value(metric, (t, t)) == pytest.approx(theirs(t, t), abs=1e-15)
    flags, logits = RNG.integers(0, 2, 60), RNG.normal(size=60)
    for name, cls in BY_CLASS.items():
        expected = getattr(sklearn, f"{name}_score")(flags, logits > 0)
        assert value(cls(average="binary"), (logits, flags.astype(float))) == pytest.approx(expected, rel=1e-15)


# --- single metrics ---


def test_perplexity_of_even_scores_is_the_number_of_classes(backend: bp.Backend) -> None:
    prediction, labels = np.full((4, 8), 3.5, np.float32), np.array([0, 3, 7, 2])
    assert value(bp.Perplexity(), (prediction, labels), backend=backend) == pytest.approx(8, rel=1e-6)
    ignoring = bp.Perplexity(ignore_index=7)
    prediction[2, :] = np.arange(8) * 100
    assert value(ignoring, (prediction, labels), backend=backend) == pytest.approx(8, rel=1e-6)


def test_perplexity_neither_overflows_nor_fails_on_a_hopeless_label() -> None:
    logits = np.array([[0.0, -3e4]])
    assert value(bp.Perplexity(), (logits, np.array([1]))) == math.inf
    assert value(bp.Perplexity(from_logits=False), (np.array([[1.0, 0.0]]), np.array([1]))) == pytest.approx(
        1 / np.finfo(float).smallest_normal, rel=1e-12
    )
    assert math.isnan(value(bp.Perplexity(), (np.array([[np.nan, 0.0]]), np.array([1]))))
    assert math.isnan(value(bp.Perplexity(ignore_index=1), (logits, np.array([1]))))


@pytest.mark.parametrize("ratio", [1.0, 1e3, 1e5])
def test_the_rounding_of_r2_is_as_its_documentation_says(ratio: float) -> None:
    """Against exact rational arithmetic on the same numbers, the targets `ratio` standard deviations from 0."""
    t = RNG.normal(size=400) + ratio
    y = t + 0.5 * RNG.normal(size=400)
    exact_t, exact_y = [Fraction(v) for v in t.tolist()], [Fraction(v) for v in y.tolist()]
    mean = sum(exact_t) / len(t)
    error = sum((a - b) ** 2 for a, b in zip(exact_t, exact_y, strict=True))
    exact = float(1 - error / sum((v - mean) ** 2 for v in exact_t))
    batches = [(y[i : i + 32], t[i : i + 32]) for i in range(0, 400, 32)]
    assert value(bp.R2(), *batches) == pytest.approx(exact, abs=1e-15 * (10 + ratio**2))
    assert value(bp.R2(shift=round(ratio)), *batches) == pytest.approx(exact, abs=1e-14)


def test_a_shift_saves_r2_where_targets_lie_far_from_0() -> None:
    t = RNG.normal(size=200) + 1e9
    y = t + 0.5 * RNG.normal(size=200)
    expected = 1 - np.sum((y - t) ** 2) / np.sum((t - t.mean()) ** 2)
    assert value(bp.R2(shift=1e9), (y, t)) == pytest.approx(expected, rel=1e-9)


def test_r2_of_targets_that_do_not_vary_is_1_or_0() -> None:
    t = np.full(10, 0.1)
    assert value(bp.R2(), (t, t)) == 1
    assert value(bp.R2(), (t + 1e-3, t)) == 0
    assert value(bp.R2(), (np.zeros(10), np.zeros(10))) == 1
    assert math.isnan(value(bp.R2(), (t[:1], t[:1])))
    t[3] = np.nan
    assert math.isnan(value(bp.R2(), (t, t)))


def test_soft_targets_are_taken_for_their_largest_entry_only_when_asked(backend: bp.Backend) -> None:
    prediction = scores(20, 4)
    labels = RNG.integers(0, 4, 20)
    soft = 0.9 * np.eye(4, dtype=np.float32)[labels] + 0.025
    for cls in (bp.Accuracy, lambda **more: bp.TopKAccuracy(2, **more)):
        asked = cls(soft_targets=True)
        expected = value(cls(), (prediction, labels))
        assert value(asked, (prediction, soft), backend=backend) == expected
        assert value(asked, (prediction, labels), backend=backend) == expected  # labels stay labels
        with pytest.raises(bp.ShapeError, match=r"say soft_targets=True, which takes the largest of each"):
            cls().measure(prediction, soft)


def test_nan_scores_are_no_hits_of_top_k() -> None:
    prediction = np.array([[np.nan, 1.0, 0.0], [np.nan, 1.0, 0.0]])
    assert value(bp.TopKAccuracy(2), (prediction, np.array([0, 1]))) == 0.5


def test_class_metrics_of_classes_that_never_occur_are_0_and_do_not_enter_the_mean() -> None:
    prediction = np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])
    labels = np.array([0, 0])
    assert value(bp.Recall(average=None), (prediction, labels)) == [0.5, 0, 0, 0]
    assert value(bp.Recall(), (prediction, labels)) == 0.25  # over classes 0 and 1
    assert math.isnan(value(bp.Recall(ignore_index=0), (prediction[:1], labels[:1])))


# --- names, texts, and what is refused ---


def test_names_are_keys_and_may_be_given() -> None:
    made = [bp.TopKAccuracy(3), bp.TopKAccuracy(name="top_five"), bp.F1(average=None, name="f1_by_class"), bp.R2()]
    assert [each.name for each in made] == ["top3_accuracy", "top_five", "f1_by_class", "r2"]
    names = {each.name for each in (metrics.MAE(), metrics.MSE(), metrics.RMSE(), bp.Perplexity())}
    assert names == {"mae", "mse", "rmse", "perplexity"}


def test_a_metrics_text_is_how_it_was_made() -> None:
    for text in (
        "Accuracy()",
        "Accuracy(ignore_index=-100)",
        "TopKAccuracy(k=3)",
        "BinaryAccuracy(from_logits=False)",
        "F1(average='binary')",
        "R2(shift=3.5)",
        "Perplexity(name='ppl')",
    ):
        made = eval(f"bp.{text}", {"bp": bp})
        assert repr(made) == text
        assert repr(pickle.loads(pickle.dumps(made))) == text


# --- in a fit ---


def all_metrics() -> list[bp.Metric]:
    return [
        bp.Accuracy(),
        bp.TopKAccuracy(2),
        bp.Precision(),
        bp.Recall(average=None),
        bp.F1(average="weighted"),
        bp.ConfusionMatrix(),
        bp.Perplexity(),
    ]


def fitted(**more: Any) -> tuple[bp.Trainer, bp.History, Any]:
    x, y = np.random.default_rng(1).normal(size=(53, 4)), np.random.default_rng(2).integers(0, 3, 53)
    model = bp.Sequential(bp.Dense(4, 8), bp.Tanh(), bp.Dense(8, 3)).initialize(0, dtype="float64")
    trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(0.02), metrics=all_metrics(), **more)
    data = {"validation_data": (x, y), "epochs": 4, "batch_size": 10, "progress": False}
    return trainer, trainer.fit(x, y, **data), (x, y)


def test_a_planned_fit_measures_what_an_eager_one_does() -> None:
    planned, eager = fitted(), fitted(plan=False)
    assert "planned, " in planned[0].plan_report()
    for a, b in zip(planned[1].rows, eager[1].rows, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


def test_regression_metrics_in_a_planned_fit_are_the_formulas(backend: bp.Backend) -> None:
    x = RNG.normal(size=(29, 3))
    y = np.stack([x[:, 0] + 2, x @ [1.0, 2.0, 3.0]], axis=1)
    model = bp.Dense(3, 2).initialize(0, backend=backend, dtype="float64")
    made = [metrics.MAE(), metrics.RMSE(), bp.R2()]
    trainer = bp.Trainer(model, bp.MeanSquaredError(), bp.Adam(0.1), metrics=made)
    data = {"validation_data": (x, y), "epochs": 5, "batch_size": 8, "micro_batch_size": 3, "progress": False}
    last = trainer.fit(x, y, **data).rows[-1]
    assert "planned, " in trainer.plan_report()
    prediction = bp.to_numpy(trainer.predict(x))
    for metric, (_, formula) in zip(made, [REGRESSION[0], *REGRESSION[2:]], strict=True):
        assert last[f"val_{metric.name}"] == pytest.approx(formula(prediction, y), rel=1e-12)
    assert last["val_rmse"] == pytest.approx(math.sqrt(last["val_loss"]), rel=1e-12)


def test_validation_measures_the_model_after_the_epoch() -> None:
    trainer, history, (x, y) = fitted()
    expected = {metric.name: value(metric, (trainer.predict(x), y)) for metric in all_metrics()}
    last = {name[4:]: each for name, each in history.rows[-1].items() if name.startswith("val_")}
    assert math.exp(last.pop("loss")) == pytest.approx(last["perplexity"], rel=1e-12)
    matrix = last.pop("confusion_matrix")
    assert matrix == expected.pop("confusion_matrix")
    assert sum(map(sum, matrix)) == 53
    assert last == {name: pytest.approx(each, rel=1e-12) for name, each in expected.items()}


def test_the_loss_and_a_metric_must_read_the_same_outputs() -> None:
    x = np.zeros((4, 3))
    for loss, layers, metric, y, message in (
        (bp.BinaryCrossEntropy(from_logits=False), [bp.Dense(3, 1), bp.Sigmoid()], bp.F1(), np.zeros((4, 1)),
         r"the loss takes probabilities, the metric does not: use F1\(from_logits=False\)"),
        (bp.BinaryCrossEntropy(), [bp.Dense(3, 1)], bp.ConfusionMatrix(from_logits=False), np.zeros((4, 1)),
         r"the loss takes logits, the metric does not: use ConfusionMatrix\(from_logits=True\)"),
        (bp.CategoricalCrossEntropy(), [bp.Dense(3, 2), bp.Softmax()], bp.Perplexity(), np.zeros(4, int),
         r"the loss takes probabilities, the metric does not: use Perplexity\(from_logits=False\)"),
    ):  # fmt: skip
        trainer = bp.Trainer(bp.Sequential(*layers), loss, bp.SGD(), metrics=[metric])
        with pytest.raises(bp.ConfigError, match=message):
            trainer.fit(x, y, progress=False)


class Largest(bp.Metric):
    """A metric of a user's own: the mean of the largest score, by bpnet's kernels."""

    name = "largest"

    def measure(self, prediction: Any, target: Any) -> Any:
        return bp.ops.sum_errors(prediction, prediction * 0, 1)

    def result(self, sums: Any) -> float:
        total, count = sums.tolist()
        return total / count


def test_a_metric_of_ones_own_needs_two_methods() -> None:
    model = bp.Dense(2, 2).initialize(0, dtype="float64")
    x, y = RNG.normal(size=(9, 2)), RNG.integers(0, 2, 9)
    trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.SGD(), metrics=[Largest()])
    assert trainer.evaluate(x, y, batch_size=4)["largest"] == pytest.approx(float(np.mean(np.abs(trainer.predict(x)))))
