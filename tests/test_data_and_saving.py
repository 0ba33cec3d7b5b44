"""The bundled digits, batches, and models as files."""

from __future__ import annotations

import json
import os
import stat
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import bpnet as bp
from bpnet import files as tensor_files
from bpnet.data.rows import read_rows


def test_the_digits_are_all_there_with_their_licence() -> None:
    train, test = bp.data.load("digits")
    assert len(train) + len(test) == 1797
    assert train.x.dtype == np.float32
    assert train.y.dtype == np.int64
    assert (train.x.min(), train.x.max()) == (0.0, 1.0)
    both = np.concatenate([train.x, test.x])
    assert float(both.sum() * 16) == 561718.0  # the sum of all pixels of the published data
    assert np.bincount(np.concatenate([train.y, test.y])).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert "CC BY 4.0" in (files("bpnet.data") / "DIGITS-LICENSE.md").read_text()


def test_the_split_is_stratified_seeded_named_and_a_fifth() -> None:
    train, test = bp.data.load("digits")
    assert len(test) == 359
    for label in range(10):
        n = int(np.sum(train.y == label) + np.sum(test.y == label))
        assert int(np.sum(test.y == label)) == round(n / 5)
    assert test.split == "test of stratified-fifth, seed 0"
    again = bp.data.load("digits")[1]
    other = bp.data.load("digits", split_seed=1)[1]
    assert np.array_equal(again.x, test.x)
    assert not np.array_equal(other.x[:50], test.x[:50])


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    known = "diabetes, digits, fashion-mnist, mnist, spiral, topics"
    with pytest.raises(bp.ConfigError, match=rf"unknown data 'digit'; known are {known}; did you mean 'digits'\?"):
        bp.data.load("digit")


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 60), batch_size=st.integers(1, 70), seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_batches_have_every_sample_once_in_an_order_of_seed_and_epoch(
    n: int, batch_size: int, seed: int, epoch: int
) -> None:
    data = bp.Dataset(np.arange(2 * n).reshape(n, 2), np.arange(n))
    found = list(data.batches(batch_size, seed=seed, epoch=epoch))
    assert [len(x) for x, _ in found] == [batch_size] * (n // batch_size) + ([n % batch_size] if n % batch_size else [])
    y = np.concatenate([y for _, y in found])
    assert sorted(y.tolist()) == list(range(n))
    x = np.concatenate([x for x, _ in found])
    assert np.array_equal(x, np.stack([2 * y, 2 * y + 1], axis=1))
    again = np.concatenate([y for _, y in data.batches(batch_size, seed=seed, epoch=epoch)])
    assert np.array_equal(again, y)
    if n > 20:
        assert not np.array_equal(np.concatenate([y for _, y in data.batches(7, seed=seed, epoch=epoch + 1)]), y)
    in_order = np.concatenate([y for _, y in data.batches(batch_size, shuffle=False)])
    assert in_order.tolist() == list(range(n))


def test_batches_are_the_datas_kind_of_array(backend: bp.Backend) -> None:
    data = bp.Dataset(backend.asarray(np.eye(10)), backend.asarray(np.arange(10)))
    for x, y in data.batches(4, seed=1):
        assert isinstance(x, backend.array_type)
        assert isinstance(y, backend.array_type)
        assert np.array_equal(bp.to_numpy(x).argmax(axis=1), bp.to_numpy(y))


def _model(dtype: str = "float32") -> bp.Sequential:
    tied = bp.Dense(6, 6)
    first = bp.Dense(6, 6)
    tied.weight = first.weight
    model = bp.Sequential(
        bp.Flatten(),
        first,
        bp.LeakyReLU(0.2),
        bp.Residual(tied, bp.Dropout(0.25)),
        bp.Concatenate(bp.Dense(6, 2, bias=False), bp.Sequential(bp.Sigmoid(), bp.Dense(6, 3)), axis=-1),
        bp.Softmax(),
    )
    return model.initialize(seed=9, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_saved_model_comes_back_to_the_bit(dtype: str, tmp_path: Path, backend: bp.Backend) -> None:
    model = _model(dtype).to(backend)
    path = tmp_path / "model.safetensors"
    model.save(path, data="none", note=[1, {"a": None}])
    loaded = bp.load(path, backend=backend)
    assert repr(loaded) == repr(model)
    assert loaded.info == {"data": "none", "note": [1, {"a": None}]}
    assert loaded.backend is backend
    assert loaded.store.dtype == dtype
    assert loaded.tied() == {"3.0.weight": "1.weight"}
    for name, p in model.parameters().items():
        assert bp.to_numpy(loaded.parameters()[name].value).tobytes() == bp.to_numpy(p.value).tobytes()
    x = backend.asarray(np.random.default_rng(0).normal(size=(4, 2, 3)).astype(dtype))
    assert np.array_equal(bp.to_numpy(loaded(x)), bp.to_numpy(model(x)))


def test_other_tools_can_read_the_file(tmp_path: Path) -> None:
    model = _model()
    model.save(tmp_path / "m.safetensors")
    tensors = load_file(tmp_path / "m.safetensors")
    assert set(tensors) == set(model.parameters())
    assert np.array_equal(tensors["1.weight"], model.parameters()["1.weight"].value)


class Scaled(bp.Layer):
    """A user's layer."""

    def __init__(self, width: int, *, factor: float = 2.0) -> None:
        self.factor = factor
        self.gain = bp.Parameter((width,), "ones")

    def __call__(self, x: Any) -> Any:
        return x * self.gain.value * self.factor


def test_a_users_layer_is_named_at_load_time(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model = bp.Sequential(bp.Dense(2, 3), Scaled(3, factor=5.0)).initialize(seed=1)
    model.save(path)
    with pytest.raises(bp.CheckpointError, match=r"class 'Scaled', which is not one of bpnet's; .*custom=\(Scaled,\)"):
        bp.load(path)
    loaded = bp.load(path, custom=(Scaled,))
    x = np.ones((1, 2), np.float32)
    assert np.array_equal(loaded(x), model(x))


def test_arrays_that_are_not_in_c_order_are_written_as_they_read(tmp_path: Path) -> None:
    """The safetensors library writes memory as it lies; without the guard these come back as other numbers."""
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    odd = {
        "fortran": np.asfortranarray(base),
        "transposed": base.T,
        "reversed": base[::-1],
        "strided": base[:, ::2],
        "broadcast": np.broadcast_to(np.float32(7), (2, 3)),
        "scalar": np.float32(3).reshape(()),
    }
    tensor_files.write(tmp_path / "t.safetensors", odd, {})
    found, metadata = tensor_files.read(tmp_path / "t.safetensors")
    assert list(metadata) == [tensor_files.SEAL]
    for name, array in odd.items():
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array), name


def test_an_interrupted_save_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    _model().save(path)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(bp.CheckpointError, match="cannot write .*No space left on device"):
        _model().save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_a_saved_file_has_ordinary_permissions(tmp_path: Path) -> None:
    _model().save(tmp_path / "m.safetensors")
    (tmp_path / "plain").touch()
    assert stat.S_IMODE((tmp_path / "m.safetensors").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "plain").stat().st_mode
    )


@pytest.mark.parametrize(
    ("where", "message"),
    [("missing/m.safetensors", "No such file or directory"), ("", "cannot write")],
)
def test_a_place_that_cannot_be_written_is_named(where: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(bp.CheckpointError, match=message):
        _model().save(tmp_path / where)
    with pytest.raises(bp.CheckpointError, match="cannot write"):
        tensor_files.check_writable(tmp_path / where)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    bp.Sequential(bp.Dense(2, 2)).initialize().save(path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(bp.CheckpointError, match="no whole safetensors file"):
            bp.load(path)


def _rewrite(path: Path, change: Any) -> None:
    tensors, metadata = tensor_files.read(path)
    change(tensors, metadata)
    tensor_files.write(path, tensors, metadata)


def _architecture(change: Any) -> Any:
    def apply(tensors: Any, metadata: Any) -> None:
        described = json.loads(metadata["architecture"])
        change(described)
        metadata["architecture"] = json.dumps(described)

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: m.update(format="other"), "not a model that bpnet saved"),
        (lambda t, m: m.pop("architecture"), "damaged header"),
        (lambda t, m: m.update(architecture="{"), "damaged header"),
        (lambda t, m: m.update(architecture="[" * 100_000), "damaged header"),
        (lambda t, m: m.update(version="3"), "of format 3; this bpnet reads up to 2: update it"),
        (lambda t, m: m.update(tied='{"0.bias": "nowhere"}'), "which the architecture does not have"),
        (lambda t, m: m.update(dtype="float16"), "must be float16"),
        (lambda t, m: t.pop("0.bias"), r"missing \['0.bias'\]"),
        (lambda t, m: t.update(more=np.zeros(2)), r"left over \['more'\]"),
        (lambda t, m: t.update({"0.bias": np.zeros(3, np.float32)}), r"must be float32 of shape \(2,\), found float32"),
        (lambda t, m: t.update({"0.bias": np.zeros(2)}), "found float64"),
        (_architecture(lambda a: a.update(layer="os.system")), "class 'os.system', which is not one of bpnet's"),
        (
            _architecture(lambda a: a["args"].append(3)),
            "item 1 is no layer but 3",
        ),
        (
            _architecture(lambda a: a["args"][0]["config"].update(n_in=10**12, n_out=10**12)),
            "must be float32 of shape",
        ),
        (_architecture(lambda a: a["args"][0]["config"].update(n_in=-1)), "cannot be made"),
        (_architecture(lambda a: a["args"][0]["config"].update(unknown=1)), "cannot be made"),
    ],
)
def test_a_foreign_or_hostile_file_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    bp.Sequential(bp.Dense(2, 2)).initialize().save(path)
    _rewrite(path, change)
    with pytest.raises(bp.CheckpointError, match=message):
        bp.load(path)


def test_a_file_of_another_kind_or_none_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"hello", b"\x80\x04\x95pickle", b"\xff" * 64, os.urandom(1000)):
        (tmp_path / "m").write_bytes(content)
        with pytest.raises(bp.CheckpointError, match="no whole safetensors file"):
            bp.load(tmp_path / "m")
    with pytest.raises(bp.CheckpointError, match="No such file"):
        bp.load(tmp_path / "none")
    with pytest.raises(bp.CheckpointError, match="Is a directory"):
        bp.load(tmp_path)


def test_what_json_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = bp.Sequential(bp.Dense(2, 2, weight_initializer=lambda stream, shape: np.ones(shape))).initialize()
    with pytest.raises(bp.ConfigError, match=r"Dense\(weight_initializer=...\) is .*which JSON cannot hold"):
        model.save(tmp_path / "m.safetensors")
    with pytest.raises(bp.ConfigError, match="must be JSON values"):
        bp.Sequential(bp.Dense(2, 2)).save(tmp_path / "m.safetensors", thing=object())
    assert os.listdir(tmp_path) == []


class Tanh(bp.Layer):
    """A user's layer with the name of one of bpnet's."""

    def __call__(self, x: Any) -> Any:
        return x * 3


class Blocks(bp.Sequential):
    """A user's container with other names for its arguments."""

    def __init__(self, *blocks: bp.Layer, scale: float = 2.0, **options: int) -> None:
        super().__init__(*blocks)
        self.scale = scale
        self.options = options


class Listed(bp.Sequential):
    def __init__(self, layers: list[bp.Layer], scale: float) -> None:
        super().__init__(*layers)
        self.scale = scale


def test_users_layers_come_back_whatever_their_arguments_are_called(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model = bp.Sequential(
        Blocks(bp.Dense(3, 3), Tanh(), scale=5.0, depth=2), Listed([bp.Tanh(), bp.Dense(3, 2)], 7.0)
    ).initialize(seed=1)
    model.save(path)
    with pytest.raises(bp.CheckpointError, match="which is not one of bpnet's"):
        bp.load(path, custom=(Blocks, Listed))  # the user's Tanh is not bpnet's
    loaded = bp.load(path, custom=(Blocks, Listed, Tanh))
    x = np.ones((2, 3), np.float32)
    assert np.array_equal(loaded(x), model(x))
    assert type(loaded.layers[0].layers[1]) is Tanh  # type: ignore[attr-defined]
    assert (loaded.layers[0].scale, loaded.layers[0].options) == (5.0, {"depth": 2})  # type: ignore[attr-defined]
    assert loaded.layers[1].scale == 7.0  # type: ignore[attr-defined]


def test_settings_that_were_changed_are_saved_as_they_are(tmp_path: Path) -> None:
    model = bp.Sequential(bp.Dense(3, 3), bp.LeakyReLU(0.1), bp.Dropout(0.5), bp.Dense(3, 2)).initialize(seed=1)
    model[1].slope = 0.4  # type: ignore[attr-defined]
    model[2].rate = 0.25  # type: ignore[attr-defined]
    model.layers = model.layers[:3]
    assert repr(model) == "Sequential(Dense(3, 3), LeakyReLU(0.4), Dropout(0.25))"
    model.save(tmp_path / "m.safetensors")
    loaded = bp.load(tmp_path / "m.safetensors")
    x = -np.ones((2, 3), np.float32)
    assert repr(loaded) == repr(model)
    assert np.array_equal(loaded(x), model(x))


def test_a_model_that_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    model = bp.Dense(3, 3).initialize()
    model.extra = bp.Parameter((2,), "zeros")  # type: ignore[attr-defined]
    with pytest.raises(bp.ConfigError, match="do not make this model.*'extra'.*changed after it was made"):
        model.save(tmp_path / "m.safetensors")
    assert os.listdir(tmp_path) == []


def test_a_file_keeps_its_mode_and_a_link_its_target(tmp_path: Path) -> None:
    real, link = tmp_path / "real.safetensors", tmp_path / "link.safetensors"
    _model().save(real)
    real.chmod(0o600)
    link.symlink_to(real)
    before = real.read_bytes()
    bp.Dense(1, 1).initialize().save(link)
    assert link.is_symlink()
    assert real.read_bytes() != before
    assert stat.S_IMODE(real.stat().st_mode) == 0o600


def test_the_longest_name_that_the_system_takes_can_be_written(tmp_path: Path) -> None:
    name = "m" * (255 - len(".safetensors")) + ".safetensors"
    _model().save(tmp_path / name)
    assert bp.load(tmp_path / name).n_parameters == _model().n_parameters


def _nested(depth: int) -> Any:
    described: Any = {"layer": "ReLU", "custom": False, "args": [], "config": {}}
    for _ in range(depth):
        described = {"layer": "Sequential", "custom": False, "args": [described], "config": {}}
    return described


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: m.update(architecture=json.dumps(_nested(400))), "nested too deeply|damaged header|fit its own"),
        (
            lambda t, m: m.update(
                architecture=json.dumps(
                    {"layer": "LeakyReLU", "custom": False, "args": [], "config": {"slope": 10**400}}
                )
            ),
            "cannot be made",
        ),
        (lambda t, m: m.update(tied='{"weight": ["a"]}'), "which the architecture does not have"),
        (lambda t, m: m.update(info="[1]"), "damaged header"),
        (lambda t, m: m.update(seed="-1"), "seed must lie|damaged header"),
    ],
)
def test_more_hostile_headers_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    bp.Sequential(bp.Dense(2, 2)).initialize().save(path)
    _rewrite(path, change)
    with pytest.raises(bp.CheckpointError, match=message):
        bp.load(path)


def test_sizes_of_numpys_types_are_saved_as_numbers(tmp_path: Path) -> None:
    model = bp.Sequential(bp.Dense(3, np.int64(2)), bp.Dropout(np.float32(0.5))).initialize()  # type: ignore[arg-type]
    assert repr(model) == "Sequential(Dense(3, 2), Dropout(0.5))"
    model.save(tmp_path / "m.safetensors")
    assert repr(bp.load(tmp_path / "m.safetensors")) == repr(model)


def test_one_class_of_ones_own_needs_no_tuple(tmp_path: Path) -> None:
    bp.Sequential(Scaled(3)).initialize().save(tmp_path / "m.safetensors")
    assert isinstance(bp.load(tmp_path / "m.safetensors", custom=Scaled).layers[0], Scaled)  # type: ignore[attr-defined]


def test_a_damaged_npz_is_refused_whatever_was_damaged(tmp_path: Path) -> None:
    whole, damaged = tmp_path / "whole.npz", tmp_path / "damaged.npz"
    np.savez_compressed(whole, x=np.arange(40.0).reshape(10, 4))
    content = bytearray(whole.read_bytes())
    refused = 0
    for position in range(len(content)):
        changed = content.copy()
        changed[position] ^= 0x55
        damaged.write_bytes(changed)
        try:
            read_rows(damaged)
        except bp.DataError:
            refused += 1
    assert refused > len(content) // 2  # a flip in a time stamp or a name of a part is none in the numbers


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(99999999999999999999999,)", "(-1,)", "(1", "1_0"])
def test_an_npy_with_a_false_shape_is_refused(shape: str, tmp_path: Path) -> None:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    (tmp_path / "x.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(80)
    )
    with pytest.raises(bp.DataError, match="cannot read"):
        read_rows(tmp_path / "x.npy")


def test_digits_with_underscores_are_no_numbers(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1_0,2\n3,4\n")
    with pytest.raises(bp.DataError, match="line 1, column 1 holds '1_0', which is no number"):
        read_rows(tmp_path / "x.csv")
