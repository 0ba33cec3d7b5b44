"""Fitting in earnest: micro-batches, callbacks, weights, and what ends a fit."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bpnet as bp
from bpnet.trace import Trace

RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(23, 5)), RNG.integers(0, 3, 23)


def model() -> bp.Sequential:
    return bp.Sequential(bp.Dense(5, 7), bp.Tanh(), bp.Dense(7, 3))


def trainer(backend: Any = None, dtype: str = "float64", **more: Any) -> bp.Trainer:
    made = model().initialize(seed=4, backend=backend, dtype=dtype)
    return bp.Trainer(made, bp.SoftmaxCrossEntropy(), bp.SGD(0.1), metrics=[bp.Accuracy()], **more)


@pytest.mark.parametrize("size", [1, 2, 7, 22, 23, 24, 1000])
def test_micro_batches_of_uneven_parts_give_the_whole_batchs_step(size: int, backend: bp.Backend) -> None:
    whole, parts = trainer(backend), trainer(backend)
    for _ in range(4):  # recorded, recorded, proved, replayed
        a = float(bp.to_numpy(whole.step(X, Y)))
        b = float(bp.to_numpy(parts.step(X, Y, micro_batch_size=size)))
        assert b == pytest.approx(a, abs=1e-12)
        for name in ("values", "grads"):
            one, other = (bp.to_numpy(getattr(t.model.store, name)) for t in (whole, parts))
            np.testing.assert_allclose(other, one, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [3, 8])
def test_micro_batches_in_a_fit_give_the_same_history(size: int, backend: bp.Backend) -> None:
    whole, parts = trainer(backend), trainer(backend)
    data = {"validation_data": (X, Y), "epochs": 4, "batch_size": 10, "progress": False}
    a, b = whole.fit(X, Y, **data), parts.fit(X, Y, micro_batch_size=size, **data)
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        np.testing.assert_allclose(b[name], a[name], atol=1e-12)


def test_a_step_in_micro_batches_is_planned_and_equals_the_eager_one_to_the_bit() -> None:
    made = [bp.Sequential(bp.Dense(5, 7), bp.ReLU(), bp.Dropout(0.4), bp.Dense(7, 3)).initialize(0) for _ in range(2)]
    planned, eager = (
        bp.Trainer(each, bp.SoftmaxCrossEntropy(), bp.Adam(0.01), plan=plan)
        for each, plan in zip(made, (True, False), strict=True)
    )
    for _ in range(8):
        assert planned.step(X, Y, micro_batch_size=9).tobytes() == eager.step(X, Y, micro_batch_size=9).tobytes()
    assert planned.model.store.values.tobytes() == eager.model.store.values.tobytes()
    assert "step, 9 at a time for x (23, 5), y (23,): planned" in planned.plan_report()


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "8"])
def test_a_bad_micro_batch_size_is_refused(size: Any) -> None:
    for call in (lambda t: t.step(X, Y, micro_batch_size=size), lambda t: t.fit(X, Y, micro_batch_size=size)):
        with pytest.raises(bp.ConfigError, match="micro_batch_size must be an integer of at least 1"):
            call(trainer())


class Notes(bp.callbacks.Callback):
    """Writes down what it is told."""

    def __init__(self, notes: list[Any], stop_at: Any = None) -> None:
        self.notes, self.stop_at = notes, stop_at

    def on_fit_start(self, trainer: bp.Trainer, names: tuple[str, ...]) -> None:
        self.notes.append(("start", names))

    def on_step_end(self, trainer: bp.Trainer) -> None:
        self.notes.append("step")
        if self.stop_at == ("step", self.notes.count("step")):
            trainer.stop("enough steps")

    def on_epoch_end(self, trainer: bp.Trainer, row: dict[str, Any]) -> None:
        self.notes.append(("epoch", trainer.epoch, tuple(row)))
        if self.stop_at == ("epoch", trainer.epoch):
            trainer.stop("enough epochs")

    def on_fit_end(self, trainer: bp.Trainer, history: bp.History) -> None:
        self.notes.append(("end", len(history), history.stopped))


NAMES = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")


def test_callbacks_are_told_of_the_start_every_step_and_epoch_and_the_end() -> None:
    notes: list[Any] = []
    trainer().fit(X, Y, validation_data=(X, Y), epochs=2, batch_size=12, progress=False, callbacks=[Notes(notes)])
    epochs = [("epoch", n, NAMES) for n in (1, 2)]
    assert notes == [("start", NAMES), "step", "step", epochs[0], "step", "step", epochs[1], ("end", 2, "")]


@pytest.mark.parametrize(
    ("stop_at", "rows", "epoch", "reason"),
    [(("epoch", 3), 3, 3, "enough epochs"), (("step", 3), 1, 1, "enough steps"), (("step", 4), 2, 2, "enough steps")],
)
def test_a_callback_may_end_the_fit(stop_at: Any, rows: int, epoch: int, reason: str) -> None:
    each, notes = trainer(), []
    history = each.fit(X, Y, epochs=9, batch_size=12, progress=False, callbacks=[Notes(notes, stop_at)])
    assert (len(history), each.epoch, history.stopped, history.interrupted) == (rows, epoch, reason, False)
    assert notes[-1] == ("end", rows, reason)
    assert len(each.fit(X, Y, epochs=2, batch_size=12, progress=False)) == 2  # the wish is not kept for the next fit


def test_callbacks_are_told_of_the_end_when_a_fit_fails() -> None:
    notes: list[Any] = []

    class Fails(bp.callbacks.Callback):
        def on_epoch_end(self, trainer: bp.Trainer, row: dict[str, Any]) -> None:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        trainer().fit(X, Y, progress=False, callbacks=[Notes(notes), Fails()])
    assert notes[-1] == ("end", 1, "")


def test_a_callback_that_refuses_keeps_the_fit_from_starting() -> None:
    notes: list[Any] = []

    class Refuses(Notes):
        def on_fit_start(self, trainer: bp.Trainer, names: tuple[str, ...]) -> None:
            raise bp.ConfigError("not so")

    each = trainer()
    before = each.model.store.values.tobytes()
    with pytest.raises(bp.ConfigError, match="not so"):
        each.fit(X, Y, progress=False, callbacks=[Notes(notes), Refuses(notes)])
    assert [note[0] for note in notes] == ["start", "end"]
    assert each.model.store.values.tobytes() == before


@pytest.mark.parametrize("callbacks", [Notes([]), [Notes], ["early"], None])
def test_callbacks_must_be_a_list_of_callbacks(callbacks: Any) -> None:
    with pytest.raises(bp.ConfigError, match="callbacks must be a list of Callbacks"):
        trainer().fit(X, Y, callbacks=callbacks, progress=False)


def test_a_memory_map_is_read_ahead_by_a_thread_and_trains_as_an_array_does(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    mapped, names = bp.data.memmap(tmp_path / "x.npy"), set()
    spy = bp.callbacks.EveryStep(lambda trainer: names.update(thread.name for thread in threading.enumerate()))
    one, other = trainer(), trainer()
    a = one.fit(X, Y, epochs=3, batch_size=4, progress=False)
    b = other.fit(mapped, Y, epochs=3, batch_size=4, progress=False, callbacks=[spy])
    assert a["loss"] == b["loss"]
    assert one.model.store.values.tobytes() == other.model.store.values.tobytes()
    assert one.evaluate(X, Y) == other.evaluate(mapped, Y)
    assert "bpnet prefetch" in names
    assert not any(thread.name == "bpnet prefetch" for thread in threading.enumerate())


def test_the_thread_of_a_memory_map_ends_with_a_fit_that_fails(tmp_path: Path) -> None:
    broken = X.copy()
    broken[20] = np.nan
    np.save(tmp_path / "x.npy", broken)
    each = trainer()
    with pytest.raises(bp.DataError, match="x holds 5 NaN"):
        each.fit(bp.data.memmap(tmp_path / "x.npy"), Y, epochs=3, batch_size=4, progress=False)
    assert not any(thread.name == "bpnet prefetch" for thread in threading.enumerate())


def test_metrics_are_counted_after_fits_whose_sums_have_other_shapes() -> None:
    rng = np.random.default_rng(0)
    made = bp.Sequential(bp.Dense(3, 2)).initialize(seed=1)
    each = bp.Trainer(made, bp.MeanSquaredError(), bp.SGD(1e-30), metrics=[bp.metrics.R2()])  # an output a place
    for length in (5, 7, 5, 7):
        x, y = rng.normal(size=(20, length, 3)), rng.normal(size=(20, length, 2))
        history = each.fit(x, y, epochs=4, batch_size=20, progress=False)
        assert history["r2"] == pytest.approx([each.evaluate(x, y)["r2"]] * 4)


def test_steps_stay_planned_over_epochs_with_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    from bpnet import planner

    recorded: list[Any] = []
    noting = staticmethod(lambda *given: recorded.append(given) or Trace(*given))
    monkeypatch.setattr(planner.Planner, "trace_class", noting)
    each = trainer()
    for _ in range(2):
        each.fit(X, Y, validation_data=(X, Y), epochs=5, batch_size=5, progress=False)
    assert len(recorded) == 4  # the whole batch and the last, twice each


def test_a_copy_goes_on_with_the_parameters_and_a_new_optimizer() -> None:
    each = trainer()
    each.fit(X, Y, epochs=2, progress=False)
    for other in (copy.deepcopy(each), pickle.loads(pickle.dumps(each))):
        np.testing.assert_array_equal(other.model.store.values, each.model.store.values)
        assert (other.epoch, other.model.store.steps_taken, each.model.store.steps_taken) == (2, 0, 2)


def test_a_fit_that_an_exception_ends_leaves_a_model_that_other_loops_can_train() -> None:
    each = trainer()

    def spoil(told: bp.Trainer) -> None:
        assert told.model.store.ok, "the step before was skipped"
        told.model.store.values[...] = np.nan

    with pytest.raises(AssertionError, match="the step before was skipped"):
        each.fit(X, Y, epochs=2, batch_size=5, progress=False, callbacks=[bp.callbacks.EveryStep(spoil)])
    assert each.model.store.ok
