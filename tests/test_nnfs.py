"""The chapter's own classes: its cells as they stand, its numbers, its loop, and clear errors for wrong use."""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections.abc import Iterator
from pathlib import Path
from timeit import timeit
from typing import Any

import numpy as np
import pytest

import bpnet as bp
from bpnet.nnfs import (
    Activation_ReLU,
    Activation_Softmax,
    Activation_Softmax_Loss_CategoricalCrossentropy,
    ActivationSoftmax,
    ActivationSoftmaxLossCategoricalCrossentropy,
    CategoricalCrossEntropy,
    Layer_Dense,
    Loss_CategoricalCrossentropy,
    Optimizer_SGD,
)

ROOT = Path(__file__).resolve().parents[1]

DLOGITS = [
    [-0.1, 0.03333333, 0.06666667],
    [0.03333333, -0.16666667, 0.13333333],
    [0.00666667, -0.03333333, 0.02666667],
]
P = [[0.7, 0.1, 0.2], [0.1, 0.5, 0.4], [0.02, 0.9, 0.08]]
LABELS = [0, 1, 1]
ONE_HOT = [[1, 0, 0], [0, 1, 0], [0, 1, 0]]


@pytest.fixture
def selected(backend: bp.Backend) -> Iterator[bp.Backend]:
    """The backend that `get_backend()` returns in the test."""
    with bp.use_backend(backend):
        yield backend


def close(got: Any, expected: Any, atol: float = 1e-12) -> None:
    got = bp.to_numpy(got)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, rtol=0, atol=atol, strict=True)


# --- the chapter's cells ---


def test_the_chapters_cell_runs_as_it_stands_and_gives_its_numbers() -> None:
    softmax_outputs = np.array([[0.7, 0.1, 0.2], [0.1, 0.5, 0.4], [0.02, 0.9, 0.08]])
    class_targets = np.array([0, 1, 1])

    softmax_loss = ActivationSoftmaxLossCategoricalCrossentropy()
    softmax_loss.backward(softmax_outputs, class_targets)
    dvalues1 = softmax_loss.dinputs

    activation = ActivationSoftmax()
    activation.output = softmax_outputs
    loss = CategoricalCrossEntropy()
    loss.backward(softmax_outputs, class_targets)
    activation.backward(loss.dinputs)
    dvalues2 = activation.dinputs

    close(dvalues1, DLOGITS, atol=5e-9)
    close(dvalues2, DLOGITS, atol=5e-9)
    close(dvalues1, dvalues2, atol=1e-16)
    shown = "[[-0.1 0.03333333 0.06666667] [ 0.03333333 -0.16666667 0.13333333] [ 0.00666667 -0.03333333 0.02666667]]"
    for dvalues in (dvalues1, dvalues2):
        assert " ".join(str(dvalues).split()) == shown


def test_the_chapters_timing_cell_runs() -> None:
    softmax_outputs = np.array(P)
    class_targets = np.array(LABELS)
    found = []

    def f1() -> None:
        softmax_loss = Activation_Softmax_Loss_CategoricalCrossentropy()
        softmax_loss.backward(softmax_outputs, class_targets)
        found.append(softmax_loss.dinputs)

    def f2() -> None:
        activation = Activation_Softmax()
        activation.output = softmax_outputs
        loss = Loss_CategoricalCrossentropy()
        loss.backward(softmax_outputs, class_targets)
        activation.backward(loss.dinputs)
        found.append(activation.dinputs)

    t1 = timeit(lambda: f1(), number=3)
    t2 = timeit(lambda: f2(), number=3)
    assert math.isfinite(t2 / t1)
    assert len(found) == 6
    for dinputs in found:
        close(dinputs, DLOGITS, atol=5e-9)


def test_both_spellings_name_the_same_classes() -> None:
    assert ActivationSoftmax is Activation_Softmax
    assert CategoricalCrossEntropy is Loss_CategoricalCrossentropy
    assert ActivationSoftmaxLossCategoricalCrossentropy is Activation_Softmax_Loss_CategoricalCrossentropy


# --- the same on every backend, from lists ---


@pytest.mark.parametrize("y_true", [LABELS, ONE_HOT], ids=["labels", "one-hot"])
def test_combined_and_separate_agree_on_every_backend(selected: bp.Backend, y_true: Any) -> None:
    combined = Activation_Softmax_Loss_CategoricalCrossentropy()
    activation, loss = Activation_Softmax(), Loss_CategoricalCrossentropy()
    activation.output = P
    for _ in range(2):  # a backward consumes nothing
        combined.backward(P, y_true)
        loss.backward(P, y_true)
        activation.backward(loss.dinputs)
        assert isinstance(combined.dinputs, selected.array_type)
        close(combined.dinputs, DLOGITS, atol=5e-9)
        close(activation.dinputs, bp.to_numpy(combined.dinputs), atol=1e-16)


@pytest.mark.parametrize("y_true", [LABELS, ONE_HOT], ids=["labels", "one-hot"])
def test_the_loss_of_both_forms_is_a_python_number(selected: bp.Backend, y_true: Any) -> None:
    separate = Loss_CategoricalCrossentropy().calculate(P, y_true)
    combined = Activation_Softmax_Loss_CategoricalCrossentropy()
    together = combined.forward(np.log(P), y_true)
    assert type(separate) is type(together) is float
    assert separate == pytest.approx(0.38506088005216804, abs=1e-15)
    assert together == pytest.approx(separate, abs=1e-15)
    close(combined.output, P, atol=1e-15)


def test_the_chapters_layer_forward_backward_and_update(selected: bp.Backend) -> None:
    layer, relu = Layer_Dense(4, 3), Activation_ReLU()
    layer.weights = [[0.2, 0.5, -0.26], [0.8, -0.91, -0.27], [-0.5, 0.26, 0.17], [1.0, -0.5, 0.87]]
    layer.biases = [[2.0, 3.0, 0.5]]
    layer.forward([[1.0, 2.0, 3.0, 2.5], [2.0, 5.0, -1.0, 2.0], [-1.5, 2.7, 3.3, -0.8]])
    close(layer.output, [[4.8, 1.21, 2.385], [8.9, -1.81, 0.2], [1.41, 1.051, 0.026]])
    relu.forward(layer.output)
    relu.backward(relu.output)
    layer.backward(relu.dinputs)
    close(layer.dbiases, [[15.11, 2.261, 2.611]])
    Optimizer_SGD(learning_rate=0.001).update_params(layer)
    close(
        layer.weights,
        [
            [0.179515, 0.5003665, -0.262746],
            [0.742093, -0.9152577, -0.2758402],
            [-0.510153, 0.2529017, 0.1629592],
            [0.971328, -0.5021842, 0.8636583],
        ],
    )
    close(layer.biases, [[1.98489, 2.997739, 0.497389]])
    close(
        layer.dinputs,
        [
            [0.9449, 2.09495, -1.67995, 6.26995],
            [1.728, 7.066, -4.416, 9.074],
            [0.80074, 0.16457, -0.42732, 0.90712],
        ],
    )


def test_weights_can_be_updated_by_hand(selected: bp.Backend) -> None:
    by_hand, by_optimizer = Layer_Dense(2, 3, seed=5), Layer_Dense(2, 3, seed=5)
    for layer in (by_hand, by_optimizer):
        layer.forward([[1.0, 2.0]])
        layer.backward([[1, -1, 2]])
    by_hand.weights -= 0.5 * by_hand.dweights
    by_hand.biases += -0.5 * by_hand.dbiases
    Optimizer_SGD(0.5).update_params(by_optimizer)
    assert isinstance(by_hand.weights, selected.array_type)
    assert bp.to_numpy(by_hand.weights).tolist() == bp.to_numpy(by_optimizer.weights).tolist()
    close(by_hand.biases, [[-0.5, 0.5, -1.0]])


def test_initial_weights_are_a_function_of_shape_and_seed(selected: bp.Backend) -> None:
    layer = Layer_Dense(40, 50, seed=1)
    weights = bp.to_numpy(layer.weights)
    assert weights.shape == (40, 50)
    assert bp.to_numpy(layer.biases).tolist() == [[0.0] * 50]
    assert weights.tobytes() == bp.to_numpy(Layer_Dense(40, 50, seed=1).weights).tobytes()
    assert (weights != bp.to_numpy(Layer_Dense(40, 50, seed=2).weights)).all()
    assert abs(weights.mean()) < 4 * 0.01 / math.sqrt(weights.size)
    assert weights.std() == pytest.approx(0.01, rel=0.05)
    with bp.use_backend("numpy"):
        assert weights.tobytes() == Layer_Dense(40, 50, seed=1).weights.tobytes()


def test_an_object_stays_on_the_backend_it_was_made_on(backend: bp.Backend) -> None:
    with bp.use_backend(backend):
        layer = Layer_Dense(2, 2)
    layer.forward(np.ones((3, 2)))
    layer.backward(np.ones((3, 2)))
    for array in (layer.inputs, layer.output, layer.dinputs, layer.dweights, layer.dbiases):
        assert isinstance(array, backend.array_type)


def test_a_network_of_these_classes_learns_the_same_as_one_of_bpnets_layers() -> None:
    x = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = np.array([0, 1, 1, 0])
    dense1, relu, dense2 = Layer_Dense(2, 8), Activation_ReLU(), Layer_Dense(8, 2)
    softmax_loss, optimizer = Activation_Softmax_Loss_CategoricalCrossentropy(), Optimizer_SGD(0.5)
    dense1.weights *= 100  # 0.01 * normal leaves so small a network at its saddle point
    dense2.weights *= 100

    model = bp.Sequential(bp.Dense(2, 8), bp.ReLU(), bp.Dense(8, 2)).initialize(dtype="float64")
    model[0].weight.value, model[2].weight.value = dense1.weights, dense2.weights
    loss, sgd = bp.SoftmaxCrossEntropy(), bp.SGD(0.5)

    for _ in range(200):
        dense1.forward(x)
        relu.forward(dense1.output)
        dense2.forward(relu.output)
        value = softmax_loss.forward(dense2.output, y)
        softmax_loss.backward(softmax_loss.output, y)
        dense2.backward(softmax_loss.dinputs)
        relu.backward(dense2.dinputs)
        dense1.backward(relu.dinputs)
        optimizer.update_params(dense1)
        optimizer.update_params(dense2)

        same = loss.forward(model.forward(x), y)
        dx = model.backward(loss.backward())
        sgd.step(model)

    assert value < 0.02
    assert value == pytest.approx(float(same), abs=1e-12)
    close(dense1.weights, model[0].weight.value)
    close(dense2.biases, model[2].bias.value[None, :])
    close(dense1.dinputs, dx)


# --- what arrays come out as, and what is left alone ---


def test_float32_stays_float32_and_integers_become_float64() -> None:
    relu = Activation_ReLU()
    relu.forward(np.array([[1, -2]], dtype=np.float32))
    relu.backward(np.array([[3, 4]], dtype=np.float32))
    assert relu.dinputs.dtype == np.float32
    relu.forward(np.array([[1, -2]]))
    relu.backward([[3, 4]])
    assert relu.dinputs.dtype == np.float64
    assert relu.dinputs.tolist() == [[3.0, 0.0]]


def test_no_argument_is_written_to() -> None:
    p, y, dvalues = np.array(P), np.array(LABELS), np.ones((3, 3))
    for array in (p, y, dvalues):
        array.flags.writeable = False
    activation, loss, combined = (
        Activation_Softmax(),
        Loss_CategoricalCrossentropy(),
        ActivationSoftmaxLossCategoricalCrossentropy(),
    )
    activation.output = p
    activation.backward(dvalues)
    loss.backward(p, y)
    combined.backward(p, y)
    relu, layer = Activation_ReLU(), Layer_Dense(3, 3)
    for each in (relu, layer):
        each.forward(p)
        each.backward(dvalues)
    assert p.tolist() == P
    assert relu.dinputs.tolist() == dvalues.tolist()


# --- wrong use ---


def test_a_backward_that_lacks_what_it_reads_says_what_to_do() -> None:
    for each, missing in (
        (Layer_Dense(2, 2), "inputs"),
        (Activation_ReLU(), "inputs"),
        (Activation_Softmax(), "output"),
    ):
        with pytest.raises(bp.StateError, match=rf"has no {missing} yet: call forward or backward first, or assign"):
            each.backward([[1.0, 2.0]])
    with pytest.raises(bp.StateError, match="has no dweights yet"):
        Optimizer_SGD().update_params(Layer_Dense(2, 2))


@pytest.mark.parametrize("wrong", [[1.0, 2.0], [[1.0, 2.0, 3.0]], [[[1.0, 2.0]]], np.ones((0, 2))])
def test_a_wrong_shape_is_named_with_the_one_that_is_needed(wrong: Any) -> None:
    layer = Layer_Dense(2, 2)
    with pytest.raises(bp.ShapeError, match=re.escape("Layer_Dense needs inputs (N, 2), got (")):
        layer.forward(wrong)
    layer.forward([[1.0, 2.0]])
    with pytest.raises(bp.ShapeError, match=re.escape("Layer_Dense needs dvalues (1, 2), got (")):
        layer.backward(wrong)
    assert layer.dinputs is None


def test_dvalues_of_another_batch_are_refused() -> None:
    relu, softmax = Activation_ReLU(), Activation_Softmax()
    for each in (relu, softmax):
        each.forward(P)
        with pytest.raises(bp.ShapeError, match=re.escape("needs dvalues (3, 3), got (2, 3)")):
            each.backward(P[:2])


@pytest.mark.parametrize(
    ("y_true", "error", "text"),
    [
        ([0, 1], bp.ShapeError, "3 samples and y_true 2"),
        ([0, 1, 3], bp.DataError, r"1 labels outside 0 ... 2.* 3 at index 2"),
        ([0, 1, -1], bp.DataError, r"-1 at index 2"),
        ([0.0, 1.0, 1.0], bp.DTypeError, "integer class labels, got float64"),
        ([[0], [1], [1]], bp.ShapeError, r"shape \(N,\).* got \(3, 1\)"),
        ([[0.9, 0.1, 0.0], [0, 1, 0], [0, 1, 0]], bp.DataError, "one-hot rows; a row of y_true"),
        ([[1, 1, 0], [0, 1, 0], [0, 0, 0]], bp.DataError, "one-hot rows; a row of y_true"),
    ],
)
def test_wrong_targets_are_refused_by_every_call_that_takes_them(y_true: Any, error: Any, text: str) -> None:
    loss, combined = Loss_CategoricalCrossentropy(), ActivationSoftmaxLossCategoricalCrossentropy()
    for call in (loss.calculate, loss.backward, combined.forward, combined.backward):
        with pytest.raises(error, match=text):
            call(P, y_true)
    assert loss.dinputs is combined.dinputs is combined.output is None


@pytest.mark.parametrize("learning_rate", [0, -0.1, math.nan, math.inf])
def test_a_learning_rate_must_be_above_zero_and_finite(learning_rate: float) -> None:
    with pytest.raises(bp.ConfigError, match="learning_rate must be above 0 and finite"):
        Optimizer_SGD(learning_rate)


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0), (-1, 1), (1.5, 2)])
def test_a_layer_needs_inputs_and_neurons(sizes: Any) -> None:
    with pytest.raises(bp.ConfigError, match="at least 1 input and 1 neuron"):
        Layer_Dense(*sizes)


# --- the translation ---

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_code_block_of_the_translation_runs_and_prints_what_stands_below_it() -> None:
    blocks = FENCE.findall((ROOT / "docs" / "from-nnfs.md").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    printed: list[str] = []
    n_compared = 0
    for language, text in blocks:
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(text, "docs/from-nnfs.md", "exec"), names)
            printed.append(out.getvalue())
        else:
            assert language == "text", f"a {language} block is neither run nor compared"
            assert printed == [text, text], "both columns above print this"
            printed.clear()
            n_compared += 1
    assert n_compared == 3
    assert not printed


def test_regularizers_add_their_penalty_and_its_derivative(selected: bp.Backend) -> None:
    layer = Layer_Dense(3, 2, 0.1, 0.2, bias_regularizer_l1=0.3, bias_regularizer_l2=0.4)
    plain = Layer_Dense(3, 2)
    for each in (layer, plain):
        each.weights = [[1.0, -2.0], [0.5, 0.0], [-1.0, 3.0]]
        each.biases = [[-1.0, 2.0]]
        each.forward([[1.0, 2.0, 3.0], [0.5, -1.0, 2.0]])
        each.backward([[1.0, -1.0], [2.0, 0.5]])
    w, b = bp.to_numpy(layer.weights), bp.to_numpy(layer.biases)
    dw, db = (bp.to_numpy(x) for x in (plain.dweights, plain.dbiases))
    np.testing.assert_allclose(bp.to_numpy(layer.dweights), dw + 0.1 * np.sign(w) + 0.4 * w, rtol=1e-14)
    np.testing.assert_allclose(bp.to_numpy(layer.dbiases), db + 0.3 * np.sign(b) + 0.8 * b, rtol=1e-14)
    assert np.array_equal(bp.to_numpy(layer.dinputs), bp.to_numpy(plain.dinputs))
    for loss in (Loss_CategoricalCrossentropy(), Activation_Softmax_Loss_CategoricalCrossentropy()):
        expected = 0.1 * 7.5 + 0.2 * 15.25 + 0.3 * 3 + 0.4 * 5
        assert loss.regularization_loss(layer) == pytest.approx(expected, rel=1e-14)
        assert loss.regularization_loss(plain) == 0.0
    with pytest.raises(bp.ConfigError, match=r"weight_regularizer_l2 must lie in \[0, inf\), got -1"):
        layer.weight_regularizer_l2 = -1
