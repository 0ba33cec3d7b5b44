"""The plan: bit-equal to eager, on every backend, and refused with a reason where it cannot be."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bpnet as bp
from bpnet import ops

RNG = np.random.default_rng(5)

MODELS: dict[str, Callable[[], bp.Layer]] = {
    "mlp": lambda: bp.Sequential(bp.Dense(6, 16), bp.ReLU(), bp.Dense(16, 3)),
    "dropout": lambda: bp.Sequential(
        bp.Dense(6, 16), bp.ReLU(), bp.Dropout(0.3), bp.Dense(16, 16), bp.Dropout(0.2), bp.Dense(16, 3)
    ),
    "activations": lambda: bp.Sequential(
        bp.Dense(6, 8), bp.LeakyReLU(0.1), bp.Dense(8, 8), bp.Sigmoid(), bp.Dense(8, 8), bp.Tanh(), bp.Dense(8, 3)
    ),
    "containers": lambda: bp.Sequential(
        bp.Dense(6, 8, bias=False),
        bp.Residual(bp.Dense(8, 8), bp.Tanh(), bp.Residual(bp.Dense(8, 8))),
        bp.Concatenate(bp.Dense(8, 1), bp.Sequential(bp.ReLU(), bp.Dense(8, 2))),
    ),
    "one layer": lambda: bp.Dense(6, 3),
    "flatten": lambda: bp.Sequential(
        bp.Flatten(), bp.Dense(6, 8), bp.Flatten(), bp.ReLU(), bp.Flatten(), bp.Dense(8, 3)
    ),
}
OPTIMIZERS: dict[str, Callable[[], bp.Optimizer]] = {
    "SGD": lambda: bp.SGD(0.05, weight_decay=0.01),
    "momentum": lambda: bp.SGD(0.05, momentum=0.9, nesterov=True),
    "AdamW": lambda: bp.AdamW(0.01),
}


def tied_model() -> bp.Layer:
    first, second = bp.Dense(6, 6), bp.Dense(6, 6)
    second.weight = first.weight
    return bp.Sequential(first, bp.Tanh(), second, bp.Dense(6, 3))


MODELS["tied"] = tied_model


def batches(n: int, sizes: tuple[int, ...] = (8, 8, 5)) -> list[tuple[Any, Any]]:
    rng = np.random.default_rng(0)
    cycled = [sizes[i % len(sizes)] for i in range(n)]
    return [(rng.normal(size=(m, 6)).astype(np.float32), rng.integers(0, 3, m)) for m in cycled]


def run(
    make: Callable[[], bp.Layer], optimizer: bp.Optimizer, plan: bool, backend: Any, n: int = 12
) -> tuple[list[bytes], dict[str, bytes], bp.Trainer]:
    trainer = bp.Trainer(make(), bp.SoftmaxCrossEntropy(), optimizer, seed=3, backend=backend, plan=plan)
    losses = [bp.to_numpy(trainer.step(x, y)).tobytes() for x, y in batches(n)]
    state = {name: bp.to_numpy(array).tobytes() for name, array in trainer.model.store.arrays().items()}
    return losses, state, trainer


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_planned_steps_equal_eager_ones_bit_for_bit(
    make: Callable[[], bp.Layer], optimizer: Callable[[], bp.Optimizer], backend: bp.Backend
) -> None:
    planned_losses, planned, trainer = run(make, optimizer(), True, backend)
    losses, state, _ = run(make, optimizer(), False, backend)
    assert trainer.plan_report().count("planned") == 2, trainer.plan_report()
    assert planned_losses == losses
    assert planned == state


def test_a_linear_and_its_activation_become_one_call_and_gradients_are_written_in_place() -> None:
    _, _, trainer = run(MODELS["mlp"], bp.Adam(), True, "numpy")
    (plan, *_) = trainer._planner.plans().values()  # type: ignore[union-attr]
    names = [step.kernel.name for step in plan.steps]
    assert names.count("linear") == 2
    assert "relu" not in names
    assert "copy_" not in names
    assert plan.steps[1].args[3] is ops.relu


def test_buffers_are_shared_by_values_that_are_never_alive_together() -> None:
    def deep() -> bp.Layer:
        return bp.Sequential(bp.Dense(6, 64), *[bp.Dense(64, 64) for _ in range(10)], bp.Dense(64, 3))

    _, _, trainer = run(deep, bp.SGD(1e-6), True, "numpy", n=9)
    (plan, *_) = trainer._planner.plans().values()  # type: ignore[union-attr]
    activations = 8 * 64 * 4 * 11
    assert plan.bytes < activations + 6 * 8 * 64 * 4  # the gradients going back share a few buffers


def test_what_is_handed_out_is_never_a_plans_buffer() -> None:
    trainer = bp.Trainer(MODELS["mlp"](), bp.SoftmaxCrossEntropy(), bp.SGD(0.5), seed=0)
    losses = [trainer.step(x, y) for x, y in batches(9, (8,))]
    values = [float(v) for v in losses]
    assert "planned" in trainer.plan_report()
    assert len(set(values)) == 9
    x, y = batches(1, (8,))[0]
    kept = x.copy()
    trainer.step(x, y)[...] = 99.0
    x[...] = 0
    assert float(trainer.step(kept, y)) != 99.0


class HandMade(bp.Layer):
    """Touches arrays without a kernel."""

    def __call__(self, x: Any) -> Any:
        return x * 2

    def forward(self, x: Any) -> Any:
        self.keep(x.shape)
        return self(x)

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        self.kept()
        return dy * 2


class InPlace(HandMade):
    """Writes into a kernel's result behind the plan's back."""

    def __call__(self, x: Any) -> Any:
        y = ops.tanh(x)
        y += 1
        return y

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        self.kept()
        return dy


class Schedule(HandMade):
    """Gives a kernel another number in every step."""

    def __init__(self) -> None:
        self._n = 0

    def __call__(self, x: Any) -> Any:
        return ops.leaky_relu(x, 0.1)

    def forward(self, x: Any) -> Any:
        self._n += 1
        self.keep(ops.leaky_relu(x, 0.1 / self._n))
        return self(x)

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        (y,) = self.kept()
        return ops.leaky_relu_backward(dy, y, 0.1)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (HandMade, r"linear got an array of shape \(8, 16\) and dtype float32 that no kernel made"),
        (InPlace, "replaying the recorded calls gave other values in .*the result"),
        (Schedule, "leaky_relu, had other arguments in the next step: .*0.1.*0.05"),
    ],
)
def test_what_cannot_be_planned_runs_eagerly_and_says_why(layer: Any, reason: str) -> None:
    def make() -> bp.Layer:
        return bp.Sequential(bp.Dense(6, 16), layer(), bp.Dense(16, 3))

    trainer = bp.Trainer(make(), bp.SoftmaxCrossEntropy(), bp.SGD(0.1), seed=3)
    eager = bp.Trainer(make(), bp.SoftmaxCrossEntropy(), bp.SGD(0.1), seed=3, plan=False)
    for x, y in batches(8, (8,)):
        assert trainer.step(x, y).tobytes() == eager.step(x, y).tobytes()
    report = trainer.plan_report()
    assert "planned, " not in report
    assert re.search("eager, because .*" + reason, report), report
    assert trainer.model.store.values.tobytes() == eager.model.store.values.tobytes()


def test_a_changed_attribute_is_noticed() -> None:
    def trainer(plan: bool) -> bp.Trainer:
        return bp.Trainer(MODELS["dropout"](), bp.SoftmaxCrossEntropy(), bp.Adam(0.01), seed=1, plan=plan)

    planned, eager = trainer(True), trainer(False)
    for i, (x, y) in enumerate(batches(20, (8,))):
        if i == 8:
            for each in (planned, eager):
                each.model[2].rate = 0.7  # type: ignore[index]
                each.optimizer.beta1 = 0.5  # type: ignore[attr-defined]
        if i == 14:
            for each in (planned, eager):
                each.optimizer.learning_rate = 0.003
        assert planned.step(x, y).tobytes() == eager.step(x, y).tobytes(), i
    assert planned.model.store.values.tobytes() == eager.model.store.values.tobytes()
    assert "0.7" in planned.plan_report()


def test_a_moved_model_is_planned_anew() -> None:
    planned = bp.Trainer(MODELS["mlp"](), bp.SoftmaxCrossEntropy(), bp.Adam(0.01), seed=1)
    data = batches(12, (8,))
    for x, y in data[:6]:
        planned.step(x, y)
    planned.model.to("strict")
    for x, y in data[6:]:
        assert type(planned.step(x, y)).__module__.startswith("array_api_strict")
    assert "planned" in planned.plan_report()


def test_a_backward_of_ones_own_before_a_step_is_not_lost() -> None:
    def prepared(plan: bool) -> bp.Trainer:
        return bp.Trainer(MODELS["mlp"](), bp.SoftmaxCrossEntropy(), bp.SGD(0.1), seed=1, plan=plan)

    planned, eager = prepared(True), prepared(False)
    loss = bp.SoftmaxCrossEntropy()
    for i, (x, y) in enumerate(batches(8, (8,))):
        for each in (planned, eager):
            if i == 5:
                loss.forward(each.model.forward(x), y)
                each.model.backward(loss.backward())
            each.step(x, y)
    assert planned.model.store.values.tobytes() == eager.model.store.values.tobytes()


def test_a_nan_freezes_a_planned_step() -> None:
    trainer = bp.Trainer(MODELS["dropout"](), bp.SoftmaxCrossEntropy(), bp.Adam(0.01), seed=1)
    data = batches(8, (8,))
    for x, y in data[:6]:
        trainer.step(x, y)
    store = trainer.model.store
    before = {k: v.copy() for k, v in store.arrays().items()}
    x, y = data[6]
    bad = x.copy()
    bad[3, 2] = np.nan
    assert np.isnan(trainer.step(bad, y))
    for name in ("values", "slot/m", "slot/v"):
        assert np.array_equal(store.arrays()[name], before[name]), name
    assert store.counters[0] == before["counters"][0]
    assert not store.ok


@bp.kernel
def small_mask(x: Any) -> Any:
    """A user's kernel with a result of one byte an element."""
    xp = bp.namespace(x)
    return xp.astype(x > 0, xp.uint8)


@bp.kernel
def masked(x: Any, mask: Any) -> Any:
    """A user's kernel: x where the mask is not 0."""
    return bp.namespace(x).where(mask > 0, x, 0)


class Masked(bp.Layer):
    def __call__(self, x: Any) -> Any:
        return masked(x, small_mask(x))

    def forward(self, x: Any) -> Any:
        mask = small_mask(x)
        self.keep(mask)
        return masked(x, mask)

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        (mask,) = self.kept()
        return masked(dy, mask)


def test_a_users_kernels_are_planned_too(backend: bp.Backend) -> None:
    def make() -> bp.Layer:
        return bp.Sequential(bp.Dense(6, 8), Masked(), bp.Dense(8, 3))

    planned_losses, planned, trainer = run(make, bp.Adam(0.01), True, backend)
    losses, state, _ = run(make, bp.Adam(0.01), False, backend)
    assert "small_mask" in trainer.plan_report()
    assert "planned, " in trainer.plan_report()
    assert (planned_losses, planned) == (losses, state)


def test_a_plan_that_cannot_be_bound_is_refused_and_the_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from bpnet import plan

    def fail(*_: Any) -> None:
        raise OverflowError("no room")

    monkeypatch.setattr(plan.Plan, "_bind", fail)
    losses, state, trainer = run(MODELS["dropout"], bp.Adam(0.01), True, "numpy")
    monkeypatch.undo()
    assert "its plan failed with OverflowError: no room" in trainer.plan_report()
    assert (losses, state) == run(MODELS["dropout"], bp.Adam(0.01), False, "numpy")[:2]
