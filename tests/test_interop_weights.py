"""Weights in PyTorch's names and layouts, from hand-made files and mappings: PyTorch is not needed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import read_only

import bpnet as bp
from bpnet.interop.torch import LoadReport, load_state_dict, save_state_dict

RNG = np.random.default_rng(4)


def mlp() -> bp.Sequential:
    return bp.Sequential(bp.Dense(4, 3), bp.ReLU(), bp.Dense(3, 2))


def state() -> dict[str, Any]:
    """Of a torch.nn.Sequential(Linear(4, 3), ReLU(), Linear(3, 2))."""
    shapes = {"0.weight": (3, 4), "0.bias": (3,), "2.weight": (2, 3), "2.bias": (2,)}
    return {name: RNG.normal(size=shape).astype("float32") for name, shape in shapes.items()}


def write(path: Path, tensors: dict[str, tuple[str, list[int], bytes]], **header: Any) -> Path:
    """A safetensors file made by hand: the length of the header, the header, the bytes."""
    entries: dict[str, Any] = {}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(entries | header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def as_file(path: Path, arrays: dict[str, Any]) -> Path:
    return write(path, {name: ("F32", list(x.shape), x.astype("<f4").tobytes()) for name, x in arrays.items()})


def numbers(model: bp.Layer) -> dict[str, Any]:
    return {path: bp.to_numpy(parameter.value).copy() for path, parameter in model.parameters().items()}


def refused(model: bp.Layer, source: Any, error: type[Exception] = bp.CheckpointError, **settings: Any) -> str:
    """The message of a loading that fails; the model must be as before, to the bit."""
    before = numbers(model)
    with pytest.raises(error) as caught:
        load_state_dict(model, source, **settings)
    after = numbers(model)
    assert all(np.array_equal(before[path], after[path]) for path in before)
    return str(caught.value)


# --- what is loaded ---


@pytest.mark.parametrize("initialized", [True, False])
@pytest.mark.parametrize("kind", ["file", "mapping"])
def test_linear_weights_are_transposed(kind: str, initialized: bool, tmp_path: Path) -> None:
    given = state()
    model = mlp().initialize() if initialized else mlp()
    source = as_file(tmp_path / "w.safetensors", given) if kind == "file" else given
    report = load_state_dict(model, source)
    x = RNG.normal(size=(5, 4)).astype("float32")
    hidden = np.maximum(x @ given["0.weight"].T + given["0.bias"], 0)
    np.testing.assert_allclose(model(x), hidden @ given["2.weight"].T + given["2.bias"], rtol=1e-5, atol=1e-6)
    assert isinstance(report, LoadReport)
    assert report.complete
    assert [tuple(match) for match in report.matched] == [
        ("0.weight", ("0.weight",), (4, 3), "transposed"),
        ("0.bias", ("0.bias",), (3,), "as it is"),
        ("2.weight", ("2.weight",), (3, 2), "transposed"),
        ("2.bias", ("2.bias",), (2,), "as it is"),
    ]


def test_every_backend_gets_the_same_values(backend: bp.Backend) -> None:
    given = {name: read_only(value) for name, value in state().items()}
    given["0.weight"] = np.asfortranarray(given["0.weight"])
    model = mlp().initialize(backend=backend)
    load_state_dict(model, given)
    for name, value in given.items():
        np.testing.assert_array_equal(bp.to_numpy(model.parameters()[name].value), value.T)
    load_state_dict(model, {name: model.asarray(value) for name, value in given.items()})  # of the backend's own kind
    np.testing.assert_array_equal(bp.to_numpy(model.parameters()["0.weight"].value), given["0.weight"].T)


def test_bits_of_bfloat16_are_the_upper_half_of_float32(tmp_path: Path) -> None:
    exact = np.array([1.0, -2.5, 3.140625, 1e-38, 0.0, -0.0], dtype="<f4")
    bits = (exact.view("<u4") >> 16).astype("<u2")
    expected = (bits.astype("<u4") << 16).view("<f4")
    assert expected[2] == 3.140625
    path = write(
        tmp_path / "w.safetensors",
        {"weight": ("BF16", [2, 3], bits.tobytes()), "bias": ("F16", [2], np.array([0.5, 65504.0], "<f2").tobytes())},
    )
    dense = bp.Dense(3, 2).initialize()
    report = load_state_dict(dense, path)
    np.testing.assert_array_equal(dense.weight.value, expected.reshape(2, 3).T)
    assert list(dense.bias.value) == [0.5, 65504.0]  # type: ignore[union-attr]
    assert [match.done for match in report.matched] == ["transposed, from bfloat16", "as it is, from float16"]


def test_float64_is_rounded_once_and_said(tmp_path: Path) -> None:
    weight = RNG.normal(size=(2, 3))
    path = write(
        tmp_path / "w.safetensors",
        {"weight": ("F64", [2, 3], weight.tobytes()), "bias": ("F64", [2], np.zeros(2).tobytes())},
    )
    dense = bp.Dense(3, 2).initialize()
    assert load_state_dict(dense, path).matched[0].done == "transposed, from float64"
    np.testing.assert_array_equal(dense.weight.value, weight.T.astype("float32"))
    wide = bp.Dense(3, 2).initialize(dtype="float64")
    load_state_dict(wide, path)
    np.testing.assert_array_equal(wide.weight.value, weight.T)


def test_sums_of_biases_are_taken_before_they_are_rounded() -> None:
    lstm = bp.LSTM(1, 1).initialize()
    big, small = np.full(4, 1.0), np.full(4, 2.0**-30)
    given = {"weight_ih_l0": np.zeros((4, 1)), "weight_hh_l0": np.zeros((4, 1)), "bias_ih_l0": big + small}
    load_state_dict(lstm, given | {"bias_hh_l0": -big})
    assert list(lstm.bias[0].value) == [2.0**-30] * 4


def test_statistics_are_loaded_and_counts_ignored() -> None:
    norm = bp.Sequential(bp.BatchNorm(2)).initialize()
    report = load_state_dict(
        norm,
        {
            "0.weight": np.array([1.0, 2.0]),
            "0.bias": np.array([3.0, 4.0]),
            "0.running_mean": np.array([5.0, 6.0]),
            "0.running_var": np.array([7.0, 8.0]),
            "0.num_batches_tracked": np.array(9),
        },
    )
    found = numbers(norm)
    assert {path: value.tolist() for path, value in found.items()} == {
        "0.weight": [1, 2], "0.bias": [3, 4], "0.running_mean": [5, 6], "0.running_variance": [7, 8],
    }  # fmt: skip
    assert report.ignored == {"0.num_batches_tracked": "a count that bpnet does not need"}
    assert str(report).endswith("  ignored: '0.num_batches_tracked', a count that bpnet does not need")


def test_a_loaded_model_trains_and_its_plans_see_the_new_values() -> None:
    model = mlp().initialize()
    x = RNG.normal(size=(5, 4)).astype("float32")
    for _ in range(4):
        model(x)
    given = state()
    load_state_dict(model, given)
    hidden = np.maximum(x @ given["0.weight"].T + given["0.bias"], 0)
    np.testing.assert_allclose(model(x), hidden @ given["2.weight"].T + given["2.bias"], rtol=1e-5, atol=1e-6)
    trainer = bp.Trainer(model, bp.MeanSquaredError(), bp.SGD(0.01))
    first = float(trainer.step(x, np.zeros((5, 2), "float32")))
    assert first == pytest.approx(float(np.mean((hidden @ given["2.weight"].T + given["2.bias"]) ** 2)), rel=1e-5)


def test_a_part_of_a_model_is_loaded_alone() -> None:
    model = bp.Sequential(mlp(), bp.Dense(2, 5)).initialize()
    before = numbers(model)["1.weight"]
    given = state()
    load_state_dict(model[0], given)
    np.testing.assert_array_equal(numbers(model)["0.2.weight"], given["2.weight"].T)
    np.testing.assert_array_equal(numbers(model)["1.weight"], before)


def test_a_layer_of_your_own_has_its_own_names_and_layouts() -> None:
    class Scale(bp.Layer):
        def __init__(self) -> None:
            self.factors = [bp.Parameter((2, 3), "zeros")]
            self.inner = bp.Dense(2, 3)

    model = bp.Sequential(Scale()).initialize()
    given = {
        "0.factors.0": RNG.normal(size=(2, 3)).astype("float32"),
        "0.inner.weight": RNG.normal(size=(3, 2)).astype("float32"),
        "0.inner.bias": np.ones(3, "float32"),
    }
    load_state_dict(model, given)
    np.testing.assert_array_equal(numbers(model)["0.factors.0"], given["0.factors.0"])
    np.testing.assert_array_equal(numbers(model)["0.inner.weight"], given["0.inner.weight"].T)


def test_normalize_stays_as_it_is_unless_the_source_has_it() -> None:
    model = bp.Sequential(bp.Normalize(4), bp.Dense(4, 3)).initialize()
    given = {"1.weight": np.ones((3, 4)), "1.bias": np.ones(3)}
    report = load_state_dict(model, given)
    assert report.kept == dict.fromkeys(("0.mean", "0.std"), "PyTorch has no such layer")
    assert report.complete
    x = np.ones((2, 4), "float32")
    with pytest.raises(bp.StateError, match="does not know mean"):
        model(x)
    load_state_dict(model, given | {"0.mean": np.full(4, 1.0), "0.std": np.full(4, 2.0)})
    np.testing.assert_array_equal(model(x), np.ones((2, 3)))


# --- names ---


def test_names_of_layers_of_many_layers_and_of_single_arrays() -> None:
    given = state()
    theirs = {
        "net.first.weight": given["0.weight"],
        "net.first.bias": given["0.bias"],
        "net.blocks.0.weight": given["2.weight"],
        "shift": given["2.bias"],
    }
    names = {"": "net", "0": "net.first", "2.bias": "shift", "{k}": "net.blocks.{k-2}"}
    model = mlp().initialize()
    report = load_state_dict(model, theirs, names=names)
    assert report.complete
    for name, value in given.items():
        np.testing.assert_array_equal(numbers(model)[name], value.T)


def test_a_prefix_of_all_names() -> None:
    given = {f"_orig_mod.{name}": value for name, value in state().items()}
    model = mlp().initialize()
    message = refused(model, given)
    assert message.endswith(
        "All of PyTorch's names begin with '_orig_mod': is it names={'': ...} with that?\n"
        "Give names={our path: PyTorch's}; ignore=(...) for what is not needed; or strict=False"
    )
    assert load_state_dict(model, given, names={"": "_orig_mod"}).complete


def test_several_layers_of_theirs_are_one_of_ours() -> None:
    q, k, v = (RNG.normal(size=(4, 4)).astype("float32") for _ in range(3))
    model = bp.Sequential(bp.MultiHeadAttention(4, 2)).initialize()
    given = {f"a.{name}.weight": value for name, value in zip("qkv", (q, k, v), strict=True)}
    given |= {f"a.{name}.bias": np.full(4, place, "float32") for place, name in enumerate("qkv")}
    given |= {"a.out.weight": np.eye(4, dtype="float32"), "a.out.bias": np.zeros(4, "float32")}
    names = {"0.qkv": ("a.q", "a.k", "a.v"), "0.output": "a.out"}
    report = load_state_dict(model, given, names=names)
    np.testing.assert_array_equal(numbers(model)["0.qkv.weight"], np.concatenate((q.T, k.T, v.T), axis=1))
    np.testing.assert_array_equal(numbers(model)["0.qkv.bias"], np.repeat([0, 1, 2], 4))
    assert ("0.qkv.weight", ("a.q.weight", "a.k.weight", "a.v.weight"), (4, 12), "transposed, side by side") in (
        report.matched
    )


def test_one_of_theirs_may_be_two_of_ours() -> None:
    table = RNG.normal(size=(5, 3)).astype("float32")
    model = bp.Sequential(bp.Embedding(5, 3), bp.Unembedding(5, 3)).initialize()
    load_state_dict(model, {"wte.weight": table}, names={"{i}": "wte"})
    np.testing.assert_array_equal(numbers(model)["0.weight"], numbers(model)["1.weight"])


def test_what_is_none_stays_as_it_is() -> None:
    model = mlp().initialize(seed=5)
    before = numbers(model)
    given = {name: value for name, value in state().items() if name.startswith("0")}
    report = load_state_dict(model, given, names={"2": None})
    assert report.kept == {"2.weight": "as names says", "2.bias": "as names says"}
    assert str(report).splitlines()[0] == "the mapping: 2 tensors for 2 of 4 parameters"
    np.testing.assert_array_equal(numbers(model)["2.weight"], before["2.weight"])
    np.testing.assert_array_equal(numbers(model)["0.weight"], given["0.weight"].T)
    kept_bias = load_state_dict(model, state(), names={"2.bias": None}, ignore="2.bias")
    assert kept_bias.kept == {"2.bias": "as names says"}
    assert kept_bias.ignored == {"2.bias": "as asked"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"3": "a"}, r"the model has nothing at '3' that is loaded; it has 7 paths, such as '0', '1', '2', '0.weight'"),
        ({"0.wieght": "a"}, r"nothing at '0.wieght' that is loaded; did you mean '0.weight'\?"),
        ({"{i}.{j}.weight": "a.{i}"}, r"the model has nothing at '\{i\}.\{j\}.weight'"),
        ({"{i}": "a.{j}"}, r"'a.\{j\}' asks for what '\{i\}' does not have; write \{i\} on our side, and on PyTorch's"),
        ({"{i}": "a.{i*2}"}, r"'a.\{i\*2\}' asks for what '\{i\}' does not have"),
        ({"0": 3}, r"must have texts on our side, and on PyTorch's a text, a tuple of texts, or None: got '0': 3"),
        ({"0": ()}, r"a tuple of texts, or None: got '0': \(\)"),
        ({0: "a"}, r"got 0: 'a'"),
        ([("0", "a")], r"names must be a mapping of our paths to PyTorch's, got \[\('0', 'a'\)\]"),
        (
            {"0": ("a", "b")},
            r"'0' is Dense\(4, 3\); only a Dense, whose outputs are as many times, can be made of 2 of",
        ),
        ({"1": ("a", "b")}, r"'1' is ReLU\(\); only a Dense"),
        ({"0.weight": ("a", "b")}, r"'0.weight' is made of 1 tensors, and a rule for a parameter can name one"),
    ],
)
def test_names_that_cannot_be(names: Any, message: str) -> None:
    assert re.search(message, refused(mlp().initialize(), state(), bp.ConfigError, names=names))


def test_a_rule_for_an_array_that_is_made_of_two() -> None:
    model = bp.Sequential(bp.LSTM(1, 1)).initialize()
    message = refused(model, {}, bp.ConfigError, names={"0.bias.0": "a"})
    assert message == (
        "names: '0.bias.0' is made of 2 tensors, and a rule for a parameter can name one; give a rule for its layer"
    )


# --- what is refused ---


def test_what_is_missing_left_over_or_of_another_shape_is_said_before_anything_changes() -> None:
    given = state()
    given["2.wieght"] = given.pop("2.weight")
    given["0.weight"] = given["0.weight"][:, :3]
    assert refused(mlp().initialize(), given) == (
        "the weights do not fit the model; nothing was loaded. the mapping: 2 tensors for 2 of 4 parameters\n"
        "  wrong: 0.weight: '0.weight' must be of shape (3, 4), found (3, 3)\n"
        "  missing: '2.weight' for 2.weight; did you mean '2.wieght'?\n"
        "  left over: '2.wieght' (2, 3)\n"
        "  0.bias  <- 0.bias  (3,), as it is\n"
        "  2.bias  <- 2.bias  (2,), as it is\n"
        "Give names={our path: PyTorch's}; ignore=(...) for what is not needed; or strict=False"
    )


def test_strict_false_loads_what_fits_but_no_wrong_shapes() -> None:
    given = state()
    given["head.weight"] = given.pop("2.weight")
    model = mlp().initialize()
    before = numbers(model)
    refused(model, given)
    report = load_state_dict(model, given, strict=False)
    assert report.missing == {"2.weight": ("2.weight",)}
    assert report.left_over == {"head.weight": (2, 3)}
    assert not report.complete
    np.testing.assert_array_equal(numbers(model)["2.weight"], before["2.weight"])
    np.testing.assert_array_equal(numbers(model)["2.bias"], given["2.bias"])
    given["0.bias"] = np.zeros(4)
    assert "'0.bias' must be of shape (3,), found (4,)" in refused(model, given, strict=False)


def test_what_is_ignored_by_a_pattern() -> None:
    given = state() | {"head.weight": np.zeros(2), "head.bias": np.zeros(3)}
    report = load_state_dict(mlp(), given, ignore=["head.*"])
    assert report.ignored == {"head.weight": "as asked", "head.bias": "as asked"}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_named_unless_allowed(value: float) -> None:
    given = state()
    given["2.weight"][1, :2] = value
    model = mlp().initialize()
    message = refused(model, given, strict=False)
    assert (
        "wrong: 2.weight: '2.weight' has 2 that are NaN or infinite; pass allow_nonfinite=True if they are" in message
    )
    load_state_dict(model, given, allow_nonfinite=True)
    np.testing.assert_array_equal(numbers(model)["2.weight"], given["2.weight"].T)


def test_numbers_too_large_for_the_models_dtype() -> None:
    given = {name: value.astype("float64") for name, value in state().items()}
    given["0.bias"][0] = 1e200
    assert "'0.bias' has 1 numbers too large for float32" in refused(mlp().initialize(), given)
    assert load_state_dict(mlp().initialize(dtype="float64"), given).complete


def test_dtypes_that_no_parameter_can_be(tmp_path: Path) -> None:
    dense = bp.Dense(2, 1).initialize()
    bias = ("F32", [1], bytes(4))
    for dtype, size, name in (("I64", 8, "int64"), ("BOOL", 1, "bool"), ("F8_E4M3", 1, "F8_E4M3")):
        path = write(tmp_path / "w.safetensors", {"weight": (dtype, [1, 2], bytes(2 * size)), "bias": bias})
        assert f"weight: 'weight' is of {name}, which no parameter can be; make it float32" in refused(dense, path)
    path = write(tmp_path / "w.safetensors", {"weight": ("F31", [1, 2], bytes(8)), "bias": bias})
    assert "is no whole safetensors file" in refused(dense, path)
    assert "is of int32" in refused(dense, {"weight": np.ones((1, 2), "int32"), "bias": np.ones(1)})


@pytest.mark.parametrize(
    "damage",
    [
        lambda good: good[:-1],
        lambda good: good + b"\0",
        lambda good: good[:4],
        lambda good: b"",
        lambda good: (10**12).to_bytes(8, "little") + good[8:],
        lambda good: (2**63).to_bytes(8, "little") + good[8:],
        lambda good: good.replace(b'"data_offsets": [0', b'"data_offsets": [1', 1),
        lambda good: good.replace(b'"data_offsets": [48, 60]', b'"data_offsets": [44, 60]', 1),
        lambda good: good.replace(b'"shape": [3, 4]', b'"shape": [4, 4]', 1),
        lambda good: good.replace(b'"shape": [3, 4]', b'"shape": [9, 9]', 1),
        lambda good: good.replace(b'"shape": [3, 4]', b'"shape": [-3, -4]'[:15], 1),
        lambda good: good.replace(b'"F32"', b'"F64"', 1),
        lambda good: good.replace(b'"0.bias"', b'"\xff.bias"', 1),
        lambda good: good[:8] + b"[" + good[9:],
    ],
)
def test_hostile_files(damage: Any, tmp_path: Path) -> None:
    path = as_file(tmp_path / "w.safetensors", state())
    good = path.read_bytes()
    damaged = damage(good)
    assert damaged != good
    path.write_bytes(damaged)
    message = refused(mlp().initialize(), path)
    assert message.startswith(f"{str(path)!r} is no whole safetensors file ({len(damaged)} bytes): ")


def test_files_that_are_something_else(tmp_path: Path) -> None:
    model = mlp().initialize()
    assert "cannot read" in refused(model, tmp_path / "none")
    assert "cannot read" in refused(model, tmp_path)
    for content in (b"PK\x03\x04 and so on", b"\x80\x02}q\x00X\x01\x00\x00\x00"):
        (tmp_path / "model.pt").write_bytes(content)
        assert (
            "is a pickle, as torch.save writes it, which could run code; where PyTorch is, make it a safetensors"
            in (refused(model, tmp_path / "model.pt"))
        )
    (tmp_path / "index.json").write_text('{\n "weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    assert "is JSON: of a model in several files, give the tensors" in refused(model, tmp_path / "index.json")
    model.save(tmp_path / "own.safetensors")
    assert "was written by bpnet; read it by bpnet.load" in refused(model, tmp_path / "own.safetensors")
    assert "the source must be the path of a safetensors file, or a mapping" in refused(model, 3, bp.DTypeError)
    assert "must be an array, got str" in refused(model, {"0.weight": "x"}, bp.DTypeError)
    assert "names must be texts, got 0" in refused(model, {0: np.zeros(3)}, bp.DTypeError)


def test_a_header_whose_length_looks_like_another_kind_of_file(tmp_path: Path) -> None:
    given = state()
    for length in (0x0280, int.from_bytes(b"PK", "little")):  # as a pickle, or a zip, begins
        path = as_file(tmp_path / "w.safetensors", given)
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        text = content[8 : 8 + size].ljust(length)
        path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
        assert load_state_dict(mlp(), path).complete


def test_arguments_that_cannot_be() -> None:
    model = mlp().initialize()
    assert refused(model, state(), bp.ConfigError, images="CHW") == 'images must be "NCHW" or "NHWC", got \'CHW\''
    assert "strict must be True or False" in refused(model, state(), bp.ConfigError, strict="no")
    assert refused(model, state(), bp.ConfigError, conv1d="*.c_fc.weight").startswith(
        "conv1d: no product of the model takes a tensor that '*.c_fc.weight' names"
    )


def test_a_retired_or_averaged_store_is_not_written_into() -> None:
    model = mlp().initialize()
    trainer = bp.Trainer(model, bp.MeanSquaredError(), bp.SGD(0.01, average=0.9))
    trainer.step(np.zeros((2, 4), "float32"), np.zeros((2, 2), "float32"))
    with trainer.averaged():
        refused(model, state(), bp.StateError)


# --- images that are flattened ---


def places(channels: int, n: int) -> Any:
    """Of every feature here, its number in PyTorch: channels come first there."""
    return np.arange(channels * n).reshape(channels, n).T.reshape(-1)


def test_features_of_a_flattened_image_come_in_pytorchs_order() -> None:
    model = bp.Sequential(bp.Conv2d(1, 2, 1), bp.Residual(bp.ReLU()), bp.Flatten(), bp.Dense(12, 1)).initialize()
    given = {"0.weight": np.ones((2, 1, 1, 1)), "0.bias": np.zeros(2), "3.weight": np.arange(12.0)[None]}
    given["3.bias"] = np.zeros(1)
    report = load_state_dict(model, given)
    assert numbers(model)["3.weight"][:, 0].tolist() == places(2, 6).tolist()
    assert report.matched[2].done == "transposed, inputs from channels first to last, from float64"
    load_state_dict(model, given, images="NHWC")
    assert numbers(model)["3.weight"][:, 0].tolist() == list(range(12))


def test_features_that_become_an_image_too() -> None:
    model = bp.Sequential(bp.Dense(1, 12), bp.ReLU(), bp.Reshape((2, 3, 2)), bp.Conv2d(2, 1, 1)).initialize()
    given = {"0.weight": np.arange(12.0)[:, None], "0.bias": np.arange(12.0), "3.weight": np.ones((1, 2, 1, 1))}
    given["3.bias"] = np.zeros(1)
    load_state_dict(model, given)
    assert numbers(model)["0.weight"][0].tolist() == places(2, 6).tolist()
    assert numbers(model)["0.bias"].tolist() == places(2, 6).tolist()


def test_branches_add_up_their_channels() -> None:
    model = bp.Sequential(
        bp.Concatenate(bp.Conv2d(1, 2, 1), bp.Sequential(bp.Conv2d(1, 1, 1), bp.ReLU())),
        bp.MaxPool2d(2),
        bp.Flatten(),
        bp.Dense(12, 1, bias=False),
    ).initialize()
    given = {"0.0.weight": np.ones((2, 1, 1, 1)), "0.0.bias": np.zeros(2), "0.1.0.weight": np.ones((1, 1, 1, 1))}
    load_state_dict(model, given | {"0.1.0.bias": np.zeros(1), "3.weight": np.arange(12.0)[None]})
    assert numbers(model)["3.weight"][:, 0].tolist() == places(3, 4).tolist()


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        (lambda: (bp.Conv2d(1, 2, 1), bp.Flatten(), bp.Residual(bp.Dense(8, 8)), bp.Dense(8, 1)), "cannot be followed"),
        (lambda: (bp.Conv2d(1, 2, 1), bp.Flatten(), bp.GLU(), bp.Dense(4, 1)), r"GLU\(\) at '2': the order"),
        (
            lambda: (bp.MaxPool2d(2), bp.Flatten(), bp.Dense(8, 1)),
            "the channels of the images that it flattens are not",
        ),
        (
            lambda: (bp.Dense(1, 16), bp.GLU(), bp.Reshape((2, 2, 2)), bp.Conv2d(2, 1, 1)),
            "the order of the features that become an image",
        ),
    ],
)
def test_orders_that_cannot_be_followed_are_refused(layers: Any, why: str) -> None:
    message = refused(bp.Sequential(*layers()).initialize(), {}, bp.ConfigError)
    assert re.search(why, message)
    assert message.endswith(
        'give images="NHWC" if the tensors are in the order (H, W, C) already, or make these layers with '
        'channels="first"'
    )
    assert "missing" in refused(bp.Sequential(*layers()).initialize(), {"a": np.zeros(1)}, images="NHWC")


def test_sequences_are_flattened_alike() -> None:
    model = bp.Sequential(bp.LSTM(2, 3), bp.Flatten(), bp.Dense(12, 1, bias=False)).initialize()
    given = {f"0.weight_{kind}_l0": np.ones((12, n)) for kind, n in (("ih", 2), ("hh", 3))}
    load_state_dict(model, given | {"2.weight": np.arange(12.0)[None]})
    assert numbers(model)["2.weight"][:, 0].tolist() == list(range(12))


# --- the way back ---


def models() -> dict[str, bp.Layer]:
    return {
        "mlp": mlp(),
        "images": bp.Sequential(
            bp.Conv2d(2, 4, 3, groups=2), bp.BatchNorm(4), bp.Flatten(), bp.Dense(16, 8), bp.PReLU(8),
            bp.Reshape((2, 2, 2)), bp.ConvTranspose2d(2, 3, 2),
        ),
        "recurrent": bp.Sequential(bp.GRU(3, 2, n_layers=2, bidirectional=True), bp.LSTM(4, 2), bp.RNN(2, 2)),
        "blocks": bp.Sequential(bp.TransformerBlock(4, 2), bp.TransformerBlock(4, 2, activation="swiglu", norm="rms")),
    }  # fmt: skip


@pytest.mark.parametrize("name", models())
def test_what_is_saved_is_loaded_again_to_the_bit(name: str, backend: bp.Backend, tmp_path: Path) -> None:
    model, again = models()[name].initialize(seed=1, backend=backend), models()[name].initialize(seed=2)
    path = tmp_path / "w.safetensors"
    shapes = save_state_dict(model, path)
    report = load_state_dict(again, path)
    assert report.complete
    before, after = numbers(model), numbers(again)
    assert all(np.array_equal(before[each], after[each]) for each in before)
    taken = {each for match in report.matched for each in match.theirs}
    assert set(shapes) == taken | set(report.ignored)
    save_state_dict(again, tmp_path / "again.safetensors")
    assert path.read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_a_saved_file_has_pytorchs_names_and_layouts(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    model = bp.Sequential(bp.Dense(3, 2), bp.BatchNorm(2)).initialize()
    path = tmp_path / "w.safetensors"
    shapes = save_state_dict(model, path, names={"{i}": "layers.{i}"})
    found = load_file(path)
    assert {name: array.shape for name, array in found.items()} == shapes == {
        "layers.0.weight": (2, 3), "layers.0.bias": (2,), "layers.1.weight": (2,), "layers.1.bias": (2,),
        "layers.1.running_mean": (2,), "layers.1.running_var": (2,), "layers.1.num_batches_tracked": (),
    }  # fmt: skip
    np.testing.assert_array_equal(found["layers.0.weight"], numbers(model)["0.weight"].T)
    assert found["layers.1.num_batches_tracked"].dtype == np.int64


def test_a_tied_table_is_written_under_both_names(tmp_path: Path) -> None:
    model = bp.Sequential(bp.Embedding(5, 3), bp.Unembedding(5, 3))
    model[1].weight = model[0].weight
    path = tmp_path / "w.safetensors"
    assert save_state_dict(model.initialize(), path) == {"0.weight": (5, 3), "1.weight": (5, 3)}
    assert save_state_dict(model, path, names={"{i}": "table"}) == {"table.weight": (5, 3)}


def test_what_cannot_be_written_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"before")
    normalized = bp.Sequential(bp.Normalize(4), bp.Dense(4, 3)).initialize()
    with pytest.raises(bp.ConfigError, match=r"'0.mean' cannot be written: PyTorch has no such layer; leave it out by"):
        save_state_dict(normalized, path)
    with pytest.raises(bp.ConfigError, match=r"'0.weight' and '2.weight' would both be written as 'a.weight'"):
        save_state_dict(mlp().initialize(), path, names={"{i}": "a"})
    with pytest.raises(bp.ConfigError, match=r"'0.weight' and '0.bias' would both be written as 'a'"):
        save_state_dict(mlp().initialize(), path, names={"0.{x}": "a"})
    assert path.read_bytes() == b"before"
    with pytest.raises(bp.CheckpointError, match="cannot write"):
        save_state_dict(mlp().initialize(), tmp_path)
    assert save_state_dict(normalized, path, names={"0": None}) == {"1.weight": (3, 4), "1.bias": (3,)}
