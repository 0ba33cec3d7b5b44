"""Batch norm, and statistics in general: when they change, when they do not, and where they go."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bpnet as bp
from bpnet.initializers import zeros

RNG = np.random.default_rng(5)
X, Y = RNG.normal(2.0, 3.0, size=(12, 4)), RNG.integers(0, 3, 12)


def network(**keywords: Any) -> bp.Sequential:
    return bp.Sequential(bp.Dense(4, 5), bp.BatchNorm(5, **keywords), bp.ReLU(), bp.Dropout(0.2), bp.Dense(5, 3))


def trainer(plan: bool = True, backend: Any = None, optimizer: Any = None, **keywords: Any) -> bp.Trainer:
    model = network(**keywords).initialize(seed=1, dtype="float64", backend=backend)
    return bp.Trainer(model, bp.SoftmaxCrossEntropy(), optimizer or bp.Adam(0.01), plan=plan)


def running(model: bp.Layer) -> dict[str, Any]:
    return {path: np.array(bp.to_numpy(each.value)) for path, each in model.statistics().items()}


def test_training_normalizes_by_the_batch_and_inference_by_what_has_run(backend: bp.Backend) -> None:
    layer = bp.BatchNorm(4, momentum=0.25, epsilon=1e-9).initialize(dtype="float64", backend=backend)
    x = layer.asarray(X)
    y = bp.to_numpy(layer.forward(x))
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(y.std(axis=0), 1, rtol=1e-8)
    np.testing.assert_allclose(bp.to_numpy(layer(x)), X, rtol=1e-8)  # mean 0 and variance 1, as at the start
    layer.backward(layer.asarray(np.zeros_like(X)))
    np.testing.assert_allclose(bp.to_numpy(layer(x)), X, rtol=1e-8)  # nothing before the update
    bp.SGD(0.1).step(layer)
    mean, variance = 0.25 * X.mean(axis=0), 0.75 + 0.25 * X.var(axis=0, ddof=1)
    np.testing.assert_allclose(bp.to_numpy(layer.running_mean.value), mean, rtol=1e-12)
    np.testing.assert_allclose(bp.to_numpy(layer.running_variance.value), variance, rtol=1e-12)
    np.testing.assert_allclose(bp.to_numpy(layer(x)), (X - mean) / np.sqrt(variance), rtol=1e-7)


def test_a_forward_may_be_repeated_and_counts_when_its_backward_is_made() -> None:
    once, often = (bp.BatchNorm(4).initialize(dtype="float64") for _ in range(2))
    for layer, times in ((once, 1), (often, 5)):
        for _ in range(times):
            layer.forward(X)
        layer.backward(X)
        bp.SGD(0.1).step(layer)
    assert np.array_equal(once.running_mean.value, often.running_mean.value)


def test_every_micro_batch_counts(backend: bp.Backend) -> None:
    whole = trainer(backend=backend, momentum=0.3)
    layer = whole.model[1]  # type: ignore[index]
    x, y = whole.model.asarray(X), Y
    into = [bp.to_numpy(whole.model[0](whole.model.asarray(X[i : i + 5]))) for i in (0, 5, 10)]  # type: ignore[index]
    whole.step(x, y, micro_batch_size=5)
    expected = np.zeros(5)
    for part in into:
        expected = 0.7 * expected + 0.3 * part.mean(axis=0)
    np.testing.assert_allclose(bp.to_numpy(layer.running_mean.value), expected, rtol=1e-12)


def test_planned_steps_are_the_eager_ones_with_micro_batches_and_without(backend: bp.Backend) -> None:
    for size in (None, 5, 4):
        planned, eager = trainer(True, backend), trainer(False, backend)
        for k in range(6):
            for each in (planned, eager):
                each.step(X[k % 2 * 2 :], Y[k % 2 * 2 :], micro_batch_size=size)
        assert "planned" in planned.plan_report()
        for name, array in eager.model.store.arrays().items():
            assert bp.to_numpy(array).tobytes() == bp.to_numpy(planned.model.store.arrays()[name]).tobytes(), name


@pytest.mark.parametrize("plan", [True, False])
@pytest.mark.parametrize("size", [None, 6])
def test_a_step_whose_loss_is_not_finite_changes_nothing(plan: bool, size: int | None, backend: bp.Backend) -> None:
    each = trainer(plan, backend)
    for _ in range(4):
        each.step(X, Y, micro_batch_size=size)
    before, values = running(each.model), np.array(bp.to_numpy(each.model.store.values))
    bad = X.copy()
    bad[1, 1] = np.inf
    with np.errstate(invalid="ignore"):
        assert not np.isfinite(float(bp.to_numpy(each.step(bad, Y, micro_batch_size=size))))
    assert all(np.array_equal(now, before[path]) for path, now in running(each.model).items())
    assert np.array_equal(bp.to_numpy(each.model.store.values), values)
    each.step(X, Y, micro_batch_size=size)
    assert all(np.isfinite(now).all() for now in running(each.model).values())
    other = trainer(plan, backend)
    for _ in range(5):
        other.step(X, Y, micro_batch_size=size)
    for path, now in running(each.model).items():
        assert now.tobytes() == running(other.model)[path].tobytes()


def test_a_gradient_that_is_not_finite_leaves_the_statistics_too() -> None:
    model = network().initialize(dtype="float64")
    optimizer = bp.Adam(0.1, clip_norm=1.0)
    loss = bp.SoftmaxCrossEntropy()
    before = running(model)
    loss.forward(model.forward(X), Y)
    dy = loss.backward()
    model.backward(np.full_like(dy, np.nan))
    optimizer.step(model)
    assert all(np.array_equal(now, before[path]) for path, now in running(model).items())


def test_the_explicit_loop_is_the_trainers_step() -> None:
    model = network().initialize(seed=1, dtype="float64")
    loss, optimizer = bp.SoftmaxCrossEntropy(), bp.Adam(0.01)
    each = trainer(plan=False)
    for _ in range(3):
        loss.forward(model.forward(X), Y)
        model.backward(loss.backward())
        optimizer.step(model)
        each.step(X, Y)
    for path, now in running(model).items():
        assert np.array_equal(now, running(each.model)[path])


def test_a_step_that_is_given_up_leaves_no_trace() -> None:
    class Fails(bp.Tanh):
        def backward(self, dy: Any, need_dx: bool = True) -> Any:
            if self.broken:  # type: ignore[attr-defined]
                raise RuntimeError("out of order")
            return super().backward(dy, need_dx)

    def made() -> bp.Trainer:
        layer = Fails()
        layer.broken = False  # type: ignore[attr-defined]
        model = bp.Sequential(bp.Dense(4, 4), layer, bp.BatchNorm(4), bp.Dense(4, 3)).initialize(dtype="float64")
        return bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.SGD(0.1))

    straight, broken = made(), made()
    straight.step(X, Y)
    straight.step(X, Y)
    broken.step(X, Y)
    broken.model[1].broken = True  # type: ignore[index]
    with pytest.raises(RuntimeError, match="out of order"):
        broken.step(X + 100, Y)
    broken.model[1].broken = False  # type: ignore[index]
    broken.step(X, Y)
    for path, now in running(straight.model).items():
        assert np.array_equal(now, running(broken.model)[path])
    model = network().initialize(dtype="float64")
    model.backward(np.ones_like(model.forward(X)))
    model.zero_grad()
    assert not model.store.filled


def test_zero_grad_takes_contributions_back() -> None:
    clean, dirty = (network().initialize(seed=2, dtype="float64") for _ in range(2))
    dirty.backward(np.ones_like(dirty.forward(X + 50)))
    dirty.zero_grad()
    dirty.store.counters[...] = 0
    for model in (clean, dirty):
        model.backward(np.ones_like(model.forward(X)))
        bp.SGD(0.1).step(model)
    for path, now in running(clean).items():
        assert np.array_equal(now, running(dirty)[path])


def test_statistics_are_saved_moved_copied_and_pickled_with_the_model(tmp_path: Path) -> None:
    each = trainer()
    each.step(X, Y)
    model = each.model
    expected, now = model(model.asarray(X)), running(model)
    assert any(value.any() for value in now.values())
    model.save(tmp_path / "m.safetensors")
    for other in (bp.load(tmp_path / "m.safetensors"), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert np.array_equal(other(X), expected)
        assert list(other.statistics()) == ["1.running_mean", "1.running_variance"]
    model.forward(X)
    model.backward(np.ones((12, 3)))  # something is pending when the model moves, and goes with it
    pending = np.array(model.statistics()["1.running_mean"].pending)
    model.to(dtype="float32")
    assert model.store.pending.dtype == np.float32
    np.testing.assert_allclose(model.statistics()["1.running_mean"].pending, pending, rtol=1e-6)
    model.to("numpy", "float64")
    bp.Adam(0.01).step(model)
    np.testing.assert_allclose(running(model)["1.running_mean"], pending, rtol=1e-6)


def test_a_fit_resumes_with_the_bits_that_it_would_have_had(tmp_path: Path) -> None:
    def fit(folder: str, epochs: int, resume: bool = False) -> bp.Trainer:
        each = trainer()
        each.fit(X, Y, epochs=epochs, batch_size=5, checkpoint=tmp_path / folder, resume=resume, progress=False)
        return each

    whole = fit("whole", 6)
    fit("parts", 3)
    parts = fit("parts", 6, resume=True)
    for name, array in whole.model.store.arrays().items():
        assert array.tobytes() == parts.model.store.arrays()[name].tobytes(), name


def test_saving_in_the_middle_of_a_step_keeps_what_is_pending(tmp_path: Path) -> None:
    def half(each: bp.Trainer) -> None:
        loss = each.loss
        loss.forward(each.model.forward(X[:6]), Y[:6])
        each.model.backward(loss.backward())

    straight, other = trainer(), trainer()
    for each in (straight, other):
        each.step(X, Y)
    half(straight)
    straight.save(tmp_path / "half.safetensors")
    other.restore(tmp_path / "half.safetensors")
    for each in (straight, other):
        half(each)
        each.optimizer.step(each.model)
    for path, now in running(straight.model).items():
        assert np.array_equal(now, running(other.model)[path])


def test_averages_of_the_parameters_average_the_statistics_too() -> None:
    each = trainer(optimizer=bp.SGD(0.1, average=0.5))
    seen = [running(each.model)["1.running_mean"]]
    for _ in range(3):
        each.step(X, Y)
        seen.append(running(each.model)["1.running_mean"])
    expected = seen[1]  # the first step's average is its value
    for value in seen[2:]:
        expected = 0.5 * expected + 0.5 * value
    with each.averaged():
        np.testing.assert_allclose(running(each.model)["1.running_mean"], expected, rtol=1e-12)


def test_one_sample_is_refused_before_training_and_in_a_step() -> None:
    each = trainer()
    before = np.array(each.model.store.values)
    message = (
        r"BatchNorm\(5\) needs at least 2 values of every feature to know how they spread, got x of shape \(1, 5\); "
        "train with larger batches"
    )
    with pytest.raises(bp.ShapeError, match=message):
        each.step(X[:1], Y[:1])
    for batch_size, micro in ((11, None), (12, 11), (1, None), (4, 3)):
        with pytest.raises(bp.ShapeError, match=message + r".*found with the smallest batch, 1 of 12 samples\)"):
            each.fit(X, Y, batch_size=batch_size, micro_batch_size=micro, progress=False)
    assert np.array_equal(each.model.store.values, before)
    assert each.epoch == 0
    assert len(each.fit(X, Y, batch_size=5, epochs=1, progress=False)["loss"]) == 1
    images = bp.Sequential(bp.BatchNorm(2), bp.Flatten()).initialize()
    assert images.forward(np.ones((1, 2, 3, 2), np.float32)).shape == (1, 12)  # six values of every feature


def test_a_frozen_or_fixed_layer_trains_as_it_infers_and_keeps_its_statistics() -> None:
    for freeze in (True, False):
        each = trainer()
        each.step(X, Y)
        layer = each.model[1]  # type: ignore[index]
        if freeze:
            layer.freeze()
        else:
            layer.fixed = True
        before, inputs = running(each.model), each.model[0](X)  # type: ignore[index]
        np.testing.assert_allclose(layer.forward(inputs), layer(inputs), rtol=1e-15)
        for _ in range(4):
            each.step(X, Y)
        assert all(np.array_equal(now, before[path]) for path, now in running(each.model).items())
        assert np.isfinite(each.model[1].forward(each.model[0](X[:1]))).all()  # type: ignore[index]
        layer.unfreeze() if freeze else setattr(layer, "fixed", False)
        each.step(X, Y)
        assert not np.array_equal(running(each.model)["1.running_mean"], before["1.running_mean"])


def test_statistics_behind_frozen_layers_are_reached() -> None:
    model = bp.Sequential(bp.Dense(4, 4), bp.BatchNorm(4, affine=False), bp.Dense(4, 3)).initialize(dtype="float64")
    model[0].freeze()
    bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.SGD(0.1)).step(X, Y)
    assert running(model)["1.running_mean"].any()


def test_a_layer_of_ones_own_declares_a_statistic(backend: bp.Backend) -> None:
    class Centre(bp.Layer):
        """Subtract the running mean."""

        def __init__(self, n: int) -> None:
            self.mean = bp.Statistic((n,), zeros)

        def __call__(self, x: Any) -> Any:
            return bp.ops.scale_shift(x, self.mean.value, self.mean.value * 0 + 1, None, None, 0.0)

        def forward(self, x: Any) -> Any:
            self.keep(x)
            return self(x)

        def backward(self, dy: Any, need_dx: bool = True) -> Any:
            (x,) = self.kept()
            self.mean.blend(bp.ops.batch_norm(x, None, None, 1e-5)[1], 0.5)
            return dy

    model = bp.Sequential(Centre(4), bp.Dense(4, 3)).initialize(backend=backend, dtype="float64")
    bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.SGD(0.1), plan=False).step(X, Y)
    np.testing.assert_allclose(bp.to_numpy(model.statistics()["0.mean"].value), X.mean(axis=0) / 2, rtol=1e-12)


def test_a_statistic_is_no_weight() -> None:
    model = network().initialize()
    statistic = model.statistics()["1.running_mean"]
    with pytest.raises(bp.ConfigError, match="'1.running_mean' is a statistic, which no gradient changes"):
        statistic.trainable = True
    model.freeze()
    model.unfreeze()
    assert not statistic.trainable
    with pytest.raises(bp.ShapeError, match=r"has shape \(5,\), got a contribution of shape \(4,\)"):
        statistic.blend(np.ones(4, np.float32), 0.1)
    assert [segment.decay for segment in model.store.segments] == [True, False, False]
    assert list(model.store.offsets)[-2:] == ["1.running_mean", "1.running_variance"]


# --- Recompute ---


def block(recompute: bool) -> bp.Sequential:
    layers = (bp.Dense(4, 6), bp.BatchNorm(6), bp.Tanh(), bp.Dropout(0.4), bp.Dense(6, 4))
    middle = bp.Recompute(*layers) if recompute else bp.Sequential(*layers)
    return bp.Sequential(bp.Dense(4, 4), middle, bp.Dense(4, 3))


@pytest.mark.parametrize("plan", [True, False])
@pytest.mark.parametrize("size", [None, 5])
def test_recompute_gives_the_bits_of_the_same_layers_in_sequence(plan: bool, size: int | None) -> None:
    states = []
    for recompute in (True, False):
        model = block(recompute).initialize(seed=3, dtype="float64")
        each = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(0.01), plan=plan)
        losses = [float(each.step(X, Y, micro_batch_size=size)) for _ in range(5)]
        states.append((losses, model.store.arrays()))
        assert ("planned" in each.plan_report()) == plan
    assert states[0][0] == states[1][0]
    for name, array in states[0][1].items():
        assert array.tobytes() == states[1][1][name].tobytes(), name


def test_recompute_keeps_its_input_alone_between_forward_and_backward() -> None:
    model = bp.Recompute(bp.Dense(4, 6), bp.Tanh(), bp.Recompute(bp.Dense(6, 2))).initialize()
    y = model.forward(X.astype(np.float32))
    assert all(layer._kept is None for path, layer in model.walk() if path)
    model.backward(y)
    assert all(layer._kept is None for _, layer in model.walk())
    with pytest.raises(bp.StateError, match="nothing saved"):
        model.backward(y)


def test_recompute_hands_on_side_inputs() -> None:
    class Scale(bp.Layer):
        def __call__(self, x: Any, *, factor: float = 1.0) -> Any:
            return x * factor

        def forward(self, x: Any, *, factor: float = 1.0) -> Any:
            self.keep(factor)
            return x * factor

        def backward(self, dy: Any, need_dx: bool = True) -> Any:
            (factor,) = self.kept()
            return dy * factor

    model = bp.Sequential(bp.Recompute(Scale(), bp.Tanh()))
    x = np.ones((2, 3))
    np.testing.assert_allclose(model.forward(x, factor=3.0), np.tanh(3.0))
    np.testing.assert_allclose(model.backward(x), 3 * (1 - np.tanh(3.0) ** 2))
