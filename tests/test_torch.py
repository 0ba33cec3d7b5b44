"""The PyTorch backend: its devices, its errors, and tensors that never carry a graph."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from conftest import why_not

import bpnet as bp

pytestmark = pytest.mark.torch

X = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 3, 12)


@pytest.fixture
def torch() -> Any:
    import torch

    return torch


def model() -> bp.Layer:
    return bp.Sequential(bp.Dense(4, 8), bp.ReLU(), bp.Dropout(0.2), bp.Dense(8, 3))


def trainer(**settings: Any) -> bp.Trainer:
    return bp.Trainer(model(), bp.SoftmaxCrossEntropy(), bp.Adam(0.01), backend="torch", seed=3, **settings)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("mps", "Apple's GPUs have no float64, in which bpnet keeps the learning rate .*; use 'torch', PyTorch on the"),
        ("tpu", "this backend has the devices 'torch', 'torch:cuda' and 'torch:cuda:1', no 'tpu'"),
        ("cuda:first", "has the devices .*, no 'cuda:first'"),
        ("cpu:1", "has the devices .*, no 'cpu:1'"),
    ],
)
def test_a_device_that_there_is_not_says_what_there_is(device: str, message: str) -> None:
    with pytest.raises(bp.BackendError, match=message):
        bp.get_backend(f"torch:{device}")


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_without_a_gpu_the_error_says_how_pytorch_was_built_and_what_to_do(
    device: str, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bpnet_torch import TorchBackend

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(bp.BackendError, match=r"PyTorch .*, built .*finds no usable GPU; check `nvidia-smi`.*'torch'"):
        TorchBackend(device)


def test_a_gpu_beyond_the_last_is_refused_by_its_number(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from bpnet_torch import TorchBackend

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    with pytest.raises(bp.BackendError, match=r"no CUDA device 2; this machine has 2: 'torch:cuda:0', 'torch:cuda:1'"):
        TorchBackend("cuda:2")
    assert TorchBackend("cuda").device == torch.device("cuda", 1)  # the current one, by its number


def test_an_array_api_compat_that_is_too_old_is_named(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import array_api_compat.torch as xp

    from bpnet_torch import TorchBackend

    monkeypatch.setattr(xp, "maximum", torch.maximum)  # as it was before 1.16
    with pytest.raises(
        bp.BackendError, match=r"array-api-compat is older than 1.16, .*pip install \"bpnet-xp\[torch\]"
    ):
        TorchBackend()


def test_the_cpu_may_be_named() -> None:
    backend = bp.get_backend("torch:cpu")
    assert (backend.name, repr(backend)) == ("torch:cpu", "<backend torch:cpu>")
    assert backend.describe()["device"] == "cpu"
    assert int(backend.describe()["threads"]) >= 1


@pytest.mark.skipif(bool(why_not("torch:cuda")), reason="PyTorch has no GPU here")
def test_a_model_trains_on_the_gpu_as_on_the_cpu(torch: Any) -> None:
    losses = []
    for name in ("torch", "torch:cuda"):
        each = bp.Trainer(model(), bp.SoftmaxCrossEntropy(), bp.Adam(0.01), backend=name, seed=3)
        losses.append([float(each.step(X, Y)) for _ in range(8)])
        assert each.model.store.values.device == bp.get_backend(name).device  # type: ignore[attr-defined]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_arrays_of_every_kind_come_over(torch: Any) -> None:
    backend = bp.get_backend("torch")
    read_only = np.arange(6.0).reshape(2, 3)
    read_only.flags.writeable = False
    for given in (
        read_only, np.asfortranarray(read_only), read_only[:, ::-1], read_only.astype(">f8"), read_only.tolist(),
        torch.from_numpy(read_only.copy()), torch.from_numpy(read_only.copy()).T.contiguous().T,
        torch.nn.Parameter(torch.from_numpy(read_only.copy())),
    ):  # fmt: skip
        found = backend.asarray(given)
        assert found.is_contiguous()
        assert not found.requires_grad
        assert type(found) is torch.Tensor
        expected = given if isinstance(given, list) else given.tolist()
        assert found.tolist() == expected
        assert bp.to_numpy(found).tolist() == expected
        assert backend.asarray(given, dtype="float32").dtype is torch.float32
    own = backend.zeros((3,), "float64")
    assert backend.asarray(own) is own
    host = np.zeros(3)
    host[0] = 1
    assert float(backend.asarray(host)[0]) == 1.0
    assert backend.asarray(np.float64(2.0)).shape == ()


def test_bfloat16_comes_to_numpy_as_float32(torch: Any) -> None:
    found = bp.get_backend("torch").to_numpy(torch.tensor([1.5, -2.0], dtype=torch.bfloat16))
    assert found.dtype == np.float32
    assert found.tolist() == [1.5, -2.0]


def test_a_tensor_that_autograd_follows_is_refused_by_layers_losses_and_ops(torch: Any) -> None:
    net = model().initialize(backend="torch")
    x = torch.randn(5, 4, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0, 1])
    message = (
        r"got a tensor of shape \(5, 4\) with requires_grad=True; bpnet's layers state their own derivatives and "
        r"autograd cannot follow them: bring it over with model.asarray\(x\), which detaches it"
    )
    for mistake in (
        lambda: net(x),
        lambda: net.forward(x),
        lambda: bp.ops.relu(x),
        lambda: bp.ops.concatenate((x.detach(), x), 0),
        lambda: bp.ops.add(x.detach(), x),
        lambda: bp.SoftmaxCrossEntropy()(x, labels),
    ):
        with pytest.raises(bp.DTypeError, match=message):
            mistake()
    assert not net(net.asarray(x)).requires_grad
    with torch.no_grad():
        assert not net(x).requires_grad  # no graph is built here


def test_a_kernel_made_later_refuses_it_too(torch: Any) -> None:
    @bp.kernel
    def twice(x: Any) -> Any:
        """2 x."""
        return 2 * x

    with pytest.raises(bp.DTypeError, match="requires_grad=True"):
        twice(torch.ones(2, requires_grad=True))
    assert twice(torch.ones(2)).tolist() == [2.0, 2.0]


def test_training_on_tensors_that_require_gradients_builds_no_graph(torch: Any) -> None:
    x, y = torch.from_numpy(X).requires_grad_(), torch.from_numpy(Y)
    followed, plain = trainer(), trainer()
    for _ in range(6):
        assert float(followed.step(x, y)) == float(plain.step(X, Y))
    assert "planned, " in followed.plan_report()
    followed.fit(x, y, epochs=2, batch_size=5, progress=False)
    plain.fit(X, Y, epochs=2, batch_size=5, progress=False)
    prediction = followed.predict(x)
    assert type(prediction) is torch.Tensor
    assert not prediction.requires_grad
    assert x.grad is None
    for name, array in followed.model.store.arrays().items():
        assert not array.requires_grad, name
        assert array.grad_fn is None, name
        assert torch.equal(array, plain.model.store.arrays()[name]), name


def test_a_value_assigned_from_a_module_is_copied_and_detached(torch: Any) -> None:
    net = bp.Sequential(bp.Dense(4, 3)).initialize(backend="torch")
    theirs = torch.nn.Linear(4, 3)
    layer = net[0]
    layer.weight.value, layer.bias.value = theirs.weight.T, theirs.bias
    x = torch.from_numpy(X)
    with torch.no_grad():
        torch.testing.assert_close(net(x), theirs(x))
    assert not layer.weight.value.requires_grad
    with torch.no_grad():
        theirs.weight.zero_()
    assert bool((layer.weight.value != 0).any())


def test_gradients_equal_those_of_autograd(torch: Any) -> None:
    rng = np.random.default_rng(0)
    net = bp.Sequential(bp.Dense(4, 5), bp.Tanh(), bp.Dense(5, 3)).initialize(backend="torch", dtype="float64")
    x, labels = torch.from_numpy(rng.normal(size=(6, 4))), torch.from_numpy(Y[:6])
    loss = bp.SoftmaxCrossEntropy()
    value = loss.forward(net.forward(x), labels)
    dx = net.backward(loss.backward())
    leaves = {path: p.value.clone().requires_grad_() for path, p in net.parameters().items()}
    own_x = x.clone().requires_grad_()
    hidden = torch.tanh(own_x @ leaves["0.weight"] + leaves["0.bias"])
    theirs = torch.nn.functional.cross_entropy(hidden @ leaves["2.weight"] + leaves["2.bias"], labels)
    theirs.backward()
    torch.testing.assert_close(value, theirs.detach(), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(dx, own_x.grad, rtol=1e-12, atol=1e-14)
    for path, p in net.parameters().items():
        torch.testing.assert_close(p.grad, leaves[path].grad, rtol=1e-12, atol=1e-14)


def test_predictions_come_in_the_callers_kind_of_array(torch: Any) -> None:
    here, there = model().initialize(), model().initialize(backend="torch")
    assert type(bp.predict(here, torch.from_numpy(X))) is torch.Tensor
    assert type(bp.predict(there, torch.from_numpy(X))) is torch.Tensor
    assert type(bp.predict(there, X)) is np.ndarray
    assert type(bp.predict(there, X.tolist())) is np.ndarray


def test_foreign_tensors_come_over_by_the_models_asarray(torch: Any) -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    here = bp.Dense(3, 2).initialize()
    there = bp.Dense(3, 2).initialize(backend="torch")
    strict = bp.get_backend("strict").asarray(np.arange(6.0).reshape(2, 3))
    assert type(here.asarray(tensor)) is np.ndarray
    assert here.asarray(tensor.double()).dtype == np.float32
    for given in (tensor, strict):
        found = there.asarray(given)
        assert found.dtype is torch.float32
        assert torch.equal(found, tensor)
    assert type(bp.Dense(3, 2).initialize(backend="strict").asarray(tensor)) is type(strict)


def test_numpy_models_take_tensors_that_require_gradients(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from bpnet import backend as registry

    monkeypatch.setattr(registry, "_READY", {"numpy": bp.get_backend("numpy")})  # as where nobody asked for PyTorch
    each = bp.Trainer(model(), bp.SoftmaxCrossEntropy(), bp.Adam(0.01), backend="numpy", seed=3)
    plain = copy.deepcopy(each)
    x = torch.from_numpy(X).requires_grad_()
    for _ in range(2):
        assert float(each.step(x, torch.from_numpy(Y))) == float(plain.step(X, Y))
    assert isinstance(each.model.asarray(x), np.ndarray)


def test_doctor_reports_it() -> None:
    from bpnet.doctor import diagnose

    facts = diagnose("torch:cpu")
    assert facts["ok"]
    (about,) = [each for each in facts["backends"] if each["name"] == "torch"]
    assert about["usable"]
    assert about["device"] == "cpu"


def test_a_model_made_in_inference_mode_can_be_trained_outside(torch: Any) -> None:
    with torch.inference_mode():
        net = model().initialize(backend="torch")
        net(net.asarray(X))
    bp.Trainer(net, bp.SoftmaxCrossEntropy(), bp.SGD(0.1)).step(X, Y)


def test_a_default_device_of_the_users_changes_nothing(torch: Any) -> None:
    torch.set_default_device("meta")
    try:
        assert float(trainer().step(X, Y)) > 0
    finally:
        torch.set_default_device(None)


def test_a_model_is_copied_and_saved_from_tensors(tmp_path: Any, torch: Any) -> None:
    each = trainer()
    each.step(X, Y)
    expected = each.predict(X)
    assert np.array_equal(copy.deepcopy(each).predict(X), expected)
    each.model.save(tmp_path / "m.safetensors")
    assert np.array_equal(bp.predict(bp.load(tmp_path / "m.safetensors", backend="torch"), X), expected)
    np.testing.assert_allclose(bp.predict(bp.load(tmp_path / "m.safetensors"), X), expected, rtol=1e-5, atol=1e-6)


def test_the_environment_variable_trains_the_command_lines_digits_on_it(tmp_path: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "bpnet", "train", "digits", "--json"],
        cwd=tmp_path,
        env=os.environ | {"BPNET_BACKEND": "torch"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r'"backend": "torch"', done.stdout)
    accuracy = re.search(r'"test_accuracy": (0\.\d+)', done.stdout)
    assert accuracy is not None
    assert float(accuracy[1]) >= 0.96
