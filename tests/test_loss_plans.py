"""Steps with weighted losses as plans: the same bits as eager ones, and trained by the Trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bpnet as bp
from bpnet.dispatch import Array
from bpnet.plan import Plan
from bpnet.trace import Trace

N, C = 8, 4
OPTIONS = {"class_weight": [0.5, 2.0, 0.0, 1.5], "ignore_index": -1}


def _labels(rng: Any) -> Any:
    labels = rng.integers(0, C, N)
    labels[rng.integers(N, size=2)] = -1
    return labels


def _soft(rng: Any) -> Any:
    return rng.dirichlet(np.ones(C), N).astype(np.float32)


def _values(rng: Any) -> Any:
    return rng.normal(size=(N, C)).astype(np.float32)


def _unit(rng: Any) -> Any:
    return rng.uniform(size=(N, C)).astype(np.float32)


def _signs(rng: Any) -> Any:
    return np.where(rng.uniform(size=(N, C)) > 0.5, 1, -1).astype(np.float32)


LOSSES: dict[str, tuple[Callable[[], bp.Loss], Callable[[Any], Any], tuple[bp.Layer, ...]]] = {
    "softmax": (bp.SoftmaxCrossEntropy, lambda rng: rng.integers(0, C, N), ()),
    "softmax, smoothed": (lambda: bp.SoftmaxCrossEntropy(label_smoothing=0.1), lambda rng: rng.integers(0, C, N), ()),
    "softmax, all": (lambda: bp.SoftmaxCrossEntropy(label_smoothing=0.1, **OPTIONS), _labels, ()),
    "softmax, soft": (lambda: bp.SoftmaxCrossEntropy(class_weight=[1, 2, 3, 4]), _soft, ()),
    "softmax, sum": (lambda: bp.SoftmaxCrossEntropy(reduction="sum", **OPTIONS), _labels, ()),
    "categorical": (lambda: bp.CategoricalCrossEntropy(**OPTIONS), _labels, (bp.Softmax(),)),
    "likelihood": (lambda: bp.NegativeLogLikelihood(**OPTIONS), _labels, (bp.LogSoftmax(),)),
    "focal": (lambda: bp.FocalLoss(1.5, **OPTIONS), _labels, ()),
    "multiclass hinge": (lambda: bp.MulticlassHinge(**OPTIONS), _labels, ()),
    "KL": (bp.KLDivergence, _soft, (bp.LogSoftmax(),)),
    "squared": (bp.MeanSquaredError, _values, ()),
    "absolute": (bp.MeanAbsoluteError, _values, ()),
    "huber": (bp.Huber, _values, ()),
    "log cosh": (bp.LogCosh, _values, ()),
    "poisson": (bp.PoissonNLL, _unit, ()),
    "binary": (bp.BinaryCrossEntropy, _unit, ()),
    "binary, probabilities": (lambda: bp.BinaryCrossEntropy(from_logits=False), _unit, (bp.Sigmoid(),)),
    "binary focal": (lambda: bp.BinaryFocalLoss(alpha=0.25), _unit, ()),
    "hinge": (lambda: bp.Hinge(squared=True), _signs, ()),
}
every_loss = pytest.mark.parametrize(("make", "target", "last"), LOSSES.values(), ids=LOSSES)


@every_loss
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_a_planned_step_with_weights_has_the_bits_of_the_eager_one(
    make: Callable[[], bp.Loss], target: Any, last: Any, weighted: bool, backend: bp.Backend
) -> None:
    model = bp.Sequential(bp.Dense(6, 5), bp.Tanh(), bp.Dense(5, C), *last).initialize(0, backend=backend)
    loss, store = make(), model.store

    def step(x: Array, y: Array, *w: Array) -> Array:
        prediction = model.forward(x)
        total = loss.total_weight(prediction.shape, y, *w)
        value = loss.forward(prediction, y, total, *w)
        model.backward(loss.backward(), need_dx=False)
        return value

    rng = np.random.default_rng(0)

    def batch() -> tuple[Array, ...]:
        arrays = [rng.normal(size=(N, 6)).astype(np.float32), target(rng)]
        if weighted:
            arrays.append((rng.uniform(size=N) * (rng.uniform(size=N) > 0.3)).astype(np.float32))
        return tuple(backend.asarray(each) for each in arrays)

    def gradients() -> list[bytes]:
        return [bp.to_numpy(each.grad).tobytes() for each in model.parameters().values()]

    inputs = batch()
    trace = Trace(inputs, store.known_arrays)
    result = trace.record(lambda: step(*inputs))
    value = trace.value_of(result)
    assert trace.refusal == ""
    plan = Plan(trace, value, backend)
    trace.close()
    for _ in range(3):
        inputs = batch()
        store.consume_gradients()
        expected = bp.to_numpy(step(*inputs)).tobytes(), gradients()
        store.grads[...] = 7.0
        found = bp.to_numpy(plan.replay(*inputs)).tobytes(), gradients()
        assert found == expected


def test_a_planned_step_makes_loss_and_gradient_of_weighted_labels_in_one_pass() -> None:
    rng = np.random.default_rng(0)
    loss = bp.SoftmaxCrossEntropy(label_smoothing=0.1, class_weight=[1, 2, 3, 4])
    trainer = bp.Trainer(bp.Dense(6, C), loss, bp.SGD(0.1), seed=0)
    for _ in range(3):
        trainer.step(rng.normal(size=(N, 6)).astype(np.float32), rng.integers(0, C, N))
    report = trainer.plan_report()
    assert "planned, " in report
    assert "soft_cross_entropy_gradient(" in report
    assert "soft_cross_entropy_backward(" not in report


@every_loss
def test_a_trainer_with_plans_trains_like_one_without(
    make: Callable[[], bp.Loss], target: Any, last: Any, backend: bp.Backend
) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2 * N + 5, 6)).astype(np.float32)
    y = np.concatenate([target(rng) for _ in range(3)])[: len(x)]
    results = []
    for plan in (True, False):
        model = bp.Sequential(bp.Dense(6, 5), bp.Tanh(), bp.Dense(5, C), *last)
        trainer = bp.Trainer(model, make(), bp.Adam(0.01), seed=0, backend=backend, plan=plan)
        history = trainer.fit(x, y, epochs=4, batch_size=N, progress=False, validation_data=(x, y))
        rows = [{name: value for name, value in row.items() if name != "seconds"} for row in history.rows]
        results.append((rows, bp.to_numpy(model.store.values).tobytes()))
        assert ("planned, " in trainer.plan_report()) == plan
        assert rows[-1]["loss"] < rows[0]["loss"]
    assert results[0] == results[1]


def test_an_epochs_loss_is_that_of_all_rows_that_count() -> None:
    """Batches of different total weights: their losses are not averaged as if they had the same."""
    rng = np.random.default_rng(2)
    x, labels = rng.normal(size=(20, 6)), rng.integers(0, C, 20)
    labels[:9] = -1
    loss = bp.SoftmaxCrossEntropy(ignore_index=-1, class_weight=[1, 2, 3, 4])
    model = bp.Dense(6, C).initialize(0, dtype="float64")
    trainer = bp.Trainer(model, loss, bp.SGD(1e-12), seed=0)
    whole = float(loss(model(x), labels))
    assert trainer.evaluate(x, labels, batch_size=7)["loss"] == pytest.approx(whole, rel=1e-12)
    history = trainer.fit(x, labels, epochs=3, batch_size=7, progress=False)
    assert [row["loss"] for row in history.rows] == pytest.approx([whole] * 3, rel=1e-9)
