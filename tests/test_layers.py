"""Every layer and container: its derivative against differences, its contract, its door."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
from conftest import read_only
from hypothesis import given, settings
from hypothesis import strategies as st

import bpnet as bp
from bpnet.testing import check_layer
from bpnet.testing.cases.entries import LayerCase
from bpnet.testing.cases.layers import LAYER_CALLS
from bpnet.testing.inputs import SampleInputs
from bpnet.testing.layer_derivatives import as_gradients, assert_derivatives, same_bits
from bpnet.testing.layers import LayerCheck

RNG = np.random.default_rng(0)
every_call = pytest.mark.parametrize(("case", "inputs"), LAYER_CALLS.values(), ids=LAYER_CALLS)


@every_call
def test_every_layer_keeps_the_promises_of_layers(case: LayerCase, inputs: SampleInputs, backend: bp.Backend) -> None:
    check_layer(case.make, inputs, backends=(backend,), strict=False)


@every_call
@pytest.mark.parametrize("n_samples", [0, 7])
def test_a_batch_of_any_size_keeps_shapes_and_dtypes(
    case: LayerCase, inputs: SampleInputs, n_samples: int, backend: bp.Backend
) -> None:
    n_samples = n_samples if inputs.fewest == 1 else max(n_samples, inputs.fewest)
    check = LayerCheck(case.make, inputs, n_samples, backend, "float32")
    check.shapes_dtypes_and_untouched_arrays("float32")
    model = check.model()
    arrays = tuple(backend.asarray(read_only(bp.to_numpy(each))) for each in check.arrays(model))
    y = check.forward(model, *arrays)
    assert same_bits(y, check.forward(model))
    assert y.shape[0] == n_samples


@every_call
def test_layouts_in_memory_give_the_same_result(case: LayerCase, inputs: SampleInputs) -> None:
    check = LayerCheck(case.make, inputs, 6, bp.get_backend("numpy"))
    model = check.model()
    arrays = check.arrays(model)
    layouts = [arrays, tuple(map(np.asfortranarray, arrays)), tuple(np.repeat(each, 2, 0)[::2] for each in arrays)]
    y, expected = None, None
    for layout in layouts:
        found = check.forward(model, *layout)
        y = found if y is None else y
        np.testing.assert_allclose(found, y, rtol=1e-13)
        dy = np.asfortranarray(check.gradient_of(y, model))
        model.store.consume_gradients()
        gradients = [each for each in as_gradients(model.backward(dy), len(layout)) if each is not None]
        gradients += [p.grad.copy() for p in model.parameters().values()]
        expected = gradients if expected is None else expected
        for a, b in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


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
    rows = text.splitlines()
    flops = [row.split()[-1].replace(",", "") for row in rows[2:-2]]
    assert list(map(int, flops)) == [0, 2 * 64 * 32 + 32, 32, 2 * 32 * 4 + 4, 2 * 32 * 6 + 6]
    assert rows[-1] == "2,410 parameters, 9,640 bytes, float32 on numpy, 4,810 FLOPs per sample"
    assert "FLOPs" not in str(model.summary())
    assert str(bp.Sequential(bp.Dense(2, 2)).summary()).splitlines()[-1].endswith("not initialized")


@every_call
def test_every_layer_comes_back_from_its_file(case: LayerCase, inputs: SampleInputs, tmp_path: Any) -> None:
    check = LayerCheck(case.make, inputs, 3, bp.get_backend("numpy"), "float32", seed=4)
    model = check.model()
    model.save(tmp_path / "m.safetensors")
    loaded = bp.load(tmp_path / "m.safetensors")
    assert repr(loaded) == repr(model)
    arrays = check.arrays(model)
    assert same_bits(check.infer("inference", loaded, arrays), check.infer("inference", model, arrays))


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
