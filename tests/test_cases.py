"""The registry of cases: everything public is in it, and refuses what its entry says that it refuses."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import bpnet as bp
from bpnet.dispatch import Kernel, kernel, kernels
from bpnet.testing.cases.entries import BadArguments, BadInputs, Entry, LayerCase
from bpnet.testing.cases.layers import LAYER_CASES, LAYERS
from bpnet.testing.cases.metrics import METRIC_CASES
from bpnet.testing.cases.objectives import LOSS_CASES
from bpnet.testing.cases.optimizers import OPTIMIZER_CASES
from bpnet.testing.cases.registry import entries, lacking, own_kernels, public_classes, without_entry
from bpnet.testing.cases.schedules import SCHEDULE_CASES
from bpnet.testing.layer_derivatives import same_bits

ENTRIES = {name: (cls, entry) for cls, name, entry in entries()}
BAD_ARGUMENTS = {
    f"{name} {i}": bad for name, (_, entry) in ENTRIES.items() for i, bad in enumerate(entry.bad_arguments)
}
BAD_INPUTS = {
    f"{name} {i}": (entry, bad) for name, (_, entry) in ENTRIES.items() for i, bad in enumerate(entry.bad_inputs)
}


# --- what is public is in it ---


def test_everything_public_has_an_entry_that_leaves_nothing_out() -> None:
    assert without_entry() == []


def test_an_entry_is_of_the_class_whose_name_it_bears() -> None:
    for name, (cls, entry) in ENTRIES.items():
        made = [case.loss() if hasattr(case, "loss") else case.make() for case in entry.cases.values()]
        assert {type(each) for each in made} == {cls}, name


def module_of(**classes: type) -> ModuleType:
    module = ModuleType("planted")
    vars(module).update(classes, __all__=list(classes))
    return module


@pytest.mark.parametrize("base", [bp.Layer, bp.Loss, bp.Optimizer, bp.Schedule, bp.Metric, bp.ClassLoss, bp.ReLU])
def test_a_planted_class_without_an_entry_is_named(base: type) -> None:
    planted = type("Planted", (base,), {})
    found = without_entry(module_of(Planted=planted, Dense=bp.Dense))
    assert len(found) == 1
    assert found[0].startswith("Planted: a public ")
    assert found[0].endswith(" without an entry in bpnet.testing.cases")


def test_an_entry_that_leaves_something_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAYERS, "Dense", Entry({}))
    assert [each for each in without_entry() if each.startswith("Dense")] == [
        "Dense: its entry has no case",
        "Dense: it takes arguments, and its entry no bad ones",
        "Dense: its entry has no bad inputs",
    ]
    monkeypatch.setitem(LAYERS, "Dense", Entry({"": LayerCase(lambda: bp.Dense(1, 1))}))
    assert len(without_entry()) == 2


def test_a_kernel_without_samples_or_cost_is_named() -> None:
    def planted(x: Any) -> Any:
        return x

    planted.__module__ = "bpnet.ops.planted"
    op = Kernel(planted)
    try:
        assert op in own_kernels()
        expected = ["a kernel without sample arguments in CASES"]
        assert lacking(op) == [*expected, "a kernel that does not declare its cost, @kernel(flops=...)"]
        assert lacking(kernel(flops=1)(planted)) == expected
        assert [each for each in without_entry() if each.startswith("planted: ")]
    finally:
        from bpnet import dispatch

        dispatch._KERNELS[:] = [each for each in kernels() if each.name != "planted"]


def test_every_exported_kernel_is_a_kernel_of_bpnet() -> None:
    exported = {getattr(bp.ops, name) for name in bp.ops.__all__ if isinstance(getattr(bp.ops, name), Kernel)}
    assert exported <= set(own_kernels())
    assert {op.name for op in exported} == {name for name in bp.ops.__all__ if name in {k.name for k in own_kernels()}}


# --- what is refused ---


@pytest.mark.parametrize("bad", BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments_are_refused_with_these_words(bad: BadArguments) -> None:
    with pytest.raises(bad.error, match=bad.message) as raised:
        bad.mistake()
    assert isinstance(raised.value, bp.BpnetError) or bad.error is TypeError
    assert isinstance(raised.value, (ValueError, TypeError, RuntimeError))


def of_layer(backend: bp.Backend, made: bp.Layer) -> tuple[Any, list[Callable[..., Any]], Callable[[], list[Any]]]:
    layer = made.initialize(3, backend=backend)
    case = next(case for case in LAYER_CASES.values() if type(case.make()) is type(layer))
    args, side = case.inputs[0].draw(3)

    def use() -> list[Any]:
        y = layer.forward(*map(layer.asarray, args), **{name: layer.asarray(each) for name, each in side.items()})
        layer.backward(layer.backend.xp.ones_like(y), need_dx=False)
        layer.store.complete_gradients()
        return [y, *(p.grad for p in layer.parameters().values())]

    return layer, [layer, layer.forward], use


def of_loss(backend: bp.Backend, made: bp.Loss) -> tuple[Any, list[Callable[..., Any]], Callable[[], list[Any]]]:
    case = next(case for case in LOSS_CASES.values() if type(case.loss()) is type(made))

    def forward(prediction: Any, target: Any, *weight: Any) -> Any:
        made.forward(prediction, target, None, *weight)

    def use() -> list[Any]:
        with pytest.raises(bp.StateError, match="nothing saved"):
            made.backward()
        value = made.forward(backend.asarray(case.prediction), backend.asarray(case.target))
        return [value, made.backward()]

    return made, [made, forward], use


def of_optimizer(backend: bp.Backend, made: bp.Optimizer) -> tuple[Any, list[Callable[..., Any]], Any]:
    def use() -> list[Any]:
        model = bp.Dense(2, 3).initialize(backend=backend)
        for parameter in model.parameters().values():
            parameter.accumulate(model.asarray(np.ones(parameter.shape, np.float32)))
        made.step(model)
        return [model.store.values]

    return made, [made.step], use


def of_schedule(backend: bp.Backend, made: bp.Schedule) -> tuple[Any, list[Callable[..., Any]], Any]:
    return made, [made], lambda: [np.array([made(step) for step in range(4)])]


def of_metric(backend: bp.Backend, made: bp.Metric) -> tuple[Any, list[Callable[..., Any]], Callable[[], list[Any]]]:
    case = next(case for case in METRIC_CASES.values() if type(case.make()) is type(made))

    def use() -> list[Any]:
        return [made.measure(backend.asarray(case.prediction), backend.asarray(case.target))]

    return made, [made.measure], use


FAMILIES: dict[type, Callable[..., Any]] = {
    bp.Layer: of_layer,
    bp.Loss: of_loss,
    bp.Optimizer: of_optimizer,
    bp.Schedule: of_schedule,
    bp.Metric: of_metric,
}


def brought(arguments: tuple[Any, ...], backend: bp.Backend) -> list[Any]:
    return [
        backend.asarray(np.array(each)) if isinstance(each, (np.ndarray, np.generic)) else each for each in arguments
    ]


def made_of(entry: Entry[Any]) -> Any:
    case = next(iter(entry.cases.values()))
    return case.loss() if hasattr(case, "loss") else case.make()


@pytest.mark.parametrize(("entry", "bad"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_inputs_are_refused_and_leave_the_object_usable(
    entry: Entry[Any], bad: BadInputs, backend: bp.Backend
) -> None:
    make = bad.make or (lambda: made_of(entry))
    family = next(of for base, of in FAMILIES.items() if isinstance(make(), base))
    _, calls, use = family(backend, make())
    for call in calls:
        with pytest.raises(bad.error, match=bad.message) as raised:
            call(*brought(bad.arguments, backend))
        assert isinstance(raised.value, bp.BpnetError)
    if bad.make is None:  # what is of use is then what was never misused
        fresh = family(backend, make())[-1]
        for _ in range(2):
            assert all(same_bits(a, b) for a, b in zip(use(), fresh(), strict=True))


@pytest.mark.parametrize("case", LAYER_CASES.values(), ids=LAYER_CASES)
def test_a_wrong_dy_is_refused_and_the_forward_is_not_lost(case: LayerCase, backend: bp.Backend) -> None:
    layer = case.make().initialize(backend=backend)
    args, side = case.inputs[0].draw(5)
    sides = {name: layer.asarray(each) for name, each in side.items()}
    y = layer.forward(*map(layer.asarray, args), **sides)
    if not any(True for _ in layer.children()) and isinstance(layer, bp.Sequential):
        return  # it is the identity, and keeps nothing
    shape = tuple(y.shape)
    for dy, error, message in (
        (backend.zeros((shape[0] + 1, *shape[1:]), "float32"), bp.ShapeError, "needs dy of the output's shape"),
        (backend.zeros((*shape, 1), "float32"), bp.ShapeError, "needs dy of the output's shape"),
        (backend.zeros(shape, "float64"), bp.DTypeError, "needs dy of .*float32, got .*float64"),
        ([[1.0]], bp.DTypeError, "array"),
    ):
        with pytest.raises(error, match=message):
            layer.backward(dy)
        assert not layer.store.filled
    dx = layer.backward(layer.backend.xp.ones_like(y))
    first = dx[0] if isinstance(dx, tuple) else dx
    assert first is None or tuple(first.shape) == args[0].shape


# --- what is copied, saved and made again ---


@pytest.mark.parametrize("case", LAYER_CASES.values(), ids=LAYER_CASES)
def test_a_copy_and_a_pickle_of_a_layer_are_what_it_is(case: LayerCase, backend: bp.Backend) -> None:
    layer = case.make().initialize(4, backend=backend)
    args, side = case.inputs[0].draw(3)
    arrays = list(map(layer.asarray, args))
    sides = {name: layer.asarray(each) for name, each in side.items()}
    y = layer.forward(*arrays, **sides)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(again) == repr(layer)
        assert json.dumps(repr(again.config)) == json.dumps(repr(layer.config))
        assert same_bits(again(*arrays, **sides), layer(*arrays, **sides))
        assert same_bits(again.forward(*arrays, **sides), y)
        assert again.store is not layer.store


OTHERS: dict[str, Callable[[], Any]] = (
    {name: case.loss for name, case in LOSS_CASES.items()}
    | {name: case.make for name, case in OPTIMIZER_CASES.items()}
    | {name: case.make for name, case in SCHEDULE_CASES.items()}
    | {name: case.make for name, case in METRIC_CASES.items()}
)


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_losses_optimizers_schedules_and_metrics_are_said_by_their_text_and_copied_by_it(
    make: Callable[[], Any],
) -> None:
    made = make()
    again = [copy.deepcopy(made), pickle.loads(pickle.dumps(made)), eval(repr(made), vars(bp) | vars(bp.metrics))]
    for each in again:
        assert type(each) is type(made)
        assert repr(each) == repr(made)
        if hasattr(made, "config"):
            assert each.config == made.config
            assert json.loads(json.dumps(made.config)).keys() == made.config.keys()


def test_entries_are_values_that_nobody_changes() -> None:
    entry = LAYERS["Dense"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.cases = {}  # type: ignore[misc]
    assert len(public_classes()) == len(ENTRIES)
