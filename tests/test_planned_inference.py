"""A model that is called again makes prepared calls: the same bits, fresh results, nothing of the past."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import bpnet as bp

pytestmark = pytest.mark.lenient  # strict mode watches every call, so that nothing is planned


def models() -> dict[str, Any]:
    return {
        "mlp": lambda: bp.Sequential(bp.Dense(5, 7), bp.ReLU(), bp.Dropout(0.5), bp.Dense(7, 3), bp.Softmax()),
        "normalized": lambda: bp.Sequential(fitted(), bp.Dense(5, 4), bp.GELU()),
        "residual": lambda: bp.Residual(bp.Dense(5, 5), bp.Tanh()),
        "branches": lambda: bp.Sequential(bp.Concatenate(bp.Dense(5, 2), bp.Sequential(bp.Dense(5, 3), bp.SiLU()))),
        "nested": lambda: bp.Sequential(bp.Sequential(bp.Dense(5, 4), bp.Sigmoid()), bp.Residual(bp.Dense(4, 4))),
        "nothing": lambda: bp.Sequential(bp.Dropout(0.5)),
    }


def fitted() -> bp.Normalize:
    layer = bp.Normalize(5)
    layer.fit(np.arange(15.0).reshape(3, 5))
    return layer


def eager(model: Any, x: Any) -> Any:
    """What the layers' own calls make of `x`."""
    return model._in_order(x) if not isinstance(model, bp.Residual) else x + model._in_order(x)


def plans(model: Any) -> int:
    found = model._inference
    return 0 if found is None else sum(len(known.free) for known in found.shapes.values())


@pytest.mark.parametrize("name", models())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_call_gives_the_bits_of_the_layers_own_calls(name: str, dtype: str) -> None:
    model = models()[name]().initialize(seed=3, dtype=dtype)
    rng = np.random.default_rng(0)
    for n in (1, 4, 1, 4, 1, 4, 1, 4):
        x = rng.standard_normal((n, 5)).astype(dtype)
        assert model(x).tobytes() == eager(model, x).tobytes()
    assert plans(model) == (0 if name == "nothing" else 2)


def test_many_samples_go_through_in_blocks_which_give_the_same_bits_planned_or_not() -> None:
    block = bp.get_backend("numpy").block  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    for n in (block, block + 1, 3 * block, 3 * block + 5):
        model = models()["mlp"]().initialize(seed=3)
        x = rng.standard_normal((n, 5)).astype(np.float32)
        parts = [eager(model, x[i : i + block]) for i in range(0, n, block)]
        results = [model(x) for _ in range(4)]
        np.testing.assert_allclose(model(np.asfortranarray(x)), results[0], rtol=0, atol=1e-5)
        assert {result.tobytes() for result in results} == {np.concatenate(parts).tobytes()}
        assert plans(model) >= 1


def test_blocks_are_not_cut_where_the_first_axis_is_not_that_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    model = bp.Sequential(bp.Dense(5, 3)).initialize(seed=3)
    monkeypatch.setattr(model, "_in_order", lambda x: model.layers[0](x)[:7])
    x = np.random.default_rng(0).standard_normal((2000, 5)).astype(np.float32)
    np.testing.assert_array_equal(model(x), model.layers[0](x)[:7])


def test_an_input_is_read_where_it_lies_and_left_alone() -> None:
    model = models()["mlp"]().initialize(seed=3)
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((4, 5)).astype(np.float32) for _ in range(9)]
    batches[6] = np.asfortranarray(batches[6])
    batches[7].flags.writeable = False
    batches[8] = np.frombuffer(b"\0" + batches[8].tobytes(), np.float32, offset=1).reshape(4, 5)  # not aligned
    copies = [x.copy() for x in batches]
    for x, same in zip(batches, copies, strict=True):
        assert model(x).tobytes() == eager(model, same).tobytes()
        x = x.copy()
    del batches[:6]
    for x, same in zip(batches, copies[6:], strict=True):
        np.testing.assert_array_equal(x, same)
        assert model(x).tobytes() == eager(model, same).tobytes()


def test_a_result_is_nobody_elses() -> None:
    model = models()["mlp"]().initialize()
    x = np.ones((2, 5), np.float32)
    results = [model(x) for _ in range(6)]
    assert plans(model) == 1
    results[-1][...] = 7
    assert all(np.array_equal(each, results[0]) for each in results[:-1])
    assert np.array_equal(model(x), results[0])


def test_what_changes_the_model_changes_the_next_result() -> None:
    model = models()["mlp"]().initialize()
    x = np.ones((2, 5), np.float32)

    def check() -> None:
        for _ in range(4):
            assert model(x).tobytes() == eager(model, x).tobytes()

    check()
    model[0].weight.value = np.zeros((5, 7))
    check()
    model.initialize(seed=5)
    check()
    model.layers[3].bias = None
    check()
    bp.Trainer(model, bp.CategoricalCrossEntropy(), bp.SGD(0.5)).step(x, np.array([0, 1]))
    check()
    model.to(dtype="float64")
    x = x.astype(np.float64)
    check()


def test_what_cannot_be_taken_is_refused_with_the_layers_own_words() -> None:
    model = models()["mlp"]().initialize()
    x = np.ones((2, 5), np.float32)
    for _ in range(4):
        model(x)
    with pytest.raises(bp.DTypeError, match="computes in float32, got x of float64"):
        model(x.astype(np.float64))
    with pytest.raises(bp.ShapeError, match="needs x of shape"):
        model(np.ones((2, 6), np.float32))
    with pytest.raises(bp.DTypeError, match="got builtins.list|got list"):
        model([[1.0] * 5] * 2)


def test_an_input_in_another_order_of_memory_is_computed_as_ever() -> None:
    model = models()["mlp"]().initialize()
    x = np.asfortranarray(np.random.default_rng(0).standard_normal((4, 5), np.float32))
    for _ in range(4):
        model(np.ascontiguousarray(x))
    assert model(x).tobytes() == eager(model, x).tobytes()


def test_a_layer_of_ones_own_keeps_its_model_from_being_planned() -> None:
    class Odd(bp.Layer):
        calls = 0

        def __call__(self, x: Any) -> Any:
            Odd.calls += 1
            return x if Odd.calls % 2 else bp.ops.relu(x)

    model = bp.Sequential(bp.Dense(5, 4), Odd()).initialize()
    x = np.ones((2, 5), np.float32)
    for _ in range(6):
        model(x)
    assert (Odd.calls, plans(model)) == (6, 0)


def test_plans_do_not_grow_without_bound() -> None:
    from bpnet.layers import planned

    model = bp.Sequential(bp.Dense(5, 4)).initialize()
    for n in range(1, 2 * planned.MAX_PLANS):
        for _ in range(3):
            model(np.ones((n, 5), np.float32))
    assert plans(model) <= planned.MAX_PLANS
    large = np.zeros((planned.MAX_BYTES // 16, 5), np.float32)
    for _ in range(3):
        assert model(large).shape == (len(large), 4)
    assert model._inference is not None
    assert model._inference.bytes <= planned.MAX_BYTES


def test_plans_are_neither_copied_nor_pickled() -> None:
    model = models()["mlp"]().initialize()
    x = np.ones((2, 5), np.float32)
    for _ in range(4):
        expected = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other._inference is None
        assert np.array_equal(other(x), expected)


@pytest.mark.parametrize("backend", ["numpy", "strict", "strict:device1"])
def test_other_libraries_compute_as_ever(backend: str) -> None:
    model = models()["mlp"]().initialize(backend=backend)
    x = model.asarray(np.ones((2, 5)))
    first = bp.to_numpy(model(x))
    for _ in range(4):
        assert np.array_equal(bp.to_numpy(model(x)), first)


def sequences() -> tuple[Any, Any, dict[str, Any]]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 6, 7)
    mask = np.arange(5)[None, :] < lengths[:, None]
    model = bp.Sequential(bp.TransformerBlock(4, 2, n_hidden=6), bp.GRU(4, 3, last=True), bp.Dense(3, 2))
    return (
        model.initialize(seed=1),
        rng.standard_normal((7, 5, 4)).astype("float32"),
        {"lengths": lengths, "mask": mask},
    )


@pytest.mark.parametrize("names", [("lengths",), ("mask",), ("lengths", "mask")])
def test_calls_with_side_inputs_are_planned_and_give_the_bits_of_the_layers_own_calls(names: tuple[str, ...]) -> None:
    model, x, side = sequences()
    rng = np.random.default_rng(1)
    for _ in range(6):
        x = rng.standard_normal(x.shape).astype("float32")
        order = rng.permutation(len(x))
        given = {name: np.ascontiguousarray(side[name][order]) for name in names}
        assert model(x, **given).tobytes() == model._in_order(x, **given).tobytes()
    assert plans(model) == 1
    assert model(x).tobytes() == model._in_order(x).tobytes()


def test_a_plan_with_side_inputs_reads_those_of_the_call() -> None:
    model, x, side = sequences()
    for _ in range(4):
        model(x, lengths=side["lengths"])
    assert plans(model) == 1
    short, long = (model(x, lengths=np.full(7, n)) for n in (1, 5))
    assert short.tobytes() == model._in_order(x, lengths=np.full(7, 1)).tobytes()
    assert long.tobytes() != short.tobytes()
    swapped = {name: side[name] for name in ("mask", "lengths")}
    np.testing.assert_array_equal(model(x, **swapped), model(x, **side))


def test_lists_strided_arrays_and_inputs_that_are_none_give_the_bits_of_the_layers_own_calls() -> None:
    model, x, side = sequences()
    lengths, mask = side["lengths"], side["mask"]
    given: list[dict[str, Any]] = [
        {"lengths": lengths.tolist(), "mask": mask},
        {"lengths": np.repeat(lengths, 2)[::2], "mask": np.asfortranarray(mask)},
        {"lengths": lengths, "mask": None},
    ]
    for _ in range(4):
        for each in given:
            np.testing.assert_array_equal(model(x, **each), model._in_order(x, **each))
    assert plans(model) == 1  # of the last one


def test_a_prediction_of_many_samples_with_lengths_is_planned() -> None:
    model, x, side = sequences()
    many, lengths = np.tile(x, (40, 1, 1)), np.tile(side["lengths"], 40)
    found = bp.predict(model, many, batch_size=20, side={"lengths": lengths})
    assert plans(model) == 1
    np.testing.assert_allclose(found, model._in_order(many, lengths=lengths), rtol=1e-5, atol=1e-6)
