"""The store: what lies where, what stays true when it moves, and gradients' bookkeeping."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import bpnet as bp
from bpnet.random import HostStream


def model(dtype: str = "float32", backend: Any = None) -> bp.Sequential:
    return bp.Sequential(bp.Dense(3, 5), bp.ReLU(), bp.Dropout(0.1), bp.Dense(5, 70)).initialize(
        seed=1, dtype=dtype, backend=backend
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_segments_are_ordered_by_decay_then_path_and_padded_to_256_bytes(dtype: str) -> None:
    store = model(dtype).store
    item = np.dtype(dtype).itemsize
    pad = 256 // item
    assert [s.decay for s in store.segments] == [True, False]
    assert list(store.offsets) == ["0.weight", "3.weight", "0.bias", "3.bias"]
    expected = 0
    for path, parameter in (("0.weight", 15), ("3.weight", 350), ("0.bias", 5), ("3.bias", 70)):
        assert store.offsets[path] == expected
        expected += -(-parameter // pad) * pad
    assert store.size == expected == store.segments[-1].stop
    assert store.segments[0].stop == store.segments[1].start == store.offsets["0.bias"]
    for parameter_ in store.parameters.values():
        assert parameter_.value.ctypes.data % 256 == 0
        assert parameter_.grad.ctypes.data % 256 == 0


def test_values_and_gradients_are_views_of_the_flat_buffers(backend: bp.Backend) -> None:
    m = model(backend=backend)
    store, p = m.store, m.parameters()["3.bias"]
    p.value = np.arange(70.0)
    start = store.offsets["3.bias"]
    assert bp.to_numpy(store.values)[start : start + 70].tolist() == list(range(70))
    p.accumulate(backend.asarray(np.ones(70, np.float32)))
    p.accumulate(backend.asarray(np.ones(70, np.float32)))
    assert bp.to_numpy(store.grads)[start : start + 70].tolist() == [2.0] * 70
    assert store.filled
    store.consume_gradients()
    p.accumulate(backend.asarray(np.full(70, 5, np.float32)))
    assert bp.to_numpy(p.grad).tolist() == [5.0] * 70


def test_zero_grad_zeroes_and_the_next_backward_writes_afresh() -> None:
    m = model()
    m.forward(np.ones((2, 3), np.float32))
    m.backward(np.ones((2, 70), np.float32))
    assert m.parameters()["3.bias"].grad.any()
    m.zero_grad()
    assert not m.store.grads.any()
    assert not m.store.filled


def test_counters_are_the_step_and_one_micro_batch_for_every_stream() -> None:
    m = bp.Sequential(bp.Dropout(0.5), bp.Dense(3, 3), bp.Dropout(0.5)).initialize()
    assert m.store.counters.tolist() == [0, 0, 0]
    x = np.ones((2, 3), np.float32)
    for _ in range(2):
        m.forward(x)
        m.backward(x)
    assert m.store.counters.tolist() == [0, 2, 2]
    bp.SGD(0.1).step(m)
    assert m.store.counters.tolist() == [1, 0, 0]


def test_moving_between_dtypes_lays_everything_out_anew_and_keeps_the_numbers() -> None:
    m = model()
    optimizer = bp.Adam(0.1)
    for p in m.parameters().values():
        p.accumulate(np.full(p.shape, 0.5, np.float32))
    optimizer.step(m)
    before = {path: (p.value.copy(), p.grad.copy()) for path, p in m.parameters().items()}
    slots = {path: m.store.view(m.store.slots["m"], path).copy() for path in before}
    m.to(dtype="float64")
    assert m.store.counters[0] == 1
    for path, p in m.parameters().items():
        assert p.value.dtype == np.float64
        assert np.array_equal(p.value, before[path][0])
        assert np.array_equal(p.grad, before[path][1])
        assert np.array_equal(m.store.view(m.store.slots["m"], path), slots[path])
        assert p.value.ctypes.data % 256 == 0


def test_a_model_that_cannot_move_stays_where_it_is() -> None:
    m = model()
    before = m.store.values
    with pytest.raises(bp.BackendError):
        m.to("nowhere")
    with pytest.raises(bp.ConfigError, match="one of float32, float64"):
        m.to("strict", dtype="int8")
    assert m.store.values is before
    assert m.backend.name == "numpy"


def test_a_model_without_parameters_has_an_empty_store() -> None:
    m = bp.Sequential(bp.ReLU(), bp.Flatten()).initialize()
    assert m.store.size == 0
    assert m.store.segments == ()
    assert m.forward(np.ones((2, 2, 2), np.float32)).shape == (2, 4)
    m.backward(np.ones((2, 4), np.float32))
    bp.AdamW(0.1).step(m)
    assert m.store.counters[0] == 1


def test_a_parameter_outside_of_a_layer_says_so() -> None:
    with pytest.raises(bp.StateError, match="belongs to no layer"):
        bp.Parameter((2,), "zeros").value  # noqa: B018


def test_a_parameter_added_late_gets_its_place_and_the_others_keep_their_values() -> None:
    m = bp.Dense(2, 2).initialize(seed=3)
    before = m.weight.value.copy()
    m.extra = bp.Parameter((2,), "ones")  # type: ignore[attr-defined]
    assert m.extra.value.tolist() == [1, 1]  # type: ignore[attr-defined]
    assert list(m.store.parameters) == ["weight", "bias", "extra"]
    assert np.array_equal(m.weight.value, before)


def test_an_initializer_of_the_wrong_shape_is_named() -> None:
    layer = bp.Dense(2, 2, weight_initializer=lambda stream, shape: np.zeros((3, 3)))
    with pytest.raises(bp.ConfigError, match=r"initializer of 'weight' gave shape \(3, 3\), not \(2, 2\)"):
        layer.initialize()


@pytest.mark.parametrize("name", sorted(bp.initializers.INITIALIZERS))
def test_initializers_have_their_variance(name: str) -> None:
    layer = bp.Dense(300, 200, weight_initializer=name).initialize(seed=3)
    variances = {"he": 2 / 300, "glorot": 2 / 500, "lecun": 1 / 300, "orthogonal": 1 / 300, "unit": 1 / 200}
    expected = variances.get(name.split("_")[0], 0.0)
    assert float(layer.weight.value.var()) == pytest.approx(expected, rel=0.02, abs=1e-12)
    if name.endswith("uniform"):
        assert float(np.abs(layer.weight.value).max()) <= (3 * expected) ** 0.5 * (1 + 1e-6)
    assert float(layer.weight.value.mean()) == pytest.approx(1.0 if name == "ones" else 0.0, abs=2e-3)


@pytest.mark.parametrize(("n_in", "n_out"), [(4, 4), (7, 3), (3, 7), (1, 5)])
def test_orthogonal_weights_are_orthogonal(n_in: int, n_out: int) -> None:
    W = bp.Dense(n_in, n_out, weight_initializer="orthogonal").initialize(seed=2, dtype="float64").weight.value
    product = W.T @ W if n_in >= n_out else W @ W.T
    np.testing.assert_allclose(product, np.eye(min(n_in, n_out)), atol=1e-14)


def test_constant_fills_and_orthogonal_refuses_vectors() -> None:
    layer = bp.Dense(2, 3, weight_initializer=bp.initializers.constant(0.25)).initialize()
    assert np.all(layer.weight.value == 0.25)
    with pytest.raises(bp.ConfigError, match="needs a shape of two or more axes"):
        bp.initializers.orthogonal(HostStream(0, "x"), (3,))


@pytest.mark.parametrize("width", [2**31, 2**60])
def test_a_model_that_no_memory_holds_says_what_it_needs(width: int) -> None:
    model = bp.Sequential(bp.Dense(3, 4), bp.Dense(width, 2**21))
    parameters, size = 16 + (width + 1) * 2**21, 4 * (16 + (width + 1) * 2**21) / 2**30
    with pytest.raises(bp.OutOfMemoryError) as error:
        model.initialize()
    assert str(error.value).startswith(
        f"out of memory for a model of {parameters:,} parameters: their values alone are {size:,.1f} GiB of float32, "
        f"and their gradients as many; the largest is '1.weight' of shape ({width}, 2097152) ("
    )
    with pytest.raises(bp.OutOfMemoryError):
        model(np.zeros((1, 3), np.float32))
