"""Every layer and container: its derivative against differences, its contract, its door."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import read_only
from hypothesis import given, settings
from hypothesis import strategies as st

import bpnet as bp
from bpnet.testing import check_layer
from bpnet.testing.layers import assert_derivatives

RNG = np.random.default_rng(0)
SAMPLES = RNG.normal(2.0, 3.0, size=(50, 4))

LAYERS: dict[str, Callable[[], bp.Layer]] = {
    "Dense": lambda: bp.Dense(4, 3),
    "Dense without bias": lambda: bp.Dense(4, 3, bias=False),
    "ReLU": bp.ReLU,
    "LeakyReLU": lambda: bp.LeakyReLU(0.1),
    "Sigmoid": bp.Sigmoid,
    "Tanh": bp.Tanh,
    "Softmax": bp.Softmax,
    "LogSoftmax": bp.LogSoftmax,
    "ELU": lambda: bp.ELU(1.5),
    "GELU": bp.GELU,
    "GELU by tanh": lambda: bp.GELU("tanh"),
    "SiLU": bp.SiLU,
    "Softplus": bp.Softplus,
    "Mish": bp.Mish,
    "Hardswish": bp.Hardswish,
    "PReLU": bp.PReLU,
    "PReLU, a slope a feature": lambda: bp.PReLU(4, a=0.1),
    "GLU": bp.GLU,
    "SwiGLU": bp.SwiGLU,
    "LayerNorm": lambda: bp.LayerNorm(4),
    "RMSNorm": lambda: bp.RMSNorm(4),
    "Unembedding": lambda: bp.Unembedding(5, 4),
    "Normalize": lambda: bp.Normalize(4).fit(SAMPLES),
    "Normalize, all features alike": lambda: bp.Normalize(1).fit(SAMPLES),
    "Dropout": lambda: bp.Dropout(0.4),
    "Flatten": bp.Flatten,
    "Sequential": lambda: bp.Sequential(bp.Dense(4, 5), bp.Tanh(), bp.Dropout(0.2), bp.Dense(5, 2)),
    "Sequential of nothing": bp.Sequential,
    "Residual": lambda: bp.Residual(bp.Dense(4, 4), bp.Tanh(), bp.Dense(4, 4)),
    "Concatenate": lambda: bp.Concatenate(bp.Dense(4, 2), bp.Sequential(bp.Tanh(), bp.Dense(4, 3)), bp.Sigmoid()),
    "nested": lambda: bp.Sequential(
        bp.Dense(4, 6), bp.Residual(bp.Concatenate(bp.Dense(6, 2), bp.Dense(6, 4)), bp.Tanh()), bp.Dense(6, 1)
    ),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("shape", [(4,), (3, 4)], ids=str)
def test_every_layer_keeps_the_promises_of_layers(
    make: Callable[[], bp.Layer], shape: tuple[int, ...], backend: bp.Backend
) -> None:
    check_layer(make, shape, backends=(backend,), strict=False)


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("shape", [(0, 4), (1, 4), (7, 4)], ids=str)
def test_shapes_dtypes_and_untouched_inputs(
    make: Callable[[], bp.Layer], shape: tuple[int, ...], backend: bp.Backend
) -> None:
    model = make().initialize(backend=backend)
    x_host = RNG.normal(size=shape).astype(np.float32)
    x = backend.asarray(read_only(x_host))
    y = model.forward(x)
    dy_host = RNG.normal(size=tuple(y.shape)).astype(np.float32)
    dy = backend.asarray(read_only(dy_host))
    dx = model.backward(dy)
    assert y.dtype == x.dtype == dx.dtype
    assert tuple(dx.shape) == shape
    assert y.device == x.device == dx.device
    assert np.array_equal(bp.to_numpy(x), x_host)
    assert np.array_equal(bp.to_numpy(dy), dy_host)


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_non_contiguous_inputs_give_the_same_result(make: Callable[[], bp.Layer]) -> None:
    model = make().initialize(dtype="float64")
    wide = RNG.normal(size=(6, 8))
    strided = wide[::2, ::2]
    assert not strided.flags.c_contiguous
    y, again = model.forward(strided), model(strided.copy()) if "Drop" not in repr(model) else None
    dy = RNG.normal(size=y.shape)
    dx = model.backward(np.asfortranarray(dy))
    model2 = copy.deepcopy(model)
    y2 = model2.forward(strided.copy())
    dx2 = model2.backward(dy)
    if again is not None:
        np.testing.assert_allclose(y, again, rtol=1e-13)
    if "Dropout" not in repr(model):
        np.testing.assert_allclose(y2, y, rtol=1e-13)
        np.testing.assert_allclose(dx2, dx, rtol=1e-13)
    else:
        assert dx.shape == dx2.shape


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    leading=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
)
def test_dense_takes_any_leading_axes(sizes: list[int], leading: list[int], seed: int) -> None:
    layers = [bp.Dense(a, b) for a, b in zip([2, *sizes], sizes, strict=False)]
    model = bp.Sequential(*layers).initialize(seed=seed, dtype="float64")
    x = np.random.default_rng(seed).normal(size=(*leading, 2))
    y = model.forward(x)
    dx = model.backward(np.ones_like(y))
    grads = {path: p.grad.copy() for path, p in model.parameters().items()}
    flat = x.reshape(-1, 2)
    model.store.consume_gradients()
    y_flat = model.forward(flat)
    dx_flat = model.backward(np.ones_like(y_flat))
    np.testing.assert_allclose(y.reshape(y_flat.shape), y_flat, rtol=1e-12)
    np.testing.assert_allclose(dx.reshape(flat.shape), dx_flat, rtol=1e-12)
    for path, p in model.parameters().items():
        np.testing.assert_allclose(p.grad, grads[path], rtol=1e-10, atol=1e-12)


def test_one_neuron_that_feeds_several_gets_the_sum_of_their_derivatives(backend: bp.Backend) -> None:
    shared = bp.Dense(2, 1)
    model = bp.Sequential(shared, bp.Dense(1, 3)).initialize(backend=backend, dtype="float64")
    x = model.asarray(np.array([[1.0, 2.0]]))
    model.forward(x)
    dy = np.array([[1.0, 10.0, 100.0]])
    model.backward(model.asarray(dy))
    paths = bp.to_numpy(model[1].weight.value)[0]  # type: ignore[attr-defined]
    np.testing.assert_allclose(bp.to_numpy(shared.bias.grad), [np.sum(paths * dy[0])], rtol=1e-14)  # type: ignore[union-attr]


def test_tied_parameters_lie_in_the_store_once_and_add_their_gradients() -> None:
    first, second = bp.Dense(3, 3), bp.Dense(3, 3)
    second.weight = first.weight
    model = bp.Sequential(first, bp.Tanh(), second).initialize(dtype="float64")
    assert list(model.parameters()) == ["0.weight", "0.bias", "2.bias"]
    assert model.tied() == {"2.weight": "0.weight"}
    assert model.n_parameters == 9 + 3 + 3
    assert_derivatives(model, RNG.normal(size=(4, 3)))


def test_dropout_repeats_its_mask_until_the_backward_and_draws_anew_after_a_step(backend: bp.Backend) -> None:
    model = bp.Sequential(bp.Dropout(0.5)).initialize(seed=1, backend=backend)
    x = backend.asarray(np.ones((8, 16), np.float32))

    def mask() -> Any:
        return bp.to_numpy(model.forward(x)) > 0

    first = mask()
    assert np.array_equal(first, mask())
    model.backward(x)
    second = mask()
    assert not np.array_equal(first, second)
    model.backward(x)
    bp.SGD(0.1).step(model)
    third = mask()
    assert not np.array_equal(third, first)
    assert not np.array_equal(third, second)


def test_dropout_keeps_the_expectation_and_is_the_identity_in_inference() -> None:
    model = bp.Sequential(bp.Dropout(0.3)).initialize()
    x = np.ones((400, 500), np.float32)
    y = model.forward(x)
    assert model(x) is x
    assert abs(float(np.mean(y == 0)) - 0.3) < 0.005
    assert abs(float(y.mean()) - 1) < 0.01
    assert set(np.unique(y)) == {0.0, np.float32(65536 / (65536 - 19661))}


def test_dropout_at_rate_zero_changes_nothing() -> None:
    model = bp.Sequential(bp.Dropout(0)).initialize()
    x = RNG.normal(size=(3, 4)).astype(np.float32)
    assert np.array_equal(model.forward(x), x)
    assert np.array_equal(model.backward(x), x)


def test_two_dropouts_draw_different_masks() -> None:
    model = bp.Concatenate(bp.Dropout(0.5), bp.Dropout(0.5)).initialize()
    y = model.forward(np.ones((4, 64), np.float32))
    assert not np.array_equal(y[:, :64], y[:, 64:])


def test_side_inputs_reach_the_children_that_declare_them() -> None:
    class Scale(bp.Layer):
        def __call__(self, x: Any, *, factor: float = 1.0) -> Any:
            return x * factor

        def forward(self, x: Any, *, factor: float = 1.0) -> Any:
            self.keep(factor)
            return x * factor

        def backward(self, dy: Any, need_dx: bool = True) -> Any:
            (factor,) = self.kept()
            return dy * factor

    model = bp.Sequential(bp.Tanh(), bp.Residual(bp.Sequential(Scale(), bp.Tanh())))
    x = np.ones((2, 3))
    t = np.tanh(x)
    np.testing.assert_allclose(model(x, factor=3.0), t + np.tanh(3 * t))
    np.testing.assert_allclose(model.forward(x, factor=3.0), t + np.tanh(3 * t))
    with pytest.raises(bp.ConfigError, match="no layer in Sequential takes mask; declared are: factor"):
        model(x, mask=1)


def test_constructor_arguments_are_recorded_and_shown() -> None:
    model = bp.Sequential(bp.Dense(2, 3, bias=False), bp.LeakyReLU(0.2), bp.Dropout(0.25))
    assert model[0].config == {
        "n_in": 2,
        "n_out": 3,
        "bias": False,
        "weight_initializer": "he_normal",
        "weight_l1": 0.0,
        "weight_l2": 0.0,
        "bias_l1": 0.0,
        "bias_l2": 0.0,
    }
    assert repr(model) == "Sequential(Dense(2, 3), LeakyReLU(0.2), Dropout(0.25))"


def test_copies_and_pickles_have_the_values_and_a_store_of_their_own() -> None:
    model = bp.Sequential(bp.Dense(4, 3), bp.Tanh(), bp.Dropout(0.1), bp.Dense(3, 2)).initialize(seed=5)
    x = RNG.normal(size=(3, 4)).astype(np.float32)
    y = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert np.array_equal(other(x), y)
        other.parameters()["0.weight"].value = np.zeros((4, 3))
        assert np.array_equal(model(x), y)
        assert other.store.seed == 5


def test_a_first_forward_initializes_with_seed_0() -> None:
    lazy = bp.Sequential(bp.Dense(4, 3))
    assert not lazy.initialized
    x = np.ones((2, 4), np.float32)
    assert np.array_equal(lazy.forward(x), bp.Sequential(bp.Dense(4, 3)).initialize(seed=0)(x))
    assert lazy.initialized


def test_taking_layers_into_a_new_model_keeps_their_values_and_retires_the_old_store() -> None:
    old = bp.Sequential(bp.Dense(4, 3), bp.Tanh(), bp.Dense(3, 2)).initialize(seed=2)
    weight = old[0].weight.value.copy()  # type: ignore[attr-defined]
    new = bp.Sequential(old[0], old[1], bp.Dense(3, 5))
    assert new(np.ones((1, 4), np.float32)).shape == (1, 5)
    assert np.array_equal(new[0].weight.value, weight)  # type: ignore[attr-defined]
    with pytest.raises(bp.StateError, match="can no longer be trained: its parameter '0.bias' now belongs to"):
        bp.SGD(0.1).step(old)


def test_summary_counts_parameters_and_shows_shapes() -> None:
    model = bp.Sequential(bp.Flatten(), bp.Dense(64, 32), bp.ReLU(), bp.Concatenate(bp.Dense(32, 4), bp.Dense(32, 6)))
    text = str(model.summary((8, 8)))
    assert "(N, 64)" in text.splitlines()[2]
    assert "2,080" in text
    assert "(N, 6)" in text
    assert text.splitlines()[-1] == "2,410 parameters, 9,640 bytes, float32 on numpy"
    assert str(bp.Sequential(bp.Dense(2, 2)).summary()).splitlines()[-1].endswith("not initialized")


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_every_layer_comes_back_from_its_file(make: Callable[[], bp.Layer], tmp_path: Any) -> None:
    model = make().initialize(seed=4)
    x = RNG.normal(size=(3, 4)).astype(np.float32)
    model.save(tmp_path / "m.safetensors")
    loaded = bp.load(tmp_path / "m.safetensors")
    assert repr(loaded) == repr(model)
    assert np.array_equal(loaded(x), model(x))


def test_activations_by_hand(backend: bp.Backend) -> None:
    x = np.array([[-30.0, -3.0, -1.0, -0.25, 0.0, 0.5, 2.0, 3.0, 30.0]])
    cdf = np.array([[0.5 * math.erfc(-v / math.sqrt(2)) for v in x[0]]])
    logistic = 1 / (1 + np.exp(-x))
    expected = {
        "GELU": (bp.GELU(), x * cdf),
        "GELU by tanh": (bp.GELU("tanh"), 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
        "ELU": (bp.ELU(2.0), np.where(x > 0, x, 2 * np.expm1(x))),
        "SiLU": (bp.SiLU(), x * logistic),
        "Softplus": (bp.Softplus(), np.logaddexp(0, x)),
        "Mish": (bp.Mish(), x * np.tanh(np.logaddexp(0, x))),
        "Hardswish": (bp.Hardswish(), x * np.clip(x + 3, 0, 6) / 6),
        "PReLU": (bp.PReLU(a=0.5), np.where(x > 0, x, x / 2)),
        "LogSoftmax": (bp.LogSoftmax(), x - np.log(np.sum(np.exp(x)))),
        "GLU": (bp.GLU(), x[:, :4] * logistic[:, 4:8]),
    }
    for name, (layer, y) in expected.items():
        model = bp.Sequential(layer).initialize(backend=backend, dtype="float64")
        given = x[:, :8] if name == "GLU" else x
        atol = 1e-15 if name == "LogSoftmax" else 1e-300  # its last value is a difference of nearly equal numbers
        np.testing.assert_allclose(bp.to_numpy(model(model.asarray(given))), y, rtol=4e-13, atol=atol, err_msg=name)


def test_the_normal_distribution_function_keeps_its_relative_accuracy_in_the_tail() -> None:
    x = np.linspace(-37, 8, 2001)
    expected = [0.5 * math.erfc(-v / math.sqrt(2)) for v in x]
    np.testing.assert_allclose(bp.ops.normal_cdf(x), expected, rtol=5e-13)
