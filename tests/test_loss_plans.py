"""Steps with weighted losses as plans: the same bits as eager ones, and trained by the Trainer."""

from __future__ import annotations

import numpy as np
import pytest

import bpnet as bp
from bpnet.dispatch import Array
from bpnet.plan import Plan
from bpnet.testing.cases.entries import Fit
from bpnet.testing.cases.objectives import FITS
from bpnet.trace import Trace

N, C = 8, 4
every_loss = pytest.mark.parametrize("fit", FITS.values(), ids=FITS)


@every_loss
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_a_planned_step_with_weights_has_the_bits_of_the_eager_one(
    fit: Fit, weighted: bool, backend: bp.Backend
) -> None:
    model = bp.Sequential(bp.Dense(6, 5), bp.Tanh(), bp.Dense(5, C), *(each() for each in fit.last)).initialize(
        0, backend=backend
    )
    loss, store = fit.make(), model.store

    def step(x: Array, y: Array, *w: Array) -> Array:
        prediction = model.forward(x)
        total = loss.total_weight(prediction.shape, y, *w)
        value = loss.forward(prediction, y, total, *w)
        model.backward(loss.backward(), need_dx=False)
        return value

    rng = np.random.default_rng(0)

    def batch() -> tuple[Array, ...]:
        arrays = [rng.normal(size=(N, 6)).astype(np.float32), fit.targets(rng, N, C)]
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
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("part", [None, 3], ids=["whole", "parts"])
def test_a_trainer_with_plans_trains_like_one_without(fit: Fit, weighted: bool, part: int | None) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2 * N + 5, 6)).astype(np.float32)
    y = np.concatenate([fit.targets(rng, N, C) for _ in range(3)])[: len(x)]
    weight = rng.uniform(0.2, 2.0, len(x)) if weighted else None
    results = []
    for plan in (True, False):
        model = bp.Sequential(bp.Dense(6, 5), bp.Tanh(), bp.Dense(5, C), *(each() for each in fit.last))
        trainer = bp.Trainer(model, fit.make(), bp.Adam(0.01), seed=0, plan=plan)
        history = trainer.fit(x, y, sample_weight=weight, epochs=4, batch_size=N, micro_batch_size=part, progress=False)
        rows = [{name: value for name, value in row.items() if name != "seconds"} for row in history.rows]
        results.append((rows, bp.to_numpy(model.store.values).tobytes()))
        assert ("planned, " in trainer.plan_report()) == plan
        assert rows[-1]["loss"] < rows[0]["loss"]
    assert results[0] == results[1]


@every_loss
def test_a_step_in_uneven_parts_is_the_step_of_the_whole_batch(fit: Fit) -> None:
    rng = np.random.default_rng(3)
    x, y, weight = rng.normal(size=(N, 6)), fit.targets(rng, N, C), rng.uniform(0.2, 2.0, N)
    y = y.astype(float) if y.dtype.kind == "f" else y
    if isinstance(fit.make(), (bp.KLDivergence, bp.SoftmaxCrossEntropy)) and y.dtype.kind == "f":
        y = y / y.sum(axis=1, keepdims=True)
    values = []
    for part in (None, 3):
        model = bp.Sequential(bp.Dense(6, 5), bp.Tanh(), bp.Dense(5, C), *(each() for each in fit.last)).initialize(
            0, dtype="float64"
        )
        trainer = bp.Trainer(model, fit.make(), bp.SGD(0.1), seed=0)
        trainer.fit(x, y, sample_weight=weight, epochs=1, batch_size=N, micro_batch_size=part, shuffle=False,
                    progress=False)  # fmt: skip
        values.append(bp.to_numpy(model.store.values))
    np.testing.assert_allclose(values[0], values[1], rtol=0, atol=1e-13)


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
