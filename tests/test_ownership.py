"""Who owns what: layers wherever they are held, models that change, parts of models in other models."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bpnet as bp

X = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 3, 12)


class WithHead(bp.Sequential):
    """A container with one more layer in an attribute."""

    def __init__(self) -> None:
        super().__init__(bp.Dense(4, 5), bp.Tanh())
        self.head = bp.Dense(5, 3)

    def __call__(self, x: Any, **side: Any) -> Any:
        return self.head(super().__call__(x))

    def forward(self, x: Any, **side: Any) -> Any:
        return self.head.forward(super().forward(x))

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        return super().backward(self.head.backward(dy), need_dx)


class Holder(bp.Layer):
    """Layers in a dict and in nested lists."""

    def __init__(self) -> None:
        self.parts = {"first": bp.Dense(4, 5), "rest": [[bp.Tanh()], (bp.Dense(5, 3),)]}

    def layers(self) -> list[bp.Layer]:
        return [self.parts["first"], self.parts["rest"][0][0], self.parts["rest"][1][0]]  # type: ignore[list-item,index]

    def __call__(self, x: Any) -> Any:
        for layer in self.layers():
            x = layer(x)
        return x

    def forward(self, x: Any) -> Any:
        for layer in self.layers():
            x = layer.forward(x)
        return x

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        for layer in self.layers()[::-1]:
            dy = layer.backward(dy)
        return dy


class ListOfParameters(bp.Layer):
    def __init__(self) -> None:
        self.weights = [bp.Parameter((4, 3), "he_normal"), bp.Parameter((4, 3), "he_normal")]

    def __call__(self, x: Any) -> Any:
        return bp.ops.add(*(bp.ops.linear(x, w.value, None) for w in self.weights))

    def forward(self, x: Any) -> Any:
        self.keep(x)
        return self(x)

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        (x,) = self.kept()
        for w in self.weights:
            w.accumulate(bp.ops.linear_backward(dy, x, w.value, False, False)[1])
        return None


def train(model: bp.Layer, steps: int = 4) -> bp.Trainer:
    trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.SGD(0.5), seed=0)
    for _ in range(steps):
        trainer.step(X, Y)
    return trainer


@pytest.mark.parametrize(
    ("make", "paths"),
    [
        (WithHead, ["0.weight", "0.bias", "head.weight", "head.bias"]),
        (Holder, ["parts.first.weight", "parts.first.bias", "parts.rest.1.0.weight", "parts.rest.1.0.bias"]),
        (ListOfParameters, ["weights.0", "weights.1"]),
    ],
)
def test_what_a_layer_holds_anywhere_belongs_to_the_model_and_is_trained(
    make: Callable[[], bp.Layer], paths: list[str]
) -> None:
    model = make().initialize(seed=1)
    assert list(model.parameters()) == paths
    before = {path: p.value.copy() for path, p in model.parameters().items()}
    trainer = train(model)
    assert "planned" in trainer.plan_report()
    for path, p in model.parameters().items():
        assert not np.array_equal(p.value, before[path]), path
    assert np.array_equal(pickle_copy(model)(X), model(X))


def pickle_copy(model: bp.Layer) -> bp.Layer:
    return copy.deepcopy(model)


def test_a_replaced_head_is_trained_and_the_rest_keeps_its_values() -> None:
    model = bp.Sequential(bp.Dense(4, 5), bp.Tanh(), bp.Dense(5, 2)).initialize(seed=3)
    body = model[0].weight.value.copy()  # type: ignore[attr-defined]
    trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(0.1), seed=0)
    for _ in range(4):
        trainer.step(X, Y % 2)
    body = model[0].weight.value.copy()  # type: ignore[attr-defined]
    model.layers = (*model.layers[:-1], bp.Dense(5, 3))
    head = model[2].weight.value.copy()  # type: ignore[attr-defined]
    assert np.array_equal(model[0].weight.value, body)  # type: ignore[attr-defined]
    for _ in range(4):
        trainer.step(X, Y)
    assert not np.array_equal(model[2].weight.value, head)  # type: ignore[attr-defined]
    assert not np.array_equal(model[0].weight.value, body)  # type: ignore[attr-defined]
    assert model.n_parameters == 4 * 5 + 5 + 5 * 3 + 3


def test_an_inner_layer_that_is_replaced_is_trained() -> None:
    model = bp.Sequential(bp.Residual(bp.Dense(4, 4)), bp.Dense(4, 3)).initialize(seed=3)
    model[0].layers = (bp.Tanh(), bp.Dense(4, 4))  # type: ignore[attr-defined]
    fresh = model[0].layers[1]  # type: ignore[attr-defined]
    before = fresh.weight.value.copy()
    train(model)
    assert not np.array_equal(fresh.weight.value, before)


def test_the_trainers_seed_draws_what_is_new_around_a_pretrained_part() -> None:
    pretrained = train(bp.Sequential(bp.Dense(4, 6), bp.Tanh()).initialize(seed=9), 0).model

    def head(seed: int) -> Any:
        model = bp.Sequential(copy.deepcopy(pretrained), bp.Dense(6, 3))
        bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.SGD(0.1), seed=seed)
        assert model.store.seed == seed
        assert np.array_equal(model[0][0].weight.value, pretrained[0].weight.value)  # type: ignore[index]
        return model[1].weight.value.copy()  # type: ignore[attr-defined]

    assert not np.array_equal(head(1), head(2))


def test_a_model_made_of_parts_is_placed_where_they_were() -> None:
    part = bp.Dense(4, 3).initialize(backend="strict", dtype="float64")
    model = bp.Sequential(part, bp.Tanh())
    assert (model.backend.name, model.store.dtype) == ("strict", "float64")
    child = copy.deepcopy(bp.Sequential(bp.Dense(2, 2)).initialize(dtype="float64")[0])
    assert child.store.dtype == "float64"


def test_a_retired_model_can_be_used_but_neither_trained_nor_moved() -> None:
    old = bp.Sequential(bp.Dense(4, 3), bp.Tanh()).initialize(seed=1)
    new = bp.Sequential(old[0], bp.Sigmoid()).initialize(seed=2)
    value = new[0].weight.value.copy()  # type: ignore[attr-defined]
    for mistake in (lambda: old.to(dtype="float64"), lambda: bp.SGD(0.1).step(old)):
        with pytest.raises(bp.StateError, match="now belongs to another model"):
            mistake()
    assert np.array_equal(new[0].weight.value, value)  # type: ignore[attr-defined]
    assert old(X).shape == (12, 3)


def test_a_model_inside_another_lets_go_of_its_own_arrays() -> None:
    inner = bp.Sequential(bp.Dense(50, 50)).initialize()
    values = weakref.ref(inner.store.values)
    outer = bp.Sequential(inner, bp.Dense(50, 2)).initialize()
    gc.collect()
    assert values() is None
    assert outer.n_parameters == 50 * 50 + 50 + 102


def test_a_move_that_fails_half_way_changes_nothing() -> None:
    model = bp.Sequential(bp.Dense(4, 3)).initialize()
    strict = bp.get_backend("strict")

    class Small:
        """The strict backend with memory for one buffer."""

        def __init__(self) -> None:
            self.left = 2

        def __getattr__(self, name: str) -> Any:
            return getattr(strict, name)

        def zeros(self, shape: Any, dtype: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise MemoryError("out of memory")
            return strict.zeros(shape, dtype)

    train(model, 2)
    before = model.store.values
    with pytest.raises(MemoryError):
        model.store.move(Small(), "float64")  # type: ignore[arg-type]
    assert model.store.values is before
    assert model.store.dtype == "float32"
    train(model, 1)


def test_info_belongs_to_one_model() -> None:
    a, b = bp.Dense(1, 1), bp.Dense(1, 1)
    a.info["x"] = 1
    assert b.info == {}
    assert copy.deepcopy(a).info == {"x": 1}


def test_a_trainer_can_be_copied_at_any_time() -> None:
    trainer = train(bp.Sequential(bp.Dense(4, 3)), 5)
    other = copy.deepcopy(trainer)
    assert np.array_equal(other.predict(X), trainer.predict(X))
    other.step(X, Y)
    assert not np.array_equal(other.predict(X), trainer.predict(X))


def test_a_part_of_a_model_can_be_trained_as_it_stands() -> None:
    whole = bp.Sequential(bp.Sequential(bp.Dense(4, 5), bp.Tanh(), bp.Dense(5, 3)), bp.Dense(3, 2))
    part = whole[0]
    trainer = bp.Trainer(part, bp.SoftmaxCrossEntropy(), bp.SGD(0.5), seed=4)
    assert whole.store.seed == 4
    before = {path: p.value.copy() for path, p in whole.parameters().items()}
    for _ in range(4):
        trainer.step(X, Y)
    changed = [path for path, p in whole.parameters().items() if not np.array_equal(p.value, before[path])]
    assert changed == ["0.0.weight", "0.0.bias", "0.2.weight", "0.2.bias"]


def test_the_name_bpnet_shows_what_is_public() -> None:
    assert set(dir(bp)) == {*bp.__all__, "__version__"}
    assert all(hasattr(bp, name) for name in bp.__all__)
