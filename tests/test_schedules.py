"""Schedules: their formulas worked by hand, the same on host and device, and learning rates that change."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bpnet as bp
from bpnet.testing.cases.entries import ScheduleCase
from bpnet.testing.cases.schedules import SCHEDULE_CASES

every_schedule = pytest.mark.parametrize("schedule", [c.make() for c in SCHEDULE_CASES.values()], ids=SCHEDULE_CASES)


def model(backend: Any = None) -> bp.Dense:
    return bp.Dense(2, 3).initialize(backend=backend, dtype="float64")


def step(layer: bp.Dense, optimizer: bp.Optimizer) -> None:
    for p in layer.parameters().values():
        p.accumulate(layer.asarray(np.ones(p.shape)))
    optimizer.step(layer)


def test_worked_by_hand() -> None:
    assert [bp.InverseTime(1.0, decay=1.0)(k) for k in range(4)] == [1, 1 / 2, 1 / 3, 1 / 4]
    assert [bp.StepDecay(1.0, every=2, factor=0.5)(k) for k in range(6)] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert bp.Exponential(8.0, factor=0.5, every=10)(30) == 1.0
    cosine = bp.Cosine(1.0, 8, warmup=4, final=0.5)
    expected = [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1.0, 0.75 + math.sqrt(2) / 8, 0.75, 0.75 - math.sqrt(2) / 8, 0.5, 0.5]
    assert [cosine(k) for k in range(10)] == pytest.approx(expected, rel=1e-15)
    warm = bp.WarmUp(bp.StepDecay(1.0, every=2, factor=0.5), 3)
    assert [warm(k) for k in range(8)] == [1 / 4, 2 / 4, 3 / 4, 1, 1, 0.5, 0.5, 0.25]
    assert bp.WarmUp(0.5, 2) == bp.WarmUp(bp.Constant(0.5), 2)
    cycle = bp.OneCycle(1.0, 11, rise=4 / 11, start=0.25, final=0.0)  # up to step 3, down to step 10
    assert cycle(0) == pytest.approx(0.25)
    assert cycle(3) == pytest.approx(1.0)
    assert cycle(10) == cycle(1000) == pytest.approx(0.0)
    assert max(cycle(k) for k in range(20)) == cycle(3)


@every_schedule
def test_host_and_device_compute_one_formula(schedule: bp.Schedule, backend: bp.Backend) -> None:
    rate = backend.zeros((), "float64")
    for k in [*range(45), 10**6, 2**40]:
        counters = backend.asarray(np.array([k, 7], np.int64))
        bp.ops.set_rate_(rate, counters, schedule)
        assert float(bp.to_numpy(rate)) == pytest.approx(schedule(k), rel=1e-13, abs=1e-16)
        bp.ops.set_rate_.reference.body(rate, counters, schedule)
        assert float(bp.to_numpy(rate)) == pytest.approx(schedule(k), rel=1e-13, abs=1e-16)


@given(
    rate=st.floats(1e-6, 10),
    steps=st.integers(2, 500),
    warmup=st.integers(0, 499),
    final=st.floats(0, 1),
)
def test_cosine_rises_falls_and_stays(rate: float, steps: int, warmup: int, final: float) -> None:
    warmup = min(warmup, steps - 1)
    schedule = bp.Cosine(rate, steps, warmup=warmup, final=final * rate)
    rates = [schedule(k) for k in range(steps + 3)]
    assert rates[warmup] == pytest.approx(rate)
    assert all(0 < a < b <= rate * (1 + 1e-12) for a, b in pairwise(rates[: warmup + 1]))
    assert all(a >= b - 1e-12 for a, b in pairwise(rates[warmup:]))
    assert rates[steps:] == pytest.approx([final * rate] * 3, abs=1e-12 * rate)
    assert schedule.steps == steps
    assert schedule.warmup_steps == warmup


@every_schedule
def test_schedules_are_values(schedule: bp.Schedule) -> None:
    again = bp.schedules.from_config(json.loads(json.dumps(schedule.config)))
    assert again == schedule == pickle.loads(pickle.dumps(schedule)) == eval(repr(schedule), vars(bp))
    assert hash(again) == hash(schedule)
    assert again.steps == schedule.steps
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.learning_rate = 1.0  # type: ignore[attr-defined]


@pytest.mark.parametrize("case", SCHEDULE_CASES.values(), ids=SCHEDULE_CASES)
def test_schedules_know_their_length_and_their_warm_up(case: ScheduleCase) -> None:
    schedule = case.make()
    assert (schedule.steps, schedule.warmup_steps) == (case.steps, case.warmup_steps)


@every_schedule
@pytest.mark.parametrize("groups", [(), (bp.Group("bias", learning_rate_scale=0.1),)], ids=["all alike", "a group"])
def test_every_step_uses_the_rate_of_the_steps_before_it(
    schedule: bp.Schedule, groups: Any, backend: bp.Backend
) -> None:
    layer, optimizer = model(backend), bp.SGD(schedule, groups=groups)
    start, bias = bp.to_numpy(layer.weight.value).copy(), 0.0
    for k in range(12):
        assert optimizer.learning_rate == schedule(k)
        step(layer, optimizer)
        start = start - schedule(k)
        bias -= schedule(k) * (0.1 if groups else 1)
        np.testing.assert_allclose(bp.to_numpy(layer.weight.value), start, rtol=1e-12, atol=1e-14)
        assert layer.bias is not None
        np.testing.assert_allclose(bp.to_numpy(layer.bias.value), bias, rtol=1e-12)


def test_a_step_that_is_skipped_does_not_count() -> None:
    layer, optimizer = model(), bp.SGD(bp.InverseTime(1.0, decay=1.0))
    step(layer, optimizer)
    layer.store.ok[...] = False
    step(layer, optimizer)
    assert optimizer.learning_rate == 0.5
    layer.store.ok[...] = True
    step(layer, optimizer)
    assert optimizer.learning_rate == 1 / 3


def test_a_function_of_ones_own_is_called_with_the_steps_taken(backend: bp.Backend) -> None:
    calls: list[int] = []

    def halving(k: int) -> float:
        calls.append(k)
        return 0.5**k

    layer, optimizer = model(backend), bp.SGD(halving)
    start = bp.to_numpy(layer.weight.value).copy()
    for _ in range(4):
        step(layer, optimizer)
    assert calls == [0, 0, 1, 2, 3]  # tried once before the optimizer takes the model over
    np.testing.assert_allclose(bp.to_numpy(layer.weight.value), start - 1.875, rtol=1e-12)
    assert optimizer.learning_rate == 0.0625
    assert optimizer.schedule is halving
    assert optimizer.config["learning_rate"].endswith("halving")


@pytest.mark.parametrize(
    ("gives", "message"),
    [
        (float("nan"), "the learning rate that a schedule gives must be a number, got nan"),
        (-1.0, "the learning rate that a schedule gives must be finite and at least 0, got -1.0 at step 0"),
        (math.inf, "must be finite and at least 0, got inf at step 0"),
        (None, "must be a number, got None"),
    ],
)
def test_what_a_function_gives_is_checked_before_anything_changes(gives: Any, message: str) -> None:
    layer, optimizer = model(), bp.SGD(lambda k: gives)
    before = layer.weight.value.copy()
    with pytest.raises(bp.ConfigError, match=message):
        step(layer, optimizer)
    assert np.array_equal(layer.weight.value, before)
    assert layer.store.counters[0] == 0


@pytest.mark.parametrize("plan", [True, False])
def test_numbers_schedules_and_functions_may_be_assigned_while_a_trainer_trains(plan: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 2))
    layer, optimizer = model(), bp.SGD(0.5)
    trainer = bp.Trainer(layer, bp.MeanSquaredError(), optimizer, plan=plan)
    reference = model()
    rates: list[Any] = [0.5] * 4 + [bp.InverseTime(0.4, decay=0.1)] * 5 + [bp.Exponential(0.4, factor=0.9)] * 4
    rates += [lambda k: 0.3 / (1 + k)] * 4 + [0.2] * 3 + [0.1] * 2
    for k, rate in enumerate(rates):
        if k == 0 or rates[k - 1] is not rate:
            optimizer.learning_rate = rate
        number = rate(k) if callable(rate) else rate
        assert optimizer.learning_rate == number
        assert optimizer.schedule is (rate if callable(rate) else None)
        trainer.step(x, np.ones((8, 3)))
        reference.forward(x)
        loss = bp.MeanSquaredError()
        reference.zero_grad()
        loss.forward(reference.forward(x), np.ones((8, 3)))
        reference.backward(loss.backward())
        for p in reference.parameters().values():
            p.value = p.value - number * p.grad
        reference.store.consume_gradients()
        np.testing.assert_allclose(layer.weight.value, reference.weight.value, rtol=1e-12)


def test_another_optimizer_starts_its_schedule_anew() -> None:
    layer, first = model(), bp.SGD(bp.InverseTime(1.0, decay=1.0))
    step(layer, first)
    step(layer, first)
    second = bp.SGD(bp.InverseTime(1.0, decay=1.0))
    assert second.learning_rate == 1.0
    step(layer, second)
    assert second.learning_rate == 0.5
    assert first.learning_rate == 1.0  # it serves no longer, and would start anew


def test_a_schedule_goes_on_when_the_model_moves() -> None:
    layer, optimizer = model(), bp.SGD(bp.InverseTime(1.0, decay=1.0))
    step(layer, optimizer)
    layer.to("strict", dtype="float32")
    assert optimizer.learning_rate == 0.5
    for p in layer.parameters().values():
        p.accumulate(layer.asarray(np.ones(p.shape, np.float32)))
    optimizer.step(layer)
    assert optimizer.learning_rate == 1 / 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bp.schedules.from_config({"name": "Cosin"}), "unknown schedule 'Cosin'; .* did you mean 'Cosine'"),
        (lambda: bp.schedules.from_config({"name": "Cosine", "every": 3}), "the schedule Cosine cannot be made of"),
    ],
)
def test_configs_of_no_schedule_are_refused(make: Any, message: str) -> None:
    with pytest.raises(bp.ConfigError, match=message):
        make()


@dataclasses.dataclass(frozen=True)
class Triangle(bp.Schedule):
    """Up and down again: a schedule of a user's own."""

    learning_rate: float
    half: int

    def rate(self, step: Any, m: Any) -> Any:
        rising = step / self.half
        return self.learning_rate * m.minimum(rising, m.where(step < 2 * self.half, 2 - rising, 0.0))


def test_a_schedule_of_ones_own_runs_on_every_backend(backend: bp.Backend) -> None:
    layer, optimizer = model(backend), bp.SGD(Triangle(0.1, 4))
    start = bp.to_numpy(layer.weight.value).copy()
    for _ in range(10):
        step(layer, optimizer)
    np.testing.assert_allclose(bp.to_numpy(layer.weight.value), start - 0.1 * 4, rtol=1e-12)
    with pytest.raises(NotImplementedError, match="Schedule must define rate"):
        bp.Schedule()(1)


def test_a_fit_counts_the_steps_before_it_towards_the_warm_up() -> None:
    x, y = np.zeros((4, 2)), np.zeros(4, int)
    trainer = bp.Trainer(bp.Dense(2, 2), bp.SoftmaxCrossEntropy(), bp.SGD(bp.Cosine(0.1, 20, warmup=5)))
    trainer.fit(x, y, epochs=3, batch_size=2, progress=False)  # 6 steps
    assert len(trainer.fit(x, y, epochs=1, batch_size=2, progress=False)) == 1
    trainer.optimizer.learning_rate = bp.Cosine(0.1, 20, warmup=11)
    with pytest.raises(bp.ConfigError, match=r"warms up for 11 steps, and this fit has 2 after 8 before it; take"):
        trainer.fit(x, y, epochs=1, batch_size=2, progress=False)
    trainer.optimizer = bp.SGD(bp.Cosine(0.1, 20, warmup=5))  # another optimizer begins at step 0
    with pytest.raises(bp.ConfigError, match=r"warms up for 5 steps, and this fit has 4; take"):
        trainer.fit(x, y, epochs=2, batch_size=2, progress=False)
