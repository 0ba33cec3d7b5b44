"""What users do that nobody planned for: arrays of no numbers, models in themselves, fits in fits, paths of no file."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bpnet as bp


def make(loss: bp.Loss | None = None, **settings: Any) -> bp.Trainer:
    model = bp.Sequential(bp.Dense(4, 6), bp.ReLU(), bp.Dense(6, 3))
    return bp.Trainer(model, loss or bp.SoftmaxCrossEntropy(), bp.Adam(1e-2), seed=0, backend="numpy", **settings)


def batch(n: int = 8) -> tuple[Any, Any]:
    rng = np.random.default_rng(n)
    return rng.normal(size=(n, 4)).astype("float32"), rng.integers(0, 3, n)


def state(trainer: bp.Trainer) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in trainer.model.store.arrays().items()}


NO_NUMBERS: dict[str, tuple[Any, str]] = {
    "complex": (np.ones((2, 4), complex), "must hold numbers, got dtype complex128"),
    "structured": (np.zeros((2, 4), [("a", "f4")]), r"must hold numbers, got dtype \[\('a', '<f4'\)\]"),
    "dates": (np.zeros((2, 4), "datetime64[s]"), r"must hold numbers, got dtype datetime64\[s\]"),
    "texts": ([["1", "2", "3", "4"]] * 2, "must hold numbers, got dtype <U1"),
    "ragged": ([[1.0], [1.0, 2.0]], "is no rectangular array"),
    "nothing": (None, "must hold numbers, got NoneType"),
    "a dict": ({"x": [1.0]}, "must hold numbers, got dict"),
    "objects": (
        np.ones((2, 4), object),
        r"must hold numbers, got dtype object; if numbers are all that it holds, np.asarray\(",
    ),
    "masked": (np.ma.masked_greater(np.ones((2, 4)), 0), "is a masked array; fill its gaps first"),
}


@pytest.mark.parametrize("what", NO_NUMBERS)
def test_what_holds_no_numbers_is_not_brought_over_as_if_it_did(what: str, backend: bp.Backend) -> None:
    given, message = NO_NUMBERS[what]
    model = bp.Dense(4, 2).initialize(seed=0, backend=backend)
    before = np.array(backend.to_numpy(model.weight.value))
    for dtype in (None, "float32"):
        with pytest.raises(bp.DTypeError, match=f"^x {message}"):
            model.asarray(given, dtype=dtype)
    with pytest.raises(bp.DTypeError, match=f"^the value of the parameter 'weight' {message}"):
        model.weight.value = given
    assert np.array_equal(backend.to_numpy(model.weight.value), before)


def test_numbers_of_any_kind_are_brought_over(backend: bp.Backend) -> None:
    model = bp.Dense(1, 1).initialize(backend=backend)
    for given in ([[2]], ((2.0,),), np.float16([[2]]), np.array([[2]], ">f8"), np.array([[2]], "uint8")):
        assert backend.to_numpy(model.asarray(given, dtype="float32")).tolist() == [[2.0]]
        model.weight.value = given
        assert backend.to_numpy(model.weight.value).tolist() == [[2.0]]
    assert model.asarray(np.float64(2)).shape == ()


def test_a_layer_refuses_kinds_of_arrays_that_compute_otherwise() -> None:
    model = bp.Dense(2, 2).initialize(backend="numpy")
    x = np.ones((2, 2), "float32")
    with pytest.raises(bp.DTypeError, match="x is a masked array; fill its gaps first"):
        model(np.ma.masked_greater(x, 3))
    matrix = x.view(np.matrix)
    for call in (model, model.forward):
        with pytest.raises(bp.DTypeError, match=r"got a numpy.matrix, whose \* is no product of elements; use np.asar"):
            call(matrix)


# --- what stands in what ---


def into_itself() -> None:
    layer = bp.Dense(2, 2)
    layer.me = layer


def into_a_list_of_its_own() -> None:
    layer = bp.Dense(2, 2)
    layer.others = [bp.ReLU(), layer]


def the_model_in_its_layer() -> None:
    layer = bp.Dense(2, 2)
    layer.model = bp.Sequential(bp.Residual(layer))


@pytest.mark.parametrize("mistake", [into_itself, into_a_list_of_its_own, the_model_in_its_layer])
def test_a_layer_that_would_contain_itself_is_refused(mistake: Callable[[], None]) -> None:
    with pytest.raises(bp.ConfigError, match="it is the layer itself, or contains it, and layers form a tree"):
        mistake()


def test_a_refused_attribute_leaves_the_model_usable() -> None:
    layer = bp.Dense(2, 2)
    model = bp.Sequential(layer, bp.ReLU())
    with pytest.raises(bp.ConfigError, match="Dense.model cannot be this Sequential"):
        layer.model = model
    assert not hasattr(layer, "model")
    layer.model = weakref.ref(model)  # the way back that the message names
    assert model(np.ones((3, 2), "float32")).shape == (3, 2)
    assert list(model.parameters()) == ["0.weight", "0.bias"]


def test_a_layer_may_leave_its_model_and_hold_it() -> None:
    head = bp.Dense(2, 2)
    body = bp.Sequential(head, bp.ReLU())
    body.layers = (bp.Dense(2, 2), bp.ReLU())
    head.body = body
    assert head.root is head
    assert body.root is head
    assert sorted(head.parameters()) == ["bias", "body.0.bias", "body.0.weight", "weight"]


# --- steps ---

LOSSES = [
    bp.SoftmaxCrossEntropy(),
    bp.SoftmaxCrossEntropy(class_weight=[1.0, 2.0, 0.5]),
    bp.SoftmaxCrossEntropy(ignore_index=-1),
]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("micro_batch_size", [None, 4])
@pytest.mark.parametrize("shape", [(7,), (16,), (8, 1), ()])
def test_weights_of_other_samples_are_refused_and_nothing_is_changed(
    loss: bp.Loss, micro_batch_size: int | None, shape: tuple[int, ...]
) -> None:
    trainer = make(loss)
    trainer.step(*batch())
    before = state(trainer)
    said = rf"sample_weight must have shape \(8,\), one weight a sample of x, got \({', '.join(map(str, shape))}"
    with pytest.raises(bp.ShapeError, match=said):
        trainer.step(*batch(), sample_weight=np.ones(shape), micro_batch_size=micro_batch_size)
    after = state(trainer)
    assert {name for name in after if after[name] != before[name]} <= {"grads"}


@pytest.mark.parametrize("n", [7, 9, 16])
def test_micro_batches_do_not_hide_that_there_are_more_targets_than_samples(n: int) -> None:
    trainer = make()
    with pytest.raises(bp.ShapeError, match=f"^x holds 8 samples and y {n}; they must be as many"):
        trainer.step(batch()[0], batch(n)[1], micro_batch_size=4)
    assert trainer.model.store.steps_taken == 0


def test_micro_batches_do_not_hide_that_a_side_input_is_longer() -> None:
    model = bp.Sequential(bp.GRU(2, 3, last=True), bp.Dense(3, 1))
    trainer = bp.Trainer(model, bp.MeanSquaredError(), bp.SGD(0.1), backend="numpy")
    x, y = np.ones((4, 5, 2)), np.ones((4, 1))
    with pytest.raises(bp.ShapeError, match="^x holds 4 samples and lengths 6; they must be as many"):
        trainer.step(x, y, side={"lengths": [5, 4, 3, 2, 1, 1]}, micro_batch_size=2)


@pytest.mark.parametrize("plan", [True, False])
def test_a_trainer_saved_after_a_step_that_changed_nothing_is_restored(plan: bool, tmp_path: Path) -> None:
    trainer, path = make(plan=plan), tmp_path / "trainer.safetensors"
    for _ in range(4):
        trainer.step(*batch())
    broken = np.full((8, 4), np.nan)
    assert np.isnan(trainer.step(broken, batch()[1]))
    trainer.save(path)
    again = make(plan=plan)
    again.restore(path)
    for each in (trainer, again):
        each.step(*batch(5))
    assert state(again)["values"] == state(trainer)["values"]
    assert again.model.store.steps_taken == 5


# --- fits ---


def test_a_fit_within_a_fit_is_refused_and_the_outer_one_goes_on() -> None:
    said: list[str] = []

    def again(trainer: bp.Trainer) -> None:
        with pytest.raises(bp.StateError, match="a fit of this Trainer is running already") as refused:
            trainer.fit(*batch(), epochs=1, progress=False)
        said.append(str(refused.value))

    plain, nested = make(), make()
    expected = plain.fit(*batch(20), epochs=2, batch_size=8, progress=False)
    found = nested.fit(*batch(20), epochs=2, batch_size=8, progress=False, callbacks=[bp.callbacks.EveryStep(again)])
    assert len(said) == 6
    assert found["loss"] == expected["loss"]
    assert state(nested) == state(plain)


def test_after_a_fit_that_fails_the_next_one_runs() -> None:
    def fail(trainer: bp.Trainer) -> None:
        raise RuntimeError("a callback of one's own")

    trainer = make()
    with pytest.raises(RuntimeError, match="of one's own"):
        trainer.fit(*batch(), epochs=1, progress=False, callbacks=[bp.callbacks.EveryStep(fail)])
    assert len(trainer.fit(*batch(), epochs=1, progress=False)) == 1


def test_a_copy_made_within_a_fit_can_be_fitted() -> None:
    lengths: list[int] = []

    def copied(trainer: bp.Trainer) -> None:
        lengths.append(len(copy.deepcopy(trainer).fit(*batch(), epochs=2, progress=False)))

    make().fit(*batch(), epochs=1, progress=False, callbacks=[bp.callbacks.EveryStep(copied)])
    assert lengths == [2]


# --- files ---


@pytest.mark.parametrize("path", [None, 0, 3.5, ["model"]])
def test_a_path_that_is_none_is_refused_by_all_that_write_and_read(path: Any) -> None:
    trainer = make()
    for write in (trainer.model.save, trainer.save):
        with pytest.raises(bp.CheckpointError, match="cannot write to a file: its path must be a text or a pathlib.P"):
            write(path)
    for read in (bp.load, trainer.restore, bp.load_bundle):
        with pytest.raises(bp.CheckpointError, match="cannot read a file: its path must be a text or a pathlib.Path"):
            read(path)


def test_paths_in_bytes_are_paths_and_a_zero_byte_is_in_none(tmp_path: Path) -> None:
    model = bp.Dense(2, 2).initialize(seed=0, backend="numpy")
    path = bytes(tmp_path / "model.safetensors")
    model.save(path)
    assert np.array_equal(bp.load(path).weight.value, model.weight.value)
    with pytest.raises(bp.CheckpointError, match="cannot write to 'a.*b': name a file"):
        model.save("a\0b")
    with pytest.raises(bp.CheckpointError, match="cannot read 'a.*b': name a file"):
        bp.load("a\0b")


def test_info_that_contains_itself_is_refused(tmp_path: Path) -> None:
    info: list[Any] = []
    info.append(info)
    with pytest.raises(bp.ConfigError, match="the info given to save must be JSON values"):
        bp.Dense(2, 2).save(tmp_path / "model.safetensors", notes=info)
    assert not list(tmp_path.iterdir())


def test_a_number_that_no_float_can_hold_is_no_setting() -> None:
    with pytest.raises(bp.ConfigError, match="learning_rate must be a number that a float can hold"):
        bp.SGD(10**400)
