"""The estimators for scikit-learn: its common checks, its own MLPs as the reference, and what users do with both."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from conftest import read_only, why_no_gpu
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_digits, make_classification, make_multilabel_classification, make_regression
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from sklearn.inspection import permutation_importance
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.estimator_checks import parametrize_with_checks

import bpnet as bp
from benchmarks import grid_search
from bpnet.sklearn import BPClassifier, BPRegressor

# A few epochs end before convergence; that this is said, and when, has a test of its own.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def small_model(n_in: int, n_out: int) -> bp.Layer:
    return bp.Sequential(bp.Dense(n_in, 9), bp.Tanh(), bp.Dense(9, n_out))


class SmallModel:
    """The same as an object, whose name in a test's id has no address in it."""

    def __call__(self, n_in: int, n_out: int) -> bp.Layer:
        return small_model(n_in, n_out)

    def __repr__(self) -> str:
        return "SmallModel()"


# Beside the defaults: every kind of output, of loss and of optimizer. What makes two fits differ by its very meaning
# cannot be here: warm_start, parts of the data drawn at random (early_stopping), dropout.
CONFIGURATIONS = [
    BPClassifier(),
    BPRegressor(),
    BPClassifier((8, 8), "tanh", solver="sgd", learning_rate_init=0.05, label_smoothing=0.1, backend="numpy"),
    BPClassifier((), solver="adamw", loss="hinge", learning_rate_init=0.01),
    BPClassifier((16,), "gelu", loss="focal", learning_rate_init=0.01, max_iter=100, shuffle=False),
    BPClassifier(loss=bp.BinaryCrossEntropy(), solver=bp.Adam(0.01, clip_norm=1.0)),
    BPRegressor(20, "logistic", solver="rmsprop", loss="huber", learning_rate_init=0.01),
    BPRegressor(model=SmallModel(), alpha=0.1, learning_rate_init=bp.Cosine(0.05, steps=200)),
    BPClassifier((5,), backend="strict", learning_rate_init=0.05, max_iter=30),
]


@parametrize_with_checks(CONFIGURATIONS)
def test_common_check(estimator: Any, check: Any) -> None:
    if getattr(check, "keywords", {}).get("array_namespace") == "cupy" and (reason := why_no_gpu()):
        pytest.skip(f"no GPU: {reason}")  # scikit-learn itself skips this check only where CuPy is not installed
    check(estimator)


def blobs(n: int = 120, n_classes: int = 3, seed: int = 0, share: float | None = None) -> tuple[Any, Any]:
    """(n, 6) features and their classes, read-only; share : of class 0, where the classes are not as many."""
    x, y = make_classification(
        n,
        6,
        n_informative=4,
        n_redundant=0,
        n_classes=n_classes,
        weights=None if share is None else [share],
        flip_y=0.02,
        random_state=seed,
    )
    return read_only(x), read_only(y)


def line(n: int = 120, n_targets: int = 1) -> tuple[Any, Any]:
    x, y = make_regression(n, 5, n_informative=3, n_targets=n_targets, noise=1.0, random_state=0)
    return read_only(x), read_only(y / y.std())


def values(estimator: Any) -> Any:
    """All parameters of the fitted model in one host array."""
    return np.concatenate([bp.to_numpy(p.value).ravel() for p in estimator.model_.parameters().values()])


# --- the mathematics is that of scikit-learn's own MLPs ---


class Start:
    """A model function that gives every Dense the weights that scikit-learn's network has."""

    def __init__(self, theirs: Any, last: bp.Layer | None = None) -> None:
        self.coefs, self.intercepts = copy.deepcopy(theirs.coefs_), copy.deepcopy(theirs.intercepts_)

    def __call__(self, n_in: int, n_out: int) -> bp.Layer:
        layers: list[bp.Layer] = []
        for w in self.coefs:
            layers += [bp.Dense(*w.shape), bp.Tanh()]
        model = bp.Sequential(*layers[:-1]).initialize(dtype="float64")
        for layer, w, b in zip(layers[::2], self.coefs, self.intercepts, strict=True):
            layer.weight.value, layer.bias.value = w, b  # type: ignore[attr-defined]
        assert layers[-2].n_out == n_out  # type: ignore[attr-defined]
        return model


def same_start(theirs: Any, x: Any, y: Any, **settings: Any) -> Any:
    """Scikit-learn's estimator with its first weights, which `fit` with warm_start goes on from."""
    theirs.set_params(max_iter=1, learning_rate_init=1e-300, warm_start=True, shuffle=False, **settings).fit(x, y)
    theirs.loss_curve_, theirs.best_loss_ = [], np.inf
    return theirs


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch_size", [40, "auto"])
@pytest.mark.parametrize(
    ("solver", "rate", "tolerance"), [("sgd", 0.1, 1e-11), ("adam", 0.01, 1e-8)], ids=["sgd", "adam"]
)
def test_weights_and_losses_are_those_of_the_mlp_classifier(
    n_classes: int, weighted: bool, batch_size: Any, solver: str, rate: float, tolerance: float
) -> None:
    x, y = blobs(120, n_classes)
    weight = np.random.default_rng(0).uniform(0.1, 3, 120) if weighted else None
    common: dict[str, Any] = {"solver": solver, "alpha": 0.5, "batch_size": batch_size, "tol": 0.0, "random_state": 0}
    common["epsilon"] = 1e-14  # theirs stands beside the root of v, ours beside that of v corrected for its bias
    theirs = same_start(MLPClassifier((7, 5), "tanh", **common), x, y)
    ours = BPClassifier(model=Start(theirs), learning_rate_init=rate, max_iter=15, shuffle=False, **common)
    theirs.set_params(max_iter=15, learning_rate_init=rate).fit(x, y, weight)
    ours.fit(x, y, weight)
    if weighted and batch_size == 40:
        # Theirs divides the penalty by the present batch's weight, ours by that of an average batch.
        tolerance = 5e-3
    elif not weighted:
        np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=max(tolerance, 1e-10))
    for mine, reference in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=tolerance)
    assert (ours.n_layers_, ours.n_outputs_, ours.out_activation_, ours.n_iter_) == (
        theirs.n_layers_, theirs.n_outputs_, theirs.out_activation_, theirs.n_iter_,
    )  # fmt: skip


@pytest.mark.parametrize("n_targets", [1, 2])
def test_weights_are_those_of_the_mlp_regressor_whose_loss_is_half_of_ours(n_targets: int) -> None:
    x, y = line(n_targets=n_targets)
    common: dict[str, Any] = {"solver": "sgd", "tol": 0.0, "random_state": 0, "momentum": 0.5}
    theirs = same_start(MLPRegressor(hidden_layer_sizes=6, activation="tanh", alpha=0.2, **common), x, y)
    # Theirs is the sum over the outputs of the mean of e^2 / 2, and ours the mean over both of e^2.
    half = n_targets / 2
    ours = BPRegressor(model=Start(theirs), learning_rate_init=0.05 * half, alpha=0.2 / half, max_iter=20, **common)
    theirs.set_params(max_iter=20, learning_rate_init=0.05).fit(x, y)
    ours.set_params(shuffle=False).fit(x, y)
    for mine, reference in zip(ours.coefs_, theirs.coefs_, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), rtol=1e-9)
    assert ours.score(x, y) == pytest.approx(theirs.score(x, y), abs=1e-9)


def test_a_fit_is_that_of_a_trainer_with_the_same_seed() -> None:
    x, y = blobs()
    seed = int(check_random_state(3).randint(np.iinfo(np.int32).max))
    ours = BPClassifier((8,), alpha=0.0, dropout=0.25, batch_size=32, max_iter=4, random_state=3).fit(x, y)
    start = "glorot_uniform"
    model = bp.Sequential(
        bp.Dense(6, 8, weight_initializer=start), bp.ReLU(), bp.Dropout(0.25), bp.Dense(8, 3, weight_initializer=start)
    )
    trainer = bp.Trainer(model.initialize(seed, dtype="float64"), bp.SoftmaxCrossEntropy(), bp.Adam(), seed=seed)
    history = trainer.fit(x, y, epochs=4, batch_size=32, progress=False)
    np.testing.assert_array_equal(values(ours), np.concatenate([p.value.ravel() for p in model.parameters().values()]))
    assert ours.loss_curve_ == history["loss"] == ours.history_["loss"]
    assert ours.t_ == 4 * 120


# --- weights ---


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=24, max_size=24).filter(lambda counts: sum(counts[:3]) > 2), st.booleans())
def test_a_sample_of_weight_3_is_three_samples_and_one_of_weight_0_none(counts: list[int], balanced: bool) -> None:
    x, y = blobs(24)
    y = np.where(np.arange(24) < 3, np.arange(24), y)  # every class is there
    counts = [max(count, 1) if index < 3 else count for index, count in enumerate(counts)]
    estimator = BPClassifier((6,), learning_rate_init=0.05, max_iter=20, random_state=0, alpha=0.1)
    estimator.set_params(class_weight="balanced" if balanced else None)
    weighted = clone(estimator).fit(x, y, counts)
    repeated = clone(estimator).fit(x.repeat(counts, axis=0), y.repeat(counts))
    np.testing.assert_allclose(weighted.predict_proba(x), repeated.predict_proba(x), rtol=1e-7)
    np.testing.assert_allclose(weighted.loss_curve_, repeated.loss_curve_, rtol=1e-9)


def test_balanced_classes_raise_balanced_accuracy_where_one_is_rare() -> None:
    x, y = make_classification(900, 8, n_informative=4, weights=[0.93], flip_y=0, class_sep=1.0, random_state=1)
    train, test = slice(0, 600), slice(600, None)
    scores = []
    for class_weight in (None, "balanced", {0: 1.0, 1: 20.0}):
        estimator = BPClassifier((16,), class_weight=class_weight, max_iter=40, random_state=0)
        scores.append(balanced_accuracy_score(y[test], estimator.fit(x[train], y[train]).predict(x[test])))
    assert min(scores[1:]) > scores[0] + 0.05


def test_class_weights_are_sample_weights_by_the_class() -> None:
    x, y = blobs()
    names = np.array(["ant", "bee", "cat"])[y]
    by_class = {"ant": 1.0, "bee": 0.5, "cat": 4.0, "dog": 9.0}  # an animal that is not in this data
    estimator = BPClassifier(4, max_iter=5, random_state=0)
    own = np.linspace(0.5, 1, len(y))
    expected = clone(estimator).fit(x, names, own * np.array([by_class[name] for name in names]))
    found = clone(estimator).set_params(class_weight=by_class).fit(x, names, own)
    np.testing.assert_array_equal(values(found), values(expected))


def test_early_stopping_scores_with_the_weights() -> None:
    x, y = blobs(200, 2)
    weight = np.where(y == 1, 1.0, 1e-6)  # only one class counts, and is soon always right
    estimator = BPClassifier(4, early_stopping=True, validation_fraction=0.3, max_iter=60, random_state=0)
    estimator.set_params(learning_rate_init=0.05).fit(x, y, weight)
    assert estimator.best_validation_score_ > 0.999


# --- going on ---


def test_partial_fit_repeated_is_a_fit_of_as_many_epochs() -> None:
    x, y = blobs()
    whole = BPClassifier(8, batch_size=32, max_iter=5, random_state=0, dropout=0.2, tol=0.0).fit(x, y)
    parts = BPClassifier(8, batch_size=32, random_state=0, dropout=0.2)
    for _ in range(5):
        parts.partial_fit(x, y, classes=[0, 1, 2])
    np.testing.assert_array_equal(values(parts), values(whole))
    assert parts.loss_curve_ == whole.loss_curve_
    assert (parts.n_iter_, parts.t_, whole.n_iter_) == (1, 5 * 120, 5)


@pytest.mark.parametrize("solver", ["sgd", "adam", bp.RMSprop(0.01, average=0.9)])
def test_warm_start_goes_on_with_the_optimizers_state_also_after_pickling(solver: Any) -> None:
    x, y = line()
    whole = BPRegressor(8, solver=solver, max_iter=6, random_state=0, batch_size=50).fit(x, y)
    parts = BPRegressor(8, solver=solver, max_iter=3, random_state=0, batch_size=50, warm_start=True).fit(x, y)
    expected = parts.predict(x)
    parts = pickle.loads(pickle.dumps(copy.deepcopy(parts)))
    np.testing.assert_array_equal(parts.predict(x), expected)
    parts = pickle.loads(pickle.dumps(parts))  # before anything has asked for what was waiting
    parts.fit(x, y)
    np.testing.assert_array_equal(values(parts), values(whole))
    np.testing.assert_array_equal(parts.predict(x), whole.predict(x))
    assert parts.loss_curve_ == whole.loss_curve_


def test_without_warm_start_a_fit_begins_anew() -> None:
    x, y = blobs()
    estimator = BPClassifier(8, max_iter=3, random_state=0).fit(x, y)
    first = values(estimator)
    np.testing.assert_array_equal(values(estimator.fit(x, y)), first)
    assert len(estimator.loss_curve_) == 3


def test_where_training_goes_on_the_learning_rate_may_change_and_the_model_may_not() -> None:
    x, y = blobs()
    estimator = BPClassifier(8, max_iter=3, random_state=0, warm_start=True).fit(x, y)
    before = values(estimator)
    estimator.set_params(learning_rate_init=1e-12).fit(x, y)
    np.testing.assert_allclose(values(estimator), before, atol=1e-9)
    for name, value in (("label_smoothing", 0.5), ("dtype", "float32"), ("loss", "focal")):
        with pytest.raises(bp.ConfigError, match=f"^{name} was .* when the training began"):
            copy.deepcopy(estimator).set_params(**{name: value}).fit(x, y)
    estimator.set_params(hidden_layer_sizes=(9,))
    with pytest.raises(bp.ConfigError) as error:
        estimator.fit(x, y)
    assert str(error.value) == (
        "hidden_layer_sizes was (8,) when the training began, and is (9,) now: it cannot change where partial_fit or "
        "warm_start=True goes on; set it back, or clone the estimator"
    )
    assert len(estimator.set_params(warm_start=False).fit(x, y).coefs_[0][0]) == 9


def test_partial_fit_meets_classes_later_that_were_announced() -> None:
    x, y = blobs()
    order = np.argsort(y, kind="stable")
    estimator = BPClassifier(16, random_state=0, learning_rate_init=0.02)
    for _ in range(30):
        for rows in np.array_split(order, 6):
            estimator.partial_fit(x[rows], y[rows], classes=np.array([2, 0, 1]))
    assert estimator.classes_.tolist() == [0, 1, 2]
    assert estimator.score(x, y) > 0.6


# --- convergence ---


def test_early_stopping_keeps_the_best_weights_and_the_shares_of_the_classes() -> None:
    x, y = blobs(300, 2, share=0.8)
    estimator = BPClassifier(30, early_stopping=True, n_iter_no_change=4, learning_rate_init=0.1, random_state=0)
    seen: list[Any] = []

    class Watch(bp.Callback):
        def on_fit_start(self, trainer: Any, names: Any) -> None:
            assert "val_loss" in names

        def on_epoch_end(self, trainer: Any, row: Any) -> None:
            seen.append(np.concatenate([p.value.ravel().copy() for p in trainer.model.parameters().values()]))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator.set_params(callbacks=[Watch()]).fit(x, y)
    scores = estimator.validation_scores_
    assert len(scores) == estimator.n_iter_ == len(seen) < 200
    assert estimator.best_validation_score_ == max(scores)
    np.testing.assert_array_equal(values(estimator), seen[int(np.argmax(scores))])
    assert estimator.best_loss_ is None
    assert estimator.history_.stopped == "the validation score did not improve by 0.0001 for 5 epochs"
    assert estimator.t_ == 270 * estimator.n_iter_


def test_early_stopping_of_a_regressor_watches_r2() -> None:
    x, y = line(200, 2)
    estimator = BPRegressor(30, early_stopping=True, learning_rate_init=0.02, random_state=0).fit(x, y)
    assert estimator.best_validation_score_ > 0.9
    assert estimator.validation_scores_[-1] <= estimator.best_validation_score_


def test_a_fit_that_converges_says_nothing_and_one_that_does_not_warns() -> None:
    x, y = blobs(60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = BPClassifier(4, tol=10.0, n_iter_no_change=3, random_state=0).fit(x, y)
        BPClassifier(4, random_state=0).partial_fit(x, y, classes=[0, 1, 2])
    assert done.n_iter_ == 5  # the first is better than nothing; then the fourth that is not is one too many
    assert done.best_loss_ == min(done.loss_curve_)
    assert done.validation_scores_ is None
    with pytest.warns(ConvergenceWarning) as caught:
        BPClassifier(4, max_iter=2, random_state=0).fit(x, y)
    assert str(caught[0].message) == (
        "BPClassifier: max_iter=2 epochs were made, and the training has not converged (n_iter_no_change=10 epochs "
        "that improve by less than tol=0.0001)"
    )
    assert caught[0].filename == __file__


def test_callbacks_of_bpnet_may_end_a_fit() -> None:
    x, y = blobs()
    stop = bp.callbacks.EarlyStopping("loss", patience=1, min_delta=10.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator = BPClassifier(4, callbacks=[stop], random_state=0).fit(x, y)
    assert estimator.n_iter_ < 5
    assert estimator.history_.stopped


# --- models, losses, outputs ---


def test_a_layer_is_a_template_and_what_a_function_returns_is_taken_as_it_is() -> None:
    x, y = blobs()
    layer = small_model(6, 3)
    before = layer.initialize(seed=7).layers[0].weight.value.copy()  # type: ignore[attr-defined]
    estimator = BPClassifier(model=layer, max_iter=2, random_state=0).fit(x, y)
    again = clone(estimator).fit(x, y)
    np.testing.assert_array_equal(values(again), values(estimator))
    np.testing.assert_array_equal(layer.layers[0].weight.value, before)  # type: ignore[attr-defined]
    trained = BPClassifier(model=lambda n_in, n_out: copy.deepcopy(estimator.model_), max_iter=1, solver="sgd")
    trained.set_params(learning_rate_init=1e-12).fit(x, y)
    np.testing.assert_allclose(values(trained), values(estimator), atol=1e-9)


def test_a_users_own_penalties_stay_beside_alpha() -> None:
    x, y = blobs()

    def model(n_in: int, n_out: int) -> bp.Layer:
        made = small_model(n_in, n_out)
        made.parameters()["0.weight"].l2 = 0.25
        return made

    estimator = BPClassifier(model=model, alpha=12.0, max_iter=2, random_state=0).fit(x, y)
    found = {path: parameter.l2 for path, parameter in estimator.model_.parameters().items()}
    assert found == {"0.weight": 0.25 + 12 / 240, "0.bias": 0.0, "2.weight": 12 / 240, "2.bias": 0.0}


@pytest.mark.parametrize("loss", ["log_loss", "focal", bp.BinaryCrossEntropy(), bp.SoftmaxCrossEntropy()], ids=str)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_probabilities_sum_to_1_and_their_logarithms_and_scores_agree(loss: Any, n_classes: int) -> None:
    x, y = blobs(n_classes=n_classes)
    estimator = BPClassifier(16, loss=loss, max_iter=60, learning_rate_init=0.02, random_state=0).fit(x, y)
    p, scores = estimator.predict_proba(x), estimator.decision_function(x)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(np.exp(estimator.predict_log_proba(x)), p, rtol=1e-12)
    np.testing.assert_array_equal(estimator.predict(x), p.argmax(axis=1))
    assert scores.shape == ((120,) if n_classes == 2 else (120, 3))
    np.testing.assert_array_equal(scores > 0 if n_classes == 2 else scores.argmax(axis=1), p.argmax(axis=1))
    assert estimator.score(x, y) > 0.75


def test_losses_on_probabilities_and_on_their_logarithms_are_read_as_such() -> None:
    x, y = blobs()

    def ends_in(layer: type[bp.Layer]) -> Any:
        return lambda n_in, n_out: bp.Sequential(bp.Dense(n_in, n_out), layer())

    found = []
    for loss, last in ((bp.CategoricalCrossEntropy(), bp.Softmax), (bp.NegativeLogLikelihood(), bp.LogSoftmax)):
        estimator = BPClassifier(model=ends_in(last), loss=loss, max_iter=30, random_state=0).fit(x, y)
        assert estimator.out_activation_ == "identity"
        np.testing.assert_allclose(np.exp(estimator.predict_log_proba(x)), estimator.predict_proba(x), rtol=1e-12)
        found.append(estimator.predict_proba(x))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
    two = BPClassifier(model=ends_in(bp.Sigmoid), loss=bp.BinaryCrossEntropy(from_logits=False), max_iter=50)
    two.set_params(random_state=0, learning_rate_init=0.05).fit(x, y > 0)
    np.testing.assert_array_equal(two.predict(x), two.predict_proba(x)[:, 1] > 0.5)
    assert two.classes_.tolist() == [False, True]


def test_logarithms_of_probabilities_are_exact_where_those_vanish() -> None:
    x, y = blobs(n_classes=2)
    estimator = BPClassifier(model=lambda i, o: bp.Dense(i, o), max_iter=1, random_state=0).fit(x, y)
    far = x[:1] * 1e6
    z = float(estimator.decision_function(far)[0])
    assert abs(z) > 1000
    np.testing.assert_allclose(estimator.predict_log_proba(far)[0], [-max(z, 0), min(z, 0)], rtol=1e-12)


def test_hinge_has_scores_and_no_probabilities() -> None:
    x, y = blobs()
    for target in (y, y > 0):
        estimator = BPClassifier(loss="hinge", max_iter=40, learning_rate_init=0.02, random_state=0).fit(x, target)
        assert not hasattr(estimator, "predict_proba")
        assert estimator.score(x, target) > 0.7
    with pytest.raises(AttributeError) as error:
        _ = estimator.predict_proba
    assert str(error.value.__cause__) == (
        "scores that were trained with loss='hinge' are no probabilities; use decision_function"
    )


@pytest.mark.parametrize("loss", ["log_loss", "hinge", "focal"])
def test_several_labels_of_which_any_may_hold(loss: str) -> None:
    x, y = make_multilabel_classification(200, 8, n_classes=4, n_labels=2, allow_unlabeled=False, random_state=0)
    x = StandardScaler().fit_transform(x)
    estimator = BPClassifier(32, loss=loss, max_iter=80, learning_rate_init=0.02, random_state=0, early_stopping=True)
    estimator.fit(x, sparse.csr_array(y))
    found = estimator.predict(x)
    assert found.shape == y.shape
    assert (found == y).mean() > 0.8
    assert estimator.classes_.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(found, estimator.decision_function(x) > 0)
    if loss != "hinge":
        np.testing.assert_array_equal(found, estimator.predict_proba(x) > 0.5)
    again = clone(estimator).set_params(early_stopping=False, class_weight="balanced", max_iter=2)
    assert again.fit(x, y).partial_fit.__self__ is again


def test_a_classifier_of_one_class_is_sure() -> None:
    x, _ = blobs(30)
    estimator = BPClassifier(3, random_state=0).fit(x, np.full(30, "only"))
    assert set(estimator.predict(x)) == {"only"}
    np.testing.assert_array_equal(estimator.predict_proba(x), np.ones((30, 1)))


def test_counts_are_predicted_by_a_poisson_loss() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    y = rng.poisson(np.exp(0.5 + x[:, 0]))
    estimator = BPRegressor(16, loss="poisson", max_iter=100, learning_rate_init=0.02, random_state=0).fit(x, y)
    assert estimator.out_activation_ == "exponential"
    assert (estimator.predict(x) > 0).all()
    assert estimator.predict(x).mean() == pytest.approx(y.mean(), rel=0.05)


def test_a_column_as_y_is_taken_as_one_axis_with_scikit_learns_warning() -> None:
    x, y = line()
    with pytest.warns(DataConversionWarning):
        estimator = BPRegressor(3, max_iter=1, random_state=0).fit(x, y[:, None])
    assert estimator.predict(x).shape == (120,)


# --- dtypes, libraries, sparse data ---


@pytest.mark.parametrize(("given", "asked", "found"), [
    ("float32", "auto", "float32"), ("float64", "auto", "float64"), ("int64", "auto", "float64"),
    ("float64", "float32", "float32"), ("float32", "float64", "float64"),
])  # fmt: skip
def test_the_dtype_is_that_of_x_unless_one_is_asked_for(given: str, asked: str, found: str) -> None:
    x, y = blobs()
    estimator = BPClassifier(4, max_iter=2, dtype=asked, random_state=0).fit((x * 10).astype(given), y)
    assert estimator.model_.store.dtype == found
    assert str(estimator.predict_proba((x * 10).astype(given)).dtype) == found


def test_sparse_data_give_what_dense_data_give_and_are_never_dense_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((600, 40)) < 0.05, rng.normal(size=(600, 40)), 0)
    y = (dense[:, :5].sum(axis=1) > 0).astype(int)
    weight = rng.integers(0, 3, 600)
    largest = []
    toarray = sparse.csr_array.toarray

    def watched(self: Any, *args: Any, **keywords: Any) -> Any:
        largest.append(self.shape[0])
        return toarray(self, *args, **keywords)

    estimator = BPClassifier(8, batch_size=64, max_iter=4, random_state=0, early_stopping=True)
    expected = clone(estimator).fit(dense, y, weight)
    monkeypatch.setattr(sparse.csr_array, "toarray", watched)
    for kind in (sparse.csr_array, sparse.csc_array):
        found = clone(estimator).fit(kind(dense), y, weight)
        np.testing.assert_allclose(values(found), values(expected), rtol=1e-9)
        np.testing.assert_allclose(found.predict_proba(kind(dense)), expected.predict_proba(dense), rtol=1e-9)
    assert 0 < max(largest) <= 256
    assert found.partial_fit is not None
    with pytest.raises(ValueError, match="contains NaN"):
        found.predict(sparse.csr_array(np.full((2, 40), np.nan)))


STRICT = pytest.importorskip("array_api_strict")


@pytest.mark.parametrize("device", ["CPU_DEVICE", "device1"])
@pytest.mark.parametrize("backend", [None, "numpy", "strict", "strict:device1"])
def test_arrays_of_another_library_are_answered_in_kind(backend: str | None, device: str) -> None:
    x, y = blobs()
    place = STRICT.Device(device)
    their_x, their_y = STRICT.asarray(np.array(x), device=place), STRICT.asarray(np.array(y) * 2 - 1, device=place)
    weight = np.linspace(0, 1, 120)
    settings: dict[str, Any] = {"hidden_layer_sizes": 6, "max_iter": 4, "random_state": 0, "early_stopping": True}
    expected = BPClassifier(**settings).fit(x, y * 2 - 1, weight)
    found = BPClassifier(backend=backend, **settings).fit(their_x, their_y, STRICT.asarray(weight, device=place))
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        answer = getattr(found, method)(their_x)
        assert isinstance(answer, type(their_x))
        assert answer.device == place
        np.testing.assert_allclose(bp.to_numpy(answer.to_device(STRICT.Device("CPU_DEVICE"))),
                                   getattr(expected, method)(x), rtol=1e-9)  # fmt: skip
    assert found.classes_.device == place
    assert found.score(their_x, their_y) == expected.score(x, y * 2 - 1)
    assert isinstance(found.predict(x), np.ndarray)
    np.testing.assert_array_equal(found.predict(x), expected.predict(x))


def test_truth_values_of_another_library_are_labels() -> None:
    x, y = make_multilabel_classification(80, 6, n_classes=3, random_state=0)
    x, estimator = StandardScaler().fit_transform(x), BPClassifier(6, max_iter=5, random_state=0)
    expected = clone(estimator).fit(x, y)
    for target in (STRICT.asarray(y == 1), STRICT.asarray(y)):
        found = clone(estimator).fit(STRICT.asarray(x), target).predict(STRICT.asarray(x))
        np.testing.assert_array_equal(bp.to_numpy(found), expected.predict(x))
    two = clone(estimator).fit(STRICT.asarray(x), STRICT.asarray(y[:, 0] == 1))
    assert bp.to_numpy(two.classes_).tolist() == [False, True]
    assert two.predict(STRICT.asarray(x)).dtype == STRICT.bool


def test_regression_on_another_library_with_several_outputs() -> None:
    x, y = line(n_targets=2)
    found = BPRegressor(6, max_iter=30, random_state=0).fit(STRICT.asarray(np.array(x)), STRICT.asarray(np.array(y)))
    expected = BPRegressor(6, max_iter=30, random_state=0).fit(x, y)
    answer = found.predict(STRICT.asarray(np.array(x)))
    np.testing.assert_allclose(bp.to_numpy(answer), expected.predict(x), rtol=1e-8)
    assert found.score(STRICT.asarray(np.array(x)), STRICT.asarray(np.array(y))) == pytest.approx(expected.score(x, y))


@pytest.mark.lenient  # strict mode compares arrays on the host
def test_arrays_that_are_where_the_model_is_never_come_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = bp.get_backend("strict")
    x, y = blobs(300)
    their_x, their_y = STRICT.asarray(np.array(x)), STRICT.asarray(np.array(y))
    sizes = []
    to_numpy, asarray = type(backend).to_numpy, type(backend).asarray

    def down(self: Any, array: Any) -> Any:
        sizes.append(array.size)
        return to_numpy(self, array)

    def up(self: Any, array: Any, dtype: str | None = None) -> Any:
        sizes.append(0 if isinstance(array, self.array_type) else np.size(array))
        return asarray(self, array, dtype)

    monkeypatch.setattr(type(backend), "to_numpy", down)
    monkeypatch.setattr(type(backend), "asarray", up)
    estimator = BPClassifier(4, max_iter=3, random_state=0).fit(their_x, their_y)
    answers = estimator.predict_proba(their_x), estimator.predict(their_x)
    assert estimator.model_.backend is backend
    assert all(isinstance(each, type(their_x)) for each in answers)
    assert max(sizes) < 300  # the parameters lie in 256 numbers


def test_tensors_of_pytorch_train_on_its_backend_and_are_answered_as_such() -> None:
    torch = pytest.importorskip("torch")
    x, y = blobs(200)
    estimator = BPClassifier(8, max_iter=10, random_state=0, early_stopping=True)
    expected = clone(estimator).fit(x, y)
    their_x, their_y = torch.from_numpy(np.array(x)), torch.from_numpy(np.array(y))
    found = clone(estimator).fit(their_x, their_y)
    assert found.model_.backend.name == "torch"
    assert isinstance(found.predict(their_x), torch.Tensor)
    np.testing.assert_allclose(found.predict_proba(their_x).numpy(), expected.predict_proba(x), rtol=1e-8)
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.predict_proba(x), found.predict_proba(x))
    assert found.score(their_x, their_y) == expected.score(x, y)


@pytest.mark.gpu
def test_cupy_arrays_train_on_the_gpu_and_are_answered_there() -> None:
    import cupy

    x, y = blobs(300)
    estimator = BPClassifier(16, max_iter=20, random_state=0, early_stopping=True).fit(cupy.asarray(x), cupy.asarray(y))
    assert estimator.model_.backend.name.startswith("cupy")
    assert isinstance(estimator.predict(cupy.asarray(x)), cupy.ndarray)
    assert isinstance(estimator.predict_proba(cupy.asarray(x)), cupy.ndarray)
    assert isinstance(estimator.predict(x), np.ndarray)
    expected = BPClassifier(16, max_iter=20, random_state=0, early_stopping=True).fit(x, y)
    np.testing.assert_allclose(estimator.predict_proba(x), expected.predict_proba(x), atol=1e-6)
    assert estimator.score(cupy.asarray(x), cupy.asarray(y)) == pytest.approx(expected.score(x, y), abs=0.02)
    again = pickle.loads(pickle.dumps(estimator))
    again.model_.to("numpy")
    np.testing.assert_allclose(again.predict_proba(x), expected.predict_proba(x), atol=1e-6)


# --- in scikit-learn's company ---


def test_pipeline_grid_search_and_folds_in_two_processes() -> None:
    x, y = load_digits(return_X_y=True)
    x, y = x[:500], y[:500]
    pipeline = make_pipeline(StandardScaler(), BPClassifier(max_iter=25, random_state=0, dtype="float32"))
    grid = {"bpclassifier__hidden_layer_sizes": [(16,), (32, 16)], "bpclassifier__learning_rate_init": [0.001, 0.01]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search = GridSearchCV(pipeline, grid, cv=3, n_jobs=2, error_score="raise").fit(x, y)
        alone = GridSearchCV(pipeline, grid, cv=3, error_score="raise").fit(x, y)
    assert search.best_params_ == alone.best_params_
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])
    assert search.best_score_ > 0.85


def test_meta_estimators_work() -> None:
    x, y = blobs(200)
    estimator = BPClassifier(16, max_iter=40, learning_rate_init=0.02, random_state=0)
    assert cross_val_score(estimator, x, y, cv=3).mean() > 0.7
    calibrated = CalibratedClassifierCV(estimator, cv=2).fit(x, y)
    np.testing.assert_allclose(calibrated.predict_proba(x).sum(axis=1), 1)
    bagged = BaggingClassifier(estimator, n_estimators=2, random_state=0).fit(x, y)
    assert bagged.score(x, y) > 0.7
    several = MultiOutputClassifier(estimator).fit(x, np.stack([y, y > 0], axis=1))
    assert several.predict(x).shape == (200, 2)
    importance = permutation_importance(estimator.fit(x, y), x, y, n_repeats=2, random_state=0)
    assert importance.importances_mean.max() > 0.05
    x, y = line()
    scaled = TransformedTargetRegressor(BPRegressor(16, max_iter=80, learning_rate_init=0.02, random_state=0))
    assert scaled.set_params(transformer=StandardScaler()).fit(x, y * 1000 + 5).score(x, y * 1000 + 5) > 0.9


def test_sample_weights_are_routed() -> None:
    from sklearn import config_context

    x, y = blobs()
    weight = np.linspace(0.1, 2, 120)
    with config_context(enable_metadata_routing=True):
        inner = BPClassifier(4, max_iter=3, random_state=0).set_fit_request(sample_weight=True)
        routed = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), inner)
        routed.fit(x, y, sample_weight=weight)
    direct = BPClassifier(4, max_iter=3, random_state=0).fit(StandardScaler().fit_transform(x), y, weight)
    np.testing.assert_array_equal(values(routed[-1]), values(direct))


def test_names_of_features_and_classes_are_kept() -> None:
    pandas = pytest.importorskip("pandas")
    x, y = blobs()
    frame = pandas.DataFrame(x, columns=list("abcdef"))
    estimator = BPClassifier(4, max_iter=2, random_state=0).fit(frame, pandas.Series(y).map({0: "x", 1: "y", 2: "z"}))
    assert estimator.feature_names_in_.tolist() == list("abcdef")
    assert set(estimator.predict(frame)) <= set("xyz")
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        estimator.predict(x)


def test_random_state_decides_everything() -> None:
    x, y = blobs()

    def fitted(random_state: Any) -> Any:
        estimator = BPClassifier(4, max_iter=2, dropout=0.5, early_stopping=True, random_state=random_state)
        return values(estimator.fit(x, y))

    np.testing.assert_array_equal(fitted(5), fitted(5))
    np.testing.assert_array_equal(fitted(np.random.RandomState(5)), fitted(5))
    assert not np.array_equal(fitted(5), fitted(6))
    assert not np.array_equal(fitted(None), fitted(None))
    state = np.random.RandomState(5)
    assert not np.array_equal(fitted(state), fitted(state))


def test_verbose_shows_the_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = blobs()
    BPClassifier(4, max_iter=2, random_state=0).fit(x, y)
    assert capsys.readouterr().out == ""
    BPClassifier(4, max_iter=2, random_state=0, verbose=True).fit(x, y)
    assert "epoch 2/2" in capsys.readouterr().out


def test_the_benchmark_searches_the_same_grid_with_both(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(grid_search, "GRID", {"network__hidden_layer_sizes": [(4,), (8,)]})
    assert grid_search.measure([0], epochs=3) in (0, 1)
    printed = capsys.readouterr().out
    for name in grid_search.NAMES:
        assert (
            len(re.findall(rf"seed 0: {name} +\d+\.\d+ s, accuracy 0\.\d+ in the folds, 0\.\d+ on the fifth", printed))
            == 1
        )


# --- mistakes ---


@pytest.mark.parametrize(("wrong", "message"), [
    ({"solver": "adan"}, "unknown solver 'adan'; known are adam, adamw, sgd, rmsprop, adagrad, lion, and any Optimizer "
     "of bpnet; did you mean 'adam'?"),
    ({"solver": bp.Adam}, "solver must be a name or an Optimizer, got the class: write Adam(...)"),
    ({"activation": "relux"}, "unknown activation 'relux'; known are identity, logistic, tanh, relu, leaky_relu, elu, "
     "gelu, silu, mish, softplus, hardswish, and with model= any layers of bpnet; did you mean 'relu'?"),
    ({"loss": "logloss"}, "unknown loss 'logloss'; known are log_loss, focal, hinge, and any Loss of bpnet; did you "
     "mean 'log_loss'?"),
    ({"loss": bp.Hinge}, "loss must be a name or a Loss, got the class: write Hinge()"),
    ({"hidden_layer_sizes": (0,)}, "hidden_layer_sizes must be whole numbers of at least 1, as in (100,) or (64, 32), "
     "got (0,); () has no hidden layer"),
    ({"hidden_layer_sizes": (3, 2.5)}, "hidden_layer_sizes must be whole numbers of at least 1, as in (100,) or "
     "(64, 32), got (3, 2.5); () has no hidden layer"),
    ({"validation_fraction": 2}, "validation_fraction must be a number in (0, 1), got 2"),
    ({"alpha": -1}, "alpha must be a number in [0, inf), got -1"),
    ({"learning_rate_init": 0}, "learning_rate_init must be a number in (0, inf), got 0"),
    ({"learning_rate_init": "fast"}, "learning_rate_init must be a number in (0, inf), got 'fast'"),
    ({"max_iter": 0}, "max_iter must be a whole number of at least 1, got 0"),
    ({"batch_size": 2.5}, 'batch_size must be a whole number of at least 1, or "auto", got 2.5'),
    ({"batch_size": "all"}, "batch_size must be \"auto\" or a whole number of at least 1, got 'all'"),
    ({"n_iter_no_change": 0}, "n_iter_no_change must be a whole number of at least 1, or infinite, got 0"),
    ({"tol": float("nan")}, "tol must be a number in [0, inf), got nan"),
    ({"dropout": 1.0}, "dropout must be a number in [0, 1), got 1.0"),
    ({"label_smoothing": 1}, "label_smoothing must be a number in [0, 1), got 1"),
    ({"label_smoothing": 0.1, "loss": "hinge"}, "label_smoothing is for loss=\"log_loss\", got loss='hinge'"),
    ({"dtype": "float16"}, "dtype must be \"auto\", \"float32\" or \"float64\", got 'float16'"),
    ({"class_weight": "balance"}, "class_weight must be None, \"balanced\" or a dict of all classes, got 'balance'"),
    ({"class_weight": {0: 1.0, 2: 3.0}}, "class_weight must weigh all 3 classes, and names 2 of them; missing: 1"),
    ({"class_weight": {0: 1.0, 1: -1.0, 2: 3.0}}, "class_weight must hold finite numbers of at least 0, not all 0, got "
     "{0: 1.0, 1: -1.0, 2: 3.0}"),
    ({"model": bp.ReLU}, "model must be a Layer, got the class ReLU: write its instance"),
    ({"model": 3}, "model must be a Layer or a function of (n_in, n_out) that makes one, got 3"),
    ({"model": len}, None),
    ({"model": bp.Dense(6, 4)}, "BPClassifier needs a model whose outputs have shape (N, 3) for this y, and the model "
     "given gives (N, 4)"),
    ({"callbacks": bp.Callback()}, "callbacks must be a list of Callbacks or None, got Callback()"),
    ({"early_stopping": True, "validation_fraction": 1e-6}, None),
], ids=str)  # fmt: skip
def test_a_wrong_parameter_is_named_with_what_is_allowed(wrong: dict[str, Any], message: str | None) -> None:
    x, y = blobs()
    estimator = BPClassifier(**wrong)
    before = dict(vars(estimator))
    with pytest.raises((ValueError, TypeError)) as error:
        estimator.fit(x, y)
    if message is not None:
        assert str(error.value) == message
        assert isinstance(error.value, bp.BpnetError)
    assert vars(estimator) == before


def test_class_weights_for_9_of_10_classes_are_refused() -> None:
    x, y = load_digits(return_X_y=True)
    with pytest.raises(bp.ConfigError, match="must weigh all 10 classes, and names 9 of them; missing: 7$"):
        BPClassifier(class_weight={digit: 1 for digit in range(10) if digit != 7}).fit(x, y)


def test_a_backend_is_named_since_estimators_are_copied() -> None:
    x, y = blobs()
    with pytest.raises(bp.ConfigError, match="backend must be the name of a backend or None, so that estimators can"):
        BPClassifier(backend=bp.get_backend("numpy")).fit(x, y)
    with pytest.raises(bp.BackendError, match="unknown backend 'numpi'"):
        BPClassifier(backend="numpi").fit(x, y)


def test_a_fit_that_fails_leaves_the_estimator_as_it_was() -> None:
    x, y = blobs()
    estimator = BPClassifier(4, max_iter=2, random_state=0).fit(x, y)
    expected = estimator.predict_proba(x)
    before = dict(vars(estimator))
    bad = np.array(x[:, :4])
    bad[3, 1] = np.nan
    for wrong_x, wrong_y, weight in ((bad, y, None), (x[:, :4], y[:50], None), (x[:, :3], y, np.zeros(120))):
        with pytest.raises(ValueError):
            estimator.fit(wrong_x, wrong_y, weight)
        assert vars(estimator) == before
    estimator.set_params(solver="sgd", learning_rate_init=1e300)
    with pytest.raises(bp.NonFiniteError):
        estimator.fit(x[:, :5], y)
    np.testing.assert_array_equal(estimator.predict_proba(x), expected)


def test_mistakes_in_the_data_are_named() -> None:
    x, y = blobs()
    estimator = BPClassifier(4, max_iter=2, random_state=0)
    with pytest.raises(NotFittedError):
        estimator.predict(x)
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        estimator.fit(x, y + 0.5)
    with pytest.raises(bp.DataError, match="holds several classes a sample.*MultiOutputClassifier"):
        estimator.fit(x, np.stack([y, y], axis=1))
    with pytest.raises(bp.DataError, match="sample_weight must be at least 0"):
        estimator.fit(x, y, np.full(120, -1.0))
    with pytest.raises(bp.ShapeError, match="one weight for each of the 120 samples, got 3"):
        estimator.fit(x, y, [1.0, 2.0, 3.0])
    estimator.fit(x, y)
    with pytest.raises(ValueError, match="X has 4 features, but BPClassifier is expecting 6 features as input"):
        estimator.predict(x[:, :4])
    with pytest.raises(ValueError, match="contains NaN"):
        estimator.predict(np.full((1, 6), np.nan))
    with pytest.raises(bp.DTypeError, match="BPRegressor needs numbers in y, got text; for classes there is BPClassif"):
        BPRegressor().fit(x, np.array(["a", "b", "c"])[y])
    with pytest.raises(bp.DataError, match="validation_fraction=0.004 of 120 samples is 1"):
        BPRegressor(early_stopping=True, validation_fraction=0.004).fit(x, y)


def test_mistakes_in_partial_fit_are_named() -> None:
    x, y = blobs()
    with pytest.raises(bp.ConfigError, match="^classes must be passed on the first call to partial_fit"):
        BPClassifier().partial_fit(x, y)
    with pytest.raises(bp.ConfigError, match='class_weight="balanced" has no meaning there'):
        BPClassifier(class_weight="balanced").partial_fit(x, y, classes=[0, 1, 2])
    with pytest.raises(bp.ConfigError, match="which early_stopping=True cannot end; use fit"):
        BPClassifier(early_stopping=True).partial_fit(x, y, classes=[0, 1, 2])
    with pytest.raises(bp.DataError, match="y holds classes that were not there when the training began: 2; known"):
        BPClassifier(max_iter=1).partial_fit(x, y, classes=[0, 1])
    begun = BPClassifier(4, random_state=0).partial_fit(x, y, classes=[0, 1, 2])
    with pytest.raises(bp.ConfigError, match="is not what it was in the first call"):
        begun.partial_fit(x, y, classes=[0, 1])
    with pytest.raises(bp.DataError, match="y had one class a sample when the training began, and has 2 columns now"):
        begun.partial_fit(x, np.stack([y > 0, y > 1], axis=1))
    numbers = BPRegressor(4, random_state=0).partial_fit(x, y)
    with pytest.raises(bp.ShapeError, match="y has 2 outputs, and had 1 when the training began"):
        numbers.partial_fit(x, np.stack([y, y], axis=1))


@pytest.mark.parametrize(("x", "y", "message"), [
    (np.zeros(4), np.zeros(4), "BPClassifier: X must have 2 axes, got an array of shape (4,); reshape it, with (-1, 1) "
     "if it has one feature, with (1, -1) if it is one sample"),
    (np.zeros((0, 4)), np.zeros(0), "BPClassifier: X of shape (0, 4) is empty; it needs a sample and a feature"),
    (np.zeros((3, 2), complex), np.zeros(3), "BPClassifier: X must hold real numbers, got dtype "
     "array_api_strict.complex128"),
    (np.zeros((3, 2)), np.zeros(4), "X holds 3 samples and y 4; they must be as many"),
    (np.zeros((3, 2)), np.array([0, 0.5, 1]), "Unknown label type: continuous. BPClassifier needs classes in y; for "
     "numbers use BPRegressor"),
    (np.zeros((3, 2)), np.array([[0, 2]] * 3), "y of shape (3, 2) must be an indicator of 0 and 1; one class a sample "
     "is (N,)"),
    (np.full((3, 2), np.nan), np.zeros(3), "X holds 6 NaN and 0 infinite values among 6; the first is nan at index "
     "(0, 0); remove or impute them"),
], ids=str)  # fmt: skip
def test_mistakes_in_arrays_of_other_libraries_are_named(x: Any, y: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as error:
        BPClassifier().fit(STRICT.asarray(x), STRICT.asarray(y))
    assert str(error.value) == message


def test_without_scikit_learn_the_extra_is_named() -> None:
    code = "import sys; sys.modules['sklearn'] = None; import bpnet; print('fine'); import bpnet.sklearn"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "fine\n"
    assert done.stderr.splitlines()[-1].startswith("bpnet.errors.MissingExtraError: bpnet.sklearn needs scikit-learn (")
    assert done.stderr.rstrip().endswith('; install it with pip install "bpnet-xp[sklearn]"')


def test_a_scikit_learn_that_is_too_old_is_named() -> None:
    code = "import sklearn; sklearn.__version__ = '1.6.1'; import bpnet.sklearn"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        "bpnet.errors.MissingExtraError: bpnet.sklearn needs scikit-learn 1.7 or newer, and this is 1.6.1; install it "
        'with pip install "bpnet-xp[sklearn]"'
    )


def test_importing_bpnet_does_not_import_scikit_learn() -> None:
    code = "import sys, bpnet; print([name for name in ('sklearn', 'scipy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", ["early_stopping", "shuffle", "warm_start", "nesterovs_momentum", "verbose"])
def test_a_text_is_no_truth_value(name: str) -> None:
    x, y = make_classification(40, random_state=0)
    with pytest.raises(bp.ConfigError, match=f"^{name} must be True or False, got 'no'$"):
        BPClassifier(**{name: "no"}).fit(x, y)


def test_callbacks_that_are_none_are_named_without_the_estimators_own() -> None:
    x, y = make_classification(40, random_state=0)
    with pytest.raises(bp.ConfigError, match=r"^callbacks must be a list of Callbacks or None, got \[3\]$"):
        BPClassifier(callbacks=[3]).fit(x, y)


def test_a_masked_array_is_refused_since_its_mask_would_be_dropped() -> None:
    x, y = make_classification(40, random_state=0)
    with pytest.raises(bp.DTypeError, match=r"X is a masked array; fill its gaps first, as with X.filled\(...\)"):
        BPClassifier().fit(np.ma.masked_greater(x, 1.0), y)
    fitted = BPClassifier(max_iter=1, tol=0).fit
    with pytest.raises(bp.DTypeError, match="y is a masked array"):
        fitted(x, np.ma.masked_greater(y, 0))
