"""Optimizers against their papers' formulas in float64, one parameter at a time, and the contract of a step."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bpnet as bp
from bpnet.testing.cases.entries import OptimizerCase
from bpnet.testing.cases.optimizers import OPTIMIZER_CASES, OPTIMIZERS, adam
from bpnet.testing.layer_derivatives import same_bits

every_case = pytest.mark.parametrize("case", OPTIMIZER_CASES.values(), ids=OPTIMIZER_CASES)


def small_model(backend: Any = None, dtype: str = "float64") -> bp.Sequential:
    return bp.Sequential(bp.Dense(3, 4), bp.Tanh(), bp.Dense(4, 2)).initialize(seed=1, backend=backend, dtype=dtype)


@every_case
def test_fifty_steps_equal_the_formula_and_decay_spares_biases(case: OptimizerCase, backend: bp.Backend) -> None:
    model, optimizer, rng = small_model(backend), case.make(), np.random.default_rng(0)
    parameters = model.parameters()
    start = {path: bp.to_numpy(p.value).copy() for path, p in parameters.items()}
    grads = {path: [rng.normal(size=p.shape) for _ in range(50)] for path, p in parameters.items()}
    for step in range(50):
        for path, p in parameters.items():
            p.accumulate(backend.asarray(grads[path][step]))
        optimizer.step(model)
    assert int(bp.to_numpy(model.store.counters)[0]) == 50
    for path, p in parameters.items():
        expected = case.formula(50, start[path], grads[path], path.endswith("weight"))
        np.testing.assert_allclose(bp.to_numpy(p.value), expected, rtol=1e-10, atol=1e-12, err_msg=path)


@every_case
def test_a_parameter_without_gradient_counts_as_zero_and_padding_stays_zero(case: OptimizerCase) -> None:
    model, optimizer = small_model(), case.make()
    path, parameter = next(iter(model.parameters().items()))
    others = {p: q.value.copy() for p, q in model.parameters().items() if p != path}
    for q in model.parameters().values():
        q.grad[...] = 5.0  # left by an earlier step
    g = np.ones(parameter.shape)
    start = parameter.value.copy()
    parameter.accumulate(g)
    optimizer.step(model)
    np.testing.assert_allclose(parameter.value, case.formula(1, start, [g], path.endswith("weight")), rtol=1e-12)
    for other, before in others.items():
        expected = case.formula(1, before, [0 * before], other.endswith("weight"))
        np.testing.assert_allclose(model.parameters()[other].value, expected, rtol=1e-12)
    used = np.zeros(model.store.size, bool)
    for p, q in model.parameters().items():
        used[model.store.offsets[p] : model.store.offsets[p] + q.size] = True
    assert np.all(model.store.values[~used] == 0)


@every_case
def test_nothing_changes_where_the_flag_is_down(case: OptimizerCase, backend: bp.Backend) -> None:
    model, optimizer = small_model(backend), case.make()
    for p in model.parameters().values():
        p.accumulate(backend.asarray(np.ones(p.shape)))
    optimizer.step(model)
    before = {k: bp.to_numpy(v).copy() for k, v in model.store.arrays().items() if k != "grads"}
    bp.ops.check_finite_(model.store.ok, backend.asarray(np.array(np.nan)))
    bp.ops.check_finite_(model.store.ok, backend.asarray(np.array(1.0)))  # it stays down
    before["ok"] = np.array(False)
    for p in model.parameters().values():
        p.accumulate(backend.asarray(np.full(p.shape, np.nan)))
    optimizer.step(model)
    for name, array in model.store.arrays().items():
        if name != "grads":
            assert np.array_equal(bp.to_numpy(array), before[name]), name


@every_case
def test_planned_and_resumed_steps_with_groups_and_frozen_parameters_are_the_eager_ones(
    case: OptimizerCase, backend: bp.Backend, tmp_path: Path
) -> None:
    rng = np.random.default_rng(2)
    batches = [(rng.normal(size=(5, 3)), rng.normal(size=(5, 2))) for _ in range(6)]

    def made(plan: bool) -> bp.Trainer:
        model, optimizer = small_model(backend, "float32"), case.make()
        model.parameters()["2.bias"].trainable = False
        optimizer.groups = [bp.Group("0.*", learning_rate_scale=0.5)]
        return bp.Trainer(model, bp.MeanSquaredError(), optimizer, plan=plan)

    def trained(trainer: bp.Trainer, part: slice = slice(None)) -> dict[str, bytes]:
        for x, y in batches[part]:
            trainer.step(x, y)
        return {name: bp.to_numpy(array).tobytes() for name, array in trainer.model.store.arrays().items()}

    eager, planned, first, resumed = made(False), made(True), made(True), made(True)
    expected = trained(eager)
    frozen = small_model(backend, "float32").parameters()["2.bias"]
    assert same_bits(eager.model.parameters()["2.bias"].value, frozen.value)
    assert trained(planned) == expected
    assert ": planned" in planned.plan_report()
    trained(first, slice(0, 3))
    first.save(tmp_path / "at-3")
    resumed.restore(tmp_path / "at-3")
    assert trained(resumed, slice(3, 6)) == expected


def test_the_learning_rate_may_change_between_steps() -> None:
    model, optimizer = small_model(), bp.SGD(0.1)
    p = model.parameters()["0.weight"]
    start = p.value.copy()
    for rate in (0.1, 0.5, np.float32(0.25)):
        optimizer.learning_rate = rate
        p.accumulate(np.ones(p.shape))
        optimizer.step(model)
    np.testing.assert_allclose(p.value, start - 0.85, rtol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda: bp.Adam(1e-3, beta2=0.9),
        lambda: bp.SGD(1e-3, momentum=0.9),
        lambda: bp.RMSprop(1e-3, rho=0.9, centered=True, momentum=0.9),
        lambda: bp.Lion(1e-3, beta2=0.9),
    ],
)
def test_slots_of_weights_without_gradient_end_at_zero_and_never_in_denormals(make: Callable[[], bp.Optimizer]) -> None:
    model, optimizer = small_model(dtype="float32"), make()
    for step in range(1200):
        for p in model.parameters().values():
            p.accumulate(np.full(p.shape, 1e-2 if step < 5 else 0, np.float32))
        optimizer.step(model)
        if step % 50 == 0:
            for slot in model.store.slots.values():
                assert not np.any((slot != 0) & (np.abs(slot) < np.finfo(np.float32).smallest_normal)), step
    assert not any(slot.any() for slot in model.store.slots.values())


def test_another_optimizer_starts_afresh() -> None:
    model, g = small_model(), np.ones((3, 4))
    p = model.parameters()["0.weight"]
    for _ in range(3):
        p.accumulate(g)
        (first := bp.Adam(0.1)) if not model.store.slots else None
        first.step(model)
    start = p.value.copy()
    p.accumulate(2 * g)
    bp.Adam(0.1).step(model)
    np.testing.assert_allclose(p.value, adam(1, start, [2 * g], False), rtol=1e-9)


@pytest.mark.parametrize("value", [0, -1e-3, float("nan"), float("inf"), "fast", None, True])
@pytest.mark.parametrize("make", [getattr(bp, name) for name in OPTIMIZERS])
def test_a_bad_learning_rate_is_refused(make: Any, value: Any) -> None:
    with pytest.raises(bp.ConfigError, match="learning_rate must be"):
        make(value)
    optimizer = make(0.1)
    with pytest.raises(bp.ConfigError, match="learning_rate must be"):
        optimizer.learning_rate = value
    assert optimizer.learning_rate == 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bp.Group(""), "a Group's pattern is text"),
        (lambda: bp.Group("*", learning_rate_scale=0), "learning_rate_scale must be above 0"),
        (lambda: bp.Group("*", weight_decay=-1), "weight_decay must lie in"),
    ],
)
def test_bad_groups_are_refused(make: Callable[[], bp.Group], message: str) -> None:
    with pytest.raises(bp.ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "name", "bad"),
    [
        (lambda: bp.SGD(0.1, momentum=0.5), "momentum", 1.0),
        (lambda: bp.SGD(0.1), "weight_decay", -1),
        (lambda: bp.Adam(0.1), "beta1", 2),
        (lambda: bp.Adam(0.1), "clip_norm", -1),
        (lambda: bp.Adam(0.1), "average", 1.0),
        (lambda: bp.Adam(0.1), "groups", [1]),
        (lambda: bp.Lion(0.1), "beta2", None),
    ],
)
def test_settings_are_checked_when_they_are_set_later_too(make: Callable[[], Any], name: str, bad: Any) -> None:
    optimizer = make()
    before = getattr(optimizer, name)
    with pytest.raises(bp.ConfigError, match=f"{name} must"):
        setattr(optimizer, name, bad)
    assert getattr(optimizer, name) == before


def test_names_of_other_libraries_are_translated() -> None:
    optimizer = bp.RMSprop(0.1)
    for theirs, here in (("lr", "learning_rate"), ("alpha", "rho"), ("eps", "epsilon"), ("clipnorm", "clip_norm")):
        with pytest.raises(AttributeError, match=f"RMSprop has no {theirs}; here it is called {here}"):
            setattr(optimizer, theirs, 0.5)


def test_the_config_makes_an_equal_optimizer_and_is_json() -> None:
    optimizer = bp.AdamW(
        bp.Cosine(0.1, 100, warmup=5), clip_norm=1.0, average=0.9, groups=[bp.Group("*.bias", weight_decay=0.1)]
    )
    config = json.loads(json.dumps(optimizer.config))
    rate = bp.schedules.from_config(config.pop("learning_rate"))
    groups = [bp.Group(**each) for each in config.pop("groups")]
    again = bp.AdamW(rate, groups=groups, **config)
    assert again.config == optimizer.config
    assert repr(again) == repr(optimizer)
    assert bp.SGD(0.1).config == {
        "learning_rate": 0.1,
        "momentum": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
        "clip_norm": None,
        "clip_value": None,
        "average": None,
        "groups": [],
    }
    assert repr(bp.SGD(0.1)) == "SGD(learning_rate=0.1, momentum=0.0, nesterov=False, weight_decay=0.0)"


def test_a_copy_or_pickle_of_an_optimizer_has_its_settings_and_serves_nobody() -> None:
    model, optimizer = small_model(), bp.Adam(bp.InverseTime(0.1, decay=1), clip_norm=2.0)
    for _ in range(3):
        model.parameters()["0.weight"].accumulate(np.ones((3, 4)))
        optimizer.step(model)
    assert optimizer.learning_rate == 0.1 / 4
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert other.config == optimizer.config
        assert other.learning_rate == 0.1


def test_an_optimizer_of_ones_own_has_all_options() -> None:
    class Sign(bp.Optimizer):
        """value -= rate * sign(gradient)."""

        def _update(self, store: Any, run: Any, rate: Any) -> None:
            value, grad = store.part("values", run), store.part("grads", run)
            bp.ops.lion_(value, grad, store.part("m", run), store.ok, rate, store.counters, 0.0, 0.0, run.weight_decay)

    model = small_model()
    optimizer = Sign(0.1, clip_norm=1.0, average=0.5, groups=[bp.Group("0.*", learning_rate_scale=0.5)])
    before = {path: p.value.copy() for path, p in model.parameters().items()}
    for p in model.parameters().values():
        p.accumulate(np.full(p.shape, -3.0))
    optimizer.step(model)
    for path, p in model.parameters().items():
        np.testing.assert_allclose(p.value, before[path] + (0.05 if path.startswith("0.") else 0.1), rtol=1e-12)
    assert np.linalg.norm(model.store.grads) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("make", "rate"),
    [
        (lambda: bp.Adam(1e-3, epsilon=1e-20), lambda t: 1.0),
        (lambda: bp.Adam(1e-3, epsilon=1e-20, amsgrad=True), lambda t: 1.0),
        (lambda: bp.RMSprop(1e-3, epsilon=1e-20), lambda t: (1 - 0.99**t) ** -0.5),
    ],
)
def test_squares_of_gradients_next_to_denormal_are_kept_where_epsilon_lets_them_count(
    make: Callable[[], bp.Optimizer], rate: Callable[[int], float]
) -> None:
    model, optimizer = small_model(dtype="float32"), make()
    p = model.parameters()["0.weight"]
    start = p.value.copy()
    for _ in range(200):
        for each in model.parameters().values():
            each.accumulate(
                np.full(each.shape, 3e-15, np.float32)
            )  # its square is 9e-30, of normal ones 1e-38 is least
        optimizer.step(model)
    moved = 1e-3 * sum(rate(t) for t in range(1, 201))  # m / sqrt(v) is 1 where all gradients are the same
    np.testing.assert_allclose(start - p.value, moved, rtol=1e-3)
