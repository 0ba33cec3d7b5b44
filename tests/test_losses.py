"""Losses: values by hand, derivatives by differences, fused against separate, and the door."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from finite_differences import assert_gradient
from hypothesis import given, settings
from hypothesis import strategies as st

import bpnet as bp

RNG = np.random.default_rng(1)


def _probabilities(n: int, c: int) -> Any:
    p = np.exp(RNG.normal(size=(n, c)))
    return p / p.sum(axis=1, keepdims=True)


CASES: dict[str, tuple[Callable[[], bp.Loss], Any, Any]] = {
    "softmax cross-entropy": (bp.SoftmaxCrossEntropy, RNG.normal(size=(6, 4)), RNG.integers(0, 4, 6)),
    "softmax cross-entropy, batch of 1": (bp.SoftmaxCrossEntropy, RNG.normal(size=(1, 4)), np.array([2])),
    "softmax cross-entropy, one class": (bp.SoftmaxCrossEntropy, RNG.normal(size=(3, 1)), np.zeros(3, int)),
    "categorical cross-entropy": (bp.CategoricalCrossEntropy, _probabilities(6, 4), RNG.integers(0, 4, 6)),
    "binary, logits": (bp.BinaryCrossEntropy, 3 * RNG.normal(size=(5, 2)), RNG.uniform(size=(5, 2))),
    "binary, probabilities": (
        lambda: bp.BinaryCrossEntropy(from_logits=False),
        RNG.uniform(0.05, 0.95, size=(5, 2)),
        RNG.uniform(size=(5, 2)),
    ),
    "squared": (bp.MeanSquaredError, RNG.normal(size=(5, 3)), RNG.normal(size=(5, 3))),
    "squared, 1-d": (bp.MeanSquaredError, RNG.normal(size=7), RNG.normal(size=7)),
    "absolute": (bp.MeanAbsoluteError, RNG.normal(size=(5, 3)), RNG.normal(size=(5, 3))),
}


@pytest.mark.parametrize(("make", "prediction", "target"), CASES.values(), ids=CASES)
def test_derivatives_equal_finite_differences(
    make: Callable[[], bp.Loss], prediction: Any, target: Any, backend: bp.Backend
) -> None:
    loss = make()
    t = backend.asarray(target)

    def value(p: Any) -> float:
        return float(backend.to_numpy(loss(backend.asarray(p), t)))

    loss.forward(backend.asarray(prediction), t)
    assert_gradient(loss.backward(), value, prediction)
    loss.forward(backend.asarray(prediction), t)
    scaled = loss.backward(scale=8.0)
    assert_gradient(scaled, lambda p: 8 * value(p), prediction)
    loss.forward(backend.asarray(prediction), t, normalizer=2.5)
    weight = loss.total_weight(prediction.shape, t)
    assert_gradient(loss.backward(), lambda p: value(p) * weight / 2.5, prediction)


@pytest.mark.parametrize(("make", "prediction", "target"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_loss_is_a_0d_array_of_the_predictions_dtype(
    make: Callable[[], bp.Loss], prediction: Any, target: Any, dtype: str, backend: bp.Backend
) -> None:
    loss = make()
    p = backend.asarray(prediction.astype(dtype))
    t = backend.asarray(target if target.dtype.kind == "i" else target.astype(dtype))
    value = loss.forward(p, t)
    assert isinstance(value, backend.array_type)
    assert (tuple(value.shape), value.dtype, value.device) == ((), p.dtype, p.device)
    dp = loss.backward()
    assert (tuple(dp.shape), dp.dtype, dp.device) == (tuple(p.shape), p.dtype, p.device)


def test_values_by_hand() -> None:
    logits = np.log(np.array([[0.7, 0.1, 0.2], [0.1, 0.5, 0.4], [0.02, 0.9, 0.08]]))
    by_hand = -(math.log(0.7) + math.log(0.5) + math.log(0.9)) / 3
    labels = np.array([0, 1, 1])
    assert float(bp.SoftmaxCrossEntropy()(logits, labels)) == pytest.approx(by_hand, abs=1e-15)
    assert float(bp.CategoricalCrossEntropy()(np.exp(logits), labels)) == pytest.approx(by_hand, abs=1e-15)
    assert float(bp.BinaryCrossEntropy()(np.array([0.0, 2.0]), np.array([1.0, 0.0]))) == pytest.approx(
        (math.log(2) + math.log(1 + math.exp(2))) / 2, abs=1e-15
    )
    assert float(bp.BinaryCrossEntropy(from_logits=False)(np.array([0.25]), np.array([1.0]))) == pytest.approx(
        math.log(4), abs=1e-15
    )
    assert float(bp.MeanSquaredError()(np.array([1.0, 2.0]), np.array([3.0, 5.0]))) == 6.5
    assert float(bp.MeanAbsoluteError()(np.array([1.0, 2.0]), np.array([3.0, 5.0]))) == 2.5


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 40), c=st.integers(1, 12), scale=st.sampled_from([0.1, 1.0, 10.0]), seed=st.integers(0, 999))
def test_softmax_then_categorical_cross_entropy_equals_the_fused_form(n: int, c: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = scale * rng.normal(size=(n, c)), rng.integers(0, c, n)
    fused, separate, softmax = bp.SoftmaxCrossEntropy(), bp.CategoricalCrossEntropy(), bp.Softmax()
    value = fused.forward(logits, labels)
    value_separate = separate.forward(softmax.forward(logits), labels)
    np.testing.assert_allclose(value, value_separate, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(fused.backward(), softmax.backward(separate.backward()), rtol=1e-9, atol=1e-14)


def test_large_logits_neither_overflow_nor_lose_the_gradient(backend: bp.Backend) -> None:
    logits = backend.asarray(np.array([[1e4, 0.0, -1e4], [-1e4, -1e4, -1e4]], np.float32))
    loss = bp.SoftmaxCrossEntropy()
    value = loss.forward(logits, backend.asarray(np.array([1, 2])))
    assert float(bp.to_numpy(value)) == pytest.approx((1e4 + math.log(3)) / 2, rel=1e-6)
    expected = np.array([[0.5, -0.5, 0.0], [1 / 6, 1 / 6, -1 / 3]])
    np.testing.assert_allclose(bp.to_numpy(loss.backward()), expected, atol=1e-7)
    binary = bp.BinaryCrossEntropy()
    x = backend.asarray(np.array([1e4, -1e4], np.float32))
    assert float(bp.to_numpy(binary.forward(x, backend.asarray(np.array([0.0, 0.0], np.float32))))) == 5e3
    np.testing.assert_allclose(bp.to_numpy(binary.backward()), [0.5, 0.0])


def test_a_probability_of_zero_gives_a_finite_loss(backend: bp.Backend) -> None:
    p = backend.asarray(np.array([[0.0, 1.0]]))
    loss = bp.CategoricalCrossEntropy()
    assert float(bp.to_numpy(loss.forward(p, backend.asarray(np.array([0]))))) == pytest.approx(708.4, abs=0.1)
    assert np.all(np.isfinite(bp.to_numpy(loss.backward())))


def test_uneven_parts_with_the_whole_normalizer_give_the_whole_gradient() -> None:
    model = bp.Sequential(bp.Dense(4, 8), bp.Tanh(), bp.Dense(8, 3)).initialize(dtype="float64")
    x, labels = RNG.normal(size=(10, 4)), RNG.integers(0, 3, 10)
    loss = bp.SoftmaxCrossEntropy()
    loss.forward(model.forward(x), labels)
    model.backward(loss.backward())
    whole = {path: p.grad.copy() for path, p in model.parameters().items()}
    model.store.consume_gradients()
    for part in (slice(0, 7), slice(7, 10)):
        loss.forward(model.forward(x[part]), labels[part], normalizer=10)
        model.backward(loss.backward())
    for path, p in model.parameters().items():
        np.testing.assert_allclose(p.grad, whole[path], rtol=0, atol=1e-15)


def test_inference_keeps_nothing() -> None:
    loss = bp.MeanSquaredError()
    loss(np.ones(2), np.zeros(2))
    with pytest.raises(bp.StateError, match=r"MeanSquaredError.backward: nothing saved; call forward first"):
        loss.backward()
    loss.forward(np.ones(2), np.zeros(2))
    loss.backward()
    with pytest.raises(bp.StateError, match="nothing saved"):
        loss.backward()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32", "int64"])
def test_labels_of_a_narrow_dtype_name_the_classes_they_name(dtype: str, backend: bp.Backend) -> None:
    logits = RNG.normal(size=(4, 300))
    labels = np.array([0, 100, 127, 3])
    found, expected = bp.SoftmaxCrossEntropy(), bp.SoftmaxCrossEntropy()
    value = found.forward(backend.asarray(logits), backend.asarray(labels.astype(dtype)))
    np.testing.assert_allclose(float(bp.to_numpy(value)), float(expected.forward(logits, labels)), rtol=1e-12)
    np.testing.assert_allclose(bp.to_numpy(found.backward()), expected.backward(), rtol=1e-10, atol=1e-15)
