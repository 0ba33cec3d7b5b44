"""Exported models against onnxruntime, which must give what `model(x)` gives; runs where both are installed.

Double precision is compared where onnxruntime has the operators, elsewhere with onnx's own reference evaluator.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import bpnet as bp
from bpnet import recipes
from bpnet.commands import app
from bpnet.interop.onnx import Graph, Value, export, translates
from bpnet.testing.cases.layers import LAYER_CALLS
from bpnet.testing.inputs import SampleInputs

WHY = 'compares with onnxruntime where it is installed: pip install "bpnet-xp[onnx]" onnxruntime'
onnx = pytest.importorskip("onnx", reason=WHY)
runtime = pytest.importorskip("onnxruntime", reason=WHY)

RNG = np.random.default_rng(4)
# What neither onnxruntime can do in float64 nor the reference evaluator of onnx 1.23 as the standard says.
REFERENCE_ERRS = {
    "ConvTranspose2d, in groups: 2 2 2": "adds the bias of the first group alone",
    "RNN, of relu: 3 2": "knows no Relu in an RNN",
    "GlobalMaxPool1d: 3 2": "takes the largest over channels, too, where there is one axis of places",
    "GlobalMaxPool1d, channels first: 2 3": "takes the largest over channels, too, where there is one axis of places",
    "padded": "looks at no lengths of sequences",
}


@pytest.fixture(autouse=True)
def the_same_numbers_in_any_order_of_the_tests() -> None:
    global RNG
    RNG = np.random.default_rng(4)


def session(proto: Any) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    return runtime.InferenceSession(proto.SerializeToString(), options)


def run(proto: Any, x: Any, **side: Any) -> Any:
    """The first output of an exported model."""
    return session(proto).run(None, {"input": x, **side})[0]


def same(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    expected = np.asarray(expected)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def scattered(model: bp.Layer, seed: int = 1, dtype: str = "float32", spread: float = 0.3) -> Any:
    """The model, all of whose numbers have moved away from what they begin at: biases, running statistics too."""
    model.initialize(seed, "numpy", dtype)
    rng = np.random.default_rng(seed)
    for parameter in model.parameters().values():
        if parameter.learned:
            parameter.value = np.asarray(parameter.value) + rng.normal(0, spread, parameter.shape)
        elif isinstance(parameter, bp.Statistic):
            parameter.value = rng.uniform(0.3, 2.0, parameter.shape)
    return model


def operators(proto: Any) -> dict[str, int]:
    return dict(Counter(node.op_type for node in proto.graph.node))


def dims(value: Any) -> tuple[Any, ...]:
    return tuple(dim.dim_value or dim.dim_param or None for dim in value.type.tensor_type.shape.dim)


def refuses(error: type[Exception], text: str) -> Any:
    return pytest.raises(error, match=f"^{re.escape(text)}")


# --- every layer ---


def exported_case(name: str, dtype: str) -> tuple[Any, Any, SampleInputs]:
    case, inputs = LAYER_CALLS[name]
    model = scattered(case.make(), dtype=dtype)
    side: dict[str, Any] = {}
    if "lengths" in inputs.side:
        side["lengths"] = ("int64", ())
    if inputs.others:
        side["context"] = (dtype, inputs.others[0].shape)
    if "mask" in inputs.side:
        side["mask"] = ("bool", (inputs.others or (inputs,))[0].shape[:1])
    assert set(side) == set(inputs.side) | ({"context"} if inputs.others else set())
    return model, export(model, input_shape=inputs.shape, side=side), inputs


def batch(inputs: SampleInputs, n: int, dtype: str) -> tuple[Any, dict[str, Any]]:
    args, side = inputs.draw(n, seed=n)
    args = tuple(each.astype(dtype) if each.dtype.kind == "f" else each for each in args)
    return args[0], side | ({"context": args[1]} if len(args) > 1 else {})


@pytest.mark.parametrize("name", LAYER_CALLS)
def test_every_layer_gives_what_it_gives_here(name: str) -> None:
    model, proto, inputs = exported_case(name, "float32")
    for n in (3, 1):
        x, side = batch(inputs, n, "float32")
        same(run(proto, x, **side), model(x, **side))


@pytest.mark.parametrize("name", LAYER_CALLS)
def test_every_layer_gives_the_same_in_double_precision(name: str) -> None:
    model, proto, inputs = exported_case(name, "float64")
    x, side = batch(inputs, 3, "float64")
    try:
        found = run(proto, x, **side)
    except Exception as error:
        assert "NOT_IMPLEMENTED" in str(error) or "does not support double" in str(error)  # noqa: PT017
        why = REFERENCE_ERRS.get("padded" if "padded" in name else name)
        if why is not None:
            pytest.skip(f"onnx's reference evaluator {why}")
        from onnx.reference import ReferenceEvaluator

        found = ReferenceEvaluator(proto).run(None, {"input": x, **side})[0]
    same(found, model(x, **side), 1e-6)


# --- arguments of layers ---


@st.composite
def convolutions(draw: Any) -> tuple[bp.Layer, tuple[int, ...]]:
    axes, groups, channels = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.sampled_from(["last", "first"]))
    n_in, n_out = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 3))
    each = st.tuples(*[st.integers(1, 3)] * axes)
    padding = draw(
        st.one_of(
            st.just("same"), st.just("valid"), st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 3))] * axes)
        )
    )
    more = {"stride": draw(each), "dilation": draw(each), "padding": padding, "groups": groups, "channels": channels}
    cls = bp.Conv2d if axes == 2 else bp.Conv1d
    layer = cls(n_in, n_out, draw(each), bias=draw(st.booleans()), **more)
    size = tuple(draw(st.integers(7, 11)) for _ in range(axes))
    return layer, (*size, n_in) if channels == "last" else (n_in, *size)


@given(convolutions())
@settings(max_examples=60, deadline=None)
def test_a_convolution_with_any_arguments(made: tuple[bp.Layer, tuple[int, ...]]) -> None:
    layer, shape = made
    model = scattered(layer)
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    same(run(export(model, input_shape=shape), x), model(x))


@given(
    st.sampled_from(["max", "mean", "mean of pixels"]),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(["same", "valid", 0, 1]),
    st.tuples(st.integers(8, 11), st.integers(8, 11)),
)
@settings(max_examples=40, deadline=None)
def test_a_pool_with_any_arguments(kind: str, kernel: Any, stride: int, dilation: int, padding: Any, size: Any) -> None:
    padding = padding if isinstance(padding, str) or padding < min(kernel) else 0
    if kind == "max":
        layer: bp.Layer = bp.MaxPool2d(kernel, stride=stride, dilation=dilation, padding=padding)
        size = tuple(max(n, dilation * 3 + 1) for n in size)
    else:
        layer = bp.AvgPool2d(kernel, stride=stride, padding=padding, count_padding=kind == "mean")
    model = layer.initialize()
    x = np.random.default_rng(0).normal(-5.0, 1.0, size=(2, *size, 3)).astype("float32")  # no zero is the largest
    same(run(export(model, input_shape=(*size, 3)), x), model(x))


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(1, 2),
)
@settings(max_examples=40, deadline=None)
def test_a_transposed_convolution_with_any_arguments(
    kernel: Any, stride: int, dilation: int, cut: int, more: int, groups: int
) -> None:
    padding = ((cut, 1), (0, cut))
    layer = bp.ConvTranspose2d(
        2,
        4,
        kernel,
        stride=stride,
        dilation=dilation,
        padding=padding,
        groups=groups,
        output_padding=min(more, stride - 1),
    )
    model = scattered(layer)
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 2)).astype("float32")
    same(run(export(model, input_shape=(4, 5, 2)), x), model(x))


@pytest.mark.parametrize("make", [bp.LayerNorm, bp.RMSNorm, lambda n, **more: bp.GroupNorm(2, n, **more), bp.BatchNorm])
def test_the_epsilon_of_a_norm_is_its_own(make: Any) -> None:
    model = scattered(make(6, epsilon=0.2))
    x = (0.3 * RNG.normal(size=(5, 6))).astype("float32")
    same(run(export(model), x), model(x))
    assert np.abs(model(x) - scattered(make(6))(x)).max() > 0.1


def test_an_id_out_of_range_is_refused_but_for_those_that_count_from_the_end() -> None:
    model = scattered(bp.Sequential(bp.Embedding(5, 3)))
    proto = export(model)
    for wrong in (5, -6):
        with pytest.raises(Exception, match="out of data bounds"):
            run(proto, np.array([[wrong]]))
    same(run(proto, np.array([[-1]])), model(np.array([[4]])))


@pytest.mark.parametrize("make", [bp.RNN, bp.LSTM, bp.GRU])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_a_recurrent_layer_with_lengths_beyond_its_bounds(make: Any, bidirectional: bool, last: bool) -> None:
    model = scattered(make(3, 4, n_layers=2, bidirectional=bidirectional, last=last))
    x = RNG.normal(size=(6, 5, 3)).astype("float32")
    lengths = np.array([5, 0, 1, 9, -2, 3])
    proto = export(model, side=("lengths",))
    assert dims(proto.graph.input[1]) == ("batch",)
    same(run(proto, x, lengths=lengths), model(x, lengths=lengths))
    if not last:
        assert not run(proto, x, lengths=lengths)[5, 3:].any()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rotary", [None, 50.0])
def test_a_position_that_sees_nothing_gets_zeros(causal: bool, rotary: float | None) -> None:
    model = scattered(bp.MultiHeadAttention(8, 2, causal=causal, rotary=rotary, bias=False))
    x = RNG.normal(size=(3, 4, 8)).astype("float32")
    mask = np.array([[True] * 4, [False] * 4, [False, True, False, True]])
    proto = export(model, side="mask")
    assert dims(proto.graph.input[1]) == ("batch", "length")
    found = run(proto, x, mask=mask)
    same(found, model(x, mask=mask))
    assert not found[1].any()
    assert found[2, 0].any() == (not causal)


def test_a_mask_reaches_every_block_and_is_prepared_once() -> None:
    blocks = [bp.TransformerBlock(8, 2, causal=True, pre_norm=k % 2 == 0) for k in range(3)]
    model = scattered(bp.Sequential(bp.Embedding(11, 8), *blocks))
    proto = export(model, side="mask")
    assert operators(proto)["And"] == 1
    ids, mask = RNG.integers(0, 11, (3, 6)), np.arange(6) < np.array([[6], [2], [4]])
    same(run(proto, ids, mask=mask), model(ids, mask=mask))


def test_large_scores_do_not_overflow() -> None:
    model = bp.MultiHeadAttention(4, 1, causal=True).initialize()
    x = (1e4 * RNG.normal(size=(1, 5, 4))).astype("float32")
    assert np.isfinite(run(export(model), x)).all()


# --- lengths that change ---


@pytest.mark.parametrize(
    ("make", "shape", "sizes", "output"),
    [
        (
            lambda: bp.Sequential(
                bp.Conv1d(2, 6, 3, padding="same", dilation=2),
                bp.BatchNorm(6),
                bp.GroupNorm(3, 6),
                bp.Conv1d(6, 4, 5, stride=2, padding="same"),
                bp.Dense(4, 3),
            ),
            ("length", 2),
            [(9, 2), (16, 2), (1, 2)],
            ("batch", None, 3),
        ),
        (
            lambda: bp.Sequential(
                bp.Conv2d(2, 3, 3, padding="same"),
                bp.GELU("tanh"),
                bp.MaxPool2d(2),
                bp.ConvTranspose2d(3, 3, 2, stride=2),
                bp.AvgPool2d(3, stride=2, padding="same", count_padding=False),
                bp.GlobalMaxPool2d(),
            ),
            ("height", "width", 2),
            [(9, 12, 2), (16, 33, 2)],
            ("batch", 3),
        ),
        (
            lambda: bp.Conv2d(1, 2, 5, channels="first"),
            (1, 20, "width"),
            [(1, 20, 5), (1, 20, 31)],
            ("batch", 2, None, None),
        ),
        (
            lambda: bp.Sequential(
                bp.SinusoidalPositions(),
                bp.MultiHeadAttention(8, 2, causal=True, rotary=100.0),
                bp.Concatenate(bp.RMSNorm(8), bp.SinusoidalPositions()),
            ),
            ("length", 8),
            [(1, 8), (9, 8), (40, 8)],
            ("batch", "length", 16),
        ),
        (
            lambda: bp.Sequential(
                bp.GRU(3, 4, bidirectional=True), bp.Residual(bp.Dense(8, 16), bp.SwiGLU()), bp.LSTM(8, 3, last=True)
            ),
            ("length", 3),
            [(9, 3), (1, 3)],
            ("batch", 3),
        ),
        (
            lambda: bp.Sequential(bp.Embedding(7, 4), bp.LearnedPositions(5, 4), bp.RNN(4, 6), bp.LogSoftmax()),
            None,
            [(5,), (1,)],
            ("batch", "length", 6),
        ),
        (lambda: bp.Concatenate(bp.Tanh(), bp.Sigmoid(), axis=1), ("length", 3), [(2, 3), (5, 3)], ("batch", None, 3)),
        (lambda: bp.Sequential(bp.Flatten(), bp.Softmax()), ("length", 3), [(2, 3), (5, 3)], ("batch", None)),
    ],
    ids=["signals", "images", "channels first", "positions", "recurrent", "ids", "joined", "flattened"],
)  # fmt: skip
def test_a_length_may_change_from_call_to_call(make: Any, shape: Any, sizes: Any, output: Any) -> None:
    model = scattered(make())
    proto = export(model, input_shape=shape)
    assert dims(proto.graph.output[0]) == output
    for size in sizes:
        for n in (1, 3):
            x = RNG.normal(size=(n, *size)).astype("float32")
            x = RNG.integers(0, model.input_ids, (n, *size)) if model.input_ids else x
            same(run(proto, x), model(x))


def test_the_angle_of_a_position_far_away_loses_no_digits() -> None:
    model = bp.Sequential(bp.SinusoidalPositions()).initialize()
    proto = export(model, input_shape=("length", 6))
    x = np.zeros((1, 100_000, 6), np.float32)
    np.testing.assert_allclose(run(proto, x), model(x), rtol=0, atol=1e-6)


def test_a_known_length_needs_no_operators_for_positions_and_masks() -> None:
    model = scattered(bp.Sequential(bp.LearnedPositions(6, 4), bp.MultiHeadAttention(4, 2, causal=True, rotary=10.0)))
    x = RNG.normal(size=(2, 6, 4)).astype("float32")
    for shape, n in (((6, 4), 0), (("length", 4), 1)):
        proto = export(model, input_shape=shape)
        assert operators(proto).get("Range", 0) == operators(proto).get("LessOrEqual", 0) == n
        same(run(proto, x), model(x))


def test_a_large_causal_mask_is_made_and_not_stored() -> None:
    model = scattered(bp.MultiHeadAttention(2, 1, causal=True))
    for length in (256, 257):
        proto = export(model, input_shape=(length, 2))
        assert max(len(each.raw_data) for each in proto.graph.initializer) == {256: 65536, 257: 257 * 8}[length]
        x = RNG.normal(size=(1, length, 2)).astype("float32")
        same(run(proto, x), model(x))


def test_too_long_a_sequence_is_an_error_there_too() -> None:
    model = bp.Sequential(bp.Embedding(7, 4), bp.LearnedPositions(5, 4)).initialize()
    with pytest.raises(Exception, match="out of data bounds|broadcast"):
        run(export(model), np.zeros((1, 6), np.int64))


def test_an_empty_batch_gives_an_empty_batch() -> None:
    model = scattered(bp.Sequential(bp.Dense(4, 6), bp.GroupNorm(2, 6), bp.ReLU(), bp.Dense(6, 2)))
    x = np.zeros((0, 4), np.float32)
    same(run(export(model), x), model(x))


# --- recipes ---


def trained(name: str) -> tuple[Any, Any]:
    """A recipe's model after a few steps on numbers drawn at random, and such numbers: its data may be elsewhere."""
    draft = recipes.make_draft(recipes.load_toml(recipes.source(name), name), name=name)
    rng = np.random.default_rng(0)
    n_inputs = {"diabetes": 10, "spiral": 2}.get(name, 784 if "mnist" in name else 64)
    layers = draft.make_layers()
    ids = layers[0].input_ids
    x = rng.normal(2, 3, (48, n_inputs)).astype("float32") if ids is None else rng.integers(0, ids, (8, 64))
    if draft.data.normalize:
        layers.insert(0, bp.Normalize((n_inputs,)).fit(x))
    model = bp.Sequential(*layers).initialize(0, "numpy")
    n_outputs = model.output_shape(x.shape[1:])[-1]
    y = rng.integers(0, n_outputs, x.shape if ids else len(x))
    y = rng.normal(size=(len(x), n_outputs)) if draft.loss.targets != "labels" else y
    trainer = bp.Trainer(model, draft.loss, draft.optimizer, seed=0)
    for _ in range(3):
        trainer.step(x, y)
    return model, x


@pytest.mark.parametrize("name", recipes.available())
def test_the_model_of_every_recipe_gives_what_it_gives_here(name: str) -> None:
    model, x = trained(name)
    proto = export(model)
    output = ("length", 96) if model.input_ids else model.output_shape(x.shape[1:])
    assert dims(proto.graph.input[0]) == ("batch", "length") if model.input_ids else ("batch", x.shape[1])
    assert dims(proto.graph.output[0]) == ("batch", *output)
    for part in (x, x[:1], x[:2, :5] if model.input_ids else x[5:7]):
        same(run(proto, part), model(part))
    assert "Dropout" not in operators(proto)
    assert operators(proto).get("Transpose", 0) == {"cnn-digits": 2, "cnn-fashion-mnist": 2, "char-lstm": 3}.get(
        name, operators(proto).get("Transpose", 0)
    )


def test_what_the_data_are_normalized_by_is_in_the_file_or_is_left_out() -> None:
    model, x = trained("diabetes")
    raw, ready = export(model), export(model, normalize=False)
    same(run(raw, x), model(x))
    same(run(ready, np.asarray(model[0](x))), model(x))
    assert {"Sub", "Div"} <= set(operators(raw))
    assert not {"Sub", "Div"} & set(operators(ready))
    assert not {"0.mean", "0.std"} & {each.name for each in ready.graph.initializer}
    nested = bp.Sequential(bp.Sequential(bp.Normalize(2).fit([[1.0, 2.0], [2.0, 5.0]]), bp.Normalize(2).fit(np.eye(2))))
    assert operators(export(nested.initialize(), normalize=False)) == {"Sub": 1, "Div": 1}


@pytest.mark.parametrize(
    "make", [lambda: bp.Sequential(bp.Dense(2, 2)), lambda: bp.Residual(bp.Normalize(2).fit(np.eye(2)))]
)
def test_a_normalization_that_is_not_there_cannot_be_left_out(make: Any) -> None:
    with refuses(
        bp.ConfigError, "normalize=False leaves out the Normalize that begins a model, and this one begins with"
    ):
        export(make().initialize(), normalize=False, input_shape=(2,))


# --- going on from states ---


STEPPING: Mapping[str, Callable[[], bp.Layer]] = {
    "LSTM": lambda: bp.Sequential(bp.Embedding(9, 6), bp.LSTM(6, 5, n_layers=2), bp.Unembedding(9, 5)),
    "GRU, last": lambda: bp.Sequential(bp.Embedding(9, 6), bp.GRU(6, 5, last=True), bp.Dense(5, 9)),
    "RNN": lambda: bp.RNN(3, 4),
    "attention": lambda: bp.Sequential(
        bp.Embedding(9, 8),
        bp.LearnedPositions(20, 8),
        bp.SinusoidalPositions(),
        bp.TransformerBlock(8, 2, causal=True),
        bp.Residual(bp.MultiHeadAttention(8, 4, causal=True, rotary=30.0)),
        bp.Unembedding(9, 8),
    ),
    "without states": lambda: bp.Sequential(bp.Dense(3, 4), bp.Tanh()),
}


@pytest.mark.parametrize("name", STEPPING)
@pytest.mark.parametrize("parts", [(1, 1, 1, 1, 1), (3, 2), (4, 1)])
def test_a_sequence_may_be_given_in_parts(name: str, parts: tuple[int, ...]) -> None:
    model = scattered(STEPPING[name](), spread=0.05)  # outputs of about 1, whose digits compare
    length = "length" if len(set(parts)) > 1 else parts[0]
    proto = export(model, steps=True, input_shape=(length,) if model.input_ids else (length, 3))
    x = RNG.integers(0, 9, (2, 5)) if model.input_ids else RNG.normal(size=(2, 5, 3)).astype("float32")
    run_one = session(proto)
    lengths = {"batch": 2, "past": 0}
    states = {
        each.name: np.zeros([lengths.get(n, n) for n in each.shape], each.type[7:-1].replace("float", "float32"))
        for each in run_one.get_inputs()[1:]
    }
    names = [each.name for each in run_one.get_outputs()]
    assert names == ["output", *(each.replace("past.", "present.") for each in states)]
    assert len(states) == {"LSTM": 4, "GRU, last": 1, "RNN": 1, "attention": 5, "without states": 0}[name]
    cache, start, whole = None, 0, []
    for length in parts:
        part = x[:, start : start + length]
        expected, cache = model.step(part, cache)
        found = dict(zip(names, run_one.run(None, {"input": part, **states}), strict=True))
        same(found["output"], expected)
        whole.append(found["output"])
        states = {each: found[each.replace("past.", "present.")] for each in states}
        start += length
    if name != "GRU, last":
        same(np.concatenate(whole, axis=1), model(x))


def test_states_are_named_by_their_layers() -> None:
    proto = export(STEPPING["LSTM"]().initialize(), steps=True)
    assert [each.name for each in proto.graph.input] == [
        "input",
        "past.1.h.0",
        "past.1.c.0",
        "past.1.h.1",
        "past.1.c.1",
    ]
    proto = export(STEPPING["attention"]().initialize(), steps=True)
    assert [(each.name, dims(each)) for each in proto.graph.input][2:4] == [
        ("past.3.attention.key", ("batch", "past", 2, 4)),
        ("past.3.attention.value", ("batch", "past", 2, 4)),
    ]


# --- the file ---


def test_the_file_says_who_made_it_of_what_and_what_outputs_mean(tmp_path: Path) -> None:
    model = bp.Sequential(bp.Dense(2, 3)).initialize()
    model.info.update(classes=["a", "b", "c"], vocabulary="abc", data="letters", loss="SoftmaxCrossEntropy", epochs=3)
    proto = export(model, tmp_path / "model.onnx")
    assert (proto.producer_name, proto.producer_version) == ("bpnet", bp.__version__)
    assert (proto.ir_version, [(each.domain, each.version) for each in proto.opset_import]) == (8, [("", 18)])
    assert {each.key: each.value for each in proto.metadata_props} == {
        "classes": '["a", "b", "c"]',
        "vocabulary": "abc",
        "data": "letters",
        "loss": "SoftmaxCrossEntropy",
    }
    assert onnx.load(tmp_path / "model.onnx") == proto
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_parameters_stand_in_the_file_under_their_paths_with_their_values() -> None:
    model = scattered(bp.Sequential(bp.Conv2d(2, 4, 3, bias=False), bp.BatchNorm(4), bp.Flatten(), bp.LayerNorm(16)))
    proto = export(model, input_shape=(4, 4, 2))
    found = {each.name: onnx.numpy_helper.to_array(each) for each in proto.graph.initializer}
    assert set(found) == set(model.parameters())
    for path, parameter in model.parameters().items():
        expected = np.asarray(parameter.value)
        expected = expected.transpose(3, 2, 0, 1) if path == "0.weight" else expected
        assert np.array_equal(found[path], expected)
        assert found[path].dtype == np.float32


def test_recurrent_layers_store_the_directions_together() -> None:
    proto = export(bp.GRU(3, 4, bidirectional=True).initialize())
    assert {each.name: tuple(each.dims) for each in proto.graph.initializer if "constant" not in each.name} == {
        "weight.0+weight.1": (2, 12, 3),
        "recurrent.0+recurrent.1": (2, 12, 4),
        "bias.0+bias_n.0+bias.1+bias_n.1": (2, 24),
    }


def test_a_mask_is_as_long_as_the_ids_are_and_may_lie_on_any_backend() -> None:
    model = bp.Sequential(bp.Embedding(5, 4), bp.TransformerBlock(4, 2), bp.GRU(4, 3)).initialize(0, "strict:device1")
    for shape, length in ((6, 6), ("time", "time")):
        proto = export(model, input_shape=shape, side=("mask", "lengths"))
        inputs = {each.name: dims(each) for each in proto.graph.input}
        assert inputs == {"input": ("batch", length), "mask": ("batch", length), "lengths": ("batch",)}
        assert dims(proto.graph.output[0]) == ("batch", length, 3)


@pytest.mark.parametrize("backend", ["strict", "strict:device1", pytest.param("torch", marks=pytest.mark.torch)])
def test_equal_models_give_equal_files_whatever_the_backend(backend: str, tmp_path: Path) -> None:
    def made() -> bp.Layer:
        return bp.Sequential(
            bp.Reshape((4, 4, 1)),
            bp.Conv2d(1, 3, 3),
            bp.ReLU(),
            bp.Reshape((4, 3)),
            bp.GRU(3, 4),
            bp.SinusoidalPositions(),
        )

    export(made().initialize(3, "numpy"), tmp_path / "a")
    export(made().initialize(3, backend), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("opset", [19, 21, 23])
def test_later_opsets_have_the_same_operators(opset: int) -> None:
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip(f"onnx {onnx.__version__} has no opset {opset}")
    for make, shape in (
        (lambda: bp.Sequential(bp.Conv2d(2, 4, 3), bp.AvgPool2d(2), bp.BatchNorm(4), bp.GroupNorm(2, 4)), (8, 8, 2)),
        (lambda: bp.Sequential(bp.LSTM(8, 8), bp.TransformerBlock(8, 2, causal=True, rotary=10.0)), ("length", 8)),
    ):
        model = scattered(make())
        proto = export(model, input_shape=shape, opset=opset)
        x = RNG.normal(size=(2, *[5 if n == "length" else n for n in shape])).astype("float32")
        same(run(proto, x), model(x))


def test_the_graph_is_checked_in_full_and_its_shapes_can_be_inferred() -> None:
    proto = export(scattered(STEPPING["attention"]()), steps=True)
    onnx.checker.check_model(proto, full_check=True)
    whole = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    known = {each.name for each in whole.graph.value_info} | {each.name for each in proto.graph.output}
    assert {name for node in proto.graph.node for name in node.output if name} == known


def test_a_model_of_nothing_gives_what_it_gets() -> None:
    proto = export(bp.Sequential().initialize(), input_shape=(3,))
    assert operators(proto) == {"Identity": 1}
    x = RNG.normal(size=(2, 3)).astype("float32")
    assert np.array_equal(run(proto, x), x)


def test_an_exported_model_is_left_as_it_was() -> None:
    model = scattered(bp.Sequential(bp.Conv2d(1, 2, 3), bp.BatchNorm(2), bp.Flatten(), bp.Dense(8, 2)))
    before = np.asarray(model.store.values).copy()
    proto = export(model, input_shape=(4, 4, 1))
    assert np.array_equal(model.store.values, before)
    assert export(model, input_shape=(4, 4, 1)) == proto


# --- layers of one's own ---


class Scaled(bp.Layer):
    """A layer of a user's: x times a number it learns, plus a mask."""

    def __init__(self) -> None:
        self.factor = bp.Parameter((1,), "ones")

    def __call__(self, x: Any, *, shift: Any = None) -> Any:
        y = bp.ops.mul(x, self.factor.value + 0 * x)
        return y if shift is None else bp.ops.add(y, shift)

    def forward(self, x: Any, *, shift: Any = None) -> Any:
        raise NotImplementedError


@translates(Scaled)
def scaled(graph: Graph, layer: Scaled, x: Value, shift: Value | None = None) -> Value:
    y = graph.op("Mul", x, graph.parameter(layer.factor))
    return y if shift is None else graph.op("Add", y, shift)


@pytest.mark.lenient
def test_a_layer_of_ones_own_is_translated_with_its_side_input() -> None:
    model = bp.Sequential(bp.Conv2d(1, 2, 2), Scaled(), bp.ReLU()).initialize()
    model[1].factor.value = [2.5]
    x = RNG.normal(size=(2, 3, 3, 1)).astype("float32")
    same(run(export(model, input_shape=(3, 3, 1)), x), model(x))
    shift = RNG.normal(size=(2, 2, 2, 2)).astype("float32")
    proto = export(model, input_shape=(3, 3, 1), side={"shift": ("float32", (2, 2, 2))})
    same(run(proto, x, shift=shift), model(x, shift=shift))


@pytest.mark.lenient
def test_a_translator_that_makes_something_else_is_noticed_where_shapes_tell() -> None:
    class Halved(bp.Dense):
        def __call__(self, x: Any) -> Any:
            return bp.ops.columns(super().__call__(x), 0, 2)

    translates(Halved)(lambda graph, layer, x: graph.translate(bp.Tanh(), x))
    with refuses(
        bp.ConfigError,
        "the translation gives an output of shape ('batch', 3), the model one of (1, 2) for one sample: a translator "
        "of a layer of your own does not do what the layer does",
    ):
        export(Halved(3, 4).initialize())


# --- bad input ---


def test_what_is_no_model_is_refused() -> None:
    with refuses(bp.DTypeError, "export takes a model of bpnet, got list"):
        export([bp.Dense(2, 2)])  # type: ignore[arg-type]

    class Estimator:
        model_ = None

    with refuses(bp.DTypeError, "export takes a model of bpnet, got Estimator; of an estimator, its model_"):
        export(Estimator())  # type: ignore[arg-type]


def test_a_model_without_values_is_refused_and_gets_none() -> None:
    model = bp.Sequential(bp.Dense(2, 2))
    with refuses(bp.StateError, "the model has no values yet: train it, load one, or call model.initialize()"):
        export(model)
    assert not model.initialized


def test_a_normalize_that_knows_no_data_is_refused() -> None:
    with refuses(bp.StateError, "Normalize(2) does not know mean and standard deviation yet; call its fit(x)"):
        export(bp.Sequential(bp.Normalize(2)).initialize())


@pytest.mark.parametrize("opset", [17, 0, 1000, True, "18", 18.0, None])
def test_an_unknown_opset_is_refused(opset: Any) -> None:
    newest = onnx.defs.onnx_opset_version()
    with refuses(
        bp.ConfigError,
        f"opset must be a whole number in 18 ... {newest}, the newest that the installed onnx has; got {opset!r}",
    ):
        export(bp.ReLU().initialize(), opset=opset, input_shape=3)


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    model = bp.Sequential(bp.Dense(2, 2))
    with refuses(bp.CheckpointError, f"cannot write {str(tmp_path)!r}: it is a folder"):
        export(model, tmp_path)
    with refuses(bp.CheckpointError, f"cannot write {str(tmp_path / 'no' / 'm')!r}: there is no folder"):
        export(model, tmp_path / "no" / "m")


def test_a_file_that_is_there_stays_whole_where_the_export_fails(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"what was there")
    with pytest.raises(bp.ConfigError, match="input_shape"):
        export(bp.Sequential(bp.Conv2d(1, 2, 3)).initialize(), path)
    with pytest.raises(bp.ShapeError):
        export(bp.Sequential(bp.Dense(2, 2)).initialize(), path, input_shape=(3,))
    assert path.read_bytes() == b"what was there"
    assert os.listdir(tmp_path) == ["model.onnx"]
    export(bp.Sequential(bp.Dense(2, 2)).initialize(), path)
    assert onnx.load(path).producer_name == "bpnet"


def test_a_shape_that_the_model_does_not_take_is_refused_in_the_layers_words() -> None:
    model = bp.Sequential(bp.Dense(4, 2)).initialize()
    with pytest.raises(bp.ShapeError, match=r"^Dense\(4, 2\) needs x of shape \(N, 4\), got \(1, 3\)$"):
        export(model, input_shape=(3,))
    model = bp.Sequential(bp.BatchNorm(2), bp.Conv2d(2, 3, 1)).initialize()
    with pytest.raises(
        bp.ShapeError,
        match=r"needs x of shape \(N, H, W, 2\).*; that a sample is \(2,\) was taken from the first layer",
    ):
        export(model)


def test_a_model_of_one_length_says_so_where_the_length_may_change() -> None:
    model = bp.Sequential(bp.Embedding(5, 3), bp.Flatten(), bp.Dense(24, 2)).initialize()
    with pytest.raises(
        bp.ShapeError,
        match=r"Dense\(24, 2\) needs x of shape \(N, 24\), got \(1, 21\); tried with length = 7: where the model takes "
        r"one length alone, give that number, as in input_shape=\(64,\)$",
    ):
        export(model)  # 8, which is tried too, would do
    assert dims(export(model, input_shape=8).graph.output[0]) == ("batch", 2)


def test_ids_and_numbers_are_told_apart() -> None:
    ids = export(bp.Sequential(bp.Embedding(5, 3)).initialize())
    assert ids.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT64
    model = bp.Concatenate(bp.Embedding(5, 3), bp.Dense(4, 3)).initialize()
    with pytest.raises(bp.DTypeError, match=r"Dense\(4, 3\) computes in float32, got x of int64"):
        export(model, input_shape=(4,))


def test_same_padding_that_depends_on_an_unknown_size_is_refused() -> None:
    model = bp.Conv1d(1, 1, 3, stride=2, dilation=2, padding="same").initialize()
    with pytest.raises(bp.ConfigError, match=r'padding="same" with a stride and a dilation depends on the size'):
        export(model, input_shape=("length", 1))
    assert export(model, input_shape=(9, 1))


def test_steps_need_layers_that_can_step_and_no_side_inputs() -> None:
    with refuses(bp.StateError, "steps=True needs a model whose layers can go on from states, as `can_step` says"):
        export(bp.GRU(2, 3, bidirectional=True).initialize(), steps=True)
    with refuses(bp.ConfigError, "steps=True takes no side inputs: a step has neither mask nor lengths"):
        export(bp.GRU(2, 3).initialize(), steps=True, side="lengths")


# --- the command ---


def invoke(*arguments: Any) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small model with what `bpnet train` says of one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BPNET_BACKEND", raising=False)
    model = bp.Sequential(bp.Normalize(3).fit(RNG.normal(1, 2, (20, 3))), bp.Dense(3, 2)).initialize(seed=1)
    model.save("small.safetensors", classes=["no", "yes"], loss="SoftmaxCrossEntropy")
    return "small.safetensors"


def test_the_command_writes_a_file_that_gives_what_the_model_gives(saved: str) -> None:
    done = invoke("export", saved, "-o", "model.onnx")
    assert done.exit_code == 0, done.output
    size = os.path.getsize("model.onnx")
    assert done.output.splitlines() == [
        f"model.onnx: ONNX, opset 18, 3 operators, {size:,} bytes",
        "takes  input: float32 (batch, 3)",
        "gives  output: float32 (batch, 2)",
    ]
    x = RNG.normal(size=(4, 3)).astype("float32")
    same(run(onnx.load("model.onnx"), x), bp.load(saved)(x))


def test_the_command_takes_options_and_prints_json(saved: str) -> None:
    done = invoke("export", saved, "--no-normalize", "--opset", 19, "--json", "--input-shape", "length, 3")
    assert done.exit_code == 0, done.output
    result = json.loads(done.output.splitlines()[-1])
    assert (result["model"], result["out"], result["opset"], result["nodes"]) == (saved, "small.onnx", 19, 2)
    assert result["inputs"] == {"input": {"dtype": "float32", "shape": ["batch", "length", 3]}}
    assert result["outputs"] == {"output": {"dtype": "float32", "shape": ["batch", "length", 2]}}
    assert result["metadata"]["classes"] == '["no", "yes"]'
    assert result["bytes"] == os.path.getsize("small.onnx")


def test_the_command_exports_steps(saved: str) -> None:
    bp.Sequential(bp.Embedding(5, 3), bp.GRU(3, 4)).initialize().save("text.safetensors")
    done = invoke("export", "text.safetensors", "--steps")
    assert done.exit_code == 0, done.output
    assert "takes  past.1.h.0: float32 (batch, 4)" in done.output.splitlines()
    assert "gives  present.1.h.0: float32 (batch, 4)" in done.output.splitlines()


def test_the_command_reports_all_mistakes_of_its_options_at_once(saved: str) -> None:
    done = invoke("export", "none.safetensors", "-o", "no/m.onnx", "--opset", 17, "--input-shape", "3,x y")
    assert done.exit_code == 2
    lines = done.output.splitlines()
    assert [line.split()[0].rstrip(":") for line in lines[1:]] == ["MODEL", "--out", "--input-shape", "--opset"]
    assert "an integer of at least 18, got '17'" in done.output
    assert "the shape of one sample, as 28,28,1, with a name in the place of a length" in done.output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--opset", "999"), 2, "opset must be a whole number in 18 ... "),
        (("--input-shape", "4"), 2, "needs x of shape (N, 3)"),
        (("--steps",), 1, "steps=True needs a model whose layers can go on from states"),
        (("-o", "small.safetensors"), 2, "--out: 'small.safetensors' is the model itself; name another file"),
    ],
)
def test_the_command_says_what_is_wrong(saved: str, arguments: tuple[str, ...], code: int, message: str) -> None:
    before = Path(saved).read_bytes()
    done = invoke("export", saved, *arguments)
    assert (done.exit_code, message in done.output) == (code, True), done.output
    assert Path(saved).read_bytes() == before
    assert os.listdir() == [saved]


def test_the_command_refuses_what_is_no_model(saved: str) -> None:
    Path("note.txt").write_text("no model")
    done = invoke("export", "note.txt")
    assert done.exit_code == 1
    assert "is no whole safetensors file" in done.output
    assert not os.path.exists("note.onnx")


@pytest.mark.parametrize("how", ["asked for", "too large"])
def test_values_lie_in_a_file_beside_the_model(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bp.Sequential(
        bp.Embedding(30, 32), bp.TransformerBlock(32, 2, n_hidden=48, causal=True), bp.GRU(32, 16), bp.Dense(16, 5)
    ).initialize(seed=0)
    ids = RNG.integers(0, 30, (3, 7))
    if how == "too large":
        monkeypatch.setattr("bpnet.interop.onnx.proto.LARGEST", 2**20 + 4096)
    wanted = True if how == "asked for" else None
    path = tmp_path / "model.onnx"
    export(model, path, input_shape=("length",), external_data=wanted)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    onnx.checker.check_model(path, full_check=True)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["input"]
    np.testing.assert_allclose(session.run(None, {"input": ids})[0], model(ids), rtol=1e-4, atol=1e-5)
    whole = onnx.load(path)  # with the values
    parameters = sum(parameter.value.nbytes for parameter in model.parameters().values())
    assert sum(len(each.raw_data) for each in whole.graph.initializer) >= parameters
    apart = [each for each in onnx.load(path, load_external_data=False).graph.initializer if each.external_data]
    offsets = [int(entry.value) for each in apart for entry in each.external_data if entry.key == "offset"]
    assert len(apart) > 5
    assert all(offset % 4096 == 0 for offset in offsets)
    assert len(path.read_bytes()) < parameters


def test_a_model_that_is_too_large_is_refused_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bp.Sequential(bp.Dense(40, 40)).initialize()
    with pytest.raises(bp.ConfigError, match="external_data=True: pass a path, beside which a file of its values"):
        export(model, external_data=True)
    monkeypatch.setattr("bpnet.interop.onnx.proto.LARGEST", 2**20 + 4096)
    with pytest.raises(bp.ConfigError, match="larger than the 2 GiB of one ONNX message: pass a path"):
        export(model)
    with pytest.raises(bp.ConfigError, match="2 GiB that an ONNX file can hold; leave external_data at None"):
        export(model, tmp_path / "model.onnx", external_data=False)
    assert not list(tmp_path.iterdir())
    with pytest.raises(bp.ConfigError, match="external_data must be True, False or None, got 'yes'"):
        export(model, tmp_path / "model.onnx", external_data="yes")  # type: ignore[arg-type]
