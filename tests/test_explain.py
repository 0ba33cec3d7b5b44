"""`bp.explain`: the numbers of the chapter, every layer, a model left as it was, and why a gradient is zero."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
from test_chain_rule import DLOGITS, DVALUES, LABELS, NEURON_B, NEURON_W, NEURON_X, RELU_OUTPUT, B, P, W, X

import bpnet as bp
from bpnet.explain import Explanation, Factor, Term
from bpnet.explain.parts import Scene
from bpnet.testing.cases.entries import LayerCase
from bpnet.testing.cases.layers import LAYER_CALLS
from bpnet.testing.inputs import SampleInputs

RNG = np.random.default_rng(5)


def neuron(backend: Any = None) -> Any:
    model = bp.Sequential(bp.Dense(3, 1), bp.ReLU()).initialize(backend=backend, dtype="float64")
    model[0].weight.value, model[0].bias.value = [[w] for w in NEURON_W], [NEURON_B]
    return model


def chapter_layer(backend: Any = None, *more: bp.Layer) -> Any:
    model = bp.Sequential(bp.Dense(4, 3), *more).initialize(backend=backend, dtype="float64")
    model[0].weight.value, model[0].bias.value = W, B
    return model


def factors(scene: Scene, name: str) -> list[Factor]:
    return [factor for term in scene.terms for factor in term.factors if factor.name == name]


# --- the chapter's numbers ---


def test_n1_and_n2_the_neuron_is_walked_through_as_in_the_chapter(backend: bp.Backend) -> None:
    explanation = bp.explain(neuron(backend), [NEURON_X], dvalues=[[1.0]])
    (scene,) = explanation.scenes
    assert [term.value for term in scene.terms] == [-3.0, 2.0, 6.0, 1.0]
    assert (scene.value, scene.gradient) == (6.0, 1.0)
    assert [(node.op, node.value, node.gradient) for node in scene.nodes] == [("ReLU", 6.0, 1.0)]
    assert [factor.local for factor in factors(scene, "x")] == NEURON_W
    assert [factor.gradient for factor in factors(scene, "x")] == [-3.0, -1.0, 2.0]
    assert [factor.gradient for factor in factors(scene, "weight")] == [1.0, -2.0, 3.0]
    assert [factor.gradient for factor in factors(scene, "bias")] == [1.0]
    assert explanation.dx.tolist() == [[-3.0, -1.0, 2.0]]
    assert explanation.gradients["0.weight"].tolist() == [[1.0], [-2.0], [3.0]]
    ops = [(step.phase, step.op) for step in scene.steps]
    assert ops == [("forward", op) for op in ("mul", "mul", "mul", "sum", "ReLU")] + [
        ("backward", op) for op in ("upstream", "ReLU", "sum", "mul", "mul", "mul", "result")
    ]
    assert explanation.disagreements == []


def test_d1_to_d4_products_of_three_neurons_add_up_to_what_backward_gives(backend: bp.Backend) -> None:
    explanation = bp.explain(chapter_layer(backend), X, dvalues=DVALUES)
    expected = [[0.44, -0.38, -0.07, 1.37], [0.88, -0.76, -0.14, 2.74], [1.32, -1.14, -0.21, 4.11]]
    np.testing.assert_allclose(explanation.dx, expected, atol=1e-12)
    np.testing.assert_allclose(explanation.gradients["0.weight"][:, 0], [0.5, 20.1, 10.9, 4.1], atol=1e-12)
    assert explanation.gradients["0.bias"].tolist() == [6.0, 6.0, 6.0]
    for sample in range(3):
        scenes = [scene for scene in explanation.scenes if scene.sample == sample]
        assert len(scenes) == 3
        total = np.sum([[factor.gradient for factor in factors(scene, "x")] for scene in scenes], axis=0)
        np.testing.assert_allclose(total, explanation.dx[sample], atol=1e-12)
    first = [scene for scene in explanation.scenes if scene.neuron == 0]
    total = np.sum([[factor.gradient for factor in factors(scene, "weight")] for scene in first], axis=0)
    np.testing.assert_allclose(total, explanation.gradients["0.weight"][:, 0], atol=1e-12)


def test_f1_and_f2_forward_and_backward_through_relu(backend: bp.Backend) -> None:
    explanation = bp.explain(chapter_layer(backend, bp.ReLU()), X, dvalues=RELU_OUTPUT)
    np.testing.assert_allclose(explanation.y, RELU_OUTPUT, atol=1e-12)
    np.testing.assert_allclose(explanation.dx[1], [1.728, 7.066, -4.416, 9.074], atol=1e-9)
    np.testing.assert_allclose(explanation.gradients["0.bias"], [15.11, 2.261, 2.611], atol=1e-9)
    (off,) = (scene for scene in explanation.scenes if (scene.sample, scene.neuron) == (1, 1))
    assert round(off.value, 12) == -1.81
    assert off.gradient == 0.0
    assert off.nodes[0].rows[0].local == 0.0
    assert "-1.81 is not above 0" in off.nodes[0].backward
    assert explanation.disagreements == []


@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
def test_s1_to_s3_softmax_and_loss(apart: bool, backend: bp.Backend) -> None:
    layers = [bp.Softmax()] if apart else []
    loss = bp.CategoricalCrossEntropy() if apart else bp.SoftmaxCrossEntropy()
    model = bp.Sequential(bp.Dense(3, 3), *layers).initialize(backend=backend, dtype="float64")
    model[0].weight.value, model[0].bias.value = np.eye(3), np.zeros(3)  # type: ignore[attr-defined]
    explanation = bp.explain(model, np.log(P), loss, LABELS)
    assert explanation.loss == pytest.approx(0.38506088005216804, abs=1e-12)
    dlogits = [[s.gradient for s in explanation.scenes if s.sample == n] for n in range(3)]
    np.testing.assert_allclose(dlogits, DLOGITS, atol=5e-9)
    dp = [[s.nodes[0].gradient for s in explanation.scenes if s.sample == n] for n in range(3)]
    np.testing.assert_allclose(
        dp, [[-0.4761904761904762, 0, 0], [0, -2 / 3, 0], [0, -0.3703703703703704, 0]], atol=1e-12
    )
    for scene in explanation.scenes:
        softmax, last = scene.nodes
        assert (softmax.op.lower(), len(softmax.rows), last.gradient) == ("softmax", 3, 1.0)
        assert sum(row.product for row in softmax.rows) == pytest.approx(scene.gradient, abs=1e-15)
        assert softmax.value == pytest.approx(P[scene.sample][scene.neuron], abs=1e-15)
    assert explanation.disagreements == []


# --- every layer and loss ---


CALLS = {name: call for name, call in LAYER_CALLS.items() if call[1].plain}


@pytest.mark.parametrize(("case", "inputs"), CALLS.values(), ids=CALLS)
def test_every_layer_is_explained_and_what_is_shown_is_what_was_computed(
    case: LayerCase, inputs: SampleInputs, backend: bp.Backend
) -> None:
    model = case.make().initialize(backend=backend)
    ((x,), _) = inputs.draw(inputs.fewest if len(inputs.shape) > 1 else 3)
    explanation = bp.explain(model, x.astype("float32"))
    assert explanation.disagreements == []
    assert explanation.scenes
    for scene in explanation.scenes:
        assert [step.phase for step in scene.steps] == sorted((s.phase for s in scene.steps), reverse=True)
    assert "backward" in str(explanation)
    json.dumps(explanation.json(), allow_nan=False)


LOSSES: list[tuple[bp.Loss, Any]] = [
    (bp.SoftmaxCrossEntropy(), [0, 2]),
    (bp.SoftmaxCrossEntropy(label_smoothing=0.1, class_weight=[1, 2, 3]), [0, 2]),
    (bp.SoftmaxCrossEntropy(), [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]),
    (bp.FocalLoss(), [0, 2]),
    (bp.MulticlassHinge(), [0, 2]),
    (bp.BinaryCrossEntropy(), [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]),
    (bp.BinaryFocalLoss(), [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]),
    (bp.Hinge(), [[-1.0, 1.0, 1.0], [1.0, -1.0, -1.0]]),
    (bp.MeanSquaredError(), [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]),
    (bp.MeanSquaredError(reduction="none"), [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]),
    (bp.MeanAbsoluteError(), [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]),
    (bp.Huber(), [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]),
    (bp.LogCosh(), [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]),
    (bp.PoissonNLL(), [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]),
]


@pytest.mark.parametrize(("loss", "y"), LOSSES, ids=lambda each: repr(each)[:40])
def test_every_loss_ends_the_chain_with_its_own_gradient(loss: bp.Loss, y: Any, backend: bp.Backend) -> None:
    model = bp.Sequential(bp.Dense(4, 3)).initialize(backend=backend, dtype="float64")
    x = RNG.normal(size=(2, 4))
    explanation = bp.explain(model, x, loss, y)
    given = model.asarray(x)
    loss.forward(model(given), model.asarray(np.array(y), dtype="int64" if np.array(y).ndim == 1 else "float64"))
    dy = bp.to_numpy(loss.backward())
    assert explanation.dy.tolist() == dy.tolist()
    for scene in explanation.scenes:
        assert scene.nodes[-1].gradient == 1.0
        assert scene.gradient == dy[scene.sample, scene.neuron]
    assert explanation.disagreements == []


def test_log_softmax_and_its_loss_are_one_chain() -> None:
    model = bp.Sequential(bp.Dense(4, 3), bp.LogSoftmax()).initialize(dtype="float64")
    explanation = bp.explain(model, RNG.normal(size=(2, 4)), bp.NegativeLogLikelihood(), [0, 2])
    assert [node.op for node in explanation.scenes[0].nodes] == ["LogSoftmax", "NegativeLogLikelihood"]
    assert explanation.disagreements == []


# --- layers of one's own ---


class Square(bp.Layer):
    """Nothing is known of it but what it computes."""

    def __call__(self, x: Any) -> Any:
        return x * x

    def forward(self, x: Any) -> Any:
        self.keep(x)
        return x * x

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        (x,) = self.kept()
        return 2 * x * dy


class TellingSquare(Square):
    """It says what its outputs are made of."""

    def explain_terms(self, x: Any, y: Any, index: tuple[int, ...]) -> list[Term]:
        return [Term("square", float(y[index]), (Factor("x", index, float(x[index]), 2 * float(x[index])),))]


class MistakenSquare(Square):
    """What it says of its derivative is not what its backward does."""

    def explain_terms(self, x: Any, y: Any, index: tuple[int, ...]) -> list[Term]:
        return [Term("square", float(y[index]), (Factor("x", index, float(x[index]), float(x[index])),))]


class WrongDense(bp.Dense):
    """Its dx is half of what it must be."""

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        return super().backward(dy, need_dx) / 2


def test_a_layer_of_ones_own_is_a_box_with_the_derivatives_of_its_own_backward() -> None:
    explanation = bp.explain(
        bp.Sequential(Square()).initialize(dtype="float64"), [[3.0, -1.0]], dvalues=[[10.0, 100.0]]
    )
    first = explanation.scenes[0]
    assert (first.head, first.value, first.gradient) == ("Square", 9.0, 10.0)
    assert [(f.local, f.gradient) for f in factors(first, "x")] == [(6.0, 60.0), (0.0, 0.0)]
    assert explanation.dx.tolist() == [[60.0, -200.0]]


def test_a_layer_may_offer_its_terms() -> None:
    explanation = bp.explain(bp.Sequential(TellingSquare()).initialize(dtype="float64"), [[3.0, -1.0]])
    assert [step.op for step in explanation.scenes[0].steps] == ["square", "sum", "upstream", "sum", "square", "result"]
    assert factors(explanation.scenes[0], "x")[0].gradient == 6.0
    assert explanation.disagreements == []
    mistaken = bp.explain(bp.Sequential(MistakenSquare()).initialize(dtype="float64"), [[3.0]])
    assert mistaken.disagreements == [
        "'0', neuron 0, sample 0: explain_terms says 3 of the derivative by x[0], its backward 6"
    ]


def test_a_backward_that_is_not_the_chain_rule_is_said_to_disagree() -> None:
    explanation = bp.explain(bp.Sequential(WrongDense(2, 2)).initialize(), [[1.0, 2.0]])
    assert explanation.disagreements == ["the dx that '0' (WrongDense(2, 2)) returned is not dy W^T"]
    assert "Disagreement: the dx that" in str(explanation)
    assert "is not dy W^T" in explanation.html()


# --- the model is left alone ---


def test_values_gradients_counters_and_what_is_kept_stay_as_they_were(backend: bp.Backend) -> None:
    model = bp.Sequential(bp.Dense(4, 5), bp.Dropout(0.5), bp.Tanh(), bp.Dense(5, 3)).initialize(backend=backend)
    loss, optimizer = bp.SoftmaxCrossEntropy(), bp.Adam()
    x, y = model.asarray(RNG.normal(size=(6, 4))), model.asarray(np.array([0, 1, 2, 0, 1, 2]), dtype="int64")
    for _ in range(2):
        loss.forward(model.forward(x), y)
        model.backward(loss.backward())
        optimizer.step(model)
    output = bp.to_numpy(model.forward(x)).copy()  # in the middle of a step
    before = {name: bp.to_numpy(each).copy() for name, each in model.store.arrays().items()}
    kept = [layer._kept for _, layer in model.walk()]
    from bpnet.dispatch import version

    seen = version()
    explanation = bp.explain(model, x, loss, y)
    assert version() == seen
    assert all(a is b for a, b in zip(kept, (layer._kept for _, layer in model.walk()), strict=True))
    for name, each in model.store.arrays().items():
        assert np.array_equal(bp.to_numpy(each), before[name]), name
    assert explanation.y.tolist() == output.tolist()  # the masks of this very step
    loss.forward(model.forward(x), y)
    dx = model.backward(loss.backward())
    assert explanation.dx.tolist() == bp.to_numpy(dx).tolist()
    for path, parameter in model.parameters().items():
        assert explanation.gradients[path].tolist() == bp.to_numpy(parameter.grad).tolist()


def test_a_model_without_arrays_gets_none_and_is_explained_as_it_would_be() -> None:
    model = bp.Sequential(bp.Dense(2, 2))
    explanation = bp.explain(model, [[1.0, 2.0]])
    assert not model.initialized
    assert explanation.y.tolist() == model(model.asarray([[1.0, 2.0]], dtype="float32")).tolist()


def test_importing_bpnet_loads_nothing_of_it() -> None:
    import subprocess
    import sys

    code = "import bpnet, sys; print([n for n in sys.modules if n.startswith('bpnet.explain.')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_tied_weights_get_the_sum_of_both_places() -> None:
    first, second = bp.Dense(2, 2), bp.Dense(2, 2)
    second.weight = first.weight
    model = bp.Sequential(first, bp.Tanh(), second).initialize(dtype="float64")
    explanation = bp.explain(model, RNG.normal(size=(3, 2)))
    again = copy.deepcopy(model)
    assert explanation.disagreements == []
    assert list(explanation.gradients) == list(again.parameters())


# --- what is chosen ---


def test_samples_neurons_and_weights_are_chosen() -> None:
    model = bp.Sequential(bp.Dense(20, 9), bp.ReLU(), bp.Dense(9, 2)).initialize()
    x = RNG.normal(size=(5, 20))
    explanation = bp.explain(model, x, samples=4, neurons={"0": [8, 3]}, weights={"0": [19, 0]})
    first = [scene for scene in explanation.scenes if scene.group == 0]
    assert {scene.sample for scene in explanation.scenes} == {4}
    assert [scene.neuron for scene in first] == [8, 3]
    assert [factor.index for factor in factors(first[0], "x")] == [(19,), (0,)]
    assert first[0].rest is not None
    assert first[0].rest.count == 18
    shown = sum(term.value for term in first[0].terms) + first[0].rest.value
    assert shown == pytest.approx(first[0].value, rel=1e-5)
    default = bp.explain(model, x)
    assert [len([s for s in default.scenes if (s.group, s.sample) == (g, 0)]) for g in (0, 1)] == [4, 2]
    assert len(default.scenes[0].terms) == 5


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"samples": 7}, bp.ConfigError, "samples must be in 0 ... 1, got 7"),
        ({"samples": []}, bp.ConfigError, "samples must name at least one, got []"),
        ({"samples": [-1]}, bp.ConfigError, "samples must be a whole number of at least 0, got -1"),
        ({"neurons": 2}, bp.ConfigError, "neurons must be in 0 ... 0, got 2"),
        ({"weights": 3}, bp.ConfigError, "weights must be in 0 ... 2, got 3"),
        ({"neurons": {"3": 0}}, bp.ConfigError, "neurons: no layer stands at '3'; there are '0', '1'"),
        ({"loss": bp.MeanSquaredError()}, bp.ConfigError, "explain takes a loss together with its targets y"),
        ({"y": [[1.0]]}, bp.ConfigError, "explain takes a loss together with its targets y, got no loss"),
        ({"loss": bp.MeanSquaredError, "y": [[1.0]]}, bp.ConfigError, "loss must be a Loss, got .*; write MeanSquared"),
        ({"dvalues": [[1.0]]}, bp.ShapeError, r"dvalues must have the output's shape \(2, 1\), got \(1, 1\)"),
        (
            {"loss": bp.MeanSquaredError(), "y": [[1.0], [1.0]], "dvalues": [[1.0], [1.0]]},
            bp.ConfigError,
            "explain takes a loss or dvalues, not both",
        ),
    ],
)
def test_what_cannot_be_explained_is_refused(given: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message.replace("[]", r"\[\]").replace("...", r"\.\.\.")):
        bp.explain(neuron(), [NEURON_X, NEURON_X], **given)


def test_an_empty_batch_labels_out_of_range_and_no_model_are_refused() -> None:
    with pytest.raises(bp.DataError, match=r"explain needs at least one sample, got x of shape \(0, 3\)"):
        bp.explain(neuron(), np.zeros((0, 3)))
    with pytest.raises(bp.DataError, match="y"):
        bp.explain(chapter_layer(), X, bp.SoftmaxCrossEntropy(), [0, 1, 3])
    with pytest.raises(bp.ConfigError, match="explain takes a layer or a model, got int"):
        bp.explain(3, [[1.0]])  # type: ignore[arg-type]


def test_numbers_that_are_not_finite_are_shown_and_are_text_in_json() -> None:
    explanation = bp.explain(neuron(), [[np.inf, 0.0, np.nan]])
    text = json.dumps(explanation.json(), allow_nan=False)
    assert '"nan"' in text
    assert "nan" in str(explanation)


# --- why is it zero? ---


def explained(*layers: bp.Layer, x: Any, **more: Any) -> Explanation:
    return bp.explain(bp.Sequential(*layers).initialize(seed=1, dtype="float64"), x, **more)


def test_a_dead_relu_is_named_with_its_samples() -> None:
    model = chapter_layer(None, bp.ReLU())
    reason = bp.explain(model, X[1:2]).why("0.weight", (0, 1))
    assert reason.causes == {"dead": (0,)}
    assert str(reason) == (
        "The gradient of 0.weight[0, 1] is 0: the ReLU '1' is off at neuron 1 for sample 0: z = -1.81 is not above 0."
    )
    partly = bp.explain(model, X).why("0.weight", (0, 1))
    assert partly.causes == {"dead": (1,)}
    assert "nothing from sample 1 (a ReLU that is off)" in partly.text


def test_a_relu_two_layers_on_is_found() -> None:
    model = bp.Sequential(bp.Dense(1, 1), bp.Tanh(), bp.Dense(1, 1), bp.ReLU()).initialize(dtype="float64")
    model[2].bias.value = [-100.0]  # type: ignore[attr-defined]
    explanation = bp.explain(model, [[1.0]])
    assert explanation.why("0.bias", 0).causes == {"dead": (0,)}
    assert "the ReLU '3' is off at neuron 0" in explanation.why("0.bias", 0).text
    assert explanation.why("x", (0, 0)).causes == {"dead": (0,)}


@pytest.mark.parametrize("layer", [bp.Sigmoid, bp.Tanh])
def test_saturation_is_named(layer: Any) -> None:
    model = bp.Sequential(bp.Dense(1, 1), layer()).initialize(dtype="float64")
    model[0].weight.value = [[1.0]]  # type: ignore[attr-defined]
    reason = bp.explain(model, [[800.0]]).why("0.weight", (0, 0))
    assert reason.causes == {"saturated": (0,)}
    assert "is saturated for sample 0: its slope at 800 rounds to 0" in reason.text
    nearly = bp.explain(model, [[0.5], [12.0]]).why("0.weight", (0, 0))
    assert nearly.causes == {"saturated": (1,)}
    assert "nearly nothing from sample 1, where the activation behind is saturated." in nearly.text


def test_dropout_frozen_input_and_upstream_are_named() -> None:
    dropped = explained(bp.Dense(2, 8), bp.Dropout(0.5), x=[[1.0, 2.0]])
    places = np.nonzero(dropped.gradients["0.bias"] == 0)[0]
    assert 0 < places.size < 8
    assert dropped.why("0.bias", int(places[0])).causes == {"masked": (0,)}
    assert explained(bp.Dense(2, 1), x=[[0.0, 2.0]]).why("0.weight", (0, 0)).causes == {"input": (0,)}
    assert explained(bp.Dense(2, 1), x=[[1.0, 2.0]], dvalues=[[0.0]]).why("0.bias", 0).causes == {"upstream": (0,)}
    frozen = bp.Sequential(bp.Dense(2, 1)).initialize().freeze()
    assert bp.explain(frozen, [[1.0, 2.0]]).why("0.weight", (0, 0)).causes == {"frozen": ()}
    cancels = explained(bp.Dense(1, 1), x=[[1.0], [-1.0]]).why("0.weight", (0, 0))
    assert cancels.text == "The gradient of 0.weight[0, 0] is 0: the contributions of the samples are not, and cancel."


def test_what_the_loss_does_not_count_is_named() -> None:
    loss = bp.SoftmaxCrossEntropy(ignore_index=-1)
    reason = explained(bp.Dense(2, 2), x=[[1.0, 2.0]], loss=loss, y=[-1]).why("0.bias", 0)
    assert reason.causes == {"ignored": (0,)}
    assert "the label of sample 0 is -1, which the loss ignores" in reason.text
    weights = {"loss": bp.MeanSquaredError(), "y": [[1.0], [1.0]], "sample_weight": [0.0, 1.0]}
    reason = explained(bp.Dense(1, 1), x=[[1.0], [2.0]], **weights).why("x", (0, 0))
    assert reason.causes == {"ignored": (0,)}
    model = bp.Sequential(bp.Dense(1, 1)).initialize(dtype="float64")
    model[0].bias.value = [100.0]  # type: ignore[attr-defined]
    hinge = bp.explain(model, [[0.5]], bp.Hinge(), [[1.0]]).why("0.bias", 0)
    assert hinge.causes == {"loss": (0,)}
    assert "the derivative of Hinge by output 0 of sample 0 is 0 at" in hinge.text


def test_clipping_by_an_optimizer_is_told_with_its_numbers() -> None:
    explanation = bp.explain(neuron(), [NEURON_X])
    value = explanation.why("0.weight", (2, 0), optimizer=bp.SGD(0.1, clip_value=0.5))
    assert "clip_value=0.5 makes it 0.5." in value.text
    norm = explanation.why("0.weight", (2, 0), optimizer=bp.SGD(0.1, clip_norm=1.0))
    assert "The norm of all gradients is 3.87298; clip_norm=1 scales it to 0.774597." in norm.text
    assert "clipped" in norm.causes
    assert "clip" not in explanation.why("0.weight", (2, 0), optimizer=bp.SGD(0.1)).text


def test_why_refuses_what_there_is_not() -> None:
    explanation = bp.explain(neuron(), [NEURON_X])
    with pytest.raises(
        bp.ConfigError, match="no gradient '0.wight'; there are '0.weight', '0.bias', 'x'; did you mean"
    ):
        explanation.why("0.wight", 0)
    with pytest.raises(bp.ConfigError, match=r"0.weight has shape \(3, 1\), so that \(3, 0\) is no index"):
        explanation.why("0.weight", (3, 0))


# --- as text ---


def test_the_text_is_the_walk() -> None:
    text = str(bp.explain(neuron(), [NEURON_X]))
    assert text.startswith("Sequential(Dense(3, 1), ReLU())\n1 sample, float64 on numpy\n")
    assert "x[0] × weight[0, 0] = 1 × (-3) = -3." in text
    assert "(-3) + 2 + 6 + 1 = 6." in text
    assert text.endswith("dx = [-3, -1, 2], dweight = [1, -2, 3], dbias = 1.")
    assert repr(bp.explain(neuron(), [NEURON_X])) == (
        "<Explanation of Sequential(Dense(3, 1), ReLU()), 1 samples, 1 scenes>"
    )
