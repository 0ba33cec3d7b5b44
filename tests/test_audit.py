"""The audit: what is right passes on every backend, and every planted fault is found, in its place, by its name.

Faults that strict mode would refuse before the audit could find them are planted without it (`lenient`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import audit_faults as faults
import numpy as np
import pytest
from conftest import read_only
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import bpnet as bp
from bpnet import losses, ops, recipes
from bpnet.auditing import Row
from bpnet.auditing.gradients import hold
from bpnet.commands import app
from bpnet.dispatch import Variant
from bpnet.plan import Plan
from bpnet.testing.cases.entries import LayerCase
from bpnet.testing.cases.layers import LAYER_CASES
from bpnet.testing.slopes import element_directions, slopes
from bpnet.testing.strict import StrictBackend

RNG = np.random.default_rng(1)
X = RNG.normal(size=(20, 4))
LABELS = RNG.integers(0, 3, size=20)
VALUES = 2 * RNG.normal(size=(20, 3))

# what is first said to be wrong: the layer's row, and words of the diagnosis
FAULTS: dict[type[bp.Layer], tuple[str, str]] = {
    faults.FactorN: ("weight", "is 20.000x too large (20 is the number of samples)"),
    faults.DividedByN: ("weight", "is 20.000x too small (20 is the number of samples)"),
    faults.FactorTwo: ("dx", "is 2.000x too large"),
    faults.WrongSign: ("bias", "has the wrong sign"),
    faults.Transposed: ("weight", "is transposed"),
    faults.TransposedWeight: ("dx", "W stands in the place of W.T"),
    faults.MissingBias: ("bias", "is zero everywhere, where differences give up to"),
    faults.FirstRow: ("bias", "is that of the first row of dy only: the other samples are missing"),
    faults.WrittenByHand: ("weight", "no gradient came by the parameter's accumulate(gradient)"),
    faults.NotAccumulated: ("gradients accumulate", "the gradient of 'weight' is 2.000x too small: they must add up"),
    faults.DyOverwritten: ("shapes and untouched arrays, float32", "backward wrote into dy"),
    faults.XOverwritten: ("shapes and untouched arrays, float32", "forward wrote into x"),
    faults.WrongAxis: ("dx", "mixes elements along axis 0, where the layer's output mixes those along axis 1"),
    faults.OverTheBatch: ("samples do not mix", "is a sum or mean taken over the wrong axis?"),
    faults.NoMeans: ("dx", "does not mix elements along axis 1"),
    faults.Unscaled: ("draws are inference on average", "what is kept must be divided by 1 - rate"),
    faults.UnscaledBackward: ("dx", "is 1.667x too small (1.66667 is 1 / (1 - rate))"),
    faults.SoftmaxTwice: ("dx", "has the layer's derivative in it twice"),
    faults.SwappedBranches: ("dx", "is the derivative at -x, not at x: its branches are swapped"),
    faults.WrongBranch: ("dx", "the derivative of the wrong branch"),
    faults.AtTheOutput: ("dx", "is the derivative at y, not at x"),
    faults.NoChain: ("dx", "is the local derivative alone: dy is not in it"),
    faults.PassedOn: ("dx", "is dy itself: the layer's derivative is missing"),
    faults.KeptTwice: ("inference is forward and keeps nothing", "must raise StateError"),
    faults.Noisy: ("two steps agree", "is not deterministic"),
    faults.Raises: ("dx", "raised RuntimeError: not written yet"),
    faults.PairWithoutSum: ("dx", "lacks dy: a path that passes x on, as in y = x + f(x), is missing"),
}


def made(cls: type[bp.Layer]) -> bp.Layer:
    return cls(0.4) if issubclass(cls, bp.Dropout) else cls()


@pytest.mark.lenient
@pytest.mark.parametrize("cls", FAULTS, ids=lambda cls: cls.__name__)
def test_a_planted_fault_is_found_and_named_where_it_is(cls: type[bp.Layer]) -> None:
    what, words = FAULTS[cls]
    model = bp.Sequential(bp.Dense(4, 6), made(cls), bp.Dense(6, 3))
    report = bp.audit(model, bp.SoftmaxCrossEntropy(), X, LABELS)
    assert not report.passed
    first = report.failures[0]
    assert (first.where, first.what) == (f"1 {cls.__name__}", what)
    assert words in first.diagnosis
    assert f"look first at 1 {cls.__name__}, {what}: {first.diagnosis}" in str(report)
    accused = {row.where for row in report.failures}
    assert accused <= {first.where, "model Sequential", "model and loss", "a training step"}


@pytest.mark.lenient
@pytest.mark.parametrize("cls", [c for c in FAULTS if c is not faults.Noisy], ids=lambda cls: cls.__name__)
def test_a_fault_is_found_in_the_layer_alone_too(cls: type[bp.Layer]) -> None:
    report = bp.audit(made(cls), None, RNG.normal(size=(8, 6)))
    what, words = FAULTS[cls]
    assert any(row.what == what and words.replace("20", "8") in row.diagnosis for row in report.failures) or (
        any(row.what == what and words in row.diagnosis for row in report.failures)
    )


@pytest.mark.parametrize("cls", [faults.ByHand, faults.Center, faults.Pair], ids=lambda cls: cls.__name__)
def test_layers_of_ones_own_pass_without_further_code(cls: type[bp.Layer]) -> None:
    model = bp.Sequential(bp.Dense(4, 6), cls(), bp.Dense(6, 3))
    report = bp.audit(model, bp.SoftmaxCrossEntropy(), X, LABELS)
    assert report.passed, str(report)
    assert report.notes == ()


def test_private_layers_within_a_layer_get_rows_of_their_own() -> None:
    report = bp.audit(bp.Sequential(bp.Dense(4, 6), faults.Pair(), bp.Dense(6, 3)))
    assert {"1._inner Dense", "1._curve Tanh"} <= {row.where for row in report.rows}
    paths = [row.what for row in report.rows if row.where == "1 Pair"]
    assert paths == ["dx", "_inner.weight", "_inner.bias", "promises"]


def test_a_layer_that_forward_does_not_call_is_noted() -> None:
    class Unused(faults.Pair):
        """Calls its layers for inference only."""

        def forward(self, x: Any) -> Any:
            self._inner.keep(x)
            y = self._inner(x)
            self._curve.keep(self._curve(y))
            return ops.add(self._curve(y), x)

    report = bp.audit(Unused(), None, RNG.normal(size=(5, 6)))
    assert [note.split(" is ")[0] for note in report.notes] == ["_inner Dense(6, 6)", "_curve Tanh()"]


LOSS_FAULTS: list[tuple[bp.Loss, bp.Layer | None, Any, str]] = [
    (
        faults.LossOfLogits(),
        bp.Softmax(),
        LABELS,
        "has the softmax's derivative in it",
    ),
    (faults.SummedLoss(), None, VALUES, "is 60.000x too large (60 is the number of elements of the prediction)"),
    (faults.HuberBranch(), None, VALUES, "is wrong where |prediction - target| >="),
]


@pytest.mark.parametrize(("loss", "last", "y", "words"), LOSS_FAULTS, ids=lambda each: type(each).__name__)
def test_a_fault_of_a_loss_is_found_and_named(loss: bp.Loss, last: bp.Layer | None, y: Any, words: str) -> None:
    model = bp.Sequential(bp.Dense(4, 3), *([] if last is None else [last]))
    report = bp.audit(model, loss, X, y)
    first = report.failures[0]
    assert (first.where, first.what) == (type(loss).__name__, "dprediction")
    assert words in first.diagnosis
    assert {row.where for row in report.failures} == {type(loss).__name__, "model and loss"}


def test_a_loss_that_writes_or_gives_twice_is_told_so() -> None:
    class Writes(bp.MeanSquaredError):
        def backward(self, scale: Any = 1.0) -> Any:
            prediction = self._kept[1][0]  # type: ignore[index]
            gradient = super().backward(scale)
            prediction[...] = 0
            return gradient

    class Again(bp.MeanSquaredError):
        def backward(self, scale: Any = 1.0) -> Any:
            kept = self._kept
            gradient = super().backward(scale)
            self._kept = kept
            return gradient

    for cls, words in ((Writes, "wrote into the prediction"), (Again, "a second backward must raise StateError")):
        report = bp.audit(bp.Dense(4, 3), cls(), X, VALUES)
        assert any(row.what == "promises" and words in row.diagnosis for row in report.failures)


@settings(max_examples=25, deadline=None)
@given(
    size=st.floats(0.01, 100).filter(lambda c: abs(c - 1) > 0.01), sign=st.sampled_from([1, -1]), n=st.integers(1, 6)
)
def test_the_ratio_is_the_factor_whatever_it_is(size: float, sign: int, n: int) -> None:
    class Off(bp.Tanh):
        def backward(self, dy: Any, need_dx: bool = True) -> Any:
            dx = super().backward(dy, need_dx)
            return None if dx is None else sign * size * dx

    row = bp.audit(Off(), None, np.random.default_rng(n).normal(size=(n, 3))).failures[0]
    assert row.ratio == pytest.approx(sign * size, rel=1e-6)
    text = f"{size:.3f}x too large" if size > 1 else f"{1 / size:.3f}x too small"
    assert row.diagnosis.startswith(f"has the wrong sign and is {text}" if sign < 0 else f"is {text}")


LARGE = (
    faults.FactorN, faults.Transposed, faults.FirstRow, faults.WrongSign, faults.TransposedWeight, faults.WrongAxis,
    faults.NoMeans, faults.SoftmaxTwice, faults.SwappedBranches, faults.WrongBranch, faults.AtTheOutput, faults.NoChain,
    faults.PassedOn, faults.PairWithoutSum,
)  # fmt: skip


@pytest.mark.lenient
@pytest.mark.parametrize(
    ("cls", "width"),
    [(cls, 40) for cls in LARGE] + [(cls, 250) for cls in (faults.WrongAxis, faults.SoftmaxTwice, faults.AtTheOutput)],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_large_arrays_are_held_to_directions_and_diagnosed_all_the_same(cls: type[Any], width: int) -> None:
    sized = issubclass(cls, (faults.ByHand, faults.Pair))
    inputs = (width, width)[: 2 if issubclass(cls, faults.ByHand) else 1]
    model = bp.Sequential(cls(*inputs) if sized else cls(), bp.Dense(width, 3))
    x = np.random.default_rng(4).normal(size=(20, width))
    report = bp.audit(model, bp.SoftmaxCrossEntropy(), x, LABELS)
    first = report.failures[0]
    what, words = FAULTS[cls]
    assert (first.where, first.what) == (f"0 {cls.__name__}", what)
    assert words in first.diagnosis
    assert first.how == "16 directions" or first.what == "bias"


@pytest.mark.parametrize("n", [20, 210])
def test_a_bias_whose_gradient_is_summed_over_the_wrong_axis_is_told_so(n: int) -> None:
    """Where there are as many samples as features, the shapes do not show it."""
    report = bp.audit(faults.WrongSum(3, n), None, np.random.default_rng(0).normal(size=(n, 3)))
    assert [row.what for row in report.failures] == ["bias"]
    assert report.failures[0].diagnosis == "is summed over all axes but 0: over the wrong axis"


@pytest.mark.parametrize("width", [3, 40])
def test_large_predictions_are_diagnosed_all_the_same(width: int) -> None:
    rng = np.random.default_rng(2)
    x, labels, values = rng.normal(size=(100, 4)), rng.integers(0, width, size=100), 2 * rng.normal(size=(100, width))
    softmax = bp.Sequential(bp.Dense(4, width), bp.Softmax())
    for model, loss, y, words in (
        (softmax, faults.LossOfLogits(), labels, "has the softmax's derivative in it, which the Softmax layer applies"),
        (bp.Dense(4, width), faults.HuberBranch(), values, "is wrong where |prediction - target| >="),
    ):
        first = bp.audit(model, loss, x, y).failures[0]
        assert (first.where, first.what, first.how) == (type(loss).__name__, "dprediction", "16 directions")
        assert words in first.diagnosis


def test_one_wrong_element_of_many_is_found_along_directions() -> None:
    class OneElement(faults.ByHand):
        def dW(self, x: Any, dy: Any) -> Any:
            gradient = super().dW(x, dy)
            gradient[17, 23] += 3
            return gradient

    report = bp.audit(OneElement(40, 40), None, RNG.normal(size=(6, 40)))
    assert [row.what for row in report.failures] == ["weight"]
    assert "directions, most at direction" in report.failures[0].diagnosis


# --- several inputs, and integers ---

SEVERAL: dict[type[Any], tuple[str, str]] = {
    faults.WritesIntoTheOther: (
        "shapes and untouched arrays, float32, by argument 0",
        "backward wrote into argument 1",
    ),
    faults.OneGradient: ("shapes and untouched arrays, float32, by argument 0", "returned 1 gradients for 2 inputs"),
    faults.ProductKeptTwice: ("what is kept is taken once, by argument 0", "must raise StateError"),
    faults.ProductOverTheBatch: ("samples do not mix, by argument 0", "is a sum or mean taken over the wrong axis?"),
    faults.GainByHand: ("gradients accumulate, by argument 0", "the gradient of 'gain' is 2.000x too small"),
}


@pytest.mark.parametrize("backend", ["numpy", "strict", "strict:device1"])
def test_layers_of_several_inputs_and_of_integers_keep_their_promises(backend: str) -> None:
    x = RNG.normal(size=(7, 6))
    report = bp.audit(faults.Gated(faults.Product()), None, x, backend=backend)
    assert report.passed, str(report)
    promises = {row.where: row.how for row in report.rows if row.what == "promises"}
    assert promises["join Product"] == "22 checks"  # 11 by each input
    report = bp.audit(faults.Looks(faults.Embedding(6, 6)), None, x, backend=backend)
    assert report.passed, str(report)
    assert {row.what for row in report.rows if row.where == "table Embedding"} == {"table", "promises"}


@pytest.mark.lenient
@pytest.mark.parametrize("cls", SEVERAL, ids=lambda cls: cls.__name__)
def test_a_broken_promise_of_a_layer_of_two_inputs_is_named(cls: type[Any]) -> None:
    what, words = SEVERAL[cls]
    report = bp.audit(faults.Gated(cls()), None, RNG.normal(size=(7, 6)))
    broken = {row.what: row.diagnosis for row in report.failures if row.where == f"join {cls.__name__}"}
    assert what in broken, str(report)
    assert words in broken[what]


@pytest.mark.lenient
def test_exchanged_gradients_of_two_inputs_are_found_in_both() -> None:
    report = bp.audit(faults.Gated(faults.Swapped()), None, RNG.normal(size=(7, 6)))
    found = [row.what for row in report.failures if row.where == "join Swapped"]
    assert found == ["dx of argument 0", "dx of argument 1"]


@pytest.mark.lenient
def test_a_broken_promise_of_a_layer_of_integers_is_named() -> None:
    for cls, what, words in (
        (faults.EmbeddingThatWrites, "shapes and untouched arrays, float32", "forward wrote into argument 0"),
        (faults.EmbeddingReplaces, "gradients accumulate", "the gradient of 'table' is 2.000x too small"),
    ):
        report = bp.audit(faults.Looks(cls(6, 6)), None, RNG.normal(size=(7, 6)))
        broken = {row.what: row.diagnosis for row in report.failures if row.where.startswith("table")}
        assert words in broken.get(what, ""), str(report)


# --- what is right passes, everywhere ---

PLAIN = {name: case for name, case in LAYER_CASES.items() if case.inputs[0].plain}


@pytest.mark.parametrize("case", PLAIN.values(), ids=PLAIN)
def test_every_layer_passes(case: LayerCase, backend: bp.Backend) -> None:
    n = 2 if backend.name.startswith("strict") else 5  # that library checks much, and takes its time
    ((x,), _) = case.inputs[0].draw(n, 3)
    report = bp.audit(case.make(), None, x, backend=backend)
    assert report.passed, str(report)
    assert any(row.what == "dx" and "Jacobian" in row.how for row in report.rows)


@pytest.mark.parametrize("shape", [(1, 4), (2, 3, 4), (7, 1, 4)], ids=str)
def test_a_batch_of_one_and_further_axes_pass(shape: tuple[int, ...]) -> None:
    model = bp.Sequential(bp.Dense(4, 6), bp.Residual(bp.Tanh(), bp.Dense(6, 6)), bp.Dropout(0.3), bp.Dense(6, 2))
    x = np.random.default_rng(4).normal(size=shape)
    report = bp.audit(model, bp.MeanSquaredError(), read_only(x), np.zeros((*shape[:-1], 2)))
    assert report.passed, str(report)


LOSSES = [name for name in losses.__all__ if name not in ("Loss", "ClassLoss")]


def for_loss(loss: bp.Loss) -> bp.Sequential:
    """A model whose outputs are what the loss wants; the penalty on its biases has a kink where they start."""
    last = {"probabilities": [bp.Softmax()], "log-probabilities": [bp.LogSoftmax()]}.get(loss.wants, [])
    return bp.Sequential(bp.Dense(4, 3), bp.Tanh(), bp.Dense(3, 3, weight_l2=0.01, bias_l1=0.1), *last)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_passes_on_random_targets_of_its_kind(name: str, backend: bp.Backend) -> None:
    loss = getattr(losses, name)()
    report = bp.audit(for_loss(loss), loss, backend=backend)
    assert report.passed, str(report)
    assert [row.what for row in report.rows if row.where == name] == [
        "dprediction",
        "dprediction, weighted",
        "promises",
    ]
    assert next(row for row in report.rows if (row.where, row.what) == ("model and loss", "2.bias")).kinks >= 3


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_every_reduction_of_every_loss_passes(name: str, reduction: str) -> None:
    loss = getattr(losses, name)(reduction=reduction)
    report = bp.audit(for_loss(loss), loss)
    assert report.passed, str(report)
    assert bool(report.notes) == (reduction == "none")


@pytest.mark.parametrize("name", ["digits", "diabetes", "spiral"])
def test_every_recipe_that_has_its_data_passes(name: str) -> None:
    run = recipes.find(name).prepare(backend="numpy")
    samples = run.training.x[:8], run.training.y[:8]
    report = bp.audit(run.model, run.trainer.loss, *samples)
    assert report.passed, str(report)
    for against in ("float64", "float32", "eager", StrictBackend()):
        compared = bp.audit(run.model, run.trainer.loss, *samples, against=against)
        assert compared.passed, str(compared)
        assert compared.parting is None


# --- kinks ---


def test_kinks_are_stepped_around_and_counted() -> None:
    x = np.array([[0.0, 1.0, -1.0], [0.0, 0.0, 2.0]])
    report = bp.audit(bp.ReLU(), None, x)
    assert report.passed, str(report)
    assert report.kinks == report.rows[0].kinks == 3
    assert report.rows[0].verdict == "ok (3 kinks stepped around)"
    assert report.conclusion.endswith("rows, 3 kinks stepped around")


def test_a_kink_beside_the_point_does_not_disturb() -> None:
    x = np.array([[3e-7, -2e-7, 1.0, -1.0]])
    report = bp.audit(bp.ReLU(), None, x)
    assert report.passed, str(report)
    assert report.kinks == 2


def test_a_prediction_on_the_kink_of_its_loss_is_moved() -> None:
    model = bp.Dense(4, 3)
    prediction = model.initialize(seed=0, dtype="float64")(X)
    assert bp.audit(model, bp.MeanAbsoluteError(), X, prediction).passed


def test_slopes_are_the_derivatives_and_say_where_there_are_none() -> None:
    def f(x: Any) -> Any:
        return np.array([np.abs(x[0]), x[1] ** 3, np.exp(x[2]), x[0] * x[1]])

    x = np.array([0.0, 2.0, 1e-3])
    found = slopes(f, x, element_directions(x.shape, range(3)))
    assert found.blocked.tolist() == [True, False, False]
    np.testing.assert_allclose(found.values[1:], [[0, 12, 0, 0], [0, 0, np.exp(1e-3), 0]], rtol=1e-8, atol=1e-8)
    assert slopes(f, np.array([1.0, 2.0, 3.0]), element_directions((3,), range(3))).blocked.sum() == 0


def test_a_small_probability_is_no_kink_and_no_fault() -> None:
    p = np.array([[1e-5, 1 - 1e-5], [0.3, 0.7], [1 - 1e-8, 1e-8]])
    x = np.log(p)
    model = bp.Sequential(bp.Softmax())
    assert bp.audit(model, bp.CategoricalCrossEntropy(), x, np.array([0, 1, 1])).passed


# --- the model is left alone ---


def state_of(model: bp.Layer) -> dict[str, Any]:
    store = model.store
    found = {name: bp.to_numpy(array).tobytes() for name, array in store.arrays().items()}
    kept = {path: id(layer._kept) for path, layer in model.walk()}
    filled = {path: parameter._filled for path, parameter in model.parameters().items()}
    return found | kept | filled | {"store": id(store), "info": dict(model.info), "filled": store.filled}


def test_the_audited_model_loss_and_data_are_untouched() -> None:
    model = bp.Sequential(bp.Dense(4, 6), bp.Dropout(0.3), bp.ReLU(), bp.Dense(6, 3))
    loss, optimizer = bp.SoftmaxCrossEntropy(), bp.Adam(0.01)
    trainer = bp.Trainer(model, loss, optimizer)
    trainer.step(X, LABELS)
    loss.forward(model.forward(model.asarray(X)), model.asarray(LABELS))
    x, before, kept = X.copy(), state_of(model), loss._kept
    for against in (None, "float64", "eager"):
        bp.audit(model, loss, x, LABELS, against=against, optimizer=optimizer)
    assert state_of(model) == before
    assert loss._kept is kept
    assert np.array_equal(x, X)
    model.backward(loss.backward())
    optimizer.step(model)


def test_a_model_without_arrays_gets_none() -> None:
    model = bp.Sequential(bp.Dense(4, 3))
    assert bp.audit(model).passed
    assert not model.initialized


def test_the_values_that_a_model_has_are_audited() -> None:
    class Values(faults.ByHand):
        """Right where its weights are 0."""

        def dx(self, dy: Any) -> Any:
            return 2 * super().dx(dy)

    model = Values(4, 3).initialize()
    assert not bp.audit(model, None, X).passed
    model.weight.value = np.zeros((4, 3))
    assert bp.audit(model, None, X).passed


def test_frozen_parameters_have_no_row() -> None:
    model = bp.Sequential(bp.Dense(4, 3), bp.Dense(3, 3)).initialize()
    model[0].freeze()
    report = bp.audit(model, bp.SoftmaxCrossEntropy(), X, LABELS)
    assert report.passed, str(report)
    assert not any(row.what in ("0.weight", "weight") and row.where.startswith("0") for row in report.rows)


# --- kernels ---


def broken(kernel: Any, cls: type, body: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `kernel` run `body` on arrays of `cls`."""
    kernel._resolve(np.ndarray)  # so that what a backend provides is there
    monkeypatch.setitem(kernel._table, cls, (Variant(body, "broken"),))


def test_a_wrong_kernel_of_a_backend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    strict = StrictBackend()
    broken(ops.tanh, strict.array_type, lambda x: strict.xp.tanh(x) * (1 + 1e-3), monkeypatch)
    model = bp.Sequential(bp.Dense(4, 3), bp.Tanh(), bp.Dense(3, 3))
    report = bp.audit(model, bp.SoftmaxCrossEntropy(), X, LABELS, backend=strict)
    wrong = [row for row in report.failures if row.where == "tanh on strict"]
    assert [(row.what, row.how) for row in wrong] == [("float32", "1 call"), ("float64", "1 call")]
    assert wrong[0].error == pytest.approx(1e-3, rel=1e-2)
    assert wrong[0].diagnosis.startswith("is off by 0.001 of its largest value")
    assert bp.audit(model, bp.SoftmaxCrossEntropy(), X, LABELS, backend="numpy").passed


@pytest.mark.lenient
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (lambda x: np.tanh(x)[:1], "gave shape (1, 3), not (20, 3)"),
        (lambda x: np.tanh(x).astype(np.float16), "gave float16, not float32"),
        (lambda x: np.tanh(x) * np.where(np.arange(3) == 1, np.nan, 1).astype(x.dtype), "gave 20 values that are NaN"),
    ],
)
def test_other_faults_of_kernels_are_named(body: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(ops.tanh, np.ndarray, body, monkeypatch)
    report = bp.audit(bp.Sequential(bp.Dense(4, 3), bp.Tanh()), None, X)
    assert any(row.where == "tanh on numpy" and words in row.diagnosis for row in report.failures), str(report)


# --- one step on two sides ---


def test_two_sides_that_part_are_told_where_by_how_much_and_who_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    strict = StrictBackend()
    model = bp.Sequential(bp.Dense(4, 5), bp.Tanh(), bp.Dense(5, 3)).initialize(backend="numpy")
    broken(
        ops.tanh_backward,
        strict.array_type,
        lambda dy, y: dy * (1 - y * y) * (1 + 1e-2),
        monkeypatch,
    )
    report = bp.audit(model, bp.SoftmaxCrossEntropy(), X, LABELS, against=strict)
    parting = report.parting
    assert not report.passed
    assert json.loads(json.dumps(report.json(), allow_nan=False))["parting"]["where"] == "1 Tanh"
    assert parting is not None
    assert (parting.direction, parting.where, parting.tensor) == ("backward", "1 Tanh", "the result of tanh_backward")
    assert parting.sides == ("numpy, float32", "strict, float32")
    assert parting.nearer == "numpy, float32"
    assert parting.relative == pytest.approx(1e-2, rel=0.05)
    assert parting.ulps > 1e4
    assert report.failures[0].where == "1 Tanh"
    assert "numpy, float32 is nearer to float64 on NumPy" in str(report)
    forward = [row for row in report.rows if row.what == "forward"]
    assert len(forward) == 4
    assert all(row.passed for row in forward)


def test_what_any_float32_loses_is_no_parting() -> None:
    model = bp.Sequential(bp.Dense(4, 6), faults.OverTheBatch(), bp.Dense(6, 3)).initialize()
    report = bp.audit(model, bp.SoftmaxCrossEntropy(), X, LABELS, against="float64")
    bias = next(row for row in report.rows if (row.where, row.what) == ("0 Dense", "backward"))
    assert bias.error is not None
    assert bias.error > 1e-2  # the gradient of the bias is a sum of terms that cancel: rounding is all that is left
    assert report.passed, str(report)


def test_the_side_that_is_wrong_may_be_the_models_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model = bp.Sequential(bp.Dense(4, 5), bp.Tanh(), bp.Dense(5, 3)).initialize(backend="numpy")
    broken(ops.tanh, np.ndarray, lambda x: np.tanh(x) * x.dtype.type(1.01), monkeypatch)
    parting = bp.audit(model, bp.SoftmaxCrossEntropy(), X, LABELS, against=StrictBackend()).parting
    assert parting is not None
    assert (parting.direction, parting.where, parting.nearer) == ("forward", "1 Tanh", "strict, float32")


def test_an_update_that_parts_is_told_by_its_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    strict = StrictBackend()
    model = bp.Sequential(bp.Dense(4, 3)).initialize(backend="numpy")
    right = ops.sgd_.reference.body

    def wrong(value: Any, *rest: Any) -> None:
        right(value, *rest)
        value[...] = value + 0.5

    broken(ops.sgd_, strict.array_type, wrong, monkeypatch)
    report = bp.audit(model, bp.SoftmaxCrossEntropy(), X, LABELS, against=strict)
    assert report.parting is not None
    assert (report.parting.direction, report.parting.where) == ("update", "0.weight")
    assert [row.where for row in report.failures] == ["0.weight", "0.bias"]


@pytest.mark.parametrize("optimizer", [bp.SGD(0.1, momentum=0.9), bp.Adam(1e-3)], ids=lambda o: type(o).__name__)
def test_planned_steps_are_eager_ones_bit_for_bit(optimizer: bp.Optimizer) -> None:
    model = bp.Sequential(bp.Dense(4, 6), bp.ReLU(), bp.Dropout(0.3), bp.Dense(6, 3))
    report = bp.audit(model, bp.SoftmaxCrossEntropy(), X, LABELS, against="eager", optimizer=optimizer)
    assert report.passed, str(report)
    assert (report.notes, len(report.rows)) == ((), 5)


def test_a_layer_whose_plan_does_otherwise_parts_and_one_without_a_plan_is_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = bp.Sequential(bp.Dense(4, 6), bp.Tanh(), bp.Dense(6, 3)).initialize()
    replay = Plan.replay
    by_hand = bp.Sequential(bp.Dense(4, 6), faults.ByHand(), bp.Dense(6, 3))
    noted = bp.audit(by_hand, bp.SoftmaxCrossEntropy(), X, LABELS, against="planned")
    assert noted.passed
    assert "no plan was made" in noted.notes[0]
    assert "that no kernel made" in noted.notes[0]

    steps = {"made": 0}

    def off(self: Any, *inputs: Any) -> Any:
        steps["made"] += 1
        return replay(self, *inputs) + (1e-3 if steps["made"] > 1 else 0)

    monkeypatch.setattr(Plan, "replay", off)
    report = bp.audit(model, bp.SoftmaxCrossEntropy(), X, LABELS, against="eager")
    assert [row.passed for row in report.rows] == [True, True, False, False, False]
    assert report.parting is not None
    assert (report.parting.direction, report.parting.where) == ("forward", "the loss")
    assert report.parting.sides == ("eager", "planned")


# --- what is given, and what is made up ---


def test_x_and_y_are_made_up_where_they_are_not_given() -> None:
    for model, loss in (
        (bp.Sequential(bp.Flatten(), bp.Dense(12, 3)), bp.SoftmaxCrossEntropy()),
        (bp.Sequential(bp.Dense(7, 1)), bp.BinaryCrossEntropy()),
        (bp.Sequential(bp.PReLU(5), bp.Dense(5, 2)), bp.MeanSquaredError()),
        (bp.Sequential(bp.Normalize(3).fit(RNG.normal(size=(9, 3))), bp.Dense(3, 2)), bp.PoissonNLL()),
    ):
        report = bp.audit(model, loss)
        assert report.passed, str(report)
        assert "8 samples (random)" in report.subject


def test_a_saved_model_is_audited_on_the_data_of_its_recipe(tmp_path: Any) -> None:
    run = recipes.find("spiral", {"training.epochs": 1}).prepare(backend="numpy")
    run.fit(progress=False)
    run.model.save(tmp_path / "m.safetensors", recipe=run.recipe.settings, recipe_name="spiral")
    report = bp.audit(bp.load(tmp_path / "m.safetensors"), samples=4)
    assert report.passed, str(report)
    assert "4 samples (of its recipe)" in report.subject
    assert any(row.where == "SoftmaxCrossEntropy" for row in report.rows)


def test_a_saved_model_whose_data_are_gone_is_audited_on_random_samples_with_its_loss() -> None:
    run = recipes.find("spiral").prepare(backend="numpy")
    run.model.info["recipe"] = {**run.recipe.settings, "data": {"csv": "gone.csv", "target": "y"}}
    report = bp.audit(run.model)
    assert report.passed, str(report)
    assert "8 samples (random)" in report.subject
    assert any(row.where == "SoftmaxCrossEntropy" for row in report.rows)


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ((bp.Dense,), {}, "audit: model must be a Layer, got .*; write its instance, with parentheses"),
        ((bp.ReLU(), bp.MeanSquaredError), {}, "audit: loss must be a Loss or None"),
        ((bp.ReLU(),), {"optimizer": 0.1}, "audit: optimizer must be an Optimizer or None, got 0.1"),
        ((bp.ReLU(),), {"samples": 0}, "audit: samples must be an integer of at least 1, got 0"),
        ((bp.ReLU(),), {"samples": True}, "audit: samples must be an integer of at least 1, got True"),
        ((bp.ReLU(),), {"x": np.float64(3)}, r"audit: x must have some samples along its first axis, got shape \(\)"),
        ((bp.ReLU(),), {"x": X[:0]}, r"audit: x must have some samples along its first axis, got shape \(0, 4\)"),
        ((bp.ReLU(),), {"y": LABELS}, "audit: y is given without x; give both"),
        ((bp.ReLU(),), {"x": X, "y": LABELS}, "audit: y is given without a loss; give both"),
        ((bp.Dense(4, 3), bp.SoftmaxCrossEntropy(), X, LABELS[:4]), {}, "audit: x has 20 samples and y 4"),
        ((bp.ReLU(),), {"against": "float32"}, "audit: against compares training steps, which need a loss"),
        ((bp.ReLU(), bp.MeanSquaredError()), {"against": "float16"}, "audit: against must be a backend, 'float32', "),
    ],
)
def test_wrong_use_is_refused_in_words(arguments: Any, keywords: Any, message: str) -> None:
    with pytest.raises(bp.ConfigError, match=message):
        bp.audit(*arguments, **keywords)


def test_a_forward_that_raises_is_a_failure_and_no_crash() -> None:
    report = bp.audit(bp.Dense(4, 3), None, RNG.normal(size=(5, 6)))
    assert [(row.where, row.what) for row in report.failures] == [("model", "forward")]
    assert "ShapeError" in report.failures[0].diagnosis


def test_a_model_that_takes_no_shape_that_can_be_guessed_asks_for_x() -> None:
    class Picky(bp.ReLU):
        def __call__(self, x: Any) -> Any:
            raise bp.ShapeError("images only")

    with pytest.raises(bp.ConfigError, match=r"the model takes samples of none of the shapes .*; give x"):
        bp.audit(Picky())


# --- the report ---


def test_the_report_is_a_table_json_and_html() -> None:
    model = bp.Sequential(bp.Dense(4, 6), faults.FactorN(), bp.Dense(6, 3))
    report = bp.audit(model, bp.SoftmaxCrossEntropy(), X, LABELS)
    values = json.loads(json.dumps(report.json(), allow_nan=False))
    assert (values["passed"], values["kinks"], values["parting"], len(values["rows"])) == (
        False,
        0,
        None,
        len(report.rows),
    )
    row = next(row for row in values["rows"] if not row["passed"])
    assert row["ratio"] == pytest.approx(20)
    assert row["verdict"].startswith("WRONG: is 20.000x too large")
    line = next(line for line in str(report).splitlines() if line.startswith("1 FactorN") and "WRONG" in line)
    assert line.split()[:5] == ["1", "FactorN", "weight", "1.9e+01", "20"]
    assert "<td>WRONG: is 20.000x too large (20 is the number of samples)</td>" in report._repr_html_()
    assert Row("<b>", "dx", True).where not in bp.AuditReport("", (Row("<b>", "dx", True),))._repr_html_()


# --- the command ---


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_the_command_audits_recipes_files_and_models(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("audit", "spiral", "--samples", "5", "--seed", "3", "--backend", "numpy", "--json")
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout.splitlines()[-1])
    assert results["passed"] is True
    assert "5 samples" in results["subject"]
    (tmp_path / "mine.toml").write_text(recipes.source("spiral"))
    for against in ("eager", "planned", "float32", "float64"):
        done = invoke("audit", "mine.toml", "--samples", "4", "--against", against)
        assert (done.exit_code, " against " in done.stdout) == (0, True), done.output
    assert invoke("train", "spiral", "--epochs", "1", "--out", "m.safetensors").exit_code == 0
    saved = invoke("audit", "m.safetensors", "--samples", "2")
    assert saved.exit_code == 0, saved.output
    assert "passed: " in saved.stdout


def test_the_command_exits_with_1_where_something_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    broken(ops.relu_backward, np.ndarray, lambda dy, y: 2 * dy * (y > 0), monkeypatch)
    done = invoke("audit", "spiral", "--samples", "3")
    assert done.exit_code == 1, done.output
    assert "WRONG: is 2.000x too large" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "no recipe is called 'nothing'"),
        (("m.safetensors",), "RECIPE: there is no file 'm.safetensors'"),
        (("digits", "--samples", "0"), "--samples must be an integer of at least 1, got '0'"),
        (("digits", "--seed", "-1"), "--seed must be an integer in 0 ..."),
        (("digits", "--against", "float16"), "--against: must be eager, float32, float64 or a backend"),
        (("digits", "--backend", "numpi"), "--backend: unknown backend 'numpi'"),
    ],
)
def test_the_command_refuses_wrong_use_with_2(arguments: tuple[str, ...], message: str) -> None:
    done = invoke("audit", *arguments)
    assert done.exit_code == 2, done.output
    assert message in done.output


@pytest.mark.torch
@pytest.mark.parametrize("name", ["digits", "diabetes"])
def test_a_step_on_pytorch_does_not_part_from_one_on_numpy(name: str) -> None:
    run = recipes.find(name).prepare(backend="numpy")
    for optimizer in (None, bp.Adam(1e-3)):
        samples = run.training.x[:16], run.training.y[:16]
        report = bp.audit(run.model, run.trainer.loss, *samples, against="torch", optimizer=optimizer)
        assert report.passed, str(report)
        assert {row.what for row in report.rows} == {"forward", "backward", "update"}


def test_a_small_kink_beside_the_point_is_no_wrong_gradient() -> None:
    """One of 4,000 units turns within the step: its share of the slope is below what the first look sees."""
    weight = np.ones(4000)
    shift = np.full(4000, -0.5)
    shift[7] = -1.0 - 2e-7  # of x = 1; within the step of 1e-6, not within a sixteenth of it

    def function(x: Any) -> Any:
        return np.array([np.sum(weight * np.maximum(x[0] + shift, 0))])

    def backward(x: Any, dy: Any) -> Any:
        return np.array([np.sum(weight * (x[0] + shift > 0)) * dy[0]])

    def upstream(y: Any) -> list[Any]:
        return [np.ones(1)]

    found = hold(np.ones(1), function, backward, upstream, seed=0, factors={}, suspects=lambda case: {})
    assert found.agrees, found.diagnosis
    assert found.kinks == 1
    wrong = hold(
        np.ones(1), function, lambda x, dy: backward(x, dy) * (1 + 2e-4), upstream, seed=0, factors={},
        suspects=lambda case: {},
    )  # fmt: skip
    assert not wrong.agrees
