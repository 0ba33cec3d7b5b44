"""Losses: values by hand, derivatives by differences, fused against separate, and the door."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from finite_differences import assert_gradient
from hypothesis import given, settings
from hypothesis import strategies as st

import bpnet as bp
from bpnet.dispatch import dtype_name
from bpnet.testing.cases.entries import LossCase
from bpnet.testing.cases.objectives import LOSS_CASES
from bpnet.testing.cases.targets import BITS, LABELS, LOGITS, Y, probabilities

RNG = np.random.default_rng(1)


every_case = pytest.mark.parametrize("case", LOSS_CASES.values(), ids=LOSS_CASES)


def _bring(backend: bp.Backend, case: LossCase, dtype: str = "float64") -> tuple[Any, Any, Any]:
    """The arrays of a case on a backend."""
    target = case.target if case.target.dtype.kind == "i" else case.target.astype(dtype)
    weight = None if case.weight is None else backend.asarray(case.weight.astype(dtype))
    return backend.asarray(case.prediction.astype(dtype)), backend.asarray(target), weight


@every_case
def test_derivatives_equal_finite_differences(case: LossCase, backend: bp.Backend) -> None:
    loss = case.loss()
    prediction, t, w = _bring(backend, case)

    def value(p: Any) -> float:
        return float(backend.to_numpy(loss(backend.asarray(p), t, w)))

    loss.forward(prediction, t, sample_weight=w)
    assert_gradient(loss.backward(), value, case.prediction)
    loss.forward(prediction, t, None, w)
    scaled = loss.backward(scale=8.0)
    assert_gradient(scaled, lambda p: 8 * value(p), case.prediction)
    weight = loss.total_weight(prediction.shape, t, w)
    total = float(weight if isinstance(weight, float) else backend.to_numpy(weight))
    loss.forward(prediction, t, 2.5, w)
    assert_gradient(loss.backward(), lambda p: value(p) * total / 2.5, case.prediction)
    loss.forward(prediction, t, backend.asarray(np.array(2.5)), w)
    assert_gradient(loss.backward(), lambda p: value(p) * total / 2.5, case.prediction)


@every_case
def test_sums_and_single_losses_are_those_of_the_mean(case: LossCase, backend: bp.Backend) -> None:
    prediction, t, w = _bring(backend, case)
    mean, total, single = case.loss(), case.loss(reduction="sum"), case.loss(reduction="none")
    weight = mean.total_weight(prediction.shape, t, w)
    weight = weight if isinstance(weight, float) else float(backend.to_numpy(weight))
    value = float(backend.to_numpy(mean.forward(prediction, t, None, w)))
    summed = float(backend.to_numpy(total.forward(prediction, t, None, w)))
    losses = single.forward(prediction, t, None, w)
    rows = mean.by_row
    assert tuple(losses.shape) == (case.prediction.shape[:-1] if rows else case.prediction.shape)
    each = backend.to_numpy(losses)
    assert summed == pytest.approx(value * weight, rel=1e-12)
    assert each.sum() == pytest.approx(summed, rel=1e-12)
    assert total.total_weight(prediction.shape, t, w) == single.total_weight(prediction.shape, t, w) == 1.0
    dmean, dtotal, dsingle = (backend.to_numpy(each.backward()) for each in (mean, total, single))
    np.testing.assert_allclose(dtotal, dmean * weight, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(dsingle, dtotal, rtol=1e-12, atol=1e-14)
    scale = np.random.default_rng(5).normal(size=each.shape)
    single.forward(prediction, t, None, w)
    gradient = single.backward(backend.asarray(scale))

    def weighted(p: Any) -> float:
        return float(np.sum(scale * backend.to_numpy(single(backend.asarray(p), t, w))))

    assert_gradient(gradient, weighted, case.prediction)


@every_case
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_loss_is_a_0d_array_of_the_predictions_dtype(case: LossCase, dtype: str, backend: bp.Backend) -> None:
    loss = case.loss()
    p, t, w = _bring(backend, case, dtype)
    value = loss.forward(p, t, None, w)
    assert isinstance(value, backend.array_type)
    assert (tuple(value.shape), value.dtype, value.device) == ((), p.dtype, p.device)
    dp = loss.backward()
    assert (tuple(dp.shape), dp.dtype, dp.device) == (tuple(p.shape), p.dtype, p.device)
    exact = _bring(backend, case)
    np.testing.assert_allclose(bp.to_numpy(value), bp.to_numpy(loss(*exact)), rtol=2e-5, atol=1e-7)
    weight = loss.total_weight(p.shape, t, w)
    if not isinstance(weight, float):
        assert isinstance(weight, backend.array_type)
        assert (tuple(weight.shape), dtype_name(weight.dtype), weight.device) == ((), "float64", p.device)


@every_case
def test_uneven_parts_with_the_whole_total_give_the_whole_loss_and_gradient(
    case: LossCase, backend: bp.Backend
) -> None:
    loss = case.loss()
    n = len(case.target)
    whole = _bring(backend, case)
    value = bp.to_numpy(loss.forward(whole[0], whole[1], None, whole[2]))
    gradient = bp.to_numpy(loss.backward())
    total = loss.total_weight(whole[0].shape, whole[1], whole[2])
    values, gradients, weights = [], [], []
    for part in (slice(0, n - n // 3), slice(n - n // 3, n)):
        if part.start < part.stop:
            p, t, w = (None if each is None else each[part, ...] for each in whole)
            values.append(bp.to_numpy(loss.forward(p, t, total, w)))
            gradients.append(bp.to_numpy(loss.backward()))
            weights.append(loss.total_weight(p.shape, t, w))
    np.testing.assert_allclose(np.concatenate(gradients), gradient, rtol=0, atol=1e-12)
    np.testing.assert_allclose(sum(values), value, rtol=1e-12, atol=1e-15)
    sums = [each if isinstance(each, float) else float(bp.to_numpy(each)) for each in weights]
    assert sum(sums) == pytest.approx(total if isinstance(total, float) else float(bp.to_numpy(total)), rel=1e-14)


@every_case
def test_strided_and_read_only_arrays_give_the_same(case: LossCase) -> None:
    p, t, w = _bring(bp.get_backend("numpy"), case)

    def strided(x: Any) -> Any:
        if x is None:
            return None
        wide = np.repeat(x, 2, axis=0)
        wide.flags.writeable = False
        return wide[::2]

    loss = case.loss()
    value = loss.forward(p, t, None, w)
    gradient = loss.backward()
    again = loss.forward(strided(p), strided(t), None, strided(w))
    np.testing.assert_allclose(again, value, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(loss.backward(), gradient, rtol=1e-13, atol=1e-16)


@every_case
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_rows_that_weigh_nothing_give_nothing_whatever_they_hold(case: LossCase, poison: float) -> None:
    p, t, _ = _bring(bp.get_backend("numpy"), case)
    for loss in (case.loss(), case.loss(reduction="sum")):
        bad = np.full_like(p, poison)
        with np.errstate(invalid="ignore", over="ignore"):  # inf - inf in a row that is then left out
            assert loss.forward(bad, t, None, np.zeros(len(t))) == 0
            np.testing.assert_array_equal(loss.backward(), np.zeros_like(p))
            weights = np.ones(len(t))
            weights[0] = 0.0
            mixed = p.copy()
            mixed[0] = poison
            value = loss.forward(mixed, t, None, weights)
            gradient = loss.backward()
        np.testing.assert_allclose(value, loss.forward(p, t, None, weights), rtol=1e-13)
        np.testing.assert_allclose(gradient, loss.backward(), rtol=1e-13, atol=1e-16)


@every_case
def test_a_nan_in_what_counts_is_never_hidden(case: LossCase, backend: bp.Backend) -> None:
    p = case.prediction.copy()
    p[(0,) * p.ndim] = np.nan  # the first row's label is class 0, and weighs something, in all cases
    p, t, w = _bring(backend, dataclasses.replace(case, prediction=p))
    assert np.isnan(bp.to_numpy(case.loss()(p, t, w)))
    assert np.isnan(bp.to_numpy(case.loss(reduction="none")(p, t, w)).reshape(-1)[0])


@every_case
def test_a_loss_can_be_made_again_from_its_config(case: LossCase) -> None:
    loss = case.loss(reduction="sum")
    again = type(loss)(**loss.config)
    assert (again.config, repr(again)) == (loss.config, repr(loss))


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


P = np.array([[0.7, 0.1, 0.2], [0.1, 0.5, 0.4], [0.02, 0.9, 0.08]])
Q = np.array([0, 1, 1])
LOG = math.log


@pytest.mark.parametrize(
    ("options", "target", "weight", "by_hand"),
    [
        ({"class_weight": [2, 1, 5]}, Q, None, -(2 * LOG(0.7) + LOG(0.5) + LOG(0.9)) / 4),
        ({"class_weight": {0: 2.0}}, Q, None, -(2 * LOG(0.7) + LOG(0.5) + LOG(0.9)) / 4),
        ({"ignore_index": 1}, Q, None, -LOG(0.7)),
        ({"ignore_index": -1}, np.array([0, -1, 1]), None, -(LOG(0.7) + LOG(0.9)) / 2),
        ({}, Q, [1.0, 0.0, 3.0], -(LOG(0.7) + 3 * LOG(0.9)) / 4),
        ({"class_weight": [2, 1, 1]}, Q, [1.0, 0.5, 3.0], -(2 * LOG(0.7) + 0.5 * LOG(0.5) + 3 * LOG(0.9)) / 5.5),
        ({}, np.array([[1, 0, 0], [0.5, 0.5, 0], [0, 0, 1]]), None,
         -(LOG(0.7) + (LOG(0.1) + LOG(0.5)) / 2 + LOG(0.08)) / 3),
        ({"class_weight": [4, 2, 1]}, np.array([[1, 0, 0], [0.5, 0.5, 0], [0, 0, 1]]), None,
         -(4 * LOG(0.7) + 2 * LOG(0.1) + LOG(0.5) + LOG(0.08)) / (4 + 3 + 1)),
    ],
)  # fmt: skip
def test_weighted_cross_entropies_by_hand(options: Any, target: Any, weight: Any, by_hand: float) -> None:
    target = target if target.dtype.kind == "i" else target.astype(float)
    weight = None if weight is None else np.array(weight)
    for make, prediction in (
        (bp.SoftmaxCrossEntropy, np.log(P)),
        (bp.CategoricalCrossEntropy, P),
        (bp.NegativeLogLikelihood, np.log(P)),
    ):
        assert float(make(**options)(prediction, target, weight)) == pytest.approx(by_hand, abs=1e-14)


def test_smoothing_by_hand() -> None:
    logits = np.log(P)
    smooth = bp.SoftmaxCrossEntropy(label_smoothing=0.3)
    by_hand = -(0.8 * LOG(0.7) + 0.1 * LOG(0.1) + 0.1 * LOG(0.2)) - (0.1 * LOG(0.1) + 0.8 * LOG(0.5) + 0.1 * LOG(0.4))
    assert float(smooth(logits[:2], Q[:2])) == pytest.approx(by_hand / 2, abs=1e-15)
    smooth.forward(logits[:1], Q[:1])
    np.testing.assert_allclose(smooth.backward(), P[:1] - np.array([[0.8, 0.1, 0.1]]), atol=1e-15)
    weighted = bp.SoftmaxCrossEntropy(label_smoothing=0.3, class_weight=[2, 1, 1])
    by_hand = -(2 * 0.8 * LOG(0.7) + 0.1 * LOG(0.1) + 0.1 * LOG(0.2)) / 2
    assert float(weighted(logits[:1], Q[:1])) == pytest.approx(by_hand, abs=1e-15)


def test_values_of_the_other_losses_by_hand() -> None:
    y, t = np.array([0.5, 3.0, -2.0]), np.array([0.0, 0.0, 0.0])
    assert float(bp.Huber(1.0)(y, t)) == pytest.approx((0.125 + 2.5 + 1.5) / 3, abs=1e-15)
    assert float(bp.Huber(2.0)(y, t)) == pytest.approx((0.125 + 4.0 + 2.0) / 3, abs=1e-15)
    assert float(bp.LogCosh()(y, t)) == pytest.approx(sum(LOG(math.cosh(v)) for v in y) / 3, abs=1e-15)
    assert float(bp.PoissonNLL()(y, np.array([2.0, 1.0, 0.0]))) == pytest.approx(
        (math.exp(0.5) - 1.0 + math.exp(3.0) - 3.0 + math.exp(-2.0)) / 3, abs=1e-14
    )
    signs = np.array([1.0, 1.0, -1.0])
    assert float(bp.Hinge()(np.array([0.5, 3.0, 2.0]), signs)) == pytest.approx((0.5 + 0.0 + 3.0) / 3, abs=1e-15)
    assert float(bp.Hinge(squared=True)(np.array([0.5, 3.0, 2.0]), signs)) == pytest.approx(9.25 / 3, abs=1e-15)
    assert float(bp.Hinge()(np.array([0.5, 3.0, 2.0]), signs, np.array([1.0, 1.0, 2.0]))) == (0.5 + 6.0) / 4
    scores = np.array([[3.0, 1.0, 2.5], [0.0, 4.0, 1.0], [1.0, 1.0, 1.0]])
    assert float(bp.MulticlassHinge()(scores, np.array([0, 0, 2]))) == pytest.approx(6.5 / 3, abs=1e-15)
    assert float(bp.MulticlassHinge(3.0)(scores[:1], np.array([0]))) == 2.5
    two = np.array([[0.5, 0.5], [0.75, 0.25]])
    kl = 0.5 * LOG(0.5 / 0.8) + 0.5 * LOG(0.5 / 0.2)
    assert float(bp.KLDivergence()(np.log([[0.8, 0.2], [0.75, 0.25]]), two)) == pytest.approx(kl / 2, abs=1e-15)
    assert float(bp.KLDivergence()(np.log([[0.8, 0.2]]), np.array([[0.0, 1.0]]))) == pytest.approx(-LOG(0.2))
    focal = -(0.3**2 * LOG(0.7) + 0.5**2 * LOG(0.5)) / 2
    assert float(bp.FocalLoss(2.0)(np.log(P[:2]), Q[:2])) == pytest.approx(focal, abs=1e-15)
    x = np.array([LOG(0.8 / 0.2), LOG(0.3 / 0.7)])  # probabilities 0.8 and 0.3
    binary = -(0.2**2 * LOG(0.8) + 0.3**2 * LOG(0.7)) / 2
    assert float(bp.BinaryFocalLoss()(x, np.array([1.0, 0.0]))) == pytest.approx(binary, abs=1e-15)
    binary = -(0.25 * 0.2**2 * LOG(0.8) + 0.75 * 0.3**2 * LOG(0.7)) / 2
    assert float(bp.BinaryFocalLoss(2.0, 0.25)(x, np.array([1.0, 0.0]))) == pytest.approx(binary, abs=1e-15)


def test_focal_losses_with_gamma_0_are_cross_entropies() -> None:
    for focal, plain, x, t in (
        (bp.FocalLoss(0.0), bp.SoftmaxCrossEntropy(), LOGITS, LABELS),
        (bp.BinaryFocalLoss(0.0), bp.BinaryCrossEntropy(), 3 * Y, BITS),
    ):
        np.testing.assert_allclose(focal.forward(x, t), plain.forward(x, t), rtol=1e-14)
        np.testing.assert_allclose(focal.backward(), plain.backward(), rtol=1e-12, atol=1e-15)


def test_labels_one_hot_rows_and_whole_weights_are_one_thing(backend: bp.Backend) -> None:
    """Labels and their one-hot rows; a weight of 2 and a row that stands twice; a weight of 0 and a row left out."""
    logits, labels = backend.asarray(LOGITS), backend.asarray(LABELS)
    onehot = backend.asarray(np.eye(4)[LABELS])
    times = np.array([2.0, 1.0, 0.0, 1.0, 3.0, 1.0])
    repeated = np.repeat(np.arange(6), times.astype(int))
    for smoothing in (0.0, 0.25):
        loss = bp.SoftmaxCrossEntropy(label_smoothing=smoothing)
        by_label, by_row = loss(logits, labels), loss(logits, onehot)
        np.testing.assert_allclose(bp.to_numpy(by_row), bp.to_numpy(by_label), rtol=1e-14)
        weighted = loss(logits, labels, backend.asarray(times))
        longer = loss(backend.asarray(LOGITS[repeated]), backend.asarray(LABELS[repeated]))
        np.testing.assert_allclose(bp.to_numpy(weighted), bp.to_numpy(longer), rtol=1e-14)


@every_case
def test_nothing_that_counts_gives_0_and_no_nan(case: LossCase, backend: bp.Backend) -> None:
    p, t, _ = _bring(backend, case)
    zeros = backend.zeros((len(case.target),), "float64")
    for normalizer in (None, 0.0, backend.zeros((), "float64")):
        loss = case.loss()
        assert float(bp.to_numpy(loss.forward(p, t, normalizer, zeros))) == 0
        np.testing.assert_array_equal(bp.to_numpy(loss.backward()), np.zeros(case.prediction.shape))
    loss.forward(p, t, 0.0)
    assert np.all(bp.to_numpy(loss.backward()) == 0)


@pytest.mark.parametrize("make", [bp.SoftmaxCrossEntropy, bp.CategoricalCrossEntropy, bp.NegativeLogLikelihood,
                                  bp.FocalLoss, bp.MulticlassHinge])  # fmt: skip
def test_a_batch_of_ignored_rows_has_the_loss_0(make: Callable[..., bp.Loss], backend: bp.Backend) -> None:
    loss = make(ignore_index=-1)
    p, t = backend.asarray(probabilities(3, 4)), backend.asarray(np.array([-1, -1, -1]))
    assert float(bp.to_numpy(loss.total_weight(p.shape, t))) == 0
    assert float(bp.to_numpy(loss.forward(p, t))) == 0
    np.testing.assert_array_equal(bp.to_numpy(loss.backward()), np.zeros((3, 4)))


@settings(max_examples=60, deadline=None)
@given(
    shift=st.floats(-1e6, 1e6),
    scale=st.sampled_from([1e-3, 1.0, 30.0, 1e3]),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 999),
)
def test_a_shift_of_all_logits_changes_nothing(shift: float, scale: float, dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = (scale * rng.normal(size=(5, 4))).astype(dtype)
    labels, weight = rng.integers(0, 4, 5), rng.uniform(size=5).astype(dtype)
    moved = logits + np.asarray(shift, dtype)
    back = moved - np.asarray(shift, dtype)  # what rounding has left of the logits
    soft = rng.dirichlet(np.ones(4), 5).astype(dtype)
    for loss, target in (
        (bp.SoftmaxCrossEntropy(label_smoothing=0.1, class_weight=[1, 2, 3, 4]), labels),
        (bp.SoftmaxCrossEntropy(), soft),
        (bp.FocalLoss(1.5), labels),
        (bp.MulticlassHinge(), labels),
    ):
        tolerance = np.finfo(dtype).eps * (16 * max(1.0, float(np.abs(moved).max())))
        value = loss.forward(moved, target, None, weight)
        gradient = loss.backward()
        np.testing.assert_allclose(value, loss.forward(back, target, None, weight), rtol=1e-4, atol=tolerance)
        expected = loss.backward()
        assert np.all(np.isfinite(gradient))
        if not isinstance(loss, bp.MulticlassHinge):  # its gradient jumps where rounding moves a kink
            np.testing.assert_allclose(gradient, expected, atol=tolerance + 1e-5)
            np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("loss", "prediction", "target", "value", "gradient"),
    [
        (bp.Huber(), [1e30, -1e30], [0.0, 0.0], 1e30, [0.5, -0.5]),
        (bp.LogCosh(), [1e30, -1e4], [0.0, 0.0], 5e29, [0.5, -0.5]),
        (bp.Hinge(), [1e30, 1e30], [1.0, -1.0], 5e29, [0.0, 0.5]),
        (bp.BinaryFocalLoss(), [1e4, -1e4], [1.0, 1.0], 5e3, [0.0, -0.5]),
        (bp.BinaryFocalLoss(0.5), [1e4, -1e4], [0.0, 0.0], 5e3, [0.5, 0.0]),
        (bp.PoissonNLL(), [-1e4, 0.0], [0.0, 1.0], 0.5, [0.0, 0.0]),
        (bp.FocalLoss(), [[1e4, 0.0, -1e4]], [1], 1e4, [[1.0, -1.0, 0.0]]),
        (bp.FocalLoss(0.5), [[1e4, 0.0, -1e4]], [0], 0.0, [[0.0, 0.0, 0.0]]),
        (bp.SoftmaxCrossEntropy(label_smoothing=0.3), [[0.0, 1e4, 0.0]], [1], 2e3, [[-0.1, 0.2, -0.1]]),
        (bp.MulticlassHinge(), [[1e30, 0.0, -1e30]], [1], 1e30, [[1.0, -1.0, 0.0]]),
        (bp.CategoricalCrossEntropy(class_weight=[1, 1, 1]), [[1.0, 0.0, 0.0]], [0], 0.0, [[-1.0, 0.0, 0.0]]),
    ],
)
def test_large_values_neither_overflow_nor_lose_the_gradient_in_any_loss(
    loss: bp.Loss, prediction: Any, target: Any, value: float, gradient: Any, dtype: str, backend: bp.Backend
) -> None:
    t = np.array(target) if loss.targets == "labels" else np.array(target, dtype)
    found = loss.forward(backend.asarray(np.array(prediction, dtype)), backend.asarray(t))
    np.testing.assert_allclose(bp.to_numpy(found), value, rtol=1e-6)
    np.testing.assert_allclose(bp.to_numpy(loss.backward()), gradient, atol=1e-6)


def test_a_class_that_is_masked_out_adds_nothing(backend: bp.Backend) -> None:
    logits = LOGITS.copy()
    logits[:, 2] = -np.inf
    labels = np.where(LABELS == 2, 0, LABELS)
    without = np.where(labels > 2, labels - 1, labels)
    for loss in (bp.SoftmaxCrossEntropy(), bp.SoftmaxCrossEntropy(ignore_index=-1), bp.FocalLoss()):
        value = loss.forward(backend.asarray(logits), backend.asarray(labels))
        gradient = bp.to_numpy(loss.backward())
        three = loss.forward(backend.asarray(np.delete(LOGITS, 2, axis=1)), backend.asarray(without))
        np.testing.assert_allclose(bp.to_numpy(value), bp.to_numpy(three), rtol=1e-14)
        np.testing.assert_allclose(np.delete(gradient, 2, axis=1), bp.to_numpy(loss.backward()), rtol=1e-13)
        assert np.all(gradient[:, 2] == 0)


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
