"""What stands around an update: penalties, clipping, averages, groups and freezing, alone and all together."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from finite_differences import assert_gradient
from hypothesis import given
from hypothesis import strategies as st

import bpnet as bp
from bpnet.layers.serialization import load_model

RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(16, 6)), RNG.integers(0, 3, 16)


def mlp(backend: Any = None, dtype: str = "float64", **penalties: float) -> bp.Sequential:
    return bp.Sequential(bp.Dense(6, 8, **penalties), bp.Tanh(), bp.Dense(8, 3)).initialize(  # type: ignore[arg-type]
        seed=1, backend=backend, dtype=dtype
    )


def backward(model: bp.Layer, x: Any = X, y: Any = Y) -> Any:
    loss = bp.SoftmaxCrossEntropy()
    value = loss.forward(model.forward(model.asarray(x)), model.backend.asarray(y))
    model.backward(loss.backward(), need_dx=False)
    return value


def give(model: bp.Layer, gradients: dict[str, Any]) -> None:
    for path, parameter in model.parameters().items():
        parameter.accumulate(model.asarray(np.array(gradients[path])))


def values(model: bp.Layer) -> dict[str, Any]:
    return {path: bp.to_numpy(p.value).copy() for path, p in model.parameters().items()}


def random_gradients(model: bp.Layer, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {path: rng.normal(size=p.shape) for path, p in model.parameters().items()}


# --- all together ---

OPTIMIZERS: dict[str, Callable[..., bp.Optimizer]] = {
    "SGD": lambda rate, **k: bp.SGD(rate, momentum=0.9, nesterov=True, weight_decay=0.01, **k),
    "AdamW": lambda rate, **k: bp.AdamW(rate, **k),
    "AMSGrad": lambda rate, **k: bp.Adam(rate, amsgrad=True, **k),
    "Adagrad": lambda rate, **k: bp.Adagrad(rate, initial_accumulator=0.1, weight_decay=0.01, **k),
    "RMSprop": lambda rate, **k: bp.RMSprop(rate, momentum=0.5, centered=True, epsilon=1e-3, **k),
    "Lion": lambda rate, **k: bp.Lion(rate, weight_decay=0.1, **k),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "everything": {
        "clip_norm": 0.5,
        "clip_value": 0.1,
        "average": 0.9,
        "groups": [bp.Group("0.*", learning_rate_scale=0.1, weight_decay=0.2), bp.Group("*.bias")],
    },
    "clip_norm": {"clip_norm": 0.5},
    "average": {"average": 0.99},
}
RATES: list[Any] = [0.01, bp.Cosine(0.01, 30, warmup=5), bp.OneCycle(0.01, 30), lambda step: 0.01 / (1 + step)]


@pytest.mark.parametrize("rate", RATES, ids=["number", "cosine", "one cycle", "function"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_thirty_planned_steps_equal_eager_ones_bit_for_bit(
    make: Callable[..., bp.Optimizer], options: dict[str, Any], rate: Any
) -> None:
    states = []
    for plan in (True, False):
        model = mlp(dtype="float32", weight_l1=1e-3, weight_l2=1e-2, bias_l2=1e-2)
        model[2].bias.trainable = False  # type: ignore[attr-defined]
        trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), make(rate, **options), plan=plan)
        for step in range(30):
            trainer.step(X[: 16 - step % 2], Y[: 16 - step % 2])
        states.append({name: array.tobytes() for name, array in model.store.arrays().items()})
        assert trainer.plan_report().count(": planned") == (2 if plan else 0), trainer.plan_report()
        assert model.store.counters[0] == 30
    assert states[0] == states[1]


def test_planned_equals_eager_on_every_backend(backend: bp.Backend) -> None:
    states = []
    for plan in (True, False):
        model = mlp(backend, "float32", weight_l1=1e-3, weight_l2=1e-2)
        model[2].freeze()
        optimizer = bp.AdamW(bp.Cosine(0.01, 30, warmup=5), **OPTIONS["everything"])
        trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), optimizer, plan=plan)
        for _ in range(10):
            trainer.step(X, Y)
        states.append({name: bp.to_numpy(array).tobytes() for name, array in model.store.arrays().items()})
        assert trainer.plan_report().count(": planned") == (1 if plan else 0), trainer.plan_report()
    assert states[0] == states[1]


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_nothing_changes_where_the_flag_is_down(make: Callable[..., bp.Optimizer], backend: bp.Backend) -> None:
    model = mlp(backend, weight_l2=0.1)
    optimizer = make(bp.InverseTime(0.1, decay=1.0), **OPTIONS["everything"])
    give(model, random_gradients(model))
    optimizer.step(model)
    model.store.ok[...] = False
    before = {k: bp.to_numpy(v).copy() for k, v in model.store.arrays().items() if k not in ("grads", "learning_rate")}
    give(model, random_gradients(model, 1))
    optimizer.step(model)
    for name, kept in before.items():
        assert np.array_equal(bp.to_numpy(model.store.arrays()[name]), kept), name


def test_with_no_options_a_step_makes_the_calls_it_always_made() -> None:
    trainer = bp.Trainer(mlp(dtype="float32"), bp.SoftmaxCrossEntropy(), bp.Adam(0.01))
    for _ in range(3):
        trainer.step(X, Y)
    (plan,) = trainer._planner.plans().values()  # type: ignore[union-attr]
    names = [step.kernel.name for step in plan.steps]
    assert names[-4:] == ["linear_backward", "check_finite_", "adam_", "advance_"]
    assert names.count("adam_") == 1
    options = {"set_rate_", "scale_rate_", "penalty_gradient_", "clip_value_", "clip_norm_", "average_", "fill_"}
    assert not options & set(names[names.index("linear_backward") :])


# --- penalties ---


@pytest.mark.parametrize("bias", [True, False])
def test_the_gradient_of_a_step_is_that_of_loss_and_penalty(bias: bool, backend: bp.Backend) -> None:
    model = bp.Sequential(
        bp.Dense(6, 4, bias=bias, weight_l1=0.03, weight_l2=0.05, bias_l1=0.02 * bias, bias_l2=0.7 * bias),
        bp.PReLU(4),
        bp.Dense(4, 3, weight_l2=0.4),
    ).initialize(seed=2, backend=backend, dtype="float64")
    model[1].slope.l1 = 0.5  # type: ignore[attr-defined]
    optimizer = bp.SGD(1.0)
    for parameter in model.parameters().values():  # away from the kinks at 0
        parameter.value = np.where(RNG.random(parameter.shape) < 0.5, -1, 1) * RNG.uniform(0.1, 1, parameter.shape)

    def objective() -> float:
        loss = bp.SoftmaxCrossEntropy()(model(model.asarray(X)), model.backend.asarray(Y))
        total = model.penalty()
        assert total is not None
        assert total.shape == ()
        return float(bp.to_numpy(loss)) + float(bp.to_numpy(total))

    start = values(model)
    expected = {}
    for path, parameter in model.parameters().items():

        def of(value: Any, parameter: bp.Parameter = parameter) -> float:
            kept = bp.to_numpy(parameter.value).copy()
            parameter.value = value
            result = objective()
            parameter.value = kept
            return result

        expected[path] = of
    backward(model)
    optimizer.step(model)
    found = {path: start[path] - bp.to_numpy(p.value) for path, p in model.parameters().items()}
    for path, parameter in model.parameters().items():
        parameter.value = start[path]
    for path in found:
        assert_gradient(found[path], expected[path], start[path], name=path)


def test_penalties_enter_once_a_step_however_many_backwards() -> None:
    whole, parts = mlp(weight_l2=0.5), mlp(weight_l2=0.5)
    g = random_gradients(whole)
    give(whole, g)
    for _ in range(4):
        give(parts, {path: each / 4 for path, each in g.items()})
    for model in (whole, parts):
        bp.SGD(0.1).step(model)
    for path, value in values(whole).items():
        np.testing.assert_allclose(values(parts)[path], value, rtol=1e-13)


def test_the_penalty_by_hand_and_none_where_there_is_none(backend: bp.Backend) -> None:
    layer = bp.Dense(2, 2, weight_l1=0.5, weight_l2=0.25, bias_l2=2.0).initialize(backend=backend, dtype="float64")
    layer.weight.value = [[1.0, -2.0], [0.0, 3.0]]
    assert layer.bias is not None
    layer.bias.value = [1.0, -1.0]
    assert float(bp.to_numpy(layer.penalty())) == 0.5 * 6 + 0.25 * 14 + 2 * 2
    layer.weight.trainable = False
    assert float(bp.to_numpy(layer.penalty())) == 4.0
    layer.bias_l2 = 0
    assert layer.penalty() is None
    layer.unfreeze()
    layer.weight.accumulate(layer.asarray(np.zeros((2, 2))))
    bp.SGD(1.0).step(layer)
    assert bp.to_numpy(layer.weight.grad).tolist() == [[1.0, -1.5], [0.0, 2.0]]  # l1 sign(w) + 2 l2 w; 0 stays 0
    assert bp.to_numpy(layer.weight.value).tolist() == [[0.0, -0.5], [0.0, 1.0]]


def test_penalties_may_be_changed_while_a_trainer_trains() -> None:
    models = [mlp(dtype="float32"), mlp(dtype="float32")]
    trainers = [bp.Trainer(m, bp.SoftmaxCrossEntropy(), bp.SGD(0.1), plan=p) for m, p in zip(models, (1, 0))]  # type: ignore[arg-type]  # noqa: B905
    for penalty in (0.0, 0.1, 0.2):
        for model, trainer in zip(models, trainers, strict=True):
            model[0].weight_l2 = penalty  # type: ignore[attr-defined]
            model[2].bias.l1 = penalty  # type: ignore[attr-defined]
            for _ in range(5):
                trainer.step(X, Y)
        assert models[0].store.values.tobytes() == models[1].store.values.tobytes()
    assert "penalty_gradient_" in trainers[0].plan_report()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bp.Dense(2, 2, weight_l1=-1), r"l1 must lie in \[0, inf\), got -1"),
        (lambda: bp.Dense(2, 2, bias_l2="a"), "l2 must be a number, got 'a'"),  # type: ignore[arg-type]
        (lambda: bp.Dense(2, 2, bias=False, bias_l1=0.1), "bias_l1 is a penalty on a bias, which this Dense does not"),
        (lambda: bp.Parameter((2,), "zeros", l1=float("nan")), "l1 must be a number, got nan"),
    ],
)
def test_bad_penalties_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(bp.ConfigError, match=message):
        make()


# --- clipping ---


@given(scale=st.floats(1e-3, 1e3), limit=st.floats(1e-2, 1e2), seed=st.integers(0, 100))
def test_clipped_gradients_point_where_they_did_and_have_at_most_the_norm(
    scale: float, limit: float, seed: int
) -> None:
    model = mlp()
    g = {path: scale * each for path, each in random_gradients(model, seed).items()}
    norm = np.sqrt(sum(np.sum(each**2) for each in g.values()))
    give(model, g)
    start = values(model)
    bp.SGD(1.0, clip_norm=limit).step(model)
    for path, parameter in model.parameters().items():
        np.testing.assert_allclose(parameter.grad, g[path] * min(1, limit / norm), rtol=1e-12)
        np.testing.assert_allclose(parameter.value, start[path] - parameter.grad, rtol=1e-9, atol=1e-12)


def test_clipping_by_value_comes_after_penalties_and_before_clipping_by_norm(backend: bp.Backend) -> None:
    layer = bp.Dense(1, 2, bias=False, weight_l2=1.0).initialize(backend=backend, dtype="float64")
    layer.weight.value = [[1.0, 5.0]]
    layer.weight.accumulate(layer.asarray(np.array([[1.0, -6.0]])))
    bp.SGD(0.1, clip_value=3.5, clip_norm=2.5).step(layer)  # (3, 4), clipped to (3, 3.5), then to the norm 2.5
    norm = np.hypot(3, 3.5)
    np.testing.assert_allclose(bp.to_numpy(layer.weight.grad), [[3 * 2.5 / norm, 3.5 * 2.5 / norm]], rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_norm_that_is_not_finite_lets_nothing_change_and_turns_the_flag_down(
    bad: float, dtype: str, backend: bp.Backend
) -> None:
    model, optimizer = mlp(backend, dtype), bp.Adam(0.1, clip_norm=1.0, average=0.9)
    give(model, random_gradients(model))
    optimizer.step(model)
    before = {k: bp.to_numpy(v).copy() for k, v in model.store.arrays().items() if k not in ("grads", "ok")}
    g = random_gradients(model)
    g["2.bias"][1] = bad
    give(model, g)
    with np.errstate(all="ignore"):
        optimizer.step(model)
    assert not bool(bp.to_numpy(model.store.ok))
    for name, kept in before.items():
        assert np.array_equal(bp.to_numpy(model.store.arrays()[name]), kept), name


def test_gradients_so_large_that_their_squares_overflow_are_clipped(backend: bp.Backend) -> None:
    for dtype, huge in (("float32", 1e38), ("float64", 1e300)):
        layer = bp.Dense(1, 2, bias=False).initialize(backend=backend, dtype=dtype)
        start = bp.to_numpy(layer.weight.value).copy()
        layer.weight.accumulate(layer.asarray(np.array([[3 * huge / 4, -huge]])))
        bp.SGD(1.0, clip_norm=5.0).step(layer)
        np.testing.assert_allclose(bp.to_numpy(layer.weight.value), start - [[3.0, -4.0]], rtol=1e-6)
        assert bool(bp.to_numpy(layer.store.ok))


# --- averages ---


def test_averages_are_exponential_from_the_first_step_on(backend: bp.Backend) -> None:
    model, optimizer = mlp(backend), bp.SGD(0.1, average=0.8)
    expected: dict[str, Any] = {}
    for step in range(10):
        give(model, random_gradients(model, step))
        optimizer.step(model)
        for path, value in values(model).items():
            expected[path] = value if step == 0 else 0.8 * expected[path] + 0.2 * value
    present, store = values(model), model.store
    with model.averaged() as same:
        assert same is model
        assert model.store is store
        for path, value in values(model).items():
            np.testing.assert_allclose(value, expected[path], rtol=1e-13)
    assert all(np.array_equal(value, present[path]) for path, value in values(model).items())
    model.use_average()
    for path, value in values(model).items():
        np.testing.assert_allclose(value, expected[path], rtol=1e-13)


def averaging(steps: int = 3, **options: Any) -> tuple[bp.Sequential, bp.Optimizer]:
    model, optimizer = mlp(), bp.Adam(0.1, average=0.5, **options)
    for step in range(steps):
        give(model, random_gradients(model, step))
        optimizer.step(model)
    return model, optimizer


def test_after_an_error_the_parameters_are_what_they_were() -> None:
    model, _ = averaging()
    before = values(model)
    with pytest.raises(ZeroDivisionError), model.averaged():
        1 / 0  # noqa: B018
    assert all(np.array_equal(value, before[path]) for path, value in values(model).items())


def test_within_the_block_steps_moves_and_a_second_block_are_refused() -> None:
    model, optimizer = averaging()
    trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), optimizer)
    for _ in range(3):
        trainer.step(X, Y)
    assert "planned" in trainer.plan_report()
    before = values(model)
    message = r"the parameters hold their averages; leave the `with model.averaged\(\)` block first"
    with model.averaged():
        held = values(model)
        for refused in (
            lambda: trainer.step(X, Y),
            lambda: bp.SGD(0.1).step(model),
            lambda: model.to(dtype="float32"),
            lambda: model.use_average(),
            lambda: model[0].averaged().__enter__(),
        ):
            with pytest.raises(bp.StateError, match=message):
                refused()
        assert all(np.array_equal(value, held[path]) for path, value in values(model).items())
        assert trainer.evaluate(X, Y)["loss"] > 0
    assert all(np.array_equal(value, before[path]) for path, value in values(model).items())
    trainer.step(X, Y)


def test_without_averages_both_say_how_to_get_them() -> None:
    model = mlp()
    give(model, random_gradients(model))
    bp.SGD(0.1).step(model)
    for ask in (model.use_average, lambda: model.averaged().__enter__()):
        with pytest.raises(bp.StateError, match=r"there are no averages yet: give the optimizer average=0\.999"):
            ask()


def test_a_model_that_gets_other_parameters_within_the_block_says_so() -> None:
    model, _ = averaging()
    with pytest.raises(bp.StateError, match="got other parameters"), model.averaged():
        model.initialize(seed=3)


def test_averages_move_with_the_model_and_are_saved_within_the_block(tmp_path: Any) -> None:
    model, _ = averaging()
    with model.averaged():
        expected = values(model)
        model.save(tmp_path / "m.safetensors")
    model.to("strict", dtype="float64")
    with model.averaged():
        assert all(np.array_equal(value, expected[path]) for path, value in values(model).items())
    loaded = bp.load(tmp_path / "m.safetensors")
    assert all(np.array_equal(value, expected[path]) for path, value in values(loaded).items())


def test_averages_that_are_asked_for_later_begin_at_the_values_of_that_moment() -> None:
    model, optimizer = mlp(), bp.SGD(0.1)
    for step in range(3):
        give(model, random_gradients(model, step))
        optimizer.step(model)
    before = values(model)
    optimizer.average = 0.75
    give(model, random_gradients(model, 4))
    optimizer.step(model)
    after = values(model)
    with model.averaged():
        for path, value in values(model).items():
            np.testing.assert_allclose(value, 0.75 * before[path] + 0.25 * after[path], rtol=1e-13)


def test_another_optimizer_starts_its_averages_anew() -> None:
    model, _ = averaging()
    give(model, random_gradients(model))
    bp.SGD(0.1).step(model)  # it makes none: the averages stay where it began
    give(model, random_gradients(model))
    bp.Adam(0.1, average=0.9).step(model)
    present = values(model)
    with model.averaged():
        assert all(np.array_equal(value, present[path]) for path, value in values(model).items())


# --- groups ---


def test_the_first_group_that_matches_counts_and_biases_are_spared() -> None:
    model = mlp()
    groups = [
        bp.Group("0.weight", learning_rate_scale=0.5, weight_decay=0.0),
        bp.Group("0.*", learning_rate_scale=3.0),
        bp.Group("*", weight_decay=0.25),
    ]
    optimizer = bp.SGD(0.1, weight_decay=0.5, groups=groups)
    start, g = values(model), random_gradients(model)
    give(model, g)
    optimizer.step(model)
    expected = {
        "0.weight": start["0.weight"] - 0.05 * g["0.weight"],
        "0.bias": start["0.bias"] - 0.3 * g["0.bias"],
        "2.weight": start["2.weight"] - 0.1 * (g["2.weight"] + 0.25 * start["2.weight"]),
        "2.bias": start["2.bias"] - 0.1 * g["2.bias"],
    }
    for path, value in values(model).items():
        np.testing.assert_allclose(value, expected[path], rtol=1e-13)


def test_neighbours_that_are_treated_alike_are_updated_in_one_pass() -> None:
    def passes(*groups: bp.Group, freeze: str = "", decay: float = 0.0) -> list[tuple[int, int, float, float]]:
        model = bp.Sequential(bp.Dense(3, 4), bp.Dense(4, 5), bp.Dense(5, 2)).initialize()
        for path, parameter in model.parameters().items():
            parameter.trainable = path != freeze
        runs = bp.SGD(0.1, weight_decay=decay, groups=groups)._passes(model.store).runs
        return [(run.start // 64, run.stop // 64, run.scale, run.weight_decay) for run in runs]

    assert passes() == [(0, 6, 1.0, 0.0)]
    assert passes(decay=0.5) == [(0, 3, 1.0, 0.5), (3, 6, 1.0, 0.0)]
    assert passes(bp.Group("*")) == [(0, 6, 1.0, 0.0)]
    assert passes(bp.Group("1.weight", learning_rate_scale=2)) == [(0, 1, 1, 0), (1, 2, 2, 0), (2, 6, 1, 0)]
    assert passes(bp.Group("[01].*", learning_rate_scale=2)) == [(0, 2, 2, 0), (2, 3, 1, 0), (3, 5, 2, 0), (5, 6, 1, 0)]
    assert passes(freeze="1.weight") == [(0, 1, 1.0, 0.0), (2, 6, 1.0, 0.0)]
    assert passes(freeze="0.weight", decay=0.5) == [(1, 3, 1.0, 0.5), (3, 6, 1.0, 0.0)]
    assert passes(freeze="2.bias") == [(0, 5, 1.0, 0.0)]


def test_a_pattern_that_matches_nothing_is_refused_with_the_paths_there_are() -> None:
    model, optimizer = mlp(), bp.SGD(0.1, groups=[bp.Group("3.*", learning_rate_scale=0.1)])
    before = values(model)
    give(model, random_gradients(model))
    message = r"no parameter matches Group\(pattern='3\.\*'.*; there are '0\.weight', '0\.bias', '2\.weight', '2\.bias'"
    for refused in (lambda: optimizer.step(model), lambda: optimizer.check(model)):
        with pytest.raises(bp.ConfigError, match=message):
            refused()
    assert all(np.array_equal(value, before[path]) for path, value in values(model).items())
    assert model.store.filled
    optimizer.groups = [bp.Group("2.*", learning_rate_scale=0.1)]
    optimizer.step(model)


def test_groups_may_be_changed_while_a_trainer_trains() -> None:
    models = [mlp(dtype="float32"), mlp(dtype="float32")]
    trainers = [
        bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(0.1), plan=plan)
        for model, plan in zip(models, (True, False), strict=True)
    ]
    for groups in ([], [bp.Group("0.*", learning_rate_scale=0.1)], [bp.Group("2.*", weight_decay=0.5)], []):
        for trainer in trainers:
            trainer.optimizer.groups = groups
            for _ in range(5):
                trainer.step(X, Y)
        assert models[0].store.values.tobytes() == models[1].store.values.tobytes()


def test_decay_may_be_set_on_a_bias_while_a_model_is_trained() -> None:
    model, optimizer = mlp(), bp.SGD(0.1, weight_decay=0.5)
    zero = {path: 0 * g for path, g in random_gradients(model).items()}
    bias = model.parameters()["0.bias"]
    bias.value = np.ones(8)
    for decay, expected in ((False, 1.0), (True, 0.95), (True, 0.9025), (False, 0.9025)):
        bias.decay = decay
        give(model, zero)
        optimizer.step(model)
        np.testing.assert_allclose(bias.value, expected, rtol=1e-13)


def test_groups_and_schedules_go_on_when_the_model_moves() -> None:
    options: dict[str, Any] = {"groups": [bp.Group("0.*", learning_rate_scale=0.5)], "average": 0.9, "clip_norm": 1.0}
    stays, moves = mlp(), mlp()
    for model in (stays, moves):
        trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(bp.InverseTime(0.1, decay=1.0), **options))
        for step in range(8):
            if model is moves and step == 4:
                model.to("strict")
            trainer.step(X, Y)
        assert "planned" in trainer.plan_report()
    for name, array in stays.store.arrays().items():
        np.testing.assert_allclose(bp.to_numpy(moves.store.arrays()[name]), array, rtol=1e-9, atol=1e-12, err_msg=name)


# --- freezing ---


@pytest.mark.parametrize("plan", [True, False])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_what_is_frozen_does_not_change_and_may_be_thawed(make: Callable[..., bp.Optimizer], plan: bool) -> None:
    model = mlp(dtype="float32", weight_l2=0.1)
    trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), make(0.01, **OPTIONS["everything"]), plan=plan)

    def changed() -> set[str]:
        before = values(model)
        for _ in range(4):
            trainer.step(X, Y)
        return {path for path, value in values(model).items() if not np.array_equal(value, before[path])}

    everything = {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert changed() == everything
    assert model[0].freeze() is model[0]
    assert changed() == {"2.weight", "2.bias"}
    assert not model.parameters()["0.weight"].grad.any()
    model.parameters()["0.bias"].trainable = True
    assert changed() == {"0.bias", "2.weight", "2.bias"}
    assert model.unfreeze() is model
    model[2].freeze()
    assert changed() == {"0.weight", "0.bias"}
    model.unfreeze()
    assert changed() == everything


def test_frozen_gradients_are_no_part_of_the_norm() -> None:
    model = mlp()
    give(model, {path: 100 * g for path, g in random_gradients(model).items()})
    model[0].freeze()
    g = {path: p.grad.copy() for path, p in model.parameters().items()}
    bp.SGD(0.1, clip_norm=1.0).step(model)
    norm = np.sqrt(np.sum(g["2.weight"] ** 2) + np.sum(g["2.bias"] ** 2))
    np.testing.assert_allclose(model.parameters()["2.bias"].grad, g["2.bias"] / norm, rtol=1e-12)


def test_a_wholly_frozen_model_cannot_be_trained() -> None:
    model = mlp().freeze()
    message = r"Adam\.step: the model has nothing to train: all of its 4 parameters are frozen; unfreeze\(\) those"
    with pytest.raises(bp.StateError, match=message):
        bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam()).step(X, Y)
    with pytest.raises(bp.StateError, match=message):
        bp.Adam().check(model)


class Watched(bp.Dense):
    """Counts the backwards that reach it."""

    reached = 0

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        self._reached = getattr(self, "_reached", 0) + 1
        self._asked = need_dx
        return super().backward(dy, need_dx)


def test_a_backward_stops_at_the_last_frozen_layer_in_front_but_reaches_one_that_draws() -> None:
    def model(*front: bp.Layer) -> bp.Sequential:
        return bp.Sequential(*front, Watched(6, 6), bp.Tanh(), Watched(6, 3)).initialize(dtype="float64")

    m = model(Watched(6, 6), bp.Tanh())
    m[0].freeze()
    m[2].freeze()
    backward(m)
    assert [getattr(m[i], "_reached", 0) for i in (0, 2, 4)] == [0, 0, 1]
    assert not m[4]._asked  # type: ignore[attr-defined]
    m.forward(m.asarray(X))
    assert m.backward(m.asarray(np.ones((16, 3)))).shape == (16, 6)  # whoever asks for dx gets it
    assert [getattr(m[i], "_reached", 0) for i in (0, 2, 4)] == [1, 1, 2]
    m = model(Watched(6, 6), bp.Dropout(0.5))
    m[0].freeze()
    m[2].freeze()
    backward(m)
    assert [getattr(m[i], "_reached", 0) for i in (0, 2, 4)] == [0, 1, 1]
    assert m.store.counters.tolist() == [0, 1]
    m.freeze()
    backward(m)
    assert [getattr(m[i], "_reached", 0) for i in (0, 2, 4)] == [0, 2, 2]


@pytest.mark.parametrize(("weight", "bias"), [(False, True), (True, False), (False, False)])
def test_the_gradients_of_what_is_trained_are_the_same_with_something_frozen(
    weight: bool, bias: bool, backend: bp.Backend
) -> None:
    whole, part = (
        bp.Sequential(bp.Dense(6, 5), bp.Tanh(), bp.Dense(5, 4), bp.Tanh(), bp.Dense(4, 3)).initialize(
            backend=backend, dtype="float64"
        )
        for _ in range(2)
    )
    part[2].weight.trainable, part[2].bias.trainable = weight, bias  # type: ignore[attr-defined]
    for model in (whole, part):
        backward(model)
    for path, parameter in part.parameters().items():
        expected = bp.to_numpy(whole.parameters()[path].grad) * parameter.trainable
        np.testing.assert_allclose(bp.to_numpy(parameter.grad), expected, rtol=1e-12, atol=1e-15)


def test_a_frozen_weight_needs_no_product_for_its_gradient() -> None:
    model = mlp(dtype="float32")
    model[2].weight.trainable = False  # type: ignore[attr-defined]
    trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.SGD(0.1))
    for _ in range(3):
        trainer.step(X, Y)
    (plan,) = trainer._planner.plans().values()  # type: ignore[union-attr]
    calls = [step for step in plan.steps if step.kernel.name == "linear_backward"]
    assert [call.out[1] is None for call in calls] == [True, False]


def test_frozen_and_penalized_parameters_survive_files_pickles_and_copies(tmp_path: Any) -> None:
    model = bp.Sequential(bp.Dense(4, 3, weight_l1=0.5, bias_l2=0.25), bp.PReLU(), bp.Dense(3, 2)).initialize()
    model[0].freeze()
    model[1].slope.l2 = 0.75  # type: ignore[attr-defined]
    model[2].weight_l2 = 0.125  # type: ignore[attr-defined]
    model.save(tmp_path / "m.safetensors")
    for other in (bp.load(tmp_path / "m.safetensors"), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        for path, parameter in model.parameters().items():
            found = other.parameters()[path]
            assert (found.trainable, found.l1, found.l2) == (parameter.trainable, parameter.l1, parameter.l2), path
        assert repr(other) == repr(model)
    assert repr(model[0]) == "Dense(4, 3, weight_l1=0.5, bias_l2=0.25)"
    assert str(model.summary()).splitlines()[-1].startswith("24 parameters, 15 of them frozen, 96 bytes")


def _rewrite(path: Any, change: Callable[[dict[str, str]], None]) -> None:
    from bpnet.files import read, write

    tensors, metadata = read(path)
    change(metadata)
    write(path, tensors, metadata)


def test_files_of_before_still_load_and_damaged_ones_are_refused(tmp_path: Any) -> None:
    path = tmp_path / "m.safetensors"
    mlp().save(path)
    _rewrite(path, lambda metadata: metadata.pop("training") and None)
    assert all(p.trainable for p in load_model(path).parameters().values())
    for training in ('{"frozen": ["9.weight"]}', "[1]", '{"penalties": {"0.weight": [1]}}', '{"frozen": 3}', "{"):
        _rewrite(path, lambda metadata, training=training: metadata.update(training=training))  # type: ignore[misc]
        with pytest.raises(bp.CheckpointError, match="has a damaged header"):
            load_model(path)
