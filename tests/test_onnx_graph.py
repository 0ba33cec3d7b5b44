"""What needs no onnx: the graph that translators write, who translates, and the message where it is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bpnet as bp
from bpnet.interop.onnx import Graph, Value, translates
from bpnet.interop.onnx.inputs import sample_shape, side_inputs
from bpnet.interop.onnx.proto import tidied
from bpnet.interop.onnx.registry import translator_of
from bpnet.testing.cases.registry import public_classes

NOT_TRANSLATED: dict[str, str] = {}  # the public layers that have no meaning in a file of inference, and why


def graph_of(model: bp.Layer, *sample: Any, dtype: str = "float32") -> tuple[Graph, Value]:
    """The graph of a model whose samples have this shape, and its result."""
    graph = Graph(model.initialize(0, "numpy", dtype), opset=18)
    return graph, graph.translate(model, graph.input("input", ("batch", *sample), model.input_dtype))


def kinds(graph: Graph) -> dict[str, int]:
    return dict(Counter(node.kind for node in graph.nodes))


def refuses(error: type[Exception], text: str) -> Any:
    return pytest.raises(error, match=f"^{re.escape(text)}")


# --- who is translated ---


def test_every_public_layer_is_translated_or_a_reason_is_given() -> None:
    without = {
        name: cls for (base, name), cls in public_classes().items() if base is bp.Layer and translator_of(cls) is None
    }
    assert set(without) == set(NOT_TRANSLATED)


def test_a_subclass_that_changes_nothing_in_inference_is_translated_as_its_base() -> None:
    class Network(bp.Sequential):
        """Named by its user."""

        def __init__(self, width: int) -> None:
            super().__init__(bp.Dense(3, width), bp.ReLU())

        def forward(self, x: Any, **side: Any) -> Any:
            return super().forward(x, **side)

    assert translator_of(Network) is translator_of(bp.Sequential)
    graph, y = graph_of(Network(5), 3)
    assert (kinds(graph), y.shape) == ({"Gemm": 1, "Relu": 1}, ("batch", 5))


@pytest.mark.parametrize("changed", ["__call__", "settings", "pair"])
def test_a_subclass_that_changes_what_inference_does_is_not_translated_as_its_base(changed: str) -> None:
    cls = type("Mine", (bp.ELU,), {changed: property(lambda self: None)})
    assert translator_of(bp.ELU) is not None
    assert translator_of(cls) is None


class Doubled(bp.ReLU):
    def __call__(self, x: Any) -> Any:
        return bp.ops.mul(super().__call__(x), x * 0 + 2)


def test_a_layer_that_nobody_translates_is_named_with_its_place_and_what_to_do() -> None:
    with refuses(
        bp.ConfigError,
        "no translation into ONNX is known for the layer Doubled() at '1.0'; write one, a function of (graph, layer, "
        "x) below @bpnet.interop.onnx.translates(Doubled), as docs/onnx.md shows",
    ):
        graph_of(bp.Sequential(bp.Dense(2, 2), bp.Residual(Doubled())), 2)


def test_a_translator_is_registered_for_a_class_and_may_be_replaced() -> None:
    class Own(bp.ReLU):
        def __call__(self, x: Any) -> Any:
            return x

    @translates(Own)
    def first(graph: Graph, layer: Own, x: Value) -> Value:
        return graph.pointwise("Identity", x)

    assert translator_of(Own) is first

    @translates(Own)
    def second(graph: Graph, layer: Own, x: Value) -> Any:
        return None

    assert translator_of(Own) is second
    with refuses(bp.ConfigError, "the translator of Own must return a Value, it returned None"):
        graph_of(bp.Sequential(Own()), 2)


def test_translates_takes_classes_of_layers() -> None:
    with refuses(bp.DTypeError, "translates takes classes of layers, as in @translates(MyLayer), got ReLU()"):
        translates(bp.ReLU())  # type: ignore[arg-type]
    with refuses(bp.DTypeError, "translates takes classes of layers"):
        translates(int)  # type: ignore[type-var]
    with refuses(bp.ConfigError, "translates needs a class of layers, as in @translates(MyLayer)"):
        translates()


# --- the order of axes ---


def image_layers(channels: str) -> list[bp.Layer]:
    return [
        bp.Conv2d(3, 4, 3, padding="same", channels=channels),
        bp.BatchNorm(4, channels=channels),
        bp.Residual(bp.Conv2d(4, 4, 1, channels=channels), bp.GELU()),
        bp.MaxPool2d(2, channels=channels),
        bp.GroupNorm(2, 4, channels=channels),
        bp.AvgPool2d(2, channels=channels),
        bp.ReLU(),
    ]


def test_images_are_transposed_where_they_come_in_and_go_out_and_nowhere_between() -> None:
    graph, y = graph_of(bp.Sequential(*image_layers("last")), 8, 8, 3)
    assert kinds(graph).get("Transpose") == 1
    assert (y.shape, y.order) == (("batch", 2, 2, 4), (0, 3, 1, 2))
    graph.output(y, "output")
    assert kinds(graph)["Transpose"] == 2
    assert graph.outputs == [Value("output", ("batch", 2, 2, 4), "float32")]


def test_images_with_channels_first_are_not_transposed() -> None:
    graph, y = graph_of(bp.Sequential(*image_layers("first")), 3, 8, 8)
    graph.output(y, "output")
    assert "Transpose" not in kinds(graph)
    assert y.shape == ("batch", 4, 2, 2)


def test_the_branches_of_an_image_share_one_transpose() -> None:
    branches = bp.Concatenate(bp.Conv2d(2, 3, 1), bp.Conv2d(2, 4, 3, padding=1), bp.MaxPool2d(1))
    graph, y = graph_of(branches, 5, 5, 2)
    assert kinds(graph) == {"Transpose": 1, "Conv": 2, "MaxPool": 1, "Concat": 1}
    assert (y.shape, y.order) == (("batch", 5, 5, 9), (0, 3, 1, 2))
    assert graph.nodes[-1].attributes == {"axis": 1}


def test_branches_that_lie_differently_are_joined_in_their_own_order() -> None:
    graph, y = graph_of(bp.Concatenate(bp.Conv2d(2, 3, 1), bp.Tanh(), axis=1), 5, 5, 2)
    assert (y.shape, y.order) == (("batch", 10, 5, 3), (0, 1, 2, 3))  # bpnet itself would refuse 3 and 2 channels
    assert kinds(graph)["Transpose"] == 2


def test_a_value_that_was_transposed_is_found_again() -> None:
    graph = Graph(bp.ReLU().initialize(), opset=18)
    x = graph.input("input", ("batch", 2, 3, 4), "float32")
    turned = graph.arranged(x, (0, 3, 1, 2))
    assert graph.arranged(x, (0, 3, 1, 2)) is turned
    assert graph.arranged(turned) is x
    assert graph.arranged(turned, (2, 0, 1, 3)).order == (2, 0, 1, 3)
    assert [node.attributes["perm"] for node in graph.nodes] == [[0, 3, 1, 2], [3, 0, 2, 1]]
    image = np.arange(24).reshape(1, 2, 3, 4)
    first = image.transpose(0, 3, 1, 2)
    assert np.array_equal(first.transpose(3, 0, 2, 1), image.transpose(2, 0, 1, 3))


def test_stacked_recurrent_layers_keep_positions_first() -> None:
    layers = (bp.LSTM(3, 4, n_layers=2), bp.GRU(4, 5), bp.LayerNorm(5), bp.Dense(5, 2))
    graph, y = graph_of(bp.Sequential(*layers), "length", 3)
    assert kinds(graph)["Transpose"] == 1
    assert (y.shape, y.order) == (("batch", "length", 2), (1, 0, 2))


# --- what is stored ---


def test_what_is_stored_has_the_paths_of_parameters_and_their_values() -> None:
    model = bp.Sequential(bp.Normalize(3).fit(np.random.default_rng(0).normal(size=(9, 3))), bp.Dense(3, 2))
    graph, _ = graph_of(model, 3, dtype="float64")
    assert set(graph.stored) == {"0.mean", "0.std", "1.weight", "1.bias"} == set(model.parameters())
    for path, parameter in model.parameters().items():
        assert graph.stored[path].dtype == np.float64
        assert np.array_equal(graph.stored[path], parameter.value)
        assert graph.stored[path] is not parameter.value


def test_a_tied_table_is_stored_once() -> None:
    model = bp.Sequential(bp.Embedding(7, 3), bp.Tanh(), bp.Unembedding(7, 3))
    model[2].weight = model[0].weight
    graph, _ = graph_of(model, "length")
    assert set(graph.stored) == {"0.weight"}


def test_a_parameter_that_is_stored_in_two_forms_has_two_names() -> None:
    model = bp.Dense(2, 3).initialize()
    graph = Graph(model, opset=18)
    plain, again = graph.parameter(model.weight), graph.parameter(model.weight)
    turned = graph.parameter(model.weight, np.transpose, "turned")
    assert (plain.name, again is plain, turned.name, turned.shape) == ("weight", True, "weight:turned", (3, 2))
    assert np.array_equal(graph.stored["weight:turned"], np.asarray(model.weight.value).T)


def test_equal_constants_are_stored_once_and_zeros_of_two_signs_are_not_equal() -> None:
    graph = Graph(bp.ReLU().initialize(dtype="float64"), opset=18)
    assert graph.constant(0.5) is graph.constant(0.5)
    assert graph.constant(0.5).dtype == "float64"
    assert graph.constant(0.0).name != graph.constant(-0.0).name
    assert graph.constant(np.array(1, np.int64)).name != graph.constant(1.0).name


def test_names_are_never_given_twice() -> None:
    class Holder(bp.Layer):
        def __init__(self) -> None:
            self.input = bp.Parameter((2,), "ones")

        def __call__(self, x: Any) -> Any:
            return x

    graph = Graph(Holder().initialize(), opset=18)
    assert graph.input("input", ("batch",), "float32").name == "input.1"
    assert [graph.name("a"), graph.name("a"), graph.name("a.1")] == ["a", "a.1", "a.1.1"]


def test_what_nobody_needs_is_left_out_and_outputs_name_what_they_are_made_by() -> None:
    graph = Graph(bp.ReLU().initialize(), opset=18)
    x = graph.input("input", ("batch", 3), "float32")
    y = graph.op("Relu", x)
    graph.op("Tanh", graph.op("Neg", y))
    z = graph.op("Abs", y)
    for value, name in ((y, "a"), (z, "b"), (y, "c"), (x, "d")):
        graph.output(value, name)
    assert [(node.kind, *node.inputs, *node.outputs) for node in tidied(graph)] == [
        ("Relu", "input", "c"),
        ("Abs", "c", "b"),
        ("Identity", "c", "a"),
        ("Identity", "input", "d"),
    ]
    assert [value.name for value in graph.outputs] == ["a", "b", "c", "d"]


# --- the shape of x ---


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (lambda: bp.Sequential(bp.ReLU(), bp.Dense(4, 2)), (4,)),
        (lambda: bp.Sequential(bp.Normalize(6), bp.Reshape((2, 3))), (6,)),
        (lambda: bp.Sequential(bp.Normalize((2, 3)), bp.Flatten()), (2, 3)),
        (lambda: bp.Sequential(bp.Reshape((8, 8, 1)), bp.Conv2d(1, 2, 3)), (64,)),
        (lambda: bp.Sequential(bp.Embedding(9, 4), bp.GRU(4, 2)), ("length",)),
        (lambda: bp.Sequential(bp.LSTM(4, 2)), ("length", 4)),
        (lambda: bp.Sequential(bp.Dense(3, 4), bp.TransformerBlock(4, 2)), ("length", 3)),
        (lambda: bp.TransformerBlock(4, 2), ("length", 4)),
        (lambda: bp.Concatenate(bp.Dense(3, 4), bp.Tanh()), (3,)),
        (lambda: bp.Sequential(bp.BatchNorm(5)), (5,)),
    ],
)
def test_the_first_layer_says_what_a_sample_is(model: Any, shape: tuple[Any, ...]) -> None:
    assert sample_shape(model(), None) == shape


@pytest.mark.parametrize(
    "model",
    [
        lambda: bp.Sequential(bp.Conv2d(1, 2, 3)),
        lambda: bp.Sequential(bp.Flatten(), bp.Dense(4, 2)),
        lambda: bp.Sequential(bp.Normalize((3, 1, 1))),
        lambda: bp.Sequential(bp.Tanh()),
        lambda: bp.Sequential(),
    ],
)
def test_where_it_does_not_the_shape_is_asked_for(model: Any) -> None:
    with refuses(bp.ConfigError, "the model's first layer does not say what shape a sample has; give it, as in"):
        sample_shape(model(), None)


@pytest.mark.parametrize("given", [(0,), (2.5, 1), (True,), ("batch",), ("a b",), (None, 3), "", 1.5, (-1,), (b"a",)])
def test_what_is_no_shape_is_refused(given: Any) -> None:
    with pytest.raises(bp.ConfigError, match=rf"^input_shape must be the shape.*got {re.escape(repr(given))}$"):
        sample_shape(bp.ReLU(), given)


def test_a_shape_may_be_a_number_a_name_or_a_list() -> None:
    assert sample_shape(bp.ReLU(), 5) == (5,)
    assert sample_shape(bp.ReLU(), "length") == ("length",)
    assert sample_shape(bp.ReLU(), [np.int64(3), "width", 2.0]) == (3, "width", 2)
    assert sample_shape(bp.ReLU(), ()) == ()


def test_side_inputs_are_those_that_the_model_takes() -> None:
    block = bp.Sequential(bp.TransformerBlock(4, 2))
    assert side_inputs(block, "mask", "float32") == {"mask": ("bool", ("length",))}
    assert side_inputs(bp.GRU(2, 2), ["lengths"], "float32") == {"lengths": ("int64", ())}
    cross = bp.MultiHeadAttention(4, 2, n_context=3)
    given = {"context": ("float64", ("source", 3)), "mask": ("bool", ("source",))}
    assert side_inputs(cross, given, "float64") == given
    with refuses(bp.ConfigError, "the model takes no side input 'lengths'; it takes: mask"):
        side_inputs(block, ("lengths",), "float32")
    with refuses(
        bp.ConfigError, "side: what 'context' is must be said, as its dtype and the shape of a sample: side={"
    ):
        side_inputs(cross, ("context",), "float32")
    with refuses(
        bp.ConfigError, "side: 'context' needs a dtype and the shape of a sample, as in ('float32', (16,)); got"
    ):
        side_inputs(cross, {"context": (3, 4)}, "float32")
    with refuses(
        bp.ConfigError, "side: the dtype of 'context' must be one of float32, float64, int64, bool, got 'half'"
    ):
        side_inputs(cross, {"context": ("half", (3, 4))}, "float32")


# --- without onnx ---


def test_without_onnx_the_extra_is_named_and_translators_can_be_registered_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "onnx.py").write_text("raise ImportError('none here')\n")
    code = (
        "import bpnet as bp, bpnet.interop.onnx as onnx\n"
        "onnx.translates(bp.ReLU)(lambda graph, layer, x: x)\n"
        "try:\n"
        "    onnx.export(bp.ReLU().initialize())\n"
        "except bp.MissingExtraError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.stderr == ""
    assert done.stdout == (
        'the export needs the package onnx, which is missing (none here): pip install "bpnet-xp[onnx]"\n'
    )
