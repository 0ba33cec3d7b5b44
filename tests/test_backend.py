"""Backends: selection, probing, the registry, and errors that say what to do."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import strict_backend
from conftest import why_no_gpu

import bpnet as bp
from bpnet import backend as registry

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BPNET_BACKEND", raising=False)
    monkeypatch.setattr(registry, "_process_choices", [])
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))
    monkeypatch.setattr(registry, "_READY", dict(registry._READY))


def test_the_order_is_argument_then_use_backend_then_environment_then_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bp.get_backend().name == "numpy"
    monkeypatch.setenv("BPNET_BACKEND", "strict")
    assert bp.get_backend().name == "strict"
    with bp.use_backend("strict:device1") as chosen:
        assert bp.get_backend() is chosen
        assert chosen.name == "strict:device1"
        assert bp.get_backend("numpy").name == "numpy"
        with bp.use_backend("numpy"):
            assert bp.get_backend().name == "numpy"
        assert bp.get_backend() is chosen
    assert bp.get_backend().name == "strict"


def test_use_backend_without_a_block_holds_for_all_threads() -> None:
    bp.use_backend("strict")
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.append(bp.get_backend().name))
    thread.start()
    thread.join()
    assert seen == ["strict"]
    assert bp.get_backend().name == "strict"


def test_an_empty_environment_variable_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPNET_BACKEND", " ")
    assert bp.get_backend().name == "numpy"


@pytest.mark.parametrize("how", ["argument", "environment", "use_backend"])
def test_an_unknown_backend_names_those_known_and_the_nearest(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def choose() -> Any:
        if how == "use_backend":
            return bp.use_backend("cuppy")
        if how == "environment":
            monkeypatch.setenv("BPNET_BACKEND", "cuppy")
            return bp.get_backend()
        return bp.get_backend("cuppy")

    with pytest.raises(bp.BackendError, match=r"unknown backend 'cuppy' .*cupy, numpy.*did you mean 'cupy'\?"):
        choose()
    monkeypatch.delenv("BPNET_BACKEND", raising=False)
    assert bp.get_backend().name == "numpy"  # a failed choice changes nothing


def test_one_backend_object_a_name() -> None:
    assert bp.get_backend("strict") is bp.get_backend("strict")
    assert bp.get_backend("strict") is not bp.get_backend("strict:device1")
    ours = strict_backend.StrictBackend()
    assert bp.get_backend(ours) is ours


def test_numpy_has_no_devices() -> None:
    with pytest.raises(bp.BackendError, match="NumPy has no device '1'; use 'numpy'"):
        bp.get_backend("numpy:1")


@pytest.mark.skipif(not why_no_gpu(), reason="a GPU is usable here: cupy does not fail")
def test_cupy_without_a_gpu_says_what_was_tried_what_failed_and_what_to_do() -> None:
    with pytest.raises(bp.BackendError) as raised:
        bp.get_backend("cupy")
    text = str(raised.value)
    assert "'cupy' (from the argument) cannot be used" in text
    assert "BPNET_BACKEND=numpy" in text or "pip install" in text
    assert bp.get_backend().name == "numpy"


@pytest.mark.parametrize(
    ("name", "library", "extra"),
    [("cupy", "CuPy", "cuda12"), ("torch", "PyTorch", "torch")],
)
def test_a_library_that_is_not_installed_is_named_with_its_extra(
    name: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"array_api_compat.{name}", raising=False)
    registry._READY.pop(name, None)
    with pytest.raises(bp.BackendError, match=rf'{library} cannot be imported .*pip install "bpnet-xp\[{extra}\]"'):
        bp.get_backend(name)
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert extra in tomllib.load(file)["project"]["optional-dependencies"]


def test_a_cuda_device_must_be_a_number() -> None:
    with pytest.raises(bp.BackendError, match="a CUDA device is a number, as in 'cupy:1'; got 'gpu'"):
        bp.get_backend("cupy:gpu")


class Broken(strict_backend.StrictBackend):
    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self.name = "broken"


class WrongProduct(Broken):
    def to_numpy(self, x: Any) -> Any:
        return super().to_numpy(x) + 1


class NoViews(Broken):
    def __init__(self, device: str | None = None) -> None:
        super().__init__()

        class Copying:
            def __getattr__(self, name: str) -> Any:
                return getattr(strict_backend.strict, name)

            def reshape(self, x: Any, shape: Any) -> Any:
                return strict_backend.strict.reshape(x, shape, copy=True)

        self.xp = Copying()


class Fails(Broken):
    def zeros(self, shape: Any, dtype: Any) -> Any:
        raise OSError("the device is on fire")


class NotABackend:
    name = "thing"

    def __init__(self, device: str | None = None) -> None:
        pass


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (WrongProduct, r"computed \[\[1, 2\], \[3, 4\]\] squared as"),
        (NoViews, "does not write through views"),
        (Fails, "failed its probe .*OSError: the device is on fire"),
        (NotABackend, "NotABackend is no backend: it lacks xp, array_type, asarray"),
    ],
)
def test_the_probe_refuses_what_does_not_work(factory: Any, message: str) -> None:
    bp.register_backend("broken", factory)
    with pytest.raises(bp.BackendError, match=message):
        bp.get_backend("broken")


def test_a_name_is_registered_once_unless_replaced() -> None:
    bp.register_backend("mine", strict_backend.StrictBackend)
    with pytest.raises(bp.BackendError, match="'mine' exists already; pass replace=True"):
        bp.register_backend("mine", strict_backend.StrictBackend)
    with pytest.raises(bp.BackendError, match="'numpy' exists already"):
        bp.register_backend("numpy", strict_backend.StrictBackend)
    first = bp.get_backend("mine")
    bp.register_backend("mine", strict_backend.StrictBackend, replace=True)
    assert bp.get_backend("mine") is not first
    with pytest.raises(bp.BackendError, match="must be a plain word"):
        bp.register_backend("a:b", strict_backend.StrictBackend)


def test_an_installed_plug_in_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("plugged", "strict_backend:StrictBackend", "bpnet.backends")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry] if group == "bpnet.backends" else [])
    assert "plugged" in bp.backend_names()
    assert isinstance(bp.get_backend("plugged"), strict_backend.StrictBackend)


def test_a_plug_in_that_cannot_be_imported_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("gone", "no_such_module:Backend", "bpnet.backends")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
    with pytest.raises(bp.BackendError, match="'gone' .*could not be loaded: ModuleNotFoundError: No module named"):
        bp.get_backend("gone")


def test_our_own_backends_are_entry_points_like_anybodys() -> None:
    found = {entry.name: entry.value for entry in importlib.metadata.entry_points(group="bpnet.backends")}
    assert found["numpy"] == "bpnet_numpy:NumpyBackend"
    assert found["cupy"] == "bpnet_cupy:CupyBackend"
    assert found["torch"] == "bpnet_torch:TorchBackend"


def test_arrays_start_at_multiples_of_256_bytes() -> None:
    for size in (1, 7, 1000):
        array = bp.get_backend("numpy").zeros((size,), "float32")
        assert array.ctypes.data % 256 == 0
        assert array.shape == (size,)
        assert not array.any()


def test_to_numpy_brings_any_array(backend: bp.Backend) -> None:
    host = np.arange(6.0).reshape(2, 3)
    found = bp.to_numpy(backend.asarray(host))
    assert type(found) is np.ndarray
    assert np.array_equal(found, host)
    assert bp.to_numpy(host) is host
    assert bp.to_numpy([1, 2]).tolist() == [1, 2]


def test_a_model_moves_with_its_gradients_and_optimizer_state(backend: bp.Backend) -> None:
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(8, 5)).astype(np.float32), rng.integers(0, 3, 8)

    def train(model: bp.Layer, optimizer: bp.Optimizer, steps: int) -> None:
        loss = bp.SoftmaxCrossEntropy()
        for _ in range(steps):
            loss.forward(model.forward(model.asarray(x)), model.asarray(labels))
            model.backward(loss.backward())
            optimizer.step(model)

    def make() -> tuple[bp.Layer, bp.Optimizer]:
        model = bp.Sequential(bp.Dense(5, 9), bp.Tanh(), bp.Dropout(0.5), bp.Dense(9, 3)).initialize(seed=4)
        return model, bp.AdamW(0.01)

    stays, stays_optimizer = make()
    moves, moves_optimizer = make()
    train(stays, stays_optimizer, 6)
    train(moves, moves_optimizer, 3)
    grad = bp.to_numpy(moves.parameters()["0.weight"].grad).copy()
    assert moves.to(backend) is moves
    assert moves.backend is backend
    assert isinstance(moves.parameters()["0.weight"].value, backend.array_type)
    assert np.array_equal(bp.to_numpy(moves.parameters()["0.weight"].grad), grad)
    train(moves, moves_optimizer, 3)
    for path, p in moves.parameters().items():
        np.testing.assert_allclose(
            bp.to_numpy(p.value), stays.parameters()[path].value, rtol=2e-4, atol=2e-6, err_msg=path
        )
    moves.to("numpy", dtype="float64")
    assert moves.parameters()["0.weight"].value.dtype == np.float64
    assert moves(moves.asarray(x)).dtype == np.float64


def test_an_unmaterialized_model_remembers_where_it_is_to_go() -> None:
    model = bp.Sequential(bp.Dense(2, 2)).to("strict", dtype="float64")
    assert not model.initialized
    assert model.backend.name == "strict"
    assert model.store.dtype == "float64"


def test_asarray_casts_floats_and_leaves_labels() -> None:
    model = bp.Sequential(bp.Dense(2, 2)).initialize(backend="strict")
    assert str(model.asarray([[1.0, 2.0]]).dtype).endswith("float32")
    assert str(model.asarray(np.array([1, 2])).dtype).endswith("int64")
    assert str(model.asarray(model.asarray(np.ones(2)), dtype="float64").dtype).endswith("float64")


def test_the_environment_variable_reaches_a_fresh_process() -> None:
    code = "import bpnet as bp; print(bp.get_backend().name)"
    for value, expected, status in (("numpy", "numpy", 0), ("nonsense", "unknown backend 'nonsense'", 1)):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={"BPNET_BACKEND": value, "PATH": ""},
            check=False,
        )
        assert done.returncode == status
        assert expected in done.stdout + done.stderr


def test_choices_that_interleave_leave_nothing_behind() -> None:
    first = bp.use_backend("strict")
    second = bp.use_backend("strict:device1")
    first.__enter__()
    second.__enter__()
    second.__exit__(None, None, None)
    first.__exit__(None, None, None)
    assert bp.get_backend().name == "numpy"


def test_cupys_namespace_has_every_function_that_the_ops_use() -> None:
    """Needs CuPy installed, but no GPU: what a typo or a missing function would break is found without one."""
    pytest.importorskip("cupy", reason="CuPy is not installed")
    import array_api_compat.cupy as xp

    sources = [p for part in ("ops", "data") for p in (ROOT / "bpnet" / part).glob("*.py")]
    sources += [ROOT / "bpnet" / name for name in ("plan.py", "planner.py", "backend.py", "store.py", "inference.py")]
    used: set[str] = set()
    for source in sources:
        text = source.read_text()
        used |= set(re.findall(r"\bxp\.(\w+)", text)) | set(re.findall(r"namespace\(\w+\)\.(\w+)", text))
    assert {"where", "exp", "astype", "isdtype", "take"} <= used
    assert {name for name in used if not hasattr(xp, name)} == set()
