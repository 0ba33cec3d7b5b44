"""What losses refuse: settings, arrays of the wrong form, values without a meaning; each with its full message."""

from __future__ import annotations

import pickle
import re
from typing import Any

import numpy as np
import pytest

import bpnet as bp
from bpnet.data import checks

X = np.zeros((8, 4), np.float32)
LABELS = np.array([0, 1, 2, 3, 0, 1, 2, 3])
W = np.ones(8, np.float32)


def test_the_limits_of_settings_are_allowed() -> None:
    assert bp.BinaryFocalLoss(0, 1).config == {"gamma": 0.0, "alpha": 1.0, "reduction": "mean"}
    assert bp.BinaryFocalLoss(alpha=0.0).alpha == 0.0
    assert bp.SoftmaxCrossEntropy(class_weight=np.array([1.0, 0.0])).class_weight == (1.0, 0.0)
    assert bp.SoftmaxCrossEntropy(class_weight={np.int64(2): 3}).class_weight == {2: 3.0}
    assert bp.SoftmaxCrossEntropy(ignore_index=np.int64(-100)).ignore_index == -100


def test_settings_are_said_once_and_shown() -> None:
    loss = bp.SoftmaxCrossEntropy(label_smoothing=0.1, ignore_index=0)
    assert repr(loss) == "SoftmaxCrossEntropy(label_smoothing=0.1, ignore_index=0)"
    assert repr(bp.MeanSquaredError()) == "MeanSquaredError()"
    assert loss.config == {"label_smoothing": 0.1, "class_weight": None, "ignore_index": 0, "reduction": "mean"}
    message = "SoftmaxCrossEntropy: label_smoothing is said at construction; make a new SoftmaxCrossEntropy"
    with pytest.raises(AttributeError, match=f"^{re.escape(message)}$"):
        loss.label_smoothing = 0.2
    assert loss.label_smoothing == 0.1
    assert pickle.loads(pickle.dumps(loss)).config == loss.config


def test_a_dict_of_class_weights_is_the_losss_own() -> None:
    given = {1: 2.0}
    loss = bp.SoftmaxCrossEntropy(class_weight=given)
    given[1] = 100.0
    assert loss.class_weight == {1: 2.0}


@pytest.mark.parametrize(
    ("normalizer", "kind", "message"),
    [
        (-1, bp.ConfigError, "Huber: normalizer must be a number of at least 0, got -1"),
        (float("nan"), bp.ConfigError, "Huber: normalizer must be a number of at least 0, got nan"),
        ("3", bp.DTypeError, "Huber: normalizer must be a number or a 0-d array, got '3'"),
        (np.ones(1), bp.DTypeError, "Huber: normalizer must be a number or a 0-d array, got array([1.])"),
    ],
)
def test_normalizers_are_refused(normalizer: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        bp.Huber().forward(X, X, normalizer)


def test_a_scale_of_another_form_is_refused_and_the_forward_kept() -> None:
    loss = bp.Huber()
    loss.forward(X + 1, X)
    with pytest.raises(bp.DTypeError, match=r"^Huber.backward: scale must be a number; an array is for reduction='no"):
        loss.backward(W)
    assert loss.backward().shape == X.shape
    single = bp.Huber(reduction="none")
    single.forward(X + 1, X)
    message = "Huber.backward needs a number or the shape of the losses, (8, 4), got (8,)"
    with pytest.raises(bp.ShapeError, match=f"^{re.escape(message)}$"):
        single.backward(W)
    np.testing.assert_array_equal(single.backward(X + 2), X + 2)


VALUES: dict[str, tuple[bp.Loss, Any, str]] = {
    "labels": (
        bp.SoftmaxCrossEntropy(), np.array([0, 4, -1]),
        "y holds 2 labels outside 0 ... 3, which is all that the model's 4 outputs can name; the first is 4 at index 1",
    ),
    "labels beside the ignored one": (
        bp.SoftmaxCrossEntropy(ignore_index=-1), np.array([0, 4, -1, -2]),
        "y holds 2 labels outside 0 ... 3, which is all that the model's 4 outputs can name and are not the ignored "
        "-1; the first is 4 at index 1",
    ),
    "labels of sequences": (
        bp.FocalLoss(), np.array([[0, 1], [2, 9]], np.uint8),
        "y holds 1 labels outside 0 ... 3, which is all that the model's 4 outputs can name; the first is 9 at index "
        "(1, 1)",
    ),
    "a row that does not sum to 1": (
        bp.SoftmaxCrossEntropy(), np.array([[1, 0, 0, 0], [0.5, 0.5, 0.5, 0]]),
        "y holds 1 rows that are no probabilities: none may be negative, and each row must sum to 1; the first, at "
        "index 1, has the sum 1.5",
    ),
    "a negative probability": (
        bp.KLDivergence(), np.array([[[1, 0, 0, 0], [1.5, -0.5, 0, 0]]]),
        "y holds 1 rows that are no probabilities: none may be negative, and each row must sum to 1; the first, at "
        "index (0, 1), has a value of -0.5",
    ),
    "probabilities": (
        bp.BinaryFocalLoss(), np.array([0.0, 1.5, -1.0]),
        "y must lie in [0, 1] for BinaryFocalLoss; map classes such as -1 and 1 to 0 and 1; 2 of 3 are not, the first "
        "is 1.5 at index 1",
    ),
    "signs": (
        bp.Hinge(), np.array([[1.0], [0.0]]),
        "y must be -1 or 1 for Hinge; map 0 and 1 with 2 * y - 1; 1 of 2 are not, the first is 0.0 at index (1, 0)",
    ),
    "counts": (
        bp.PoissonNLL(), np.array([3.0, -1.0]),
        "y must be at least 0 for PoissonNLL, which is for counts; 1 of 2 are not, the first is -1.0 at index 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("loss", "target", "message"), VALUES.values(), ids=VALUES)
def test_values_without_a_meaning_are_found(loss: bp.Loss, target: Any, message: str, backend: bp.Backend) -> None:
    with pytest.raises(bp.DataError, match=f"^{re.escape(message)}$"):
        loss.check_values(backend.asarray(target), "y", 4)


def test_values_with_a_meaning_pass() -> None:
    bp.SoftmaxCrossEntropy(ignore_index=-100).check_values(np.array([[0, 3], [-100, 2]]), "y", 4)
    bp.SoftmaxCrossEntropy(ignore_index=-100).check_values(np.array([0, 3], np.uint8), "y", 4)
    bp.SoftmaxCrossEntropy().check_values(np.array([[0.25, 0.75, 0, 0]], np.float32), "y", 4)
    bp.Hinge().check_values(np.array([-1.0, 1.0]), "y")
    with pytest.raises(bp.DataError, match=r"the first is 4 at index 101$"):
        bp.SoftmaxCrossEntropy().check_values(np.array([0, 4]), "y", 4, 100)


@pytest.mark.parametrize(
    ("weight", "kind", "message"),
    [
        (np.ones((3, 1)), bp.ShapeError,
         "w must have shape (N,), one weight a sample, got (3, 1); use w[:, 0]"),
        (np.array([True, False]), bp.DTypeError, "w must hold numbers, got bool"),
        (np.array([1.0, np.nan, np.inf]), bp.DataError,
         "w holds 1 NaN and 1 infinite values among 3; the first is nan at index (11,); remove or impute them"),
        (np.array([1.0, -0.5]), bp.DataError, "w must be at least 0; 1 of 2 are not, the first is -0.5 at index 11"),
        (np.zeros(3), bp.DataError, "w is 0 for all 3 samples; there is nothing to learn from"),
    ],
)  # fmt: skip
def test_sample_weights_are_checked(weight: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        checks.check_weights(weight, "w", 10)


def test_good_sample_weights_pass(backend: bp.Backend) -> None:
    checks.check_weights(backend.asarray(np.array([0.0, 1.0, 2.5])))
    checks.check_weights(backend.asarray(np.array([0, 3])))


def _ending_in(*last: bp.Layer) -> bp.Layer:
    return bp.Sequential(bp.Dense(4, 3), *last)


PAIRINGS: dict[str, tuple[bp.Layer, bp.Loss, list[bp.Metric], str]] = {
    "focal after softmax": (
        _ending_in(bp.Softmax()), bp.FocalLoss(), [],
        "FocalLoss applies the softmax itself, and the model ends in a Softmax: leave that out",
    ),
    "multiclass hinge after softmax": (
        _ending_in(bp.Softmax()), bp.MulticlassHinge(), [],
        "MulticlassHinge takes scores of any size, and the model ends in a Softmax: leave that out",
    ),
    "binary focal after sigmoid": (
        _ending_in(bp.Sigmoid()), bp.BinaryFocalLoss(), [],
        "BinaryFocalLoss applies the sigmoid itself, and the model ends in a Sigmoid: leave that out",
    ),
    "likelihood after softmax": (
        _ending_in(bp.Softmax()), bp.NegativeLogLikelihood(), [],
        "NegativeLogLikelihood wants log-probabilities, and the model ends in a Softmax: end it in LogSoftmax() "
        "instead",
    ),
    "KL after softmax": (
        _ending_in(bp.Softmax()), bp.KLDivergence(), [],
        "KLDivergence wants log-probabilities, and the model ends in a Softmax: end it in LogSoftmax() instead",
    ),
    "hinge and probabilities": (
        _ending_in(), bp.Hinge(), [bp.BinaryAccuracy(from_logits=False)],
        "the loss takes scores around 0, the metric does not: use BinaryAccuracy(from_logits=True)",
    ),
    "9 of 10 classes": (
        _ending_in(), bp.SoftmaxCrossEntropy(class_weight=[1, 2]), [],
        "SoftmaxCrossEntropy: class_weight has 2 numbers, the model's 3 outputs need 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "loss", "metrics", "message"), PAIRINGS.values(), ids=PAIRINGS)
def test_losses_that_do_not_fit_the_model_are_found_before_training(
    model: bp.Layer, loss: bp.Loss, metrics: list[bp.Metric], message: str
) -> None:
    x = np.random.default_rng(0).normal(size=(8, 4))
    y: Any = LABELS % 3 if loss.targets == "labels" else np.eye(3)[LABELS % 3]
    y = 2 * y - 1 if isinstance(loss, bp.Hinge) else y
    with pytest.raises(bp.ConfigError, match=f"^{re.escape(message)}$"):
        bp.Trainer(model, loss, bp.SGD(), metrics=metrics, seed=0).fit(x, y, progress=False)


@pytest.mark.parametrize("loss", [bp.NegativeLogLikelihood(), bp.KLDivergence()])
def test_outputs_that_are_no_log_probabilities_are_found_before_training(loss: bp.Loss) -> None:
    x = np.random.default_rng(0).normal(size=(8, 4))
    y: Any = LABELS % 3 if loss.targets == "labels" else np.eye(3)[LABELS % 3]
    message = r"wants log-probabilities, and the model's outputs lie between -.*: end the model in LogSoftmax\(\), or"
    with pytest.raises(bp.ConfigError, match=message):
        bp.Trainer(_ending_in(), loss, bp.SGD(), seed=0).fit(x, y, progress=False)
    right = bp.Trainer(_ending_in(bp.LogSoftmax()), loss, bp.SGD(), seed=0)
    assert len(right.fit(x, y, epochs=1, progress=False)) == 1


def test_the_trainer_takes_rows_of_probabilities_and_ignored_labels() -> None:
    x = np.random.default_rng(0).normal(size=(8, 4))
    labels = LABELS % 3
    ignored = np.where(LABELS == 3, -1, labels)
    for loss, y in (
        (bp.SoftmaxCrossEntropy(), np.eye(3)[labels]),
        (bp.SoftmaxCrossEntropy(ignore_index=-1), ignored),
    ):
        trainer = bp.Trainer(_ending_in(), loss, bp.SGD(0.1), seed=0)
        history = trainer.fit(x, y, epochs=5, progress=False)
        assert history.rows[-1]["loss"] < history.rows[0]["loss"]
    with pytest.raises(bp.DataError, match=r"^y holds 2 labels outside 0 ... 2, .* the first is -1 at index 3$"):
        bp.Trainer(_ending_in(), bp.SoftmaxCrossEntropy(), bp.SGD(), seed=0).fit(x, ignored, progress=False)
    wrong = np.eye(3)[labels]
    wrong[5] *= 2
    with pytest.raises(bp.DataError, match=r"^y holds 1 rows that are no probabilities: .* at index 5, has the sum 2$"):
        bp.Trainer(_ending_in(), bp.SoftmaxCrossEntropy(), bp.SGD(), seed=0).fit(x, wrong, progress=False)
    with pytest.raises(bp.DTypeError, match=r"must hold integer class labels, got float64; use y.astype\(int\)"):
        bp.Trainer(_ending_in(), bp.SoftmaxCrossEntropy(), bp.SGD(), seed=0).fit(x, labels * 1.0, progress=False)


def test_a_loss_of_ones_own_gets_weights_and_reductions_from_the_base() -> None:
    @bp.kernel
    def cubed(y: Any, t: Any) -> Any:
        return bp.namespace(y).abs(y - t) ** 3

    @bp.kernel
    def cubed_backward(dl: Any, y: Any, t: Any) -> Any:
        return dl * 3 * (y - t) * bp.namespace(y).abs(y - t)

    class MeanCubedError(bp.Loss):
        op, op_backward = cubed, cubed_backward

    try:
        y, t, w = np.array([[1.0, 2.0], [0.0, -1.0]]), np.zeros((2, 2)), np.array([3.0, 1.0])
        loss = MeanCubedError()
        assert loss.forward(y, t, None, w) == (3 * 9 + 1) / 8
        np.testing.assert_array_equal(loss.backward(), np.array([[9.0, 36.0], [0.0, -3.0]]) / 8)
        np.testing.assert_array_equal(MeanCubedError(reduction="none")(y, t), [[1.0, 8.0], [0.0, 1.0]])
        x = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
        trainer = bp.Trainer(bp.Dense(4, 2), loss, bp.SGD(0.1), seed=0)
        history = trainer.fit(x, x[:, :2], epochs=20, batch_size=8, progress=False)
        assert history.rows[-1]["loss"] < 0.1 * history.rows[0]["loss"]
        assert "planned, " in trainer.plan_report()
    finally:
        from bpnet import dispatch

        dispatch._KERNELS.remove(cubed)
        dispatch._KERNELS.remove(cubed_backward)


@pytest.mark.parametrize("loss", [bp.SoftmaxCrossEntropy(), bp.SoftmaxCrossEntropy(class_weight=[1, 2, 3])])
@pytest.mark.parametrize("scale", [np.float32(2), np.float64(2), np.int64(2)])
def test_a_number_of_an_array_library_is_a_scale_like_pythons(loss: bp.Loss, scale: Any) -> None:
    logits, labels = np.arange(6.0).reshape(2, 3), np.array([0, 2])
    gradients = []
    for each in (2, scale):
        loss.forward(logits, labels)
        gradients.append(loss.backward(each))
    np.testing.assert_array_equal(*gradients)
    assert gradients[1].dtype == np.float64
