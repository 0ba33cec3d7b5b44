"""A fit that stops at a number that is not finite says who made it, and of which sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import bpnet as bp

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(50, 3)), RNG.normal(size=(50, 2))


@bp.kernel
def grow(x: Any) -> Any:
    """exp(x)."""
    return bp.namespace(x).exp(x)


@bp.kernel
def grow_backward(dy: Any, y: Any) -> Any:
    """dy y."""
    return dy * y


@bp.kernel
def root(x: Any) -> Any:
    """sqrt(|x|)."""
    return bp.namespace(x).sqrt(bp.namespace(x).abs(x))


@bp.kernel
def root_backward(dy: Any, x: Any, y: Any) -> Any:
    """dy sign(x) / (2 y), which is infinite at 0."""
    return dy * bp.namespace(x).sign(x + 1e-300) / (2 * y)


class Grow(bp.Layer):
    def __call__(self, x: Any) -> Any:
        return grow(x)

    def forward(self, x: Any) -> Any:
        y = grow(x)
        self.keep(y)
        return y

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        return grow_backward(dy, *self.kept())


class Root(Grow):
    def __call__(self, x: Any) -> Any:
        return root(x)

    def forward(self, x: Any) -> Any:
        y = root(x)
        self.keep(x, y)
        return y

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        return root_backward(dy, *self.kept())


def message_of(model: bp.Layer, x: Any, y: Any, backend: Any = None, optimizer: Any = None, **settings: Any) -> str:
    trainer = bp.Trainer(model, bp.MeanSquaredError(), optimizer or bp.SGD(1e-3), seed=5, backend=backend)
    with pytest.raises(bp.NonFiniteError) as caught:
        trainer.fit(x, y, **({"epochs": 2, "batch_size": 8, "progress": False} | settings))
    return str(caught.value)


@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_the_layer_the_kernel_and_the_sample_are_named(shuffle: bool, size: int | None, backend: bp.Backend) -> None:
    x = X.copy()
    x[37] = 200.0  # exp overflows float32, not float64
    model = bp.Sequential(Grow(), bp.Dense(3, 2))
    text = message_of(model, x, Y, backend, shuffle=shuffle, micro_batch_size=size)
    assert "the first such number is made by Grow() at '0', forward: grow gives inf at index (" in text
    assert "which is sample 37 of the data, from numbers of up to 200" in text
    assert f"in float64 it is {np.exp(200.0):.6g}, which the model's dtype cannot hold" in text


def test_in_a_later_epoch_the_batch_is_found_again() -> None:
    x, y = X.copy(), Y.copy()
    y[11] = 1e18  # the weights grow until the square is too large
    text = message_of(bp.Sequential(bp.Dense(3, 4), bp.Dense(4, 2)), x, y, optimizer=bp.SGD(1e-2), epochs=50)
    assert "the first such number is made by" in text


def test_a_backward_is_named_too() -> None:
    x = X.copy()
    x[20, 1] = 0.0
    model = bp.Sequential(bp.Normalize(3).set(np.zeros(3), np.ones(3)), bp.Dense(3, 3), Root(), bp.Dense(3, 2))
    model.initialize(0, dtype="float64")
    model[1].weight.value, model[1].bias.value = np.eye(3), np.zeros(3)
    text = message_of(model, x, Y, optimizer=bp.SGD(1e-9, clip_norm=1.0), epochs=1, batch_size=50)
    assert "the loss or the norm of the gradients was NaN or infinite in step 1" in text
    assert "made by Root() at '2', backward: root_backward gives" in text
    assert "which is sample 20 of the data" in text


def test_the_loss_is_named_and_the_parameters_stay() -> None:
    model = bp.Dense(3, 2).initialize(0)
    before = model.weight.value.copy()
    text = message_of(model, X, np.full((50, 2), 1e30))
    assert "made by MeanSquaredError(), forward: mean_squared_error gives inf at index ()" in text
    assert np.array_equal(model.weight.value, before)


def test_what_cannot_be_replayed_is_reported_as_before() -> None:
    class Stubborn(Grow):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("not to be copied")

    x = X.copy()
    x[30] = 1e4
    text = message_of(bp.Sequential(Stubborn(), bp.Dense(3, 2)), x, Y)
    assert text.endswith("or look at the data of that step")
