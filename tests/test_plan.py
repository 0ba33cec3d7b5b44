"""The plan: bit-equal to eager, on every backend, and refused with a reason where it cannot be."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bpnet as bp
from bpnet import ops, planner

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


def steps_of(trainer: bp.Trainer, data: list[tuple[Any, Any]]) -> list[bytes]:
    return [bp.to_numpy(trainer.step(x, y)).tobytes() for x, y in data]


def pair(make: Callable[[], bp.Layer], loss: Any, optimizer: Any, **settings: Any) -> tuple[bp.Trainer, bp.Trainer]:
    """The same Trainer twice: with plans and without."""
    planned, eager = (bp.Trainer(make(), loss(), optimizer(), seed=1, plan=plan, **settings) for plan in (True, False))
    return planned, eager


def test_one_array_as_input_and_target_is_two_to_the_plan() -> None:
    rng = np.random.default_rng(0)
    same = [rng.normal(size=(8, 6)).astype(np.float32) for _ in range(4)]
    other = rng.normal(size=(8, 6)).astype(np.float32)
    data = [(x, x) for x in same] + [(same[0], other), (other, same[1])]
    planned, eager = pair(lambda: bp.Sequential(bp.Dense(6, 6)), bp.MeanSquaredError, lambda: bp.Adam(0.1))
    assert steps_of(planned, data) == steps_of(eager, data)
    assert "planned, " in planned.plan_report()


def test_a_replaced_loss_optimizer_or_metric_takes_effect() -> None:
    rng = np.random.default_rng(0)
    data = [(rng.normal(size=(8, 6)).astype(np.float32), rng.normal(size=(8, 3)).astype(np.float32)) for _ in range(5)]
    planned, eager = pair(lambda: bp.Sequential(bp.Dense(6, 3)), bp.MeanSquaredError, lambda: bp.SGD(0.1))
    absolute, adam = [bp.MeanAbsoluteError() for _ in range(2)], [bp.Adam(0.1) for _ in range(2)]
    assert steps_of(planned, data) == steps_of(eager, data)
    planned.loss, eager.loss = absolute
    assert steps_of(planned, data) == steps_of(eager, data)
    planned.optimizer, eager.optimizer = adam
    assert steps_of(planned, data) == steps_of(eager, data)
    assert planned.model.store.values.tobytes() == eager.model.store.values.tobytes()
    x, labels = batches(1, (8,))[0]
    for plan in (True, False):
        trainer = bp.Trainer(MODELS["mlp"](), bp.SoftmaxCrossEntropy(), bp.SGD(0.1), seed=1, plan=plan)
        trainer.fit(x, labels, epochs=4, batch_size=8, progress=False)
        trainer.metrics = [bp.Accuracy()]
        assert "accuracy" in trainer.fit(x, labels, epochs=4, batch_size=8, progress=False).rows[-1]
        trainer.metrics = []
        assert "accuracy" not in trainer.fit(x, labels, epochs=1, batch_size=8, progress=False).rows[-1]


def test_the_learning_rate_may_change_every_step_without_a_new_recording() -> None:
    planned, eager = pair(MODELS["mlp"], bp.SoftmaxCrossEntropy, lambda: bp.Adam(0.1))
    for i, (x, y) in enumerate(batches(12, (8,))):
        before = planned._planner
        plan = before and list(before.plans().values())
        for each in (planned, eager):
            each.optimizer.learning_rate = 0.1 / (i + 1)
        assert planned.step(x, y).tobytes() == eager.step(x, y).tobytes()
        if i > 3:
            assert plan == list(planned._planner.plans().values())  # type: ignore[union-attr]


class CountValid(bp.SoftmaxCrossEntropy):
    """A loss whose weight depends on values."""

    def total_weight(self, shape: Any, target: Any, sample_weight: Any = None) -> float:
        return float(np.sum(target > 0)) or 1.0


def test_weights_that_depend_on_values_are_not_planned() -> None:
    planned, eager = pair(MODELS["mlp"], CountValid, lambda: bp.SGD(0.1))
    data = batches(6, (8,))
    assert steps_of(planned, data) == steps_of(eager, data)
    assert planned.plan_report().startswith("every step is eager: the loss has weights of its own")


class Warming(HandMade):
    """A number of its own that changes after some steps, out of sight."""

    def __init__(self) -> None:
        self._n = 0

    def __call__(self, x: Any) -> Any:
        return ops.leaky_relu(x, 0.5)

    def forward(self, x: Any) -> Any:
        self._n += 1
        y = ops.leaky_relu(x, 0.5 if self._n < 4 else 0.25)
        self.keep(y)
        return y

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        (y,) = self.kept()
        return ops.leaky_relu_backward(dy, y, 0.5)


def test_a_plan_that_no_longer_holds_is_found_out_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from bpnet.planner import Planner

    monkeypatch.setattr(Planner, "LOOK_AGAIN", 6)
    model = bp.Sequential(bp.Dense(6, 8), Warming(), bp.Dense(8, 3))
    trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.SGD(0.01), seed=1)
    data = batches(40, (8,))
    with pytest.warns(RuntimeWarning, match=r"no longer holds: call \d+, leaky_relu, had other arguments"):
        steps_of(trainer, data)
    assert "eager, because call" in trainer.plan_report()
    sound, eager = pair(MODELS["dropout"], bp.SoftmaxCrossEntropy, lambda: bp.Adam(0.01))
    assert steps_of(sound, data) == steps_of(eager, data)
    assert "planned, " in sound.plan_report()


@bp.kernel(view=True)
def transposed(x: Any) -> Any:
    """A view that reshape must copy."""
    return x.T


class Transposing(bp.Layer):
    """Reads its weight through a view of a view."""

    def __init__(self) -> None:
        self.weight = bp.Parameter((3, 6), "he_normal")

    def __call__(self, x: Any) -> Any:
        return ops.linear(x, ops.reshape(transposed(self.weight.value), (6, 3)), None)

    def forward(self, x: Any) -> Any:
        self.keep(x)
        return self(x)

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        (x,) = self.kept()
        _, dW, _ = ops.linear_backward(dy, x, ops.reshape(transposed(self.weight.value), (6, 3)), False, False)
        self.weight.accumulate(ops.copy(transposed(dW)))


def test_a_view_that_is_a_copy_is_made_again_in_every_step() -> None:
    data = [(np.zeros((8, 6), np.float32), np.zeros(8, int))] * 2 + batches(5, (8,))
    planned, eager = pair(Transposing, bp.SoftmaxCrossEntropy, lambda: bp.SGD(0.5))
    assert steps_of(planned, data) == steps_of(eager, data)
    assert planned.model.store.values.tobytes() == eager.model.store.values.tobytes()


@bp.kernel
def odd(x: Any, what: Any) -> Any:
    """A user's kernel with arguments and results that no plan can hold."""
    if what == "float":
        return 0.5
    return bp.namespace(x).astype(x, what) if isinstance(what, type) else x * 1


class Odd(HandMade):
    def __init__(self, what: Any) -> None:
        self._what = what

    def __call__(self, x: Any) -> Any:
        odd(x, self._what)
        if self._what == "list":
            ops.concatenate([x, x], 1)
        return ops.copy(x)

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        self.kept()
        return dy


@pytest.mark.parametrize(
    ("what", "outcome"),
    [
        ("float", "eager, because odd returned a float, which is no array"),
        ("list", "eager, because concatenate got a list; a planned kernel takes arrays, tuples and constants"),
        (np.float32, "planned, "),
    ],
)
def test_kernels_with_unusual_arguments_train_all_the_same(what: Any, outcome: str) -> None:
    def make() -> bp.Layer:
        return bp.Sequential(bp.Dense(6, 8), Odd(what), bp.Dense(8, 3))

    planned, eager = pair(make, bp.SoftmaxCrossEntropy, lambda: bp.SGD(0.1))
    data = batches(5, (8,))
    assert steps_of(planned, data) == steps_of(eager, data)
    assert outcome in planned.plan_report()


def test_batches_in_any_memory_order_give_the_same_bits() -> None:
    data = batches(10, (8,))
    mixed = [(np.asfortranarray(x) if i % 3 else x[::-1][::-1], y) for i, (x, y) in enumerate(data)]
    planned, eager = pair(MODELS["mlp"], bp.SoftmaxCrossEntropy, lambda: bp.SGD(0.1))
    assert steps_of(planned, mixed) == steps_of(eager, mixed)
    plain, _ = pair(MODELS["mlp"], bp.SoftmaxCrossEntropy, lambda: bp.SGD(0.1))
    steps_of(plain, data)
    assert plain.model.store.values.tobytes() == planned.model.store.values.tobytes()
    assert "planned, " in planned.plan_report()
    assert "eager" not in planned.plan_report()


def test_plans_of_many_shapes_are_forgotten_again() -> None:
    planned, eager = pair(MODELS["mlp"], bp.SoftmaxCrossEntropy, lambda: bp.SGD(0.1))
    data = [batch for n in range(1, 60) for batch in batches(3, (n,))] + batches(4, (8,))
    assert steps_of(planned, data) == steps_of(eager, data)
    assert len(planned._planner._kinds) <= 16  # type: ignore[union-attr]


def test_an_attribute_set_between_the_first_steps_of_a_kind_does_not_rule_a_plan_out() -> None:
    def freezing(trainer: bp.Trainer) -> list[bytes]:
        data = batches(7, (8,))
        losses = steps_of(trainer, data[:1])
        trainer.model.layers[0].freeze()  # type: ignore[attr-defined]
        return losses + steps_of(trainer, data[1:])

    planned, eager = pair(MODELS["mlp"], bp.SoftmaxCrossEntropy, lambda: bp.SGD(0.1))
    assert freezing(planned) == freezing(eager)
    assert ": planned, " in planned.plan_report()


@pytest.mark.filterwarnings("error")
def test_an_attribute_set_when_a_plan_is_looked_at_again_is_no_hidden_state(monkeypatch: pytest.MonkeyPatch) -> None:
    from bpnet.planner import Planner

    monkeypatch.setattr(Planner, "LOOK_AGAIN", 3)
    planned, eager = pair(MODELS["dropout"], bp.SoftmaxCrossEntropy, lambda: bp.SGD(0.1))
    data = batches(12, (8,))
    assert steps_of(planned, data[:5]) == steps_of(eager, data[:5])  # two recorded, three replayed
    for trainer in (planned, eager):
        trainer.model.layers[0].freeze()  # type: ignore[attr-defined]
    assert steps_of(planned, data[5:]) == steps_of(eager, data[5:])
    assert ": planned, " in planned.plan_report()


def test_another_optimizer_begins_alike_in_planned_and_eager_training() -> None:
    planned, eager = pair(MODELS["dropout"], bp.SoftmaxCrossEntropy, lambda: bp.SGD(0.1))
    data = batches(9, (8,))
    assert steps_of(planned, data[:4]) == steps_of(eager, data[:4])
    for trainer in (planned, eager):
        trainer.optimizer = bp.Adam(0.01)
    assert steps_of(planned, data[4:]) == steps_of(eager, data[4:])


@pytest.mark.parametrize("plan", [True, False])
def test_an_optimizer_that_is_refused_leaves_the_state_of_the_one_before(plan: bool) -> None:
    trainer = bp.Trainer(MODELS["mlp"](), bp.SoftmaxCrossEntropy(), bp.Adam(0.01), plan=plan)
    data = batches(4, (8,))
    steps_of(trainer, data[:3])
    before = {name: array.copy() for name, array in trainer.model.store.arrays().items()}
    trainer.optimizer = bp.SGD(0.1, groups=[bp.Group("nowhere")])
    with pytest.raises(bp.ConfigError, match="no parameter matches"):
        trainer.step(*data[3])
    for name, array in trainer.model.store.arrays().items():
        if name != "grads":
            np.testing.assert_array_equal(array, before[name])
    assert trainer.model.store.steps_taken == 3


@pytest.mark.lenient
def test_a_proof_that_finds_no_memory_leaves_the_state_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of the state before and after change places one array after the other; the third copy fails here."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 4)).astype("float32"), rng.integers(0, 3, 8)

    def make(plan: bool) -> bp.Trainer:
        model = bp.Sequential(bp.Dense(4, 5), bp.ReLU(), bp.Dense(5, 3)).initialize(seed=1)
        return bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(1e-2), plan=plan)

    one, two = make(True), make(False)
    original, copies = planner.Planner._exchange, 0

    class Namespace:
        def asarray(self, array: Any, copy: bool) -> Any:
            nonlocal copies
            copies += 1
            if copies == 3:
                raise MemoryError("no more")
            return np.asarray(array, copy=copy)

    def exchange(self: Any, snapshot: Any) -> Any:
        monkeypatch.setattr(self.store.backend, "xp", Namespace())
        try:
            return original(self, snapshot)
        finally:
            monkeypatch.undo()

    monkeypatch.setattr(planner.Planner, "_exchange", exchange)
    for _ in range(4):
        one.step(x, y)
        two.step(x, y)
    assert copies == 3
    assert "no memory to prove a plan with: no more" in one.plan_report()
    assert one.model.store.values.tobytes() == two.model.store.values.tobytes()


@pytest.mark.lenient
def test_recording_keeps_no_array_alive() -> None:
    alive: list[Any] = []

    class Looking(bp.Layer):
        def forward(self, x: Any) -> Any:
            y = bp.ops.relu(x)
            alive.append(weakref.ref(y))
            return bp.ops.relu(y)

        def __call__(self, x: Any) -> Any:
            return bp.ops.relu(x)

        def backward(self, dy: Any, need_dx: bool = True) -> Any:
            assert all(each() is None for each in alive)
            return bp.ops.relu(dy)

    model = bp.Sequential(bp.Dense(3, 3), Looking(), bp.Dense(3, 2)).initialize()
    trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.SGD(0.1))
    for _ in range(3):
        trainer.step(np.ones((2, 3), "float32"), np.array([0, 1]))
    assert len(alive) == 2
    assert "planned" in trainer.plan_report()
