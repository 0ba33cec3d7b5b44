"""Whole models trained by the CUDA kernels on the host: planned and eager, against NumPy, nothing between calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cuda_host
import numpy as np
import pytest

import bpnet as bp
from bpnet_cupy.host.driver import HostLaunch, HostProduct

pytestmark = pytest.mark.cuda_host

ACTIVATIONS: dict[str, Callable[[], bp.Layer]] = {
    "relu": bp.ReLU,
    "leaky": lambda: bp.LeakyReLU(0.1),
    "sigmoid": bp.Sigmoid,
    "tanh": bp.Tanh,
    "elu": bp.ELU,
    "gelu": bp.GELU,
    "gelu_tanh": lambda: bp.GELU(approximate="tanh"),
    "silu": bp.SiLU,
    "softplus": bp.Softplus,
    "mish": bp.Mish,
    "hardswish": bp.Hardswish,
    "prelu": lambda: bp.PReLU(16),
}
OPTIMIZERS: dict[str, Callable[[], bp.Optimizer]] = {
    "sgd": lambda: bp.SGD(0.05, weight_decay=0.01, clip_value=0.5),
    "momentum": lambda: bp.SGD(bp.StepDecay(0.05, every=5, factor=0.5), momentum=0.9, nesterov=True),
    "adam": lambda: bp.Adam(bp.Cosine(0.01, 30, warmup=3), clip_norm=1.0),
    "adamw": lambda: bp.AdamW(0.01, weight_decay=0.1),
    "amsgrad": lambda: bp.Adam(bp.OneCycle(0.01, 40), amsgrad=True),
    "adagrad": lambda: bp.Adagrad(0.05),
    "rmsprop": lambda: bp.RMSprop(bp.WarmUp(bp.Exponential(0.01, factor=0.9), 4), centered=True, momentum=0.5),
    "lion": lambda: bp.Lion(0.003, weight_decay=0.1),
}
LOSSES: dict[str, Callable[[], bp.Loss]] = {
    "classes": bp.SoftmaxCrossEntropy,
    "smoothed": lambda: bp.SoftmaxCrossEntropy(label_smoothing=0.1, class_weight=[1.0, 2.0, 0.5], ignore_index=2),
    "squared": bp.MeanSquaredError,
    "absolute": bp.MeanAbsoluteError,
    "huber": lambda: bp.Huber(0.5),
    "log_cosh": bp.LogCosh,
    "poisson": bp.PoissonNLL,
    "binary": bp.BinaryCrossEntropy,
    "focal": lambda: bp.BinaryFocalLoss(2.0),
    "hinge": bp.Hinge,
}


def network(activation: str = "relu") -> bp.Layer:
    return bp.Sequential(
        bp.Dense(8, 16),
        ACTIVATIONS[activation](),
        bp.Dropout(0.2),
        bp.Residual(bp.Dense(16, 16), ACTIVATIONS[activation]()),
        bp.Dense(16, 3),
    )


def data(loss: str = "classes", n: int = 40) -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, 8)).astype(np.float32)
    if loss in ("classes", "smoothed"):
        return x, rng.integers(0, 3, n)
    y = rng.uniform(size=(n, 3)).astype(np.float32)
    return x, np.round(y) if loss in ("binary", "focal", "hinge") else y


def trained(
    backend: str, activation: str = "relu", optimizer: str = "adam", loss: str = "classes", n: int = 12, **more: Any
) -> tuple[bp.Trainer, list[float]]:
    trainer = bp.Trainer(network(activation), LOSSES[loss](), OPTIMIZERS[optimizer](), seed=2, backend=backend, **more)
    x, y = data(loss)
    losses = [float(bp.to_numpy(trainer.step(x, y))) for _ in range(n)]
    return trainer, losses


def bits(trainer: bp.Trainer) -> dict[str, bytes]:
    return {name: bp.to_numpy(array).tobytes() for name, array in trainer.model.store.arrays().items()}


def hold(activation: str = "relu", optimizer: str = "adam", loss: str = "classes") -> None:
    """The losses are NumPy's; planned and eager steps are the same bits."""
    _, expected = trained("numpy", activation, optimizer, loss)
    planned, losses = trained("cuda_host", activation, optimizer, loss)
    eager, again = trained("cuda_host", activation, optimizer, loss, plan=False)
    assert "planned" in planned.plan_report(), planned.plan_report()
    np.testing.assert_allclose(losses, expected, rtol=2e-4)
    assert losses == again
    assert bits(planned) == bits(eager)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_trains_as_on_numpy(activation: str) -> None:
    hold(activation=activation)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_trains_as_on_numpy(optimizer: str) -> None:
    hold(optimizer=optimizer)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_as_on_numpy(loss: str) -> None:
    hold(loss=loss, optimizer="adamw")


@pytest.mark.parametrize(("optimizer", "loss"), [("adam", "classes"), ("momentum", "smoothed"), ("rmsprop", "huber")])
def test_a_planned_step_is_launches_and_products_only(optimizer: str, loss: str) -> None:
    """Nothing in it allocates, reads a value on the host or runs Python: what a CUDA graph asks of a step."""
    trainer, _ = trained("cuda_host", "silu", optimizer, loss)
    (plan,) = trainer._planner.plans().values()  # type: ignore[union-attr]
    assert {type(call) for call in plan._calls} == {HostLaunch, HostProduct}


def test_a_step_of_a_small_classifier_is_few_launches() -> None:
    """Each is a node of the graph and costs a microsecond or two, whatever it computes."""
    model = bp.Sequential(bp.Dense(8, 16), bp.ReLU(), bp.Dense(16, 3))
    trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.SGD(0.1), seed=0, backend="cuda_host")
    x, y = data()
    for _ in range(4):
        trainer.step(x, y)
    (plan,) = trainer._planner.plans().values()  # type: ignore[union-attr]
    names = [call.name.partition("<")[0] for call in plan._calls if isinstance(call, HostLaunch)]
    assert names == [
        "fill", "bias_activation", "bias_activation", "softmax_cross_entropy", "column_sum", "activation_backward",
        "column_sum", "check_finite", "sgd", "advance",
    ]  # fmt: skip


@pytest.mark.parametrize("epilogues", [False, True])
def test_a_step_gives_the_same_bits_in_every_order_of_threads_and_stays_inside_its_arrays(epilogues: bool) -> None:
    with cuda_host.mode(epilogues=epilogues):
        plain, losses = trained("cuda_host", n=5)
        with cuda_host.mode(orders=(0, 1, 5)):
            guarded, again = trained("cuda_host", n=5)
    assert losses == again
    assert bits(plain) == bits(guarded)


def test_masks_and_weights_are_numpys_to_the_bit() -> None:
    for name in ("numpy", "cuda_host"):
        model = network().initialize(seed=4, backend=name)
        weights = {key: bp.to_numpy(array).tobytes() for key, array in model.store.arrays().items()}
        layer = model.layers[2]
        assert isinstance(layer, bp.Dropout)
        ones = model.asarray(np.ones((40, 16), np.float32))
        mask = bp.to_numpy(layer.forward(ones)).tobytes()
        if name == "numpy":
            expected = weights, mask
    assert (weights, mask) == expected


def test_a_fit_that_is_resumed_ends_with_the_same_bits(tmp_path: Path) -> None:
    def fit(epochs: int, **more: Any) -> dict[str, bytes]:
        trainer = bp.Trainer(network("gelu"), bp.SoftmaxCrossEntropy(), OPTIMIZERS["adam"](), seed=5,
                             backend="cuda_host", metrics=[bp.Accuracy()])  # fmt: skip
        trainer.fit(*data(n=37), epochs=epochs, batch_size=8, progress=False, **more)
        return bits(trainer)

    whole = fit(4)
    fit(2, checkpoint=tmp_path)
    assert fit(4, checkpoint=tmp_path, resume=True) == whole


def test_the_audit_passes_on_the_kernels() -> None:
    x, y = data()
    against = bp.audit(network("tanh"), bp.SoftmaxCrossEntropy(), x, y, backend="cuda_host", against="numpy", samples=6)
    assert against.passed, str(against)


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    trainer, _ = trained("cuda_host", n=4)
    before = bits(trainer)
    x, y = data()
    x[0, 0] = np.inf
    with np.errstate(all="ignore"):
        trainer.step(x, y)
    after = bits(trainer)
    assert {name for name in before if before[name] != after[name]} <= {"grads", "ok", "counters", "learning_rate"}


def test_arrays_of_numpy_are_refused_by_a_model_of_the_backend() -> None:
    model = network().initialize(seed=0, backend="cuda_host")
    with pytest.raises(bp.DTypeError, match="asarray"):
        model.forward(data()[0])
