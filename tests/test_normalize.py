"""Normalization by the training data's statistics: the numbers, what keeps them, and what is refused."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bpnet as bp
from bpnet.data import mean_and_std, statistics

RNG = np.random.default_rng(0)


def statistics_of(layer: Any) -> tuple[Any, Any]:
    return bp.to_numpy(layer.mean.value), bp.to_numpy(layer.std.value)


def test_by_hand(backend: bp.Backend) -> None:
    x = np.array([[1.0, 5.0], [3.0, 5.0], [5.0, 5.0], [7.0, 5.0]])
    layer = bp.Normalize(2).fit(backend.asarray(x))
    model = bp.Sequential(layer).initialize(backend=backend, dtype="float64")
    mean, std = statistics_of(layer)
    np.testing.assert_allclose(mean, [4.0, 5.0], rtol=1e-15)
    np.testing.assert_allclose(std, [np.sqrt(5.0), 1.0], rtol=1e-15)  # deviations -3 -1 1 3; a constant is left at 1
    y = bp.to_numpy(model(model.asarray(np.array([[4.0 + np.sqrt(5.0), 5.0], [4.0, 8.0]]))))
    np.testing.assert_allclose(y, [[1.0, 0.0], [0.0, 3.0]], atol=1e-15)


def test_the_training_data_have_mean_0_and_standard_deviation_1_afterwards() -> None:
    x = RNG.normal(loc=[1e6, -3.0, 0.0], scale=[1.0, 1e-4, 1e5], size=(5000, 3))
    model = bp.Sequential(bp.Normalize(3).fit(x)).initialize(dtype="float64")
    y = model(x)
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(y.std(axis=0), 1, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40),
    features=st.integers(1, 4),
    piece=st.integers(1, 200),
    offset=st.floats(-1e8, 1e8),
    seed=st.integers(0, 99),
)
def test_pieces_give_the_statistics_of_the_whole(n: int, features: int, piece: int, offset: float, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(n, features)) + offset
    kept, statistics.PIECE = statistics.PIECE, piece
    try:
        mean, std = mean_and_std(x)
    finally:
        statistics.PIECE = kept
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-13, atol=1e-14)
    expected = np.where(x.std(axis=0) == 0, 1, x.std(axis=0))
    if n > 1:
        np.testing.assert_allclose(std, expected, rtol=1e-6)


@pytest.mark.parametrize("constant", [0.1, 1e-300, -7.3e30, 1 / 3])
def test_a_constant_feature_is_met_exactly_however_many_samples_there_are(constant: float) -> None:
    mean, std = mean_and_std(np.full((700_001, 2), constant))
    assert mean.tolist() == [constant, constant]
    assert std.tolist() == [1.0, 1.0]


def test_axes_of_1_are_pooled() -> None:
    images = RNG.normal(size=(20, 3, 5, 6)) * np.array([1.0, 2.0, 3.0])[:, None, None] + 4
    layer = bp.Normalize((3, 1, 1)).fit(images)
    model = bp.Sequential(layer).initialize(dtype="float64")
    mean, std = statistics_of(layer)
    np.testing.assert_allclose(mean, images.mean(axis=(0, 2, 3))[:, None, None], rtol=1e-13)
    np.testing.assert_allclose(std, images.std(axis=(0, 2, 3))[:, None, None], rtol=1e-13)
    assert model(images[:2]).shape == (2, 3, 5, 6)
    every_pixel = bp.Normalize((3, 5, 6)).fit(images)
    np.testing.assert_allclose(statistics_of(every_pixel)[1], images.std(axis=0), rtol=1e-6)
    one = bp.Normalize(1).fit(images.reshape(20, -1))
    np.testing.assert_allclose(statistics_of(one)[0], [images.mean()], rtol=1e-6)


def test_integers_and_datasets_and_lists_can_be_fitted() -> None:
    x = RNG.integers(0, 256, size=(30, 4)).astype(np.uint8)
    for given_x in (x, x.tolist(), bp.Dataset(x, np.zeros(30))):
        layer = bp.Normalize(4).fit(given_x)
        np.testing.assert_allclose(statistics_of(layer)[0], x.mean(axis=0), rtol=1e-6)


def test_a_layer_that_was_not_fitted_refuses_to_run() -> None:
    model = bp.Sequential(bp.Normalize(4), bp.Dense(4, 2)).initialize()
    for run in (model, model.forward):
        with pytest.raises(bp.StateError, match=r"Normalize\(4\) does not know mean and standard deviation yet; call"):
            run(np.ones((2, 4), np.float32))
    trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.SGD(0.1))
    with pytest.raises(bp.StateError, match=r"call its fit\(x\) with the training data"):
        trainer.fit(np.ones((2, 4)), np.array([0, 1]), progress=False)
    assert "(N, 4)" in str(model.summary(4))


def test_fitting_first_leaves_seed_and_backend_to_the_trainer() -> None:
    x = RNG.normal(3.0, 2.0, size=(40, 4))
    layer = bp.Normalize(4).fit(x)
    model = bp.Sequential(layer, bp.Dense(4, 3))
    assert not model.initialized
    trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.SGD(0.1), seed=7, backend="strict")
    assert (model.store.seed, model.backend.name) == (7, "strict")
    np.testing.assert_allclose(statistics_of(layer)[0], x.mean(axis=0), rtol=1e-6)
    assert trainer.model is model


def test_fitting_an_initialized_model_changes_the_statistics_and_nothing_else() -> None:
    model = bp.Sequential(bp.Normalize(4), bp.Dense(4, 3)).initialize(seed=3)
    weight = model[1].weight.value.copy()  # type: ignore[attr-defined]
    x = RNG.normal(3.0, 2.0, size=(40, 4))
    model[0].fit(x)  # type: ignore[attr-defined]
    np.testing.assert_allclose(statistics_of(model[0])[1], x.std(axis=0), rtol=1e-6)
    assert np.array_equal(model[1].weight.value, weight)  # type: ignore[attr-defined]


def _fitted() -> tuple[bp.Sequential, Any, Any]:
    x = RNG.normal(3.0, 2.0, size=(40, 4))
    model = bp.Sequential(bp.Normalize(4).fit(x), bp.Dense(4, 3)).initialize(seed=1)
    return model, x, statistics_of(model[0])


def test_training_leaves_the_statistics_alone_and_trains_the_rest() -> None:
    model, x, before = _fitted()
    y = RNG.integers(0, 3, size=40)
    weight = model[1].weight.value.copy()  # type: ignore[attr-defined]
    for optimizer in (bp.SGD(0.1, momentum=0.9), bp.AdamW(0.01, weight_decay=0.1)):
        model.initialize(seed=1)
        trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), optimizer)
        trainer.fit(x, y, epochs=5, batch_size=8, progress=False)
        for now, then in zip(statistics_of(model[0]), before, strict=True):
            assert np.array_equal(now, then)
        assert not np.array_equal(model[1].weight.value, weight)  # type: ignore[attr-defined]


def test_a_planned_step_gives_the_bits_of_an_eager_one() -> None:
    found = []
    for plan in (True, False):
        x = np.random.default_rng(1).normal(3.0, 2.0, size=(64, 4))
        model = bp.Sequential(bp.Normalize(4).fit(x), bp.Dense(4, 5), bp.Tanh(), bp.Normalize(1, fitted=True))
        trainer = bp.Trainer(model, bp.MeanSquaredError(), bp.Adam(0.01), seed=2, plan=plan)
        trainer.fit(x, np.ones((64, 5)), epochs=6, batch_size=16, progress=False)
        assert ("planned" in trainer.plan_report()) is plan
        found.append(bp.to_numpy(model.store.values).copy())
    assert np.array_equal(*found)


def test_initialize_copies_files_and_moves_keep_the_statistics(tmp_path: Path, backend: bp.Backend) -> None:
    model, _, before = _fitted()
    model.save(tmp_path / "m.safetensors")
    loaded = bp.load(tmp_path / "m.safetensors", backend=backend)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded]
    copies += [copy.deepcopy(each).initialize(seed=5) for each in copies]  # type: ignore[attr-defined]
    for other in [*copies, bp.Sequential(copies[0][0], bp.Dense(4, 2))]:  # type: ignore[index]
        for now, then in zip(statistics_of(other[0]), before, strict=True):  # type: ignore[index]
            assert np.array_equal(now, then)
        assert other[0].fitted  # type: ignore[index]
        x = other.asarray(np.ones((2, 4), np.float32))
        assert other(x).shape[0] == 2
    loaded.to("numpy", dtype="float64")
    np.testing.assert_allclose(statistics_of(loaded[0])[0], before[0], rtol=1e-7)  # type: ignore[index]


def test_a_model_saved_before_it_was_fitted_comes_back_so(tmp_path: Path) -> None:
    bp.Sequential(bp.Normalize((2, 1))).initialize().save(tmp_path / "m.safetensors")
    loaded = bp.load(tmp_path / "m.safetensors")
    assert repr(loaded) == "Sequential(Normalize((2, 1)))"
    with pytest.raises(bp.StateError, match="does not know mean"):
        loaded(np.ones((1, 2, 3), np.float32))


def test_known_statistics_can_be_set() -> None:
    layer = bp.Normalize(2).set([1.0, 2.0], np.array([2.0, 4.0]))
    model = bp.Sequential(layer).initialize()
    np.testing.assert_allclose(model(np.array([[3.0, 2.0]], np.float32)), [[1.0, 0.0]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: bp.Normalize(0),
            bp.ConfigError,
            "needs a number of features, or several axes, .* 1, got 0",
        ),
        (lambda: bp.Normalize(()), bp.ConfigError, r"each at least 1, got \(\)"),
        (lambda: bp.Normalize((3, 1.5)), bp.ConfigError, r"each at least 1, got \(3, 1.5\)"),  # type: ignore[arg-type]
        (lambda: bp.Normalize(2, fitted=1), bp.ConfigError, "fitted must be True or False, got 1"),  # type: ignore[arg-type]
        (lambda: bp.Normalize(2).fit(np.ones((3, 3))), bp.ShapeError, r"samples of shape \(2,\), .* got \(3, 3\)"),
        (lambda: bp.Normalize(2).fit(np.ones(2)), bp.ShapeError, r"so of shape \(N, ...\), got \(2,\)"),
        (lambda: bp.Normalize(2).fit(np.ones((0, 2))), bp.DataError, r"x is empty, shape \(0, 2\)"),
        (lambda: bp.Normalize(2).fit([["a", "b"]]), bp.DTypeError, "x must hold numbers"),
        (
            lambda: bp.Normalize(2).fit(np.array([[1.0, 2.0], [np.nan, 3.0]])),
            bp.DataError,
            r"x holds 1 NaN and 0 infinite values among 4; the first is nan at index \(1, 0\)",
        ),
        (lambda: bp.Normalize(2).fit(np.array([[1.0, np.inf]])), bp.DataError, "0 NaN and 1 infinite"),
        (lambda: bp.Normalize(2).fit(np.array([[1.0, 1e39]])), bp.DataError, r"1e\+39, beyond the largest float32"),
        (lambda: bp.Normalize(2).set([1.0], [1.0, 1.0]), bp.ShapeError, r"mean must have shape \(2,\), got \(1,\)"),
        (
            lambda: bp.Normalize(2).set([1.0, 1.0], [[1.0]]),
            bp.ShapeError,
            r"std must have shape \(2,\), got \(1, 1\)",
        ),
        (lambda: bp.Normalize(2).set([1.0, np.nan], [1.0, 1.0]), bp.DataError, "mean holds 1 NaN"),
        (lambda: bp.Normalize(2).set([1.0, 1.0], [1.0, 0.0]), bp.DataError, "std must be above 0, .* it holds 0"),
        (lambda: bp.Normalize(2).set([1.0, 1.0], [1.0, -2.0]), bp.DataError, "it holds -2"),
    ],
)
def test_what_cannot_be_is_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_refused_fit_changes_nothing() -> None:
    model, _, before = _fitted()
    with pytest.raises(bp.DataError):
        model[0].fit(np.full((3, 4), np.nan))  # type: ignore[attr-defined]
    for now, then in zip(statistics_of(model[0]), before, strict=True):
        assert np.array_equal(now, then)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.ones((2, 5), np.float32), bp.ShapeError, r"Normalize\(4\) needs x of shape \(N, 4\), got \(2, 5\)"),
        (np.ones(4, np.float32), bp.ShapeError, r"got \(4,\); for one sample use x\[None, ...\]"),
        (np.ones((2, 4)), bp.DTypeError, "computes in float32, got x of float64"),
        ([[1.0, 2.0, 3.0, 4.0]], bp.DTypeError, r"holds numpy.ndarray arrays, got list; .* model.asarray\(x\)"),
    ],
)
def test_its_door_says_what_must_hold(x: Any, error: type[Exception], message: str) -> None:
    model, _, _ = _fitted()
    with pytest.raises(error, match=message):
        model(x)


def test_a_memory_map_is_read_in_pieces(tmp_path: Path) -> None:
    x = RNG.normal(5.0, 2.0, size=(1000, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    mean, std = mean_and_std(bp.data.memmap(tmp_path / "x.npy"))
    np.testing.assert_allclose(mean, x.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(std, x.std(axis=0, dtype=np.float64), rtol=1e-12)
