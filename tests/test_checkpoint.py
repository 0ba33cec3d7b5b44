"""Checkpoints: a fit that was killed and resumed ends with the same bits, and what is damaged is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_mutations import mutations
from hypothesis import given, settings
from hypothesis import strategies as st

import bpnet as bp
from bpnet import callbacks, files
from bpnet.callbacks import CSVLogger, EarlyStopping, EveryEpoch, EveryStep, JSONLogger, ReduceOnPlateau, TensorBoard
from bpnet.checkpoint import newest, steps
from bpnet.progress import Bar
from bpnet.snapshot import Snapshot

RNG = np.random.default_rng(11)
X, Y = RNG.normal(size=(53, 5)), RNG.integers(0, 3, 53)
WEIGHT = RNG.uniform(0.5, 2.0, 43)
VALIDATION = (X[43:], Y[43:])
EPOCHS, STEPS = 5, 6  # 43 samples in batches of 8: the last has 3


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


class Kill(bp.Callback):
    """Ends the process, as it were, after so many steps."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.done = 0

    def on_step_end(self, trainer: bp.Trainer) -> None:
        self.done += 1
        if self.done == self.after:
            raise Killed


OPTIMIZERS: dict[str, Callable[[], bp.Optimizer]] = {
    "SGD": lambda: bp.SGD(0.1),
    "momentum": lambda: bp.SGD(0.1, momentum=0.9, weight_decay=1e-3),
    "Nesterov": lambda: bp.SGD(bp.StepDecay(0.1, every=7, factor=0.5), momentum=0.9, nesterov=True),
    "Adam": lambda: bp.Adam(0.01, clip_norm=1.0),
    "AMSGrad": lambda: bp.Adam(bp.Cosine(0.01, 30, warmup=4), amsgrad=True),
    "AdamW": lambda: bp.AdamW(0.01, average=0.9, groups=[bp.Group("0.*", learning_rate_scale=0.5)]),
    "RMSprop": lambda: bp.RMSprop(0.01, average=0.8),
    "Adagrad": lambda: bp.Adagrad(bp.OneCycle(0.05, 30), clip_value=0.5),
    "Lion": lambda: bp.Lion(lambda step: 0.003 / (1 + 0.1 * step)),
}


def made(name: str = "AdamW", backend: str | None = None, seed: int = 3, **more: Any) -> bp.Trainer:
    model = bp.Sequential(bp.Dense(5, 8), bp.ReLU(), bp.Dropout(0.3), bp.Residual(bp.Dense(8, 8)), bp.Dense(8, 3))
    metrics = [bp.Accuracy(), bp.ConfusionMatrix()]
    optimizer = OPTIMIZERS[name]()
    return bp.Trainer(model, bp.SoftmaxCrossEntropy(), optimizer, metrics=metrics, seed=seed, backend=backend, **more)


def fit(trainer: bp.Trainer, *called: bp.Callback, **more: Any) -> bp.History:
    told: dict[str, Any] = {"epochs": EPOCHS, "batch_size": 8, "validation_data": VALIDATION, "progress": False}
    return trainer.fit(X[:43], Y[:43], callbacks=list(called), **(told | more))


def bits(trainer: bp.Trainer) -> dict[str, bytes]:
    """Every byte of the store, and of the epoch's sums."""
    assert trainer.totals is not None
    arrays = trainer.model.store.arrays() | trainer.totals.arrays()
    return {name: bp.to_numpy(array).tobytes() for name, array in arrays.items()}


def numbers(history: bp.History) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history.rows]


def killed(trainer: bp.Trainer, after: int, *called: bp.Callback, **more: Any) -> None:
    with pytest.raises(Killed):
        fit(trainer, *called, Kill(after), **more)


def same_after_a_kill(
    folder: Path, make: Callable[[], bp.Trainer], after: int, every: int = 4, called: Any = tuple, **more: Any
) -> tuple[bp.History, bp.History]:
    """Hold a fit that was killed and resumed to one that was not; return their histories."""
    whole = make()
    history = fit(whole, *called(), **more)
    checkpoint = bp.Checkpoint(folder, every_steps=every)
    killed(make(), after, *called(), checkpoint=checkpoint, **more)
    resumed = make()
    again = fit(resumed, *called(), checkpoint=checkpoint, resume=True, **more)
    assert bits(resumed) == bits(whole)
    assert numbers(again) == numbers(history)
    assert (again.stopped, resumed.epoch) == (history.stopped, whole.epoch)
    assert resumed.optimizer.learning_rate == whole.optimizer.learning_rate
    return history, again


# --- the same bits ---


@pytest.mark.parametrize("after", [5, 12, 17, 29])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_killed_and_resumed_fit_ends_with_the_same_bits(name: str, after: int, tmp_path: Path) -> None:
    same_after_a_kill(tmp_path / "run", lambda: made(name), after)


@pytest.mark.parametrize("plan", [True, False], ids=["planned", "eager"])
@pytest.mark.parametrize(
    "more",
    [
        {"micro_batch_size": 3},
        {"shuffle": False},
        {"sample_weight": WEIGHT},
        {"validation_data": None},
        {"batch_size": 43},
    ],
    ids=str,
)
def test_so_does_every_kind_of_fit(more: dict[str, Any], plan: bool, tmp_path: Path) -> None:
    after = 3 if "batch_size" in more else 15
    same_after_a_kill(tmp_path / "run", lambda: made(plan=plan), after, every=2, **more)


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(sorted(OPTIMIZERS)),
    after=st.integers(1, EPOCHS * STEPS - 1),
    every=st.integers(1, 13),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_wherever_it_is_killed_and_however_often_it_saves(
    name: str, after: int, every: int, dtype: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def make() -> bp.Trainer:
        trainer = made(name)
        trainer.model.to(dtype=dtype)
        return trainer

    same_after_a_kill(tmp_path_factory.mktemp("run") / "run", make, after, every=every)


def test_a_fit_that_is_killed_again_and_again_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = made()
    fit(whole)
    checkpoint = bp.Checkpoint(tmp_path, every_steps=1, every_epochs=None, keep=1)
    for _ in range(9):
        killed(made(), 3, checkpoint=checkpoint, resume=True)
    resumed = made()
    fit(resumed, checkpoint=checkpoint, resume=True)
    assert bits(resumed) == bits(whole)


def stopping() -> list[bp.Callback]:
    return [EarlyStopping("val_loss", patience=2)]


def plateau() -> list[bp.Callback]:
    return [ReduceOnPlateau("val_loss", patience=0, factor=0.5, cooldown=1, threshold=0.1)]


@pytest.mark.parametrize("after", [4, 12, 13, 17])
@pytest.mark.parametrize(("called", "name"), [(stopping, "AdamW"), (stopping, "Adam"), (plateau, "SGD")])
def test_callbacks_that_remember_go_on(called: Any, name: str, after: int, tmp_path: Path) -> None:
    def make() -> bp.Trainer:
        trainer = made(name)
        trainer.optimizer.learning_rate = 0.3  # too much, so that the validation loss rises
        return trainer

    history, _ = same_after_a_kill(tmp_path / "run", make, after, called=called, epochs=15)
    if called is plateau:
        assert history.rows[-1]["learning_rate"] < 0.3
    else:
        assert history.stopped


def test_a_fit_that_early_stopping_has_ended_stays_ended(tmp_path: Path) -> None:
    first = made("Adam")
    first.optimizer.learning_rate = 0.3
    history = fit(first, *stopping(), checkpoint=tmp_path, epochs=30)
    assert history.stopped
    assert len(history) < 30
    second = made("Adam")
    second.optimizer.learning_rate = 0.3
    again = fit(second, *stopping(), resume=tmp_path, epochs=30)
    assert numbers(again) == numbers(history)
    assert again.stopped == history.stopped
    assert weights(second) == weights(first)


def test_a_time_limit_ends_only_the_fit_that_it_was_given_to(tmp_path: Path) -> None:
    whole, first, second = made(), made(), made()
    fit(whole)
    history = fit(first, callbacks.TimeLimit(0), checkpoint=tmp_path)
    assert (len(history), first.model.store.steps_taken) == (0, 1)
    assert len(fit(second, resume=tmp_path)) == EPOCHS
    assert bits(second) == bits(whole)


def test_what_callbacks_have_changed_is_changed_again(tmp_path: Path) -> None:
    def change(trainer: bp.Trainer, row: dict[str, Any]) -> None:
        model: Any = trainer.model
        if trainer.epoch == 2:
            model[2].rate = 0.1
            model[0].freeze()
            model[4].weight.l2 = 0.01
            trainer.optimizer.clip_norm = 0.7

    def called() -> list[bp.Callback]:
        return [EveryEpoch(change)]

    same_after_a_kill(tmp_path / "run", made, 20, called=called)


def test_callbacks_of_ones_own_keep_numbers_and_arrays(tmp_path: Path) -> None:
    class Mean(bp.Callback):
        """The mean of the first layer's weights over the epochs."""

        def on_fit_start(self, trainer: bp.Trainer, names: tuple[str, ...]) -> None:
            self.n, self.total = 0, np.zeros((5, 8))

        def on_epoch_end(self, trainer: bp.Trainer, row: dict[str, Any]) -> None:
            self.n += 1
            self.total = self.total + bp.to_numpy(trainer.model.parameters()["0.weight"].value)

        def state(self) -> dict[str, Any]:
            return {"n": self.n, "more": {"total": self.total}}

        def restore(self, trainer: bp.Trainer, state: dict[str, Any]) -> None:
            self.n, self.total = state["n"], state["more"]["total"]

    whole, broken, resumed = Mean(), Mean(), Mean()
    fit(made(), whole)
    killed(made(), 20, broken, checkpoint=tmp_path)
    fit(made(), resumed, resume=tmp_path)
    assert (resumed.n, resumed.total.tobytes()) == (whole.n, whole.total.tobytes())


def test_every_step_callbacks_count_on(tmp_path: Path) -> None:
    def told(*, into: list[int]) -> EveryStep:
        return EveryStep(lambda trainer: into.append(trainer.model.store.steps_taken), n=7)

    whole: list[int] = []
    parts: list[int] = []
    fit(made(), told(into=whole))
    killed(made(), 17, told(into=parts), checkpoint=bp.Checkpoint(tmp_path, every_steps=8))
    fit(made(), told(into=parts), resume=tmp_path)
    assert parts == whole == [7, 14, 21, 28]


@pytest.mark.parametrize("kind", [CSVLogger, JSONLogger])
@pytest.mark.parametrize("append", [False, True])
def test_a_log_has_every_epoch_once(kind: Any, append: bool, tmp_path: Path) -> None:
    def lines(path: Path) -> list[str]:
        return [line.rpartition("seconds")[0] or line.rpartition(",")[0] for line in path.read_text().splitlines()]

    for name in ("whole", "parts"):
        if append:
            fit(made(), kind(tmp_path / name), epochs=1)
    fit(made(), kind(tmp_path / "whole", append=append))
    checkpoint = bp.Checkpoint(tmp_path / "run", every_epochs=2)  # epoch 3 is logged, and made again
    killed(made(), 20, kind(tmp_path / "parts", append=append), checkpoint=checkpoint)
    fit(made(), kind(tmp_path / "parts", append=append), resume=tmp_path / "run")
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    assert len(lines(tmp_path / "parts")) == EPOCHS + append + (kind is CSVLogger)


def test_a_log_that_was_cut_is_refused_and_another_one_is_begun(tmp_path: Path) -> None:
    log, run = tmp_path / "log.csv", tmp_path / "run"
    killed(made(), 20, CSVLogger(log), checkpoint=run)
    size = log.stat().st_size
    log.write_text("epoch,")
    trainer = made()
    before = bits_of_store(trainer)
    with pytest.raises(bp.CheckpointError) as caught:
        fit(trainer, CSVLogger(log), resume=run)
    assert str(caught.value) == (
        f"{str(log)!r} had {size} bytes when the checkpoint was made, and has 6 now; bring the file back, or write to "
        "another one"
    )
    assert bits_of_store(trainer) == before
    fit(made(), CSVLogger(tmp_path / "other.csv"), resume=run)
    assert len((tmp_path / "other.csv").read_text().splitlines()) == 1 + 2


def test_event_files_of_before_lose_what_is_made_again(tmp_path: Path) -> None:
    run, board = tmp_path / "run", tmp_path / "board"
    killed(made(), 20, TensorBoard(board), checkpoint=bp.Checkpoint(run, every_epochs=2))
    (before,) = (board / "training").iterdir()
    size = before.stat().st_size
    fit(made(), TensorBoard(board), resume=run)
    assert before.stat().st_size < size  # epoch 3 is gone from it
    assert len(list((board / "training").iterdir())) == 2
    one, _ = sorted(len(each.read_bytes()) for each in (board / "training").iterdir())
    assert one > 40


def weights(trainer: bp.Trainer) -> dict[str, bytes]:
    """The bits of the store but for the gradients, which a checkpoint has only while they are being accumulated."""
    return {name: each for name, each in bits_of_store(trainer).items() if name != "grads"}


def bits_of_store(trainer: bp.Trainer) -> dict[str, bytes]:
    return {name: bp.to_numpy(array).tobytes() for name, array in trainer.model.store.arrays().items()}


def test_a_second_fit_of_a_trainer_is_resumed_in_a_new_one(tmp_path: Path) -> None:
    whole, broken, resumed = made(), made(), made()
    for trainer in (whole, broken):
        fit(trainer, epochs=2)
    fit(whole)
    killed(broken, 16, checkpoint=tmp_path)
    history = fit(resumed, resume=tmp_path)
    assert bits(resumed) == bits(whole)
    assert history["epoch"] == [3.0, 4.0, 5.0, 6.0, 7.0]


def test_a_trainer_that_has_trained_on_goes_back(tmp_path: Path) -> None:
    whole, trainer = made(), made()
    fit(whole)
    killed(trainer, 20, checkpoint=tmp_path)  # two steps beyond the checkpoint
    fit(trainer, resume=tmp_path)
    assert bits(trainer) == bits(whole)


def test_a_resumed_fit_may_be_longer(tmp_path: Path) -> None:
    whole, first, second = made(), made(), made()
    fit(whole, epochs=7)
    fit(first, epochs=3, checkpoint=tmp_path)
    assert len(fit(second, epochs=7, resume=tmp_path)) == 7
    assert bits(second) == bits(whole)


def test_lines_and_bar_count_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(made(), checkpoint=tmp_path, epochs=3)
    fit(made(), resume=tmp_path, progress=True)
    assert [line.partition("  ")[0] for line in capsys.readouterr().out.splitlines()] == ["epoch 4/5", "epoch 5/5"]
    bar = Bar(5, STEPS)
    with bar:
        bar.begin(3)
        bar.step(2)
    assert bar.bar.tasks[0].completed == 3 * STEPS + 2
    assert bar.bar.tasks[0].fields["epoch"] == 4


def test_a_memory_map_is_resumed_too(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X[:43].astype("float32"))
    data = bp.Dataset(np.load(tmp_path / "x.npy", mmap_mode="r"), Y[:43])
    trainers = made(), made(), made()
    told: dict[str, Any] = {"epochs": EPOCHS, "batch_size": 8, "progress": False}
    trainers[0].fit(data, **told)
    checkpoint = bp.Checkpoint(tmp_path / "run", every_steps=4)
    with pytest.raises(Killed):
        trainers[1].fit(data, checkpoint=checkpoint, callbacks=[Kill(15)], **told)
    trainers[2].fit(data, checkpoint=checkpoint, resume=True, **told)
    assert bits(trainers[2]) == bits(trainers[0])


def test_every_backend_resumes_itself(backend: bp.Backend, tmp_path: Path) -> None:
    same_after_a_kill(tmp_path / "run", lambda: made(backend=backend.name), 16, called=stopping)


def test_another_backend_goes_on_and_says_what_differs(tmp_path: Path) -> None:
    whole, first, second = made(), made(), made(backend="strict")
    fit(whole)
    killed(first, 17, checkpoint=bp.Checkpoint(tmp_path, every_steps=4))
    with pytest.warns(RuntimeWarning, match="the last bits may differ .* backend: numpy in the checkpoint, strict now"):
        history = fit(second, resume=tmp_path)
    assert second.model.backend.name == "strict"
    assert len(history) == EPOCHS
    for name, array in second.model.store.arrays().items():
        expected = bp.to_numpy(whole.model.store.arrays()[name])
        np.testing.assert_allclose(bp.to_numpy(array), expected, rtol=1e-4, atol=1e-6, err_msg=name)


# --- Trainer.save and restore, for loops of one's own ---


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_loop_of_ones_own_goes_on_from_a_file(name: str, tmp_path: Path) -> None:
    def loop(trainer: bp.Trainer, start: int, stop: int) -> None:
        for n in range(start, stop):
            trainer.step(X[n : n + 8], Y[n : n + 8])

    whole, first, second = made(name), made(name), made(name)
    loop(whole, 0, 12)
    loop(first, 0, 5)
    first.save(tmp_path / "at-5")
    loop(second, 0, 7)
    second.restore(tmp_path / "at-5")
    loop(second, 5, 12)
    assert bits_of_store(second) == bits_of_store(whole)


def test_gradients_that_are_being_accumulated_are_kept(tmp_path: Path) -> None:
    def half(trainer: bp.Trainer, n: int) -> None:
        model, loss = trainer.model, trainer.loss
        loss.forward(model.forward(model.asarray(X[n : n + 4])), Y[n : n + 4], 8)
        model.backward(loss.backward())

    whole, first, second = made(), made(), made()
    for trainer in (whole, first):
        half(trainer, 0)
    first.save(tmp_path / "half")
    second.restore(tmp_path / "half")
    for trainer in (whole, second):
        half(trainer, 4)
        trainer.optimizer.step(trainer.model)
    assert bits_of_store(second) == bits_of_store(whole)


def test_the_best_checkpoint_of_a_fit_is_restored(tmp_path: Path) -> None:
    seen: dict[float, dict[str, bytes]] = {}
    trainer = made("Adam")
    trainer.optimizer.learning_rate = 0.3
    look = EveryEpoch(lambda trainer, row: seen.update({row["val_loss"]: bits_of_store(trainer)}))
    history = fit(trainer, look, checkpoint=tmp_path, epochs=12)
    best = min(history["val_loss"])
    assert best < history["val_loss"][-1]
    other = made("Adam")
    other.restore(tmp_path / "best.safetensors")
    assert weights(other) == {name: kept for name, kept in seen[best].items() if name != "grads"}
    assert other.epoch == history.best("val_loss")["epoch"]
    assert other.evaluate(*VALIDATION)["loss"] == best


def test_a_file_of_save_is_no_checkpoint_of_a_fit(tmp_path: Path) -> None:
    trainer = made()
    trainer.save(tmp_path / "saved")
    with pytest.raises(bp.CheckpointError, match="was written by trainer.save, while no fit was running"):
        fit(trainer, resume=tmp_path / "saved")


# --- which are written, and which stay ---


def test_the_last_ones_and_the_best_one_stay(tmp_path: Path) -> None:
    trainer = made("Adam")
    trainer.optimizer.learning_rate = 0.2
    history = fit(trainer, checkpoint=bp.Checkpoint(tmp_path, keep=3, info={"who": "me"}))
    assert list(steps(tmp_path)) == [18, 24, 30]
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["checkpoints"] == [f"step-{n:010d}.safetensors" for n in (18, 24, 30)]
    row = history.best("val_loss")
    assert (index["best"]["best"], index["best"]["best_epoch"]) == (row["val_loss"], row["epoch"])
    best = Snapshot.read(tmp_path / "best.safetensors")
    assert best.position.rows[-1]["epoch"] == row["epoch"]
    assert best.position.info == {"who": "me"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", "index.json", *index["checkpoints"]]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [6, 12, 18, 24, 30]),
        ({"every_epochs": 2}, [12, 24, 30]),
        ({"every_epochs": None}, [30]),
        ({"every_epochs": None, "every_steps": 11}, [11, 22, 30]),
        ({"every_epochs": 3, "every_steps": 9}, [9, 18, 27, 30]),
        ({"every_epochs": None, "every_seconds": 0}, list(range(1, 31))),
        ({"every_epochs": None, "every_seconds": 3600}, [30]),
    ],
    ids=str,
)
def test_checkpoints_come_when_they_are_asked_for(settings: Any, expected: list[int], tmp_path: Path) -> None:
    fit(made(), checkpoint=bp.Checkpoint(tmp_path, keep=99, keep_best=None, **settings))
    assert list(steps(tmp_path)) == expected


def test_writing_them_changes_no_bit(tmp_path: Path) -> None:
    without, along = made(), made()
    fit(without)
    fit(along, checkpoint=bp.Checkpoint(tmp_path, every_steps=1))
    assert bits(along) == bits(without)


def test_a_step_makes_the_same_calls_with_and_without_them(tmp_path: Path) -> None:
    without, along, resumed = made(), made(), made()
    fit(without)
    fit(along, checkpoint=bp.Checkpoint(tmp_path, every_steps=5))
    fit(resumed, epochs=9, resume=tmp_path)
    assert "planned" in without.plan_report()
    assert along.plan_report() == resumed.plan_report() == without.plan_report()


def test_equal_trainings_write_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        trainer = made()
        fit(trainer)
        trainer.save(tmp_path / name)
        trainer.model.save(tmp_path / f"{name}-model", note="x")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a-model").read_bytes() == (tmp_path / "b-model").read_bytes()


def test_what_a_killed_process_left_half_written_is_removed_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / ".0123456789abcdef.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "step-12.txt").write_text("mine too")
    fit(made(), checkpoint=tmp_path)
    assert not (tmp_path / ".0123456789abcdef.tmp").exists()
    assert {"notes.txt", "step-12.txt"} <= {path.name for path in tmp_path.iterdir()}


def test_ctrl_c_leaves_a_checkpoint_of_the_step_it_ended_with(tmp_path: Path) -> None:
    whole, first, second = made(), made(), made()
    fit(whole)

    def interrupt(trainer: bp.Trainer) -> None:
        if trainer.model.store.steps_taken == 9:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert fit(first, EveryStep(interrupt), checkpoint=tmp_path).interrupted
    finally:
        signal.signal(signal.SIGINT, before)
    assert max(steps(tmp_path)) == 9
    fit(second, EveryStep(lambda trainer: None), resume=tmp_path)
    assert bits(second) == bits(whole)


def test_a_loss_that_is_not_finite_is_in_no_checkpoint(tmp_path: Path) -> None:
    trainer = made("SGD")

    def spoil(trainer: bp.Trainer) -> None:
        if trainer.model.store.steps_taken == 8:
            trainer.model.parameters()["0.weight"].value = np.full((5, 8), np.inf)

    with pytest.raises(bp.NonFiniteError):
        fit(trainer, EveryStep(spoil), checkpoint=bp.Checkpoint(tmp_path, every_steps=1))
    found = newest(tmp_path)
    assert found.arrays["store/ok"]
    assert found.position.done <= 2


# --- what is refused ---


def test_a_folder_with_checkpoints_is_not_begun_anew(tmp_path: Path) -> None:
    fit(made(), checkpoint=tmp_path, epochs=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(bp.ConfigError) as caught:
        fit(made(), checkpoint=tmp_path)
    assert str(caught.value) == (
        f"the folder {str(tmp_path)!r} has checkpoints already: go on from them with resume=True, name another folder, "
        "or delete it"
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fit that was killed in its third epoch."""
    folder = tmp_path_factory.mktemp("killed")
    killed(made(), 15, EarlyStopping(patience=9), checkpoint=bp.Checkpoint(folder, every_steps=7))
    return folder


def smaller() -> bp.Trainer:
    model = bp.Sequential(bp.Dense(5, 7), bp.ReLU(), bp.Dropout(0.3), bp.Residual(bp.Dense(7, 7)), bp.Dense(7, 3))
    metrics = [bp.Accuracy(), bp.ConfusionMatrix()]
    return bp.Trainer(model, bp.SoftmaxCrossEntropy(), OPTIMIZERS["AdamW"](), metrics=metrics, seed=3)


def changed(**attributes: Any) -> bp.Trainer:
    trainer = made()
    for name, value in attributes.items():
        setattr(trainer.optimizer, name, value)
    return trainer


@pytest.mark.parametrize(
    ("make", "more", "said"),
    [
        (smaller, {}, r"model\.args\[0\]\.config\.n_out: 8 in the checkpoint, 7 now"),
        (lambda: made("Adam"), {}, "optimizer.name: AdamW in the checkpoint, Adam now"),
        (lambda: changed(beta1=0.8), {}, "optimizer.beta1: 0.9 in the checkpoint, 0.8 now. Make everything as it was"),
        (lambda: changed(learning_rate=0.5), {}, "optimizer.learning_rate: 0.01 in the checkpoint, 0.5 now"),
        (lambda: made(seed=4), {}, "model seed: 3 in the checkpoint, 4 now; seed: 3 in the checkpoint, 4 now"),
        (made, {"batch_size": 16}, "another training: batch_size: 8 in the checkpoint, 16 now"),
        (made, {"micro_batch_size": 4}, "micro_batch_size: nothing in the checkpoint, 4 now"),
        (made, {"shuffle": False}, "shuffle: True in the checkpoint, False now"),
        (made, {"sample_weight": WEIGHT}, "data.sample_weight: nothing in the checkpoint"),
        (made, {"validation_data": None}, "validation data: .* in the checkpoint, nothing now"),
        (made, {"validation_data": (X[40:], Y[40:])}, "validation data.samples: 10 in the checkpoint, 13 now"),
    ],
)
def test_another_training_is_refused_with_what_differs(make: Any, more: Any, said: str, run: Path) -> None:
    trainer = make()
    before = bits_of_store(trainer)
    with pytest.raises(bp.ConfigError, match=said):
        fit(trainer, EarlyStopping(patience=9), resume=run, **more)
    assert bits_of_store(trainer) == before
    assert trainer.epoch == 0


def test_other_data_are_refused(run: Path) -> None:
    told: dict[str, Any] = {
        "epochs": 5,
        "batch_size": 8,
        "validation_data": VALIDATION,
        "resume": run,
        "progress": False,
    }
    with pytest.raises(bp.ConfigError, match="data.samples: 43 in the checkpoint, 42 now"):
        made().fit(X[:42], Y[:42], **told)
    other = X[:43].copy()
    other[17, 2] += 1e-9
    with pytest.raises(bp.ConfigError, match="data.x.SHA-256: "):
        made().fit(other, Y[:43], **told)


def test_fewer_epochs_than_are_done_and_a_missing_callback_are_refused(run: Path) -> None:
    with pytest.raises(bp.ConfigError, match="stands after 2 epochs, and epochs is 1; that counts from the beginning"):
        fit(made(), EarlyStopping(patience=9), resume=run, epochs=1)
    with pytest.raises(
        bp.CheckpointError, match="made with a callback EarlyStopping, which is not among the callbacks"
    ):
        fit(made(), resume=run)
    with pytest.raises(bp.CheckpointError, match="watches 'loss', and in the checkpoint it watched 'val_loss'"):
        fit(made(), EarlyStopping("loss", patience=9), resume=run)


def test_bad_settings_are_refused_with_what_is_allowed(tmp_path: Path) -> None:
    for arguments, said in [
        ({"folder": ""}, "Checkpoint: folder must be a path, got ''"),
        ({"every_steps": 0}, "Checkpoint: every_steps must be an integer of at least 1, got 0"),
        ({"every_epochs": 1.5}, "Checkpoint: every_epochs must be an integer of at least 1, got 1.5"),
        ({"every_seconds": -1}, "Checkpoint: every_seconds must be a number at least 0, got -1"),
        ({"keep": 0}, "Checkpoint: keep must be an integer of at least 1, got 0"),
        ({"mode": "mni"}, "Checkpoint: mode must be one of auto, min, max, got 'mni'; did you mean 'min'?"),
        ({"info": {"x": object}}, "Checkpoint: info must hold JSON values: "),
    ]:
        with pytest.raises(bp.ConfigError) as caught:
            bp.Checkpoint(**({"folder": tmp_path} | arguments))
        assert str(caught.value).startswith(said)
    for more, message in [
        ({"resume": True}, "resume=True goes on from the folder of checkpoint=..., which is missing; or name it"),
        ({"resume": 3}, "resume must be a folder of checkpoints, one of their files, or True, got 3"),
        ({"checkpoint": 3}, "checkpoint must be a Checkpoint, or the path of a folder, got 3"),
        ({"checkpoint": bp.Checkpoint(tmp_path, keep_best="val_los")}, "Checkpoint: there is no 'val_los' to watch"),
    ]:
        with pytest.raises(bp.ConfigError) as caught:
            fit(made(), **more)
        assert str(caught.value).startswith(message)
    for where, message in [
        (tmp_path / "none", f"cannot resume from {str(tmp_path / 'none')!r}: there is no such folder"),
        (tmp_path, f"cannot resume from {str(tmp_path)!r}: the folder has no checkpoint"),
    ]:
        with pytest.raises(bp.CheckpointError) as broken:
            fit(made(), resume=where)
        assert str(broken.value) == message
    (tmp_path / "file").write_text("")
    with pytest.raises(bp.CheckpointError, match="cannot write checkpoints to"):
        fit(made(), checkpoint=tmp_path / "file")


# --- damage ---


def test_a_broken_newest_one_is_passed_over_with_a_warning(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run, folder)
    last = folder / f"step-{max(steps(folder)):010d}.safetensors"
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(content)
    whole, resumed = made(), made()
    fit(whole, EarlyStopping(patience=9))
    with pytest.warns(RuntimeWarning, match="is damaged: its SHA-256 is not the one that was written with it"):
        fit(resumed, EarlyStopping(patience=9), resume=True, checkpoint=bp.Checkpoint(folder, every_steps=7))
    assert bits(resumed) == bits(whole)
    for path in steps(folder).values():
        path.write_bytes(b"")
    with pytest.raises(bp.CheckpointError, match="is no whole safetensors file"):
        fit(made(), EarlyStopping(patience=9), resume=folder)


def test_every_flipped_bit_of_a_small_checkpoint_is_found(tmp_path: Path) -> None:
    model = bp.Dense(1, 1, bias=False)
    trainer = bp.Trainer(model, bp.MeanSquaredError(), bp.SGD(0.1))
    trainer.save(tmp_path / "small")
    model.save(tmp_path / "model")
    for name, read in (("small", Snapshot.read), ("model", bp.load)):
        content = (tmp_path / name).read_bytes()
        for place in range(0, len(content), 3 if name == "small" else 1):
            spoilt = bytearray(content)
            spoilt[place] ^= 1 << (place % 8)
            (tmp_path / "spoilt").write_bytes(spoilt)
            with pytest.raises(bp.CheckpointError):
                read(tmp_path / "spoilt")  # type: ignore[operator]


@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_checkpoint_is_refused_or_correct(seed: int, run: Path, tmp_path: Path) -> None:
    outcomes = mutations(newest(run).path, tmp_path, seed, 60, try_all)
    assert sum(outcomes.values()) == 60
    assert outcomes["refused"] > 40


def try_all(path: str) -> bytes:
    """Resume from `path`; the bits that this ends with."""
    trainer = made()
    fit(trainer, EarlyStopping(patience=9), resume=path, epochs=3)
    return b"".join(bits(trainer).values())


def test_a_model_file_of_before_the_digest_is_still_read(tmp_path: Path) -> None:
    model = bp.Sequential(bp.Dense(2, 3), bp.Tanh()).initialize(seed=5)
    model.save(tmp_path / "new")
    arrays, metadata = files.read(tmp_path / "new")
    from safetensors.numpy import save

    old = {key: value for key, value in metadata.items() if key != files.SEAL} | {"version": "1"}
    (tmp_path / "old").write_bytes(save(arrays, metadata=old))
    assert np.array_equal(bp.load(tmp_path / "old")[0].weight.value, model[0].weight.value)
    (tmp_path / "no digest").write_bytes(save(arrays, metadata=old | {"version": "2"}))
    with pytest.raises(bp.CheckpointError, match="has a damaged header: it lacks 'sha256', the digest of the file"):
        bp.load(tmp_path / "no digest")


def test_a_pipe_and_a_model_are_no_checkpoints(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(bp.CheckpointError, match="it is no regular file"):
        made().restore(tmp_path / "pipe")
    made().model.save(tmp_path / "model")
    with pytest.raises(bp.CheckpointError, match="is a safetensors file, but no checkpoint of bpnet"):
        made().restore(tmp_path / "model")
    made().save(tmp_path / "saved")
    with pytest.raises(bp.CheckpointError, match="is a checkpoint of a training, not a model: make the Trainer and"):
        bp.load(tmp_path / "saved")


# --- SIGKILL ---

PROGRAM = Path(__file__).parent / "checkpoint_program.py"


def program(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-W", "error", str(PROGRAM), *arguments])


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_process_that_is_killed_goes_on_in_a_new_one(tmp_path: Path) -> None:
    assert program(str(tmp_path / "whole"), str(tmp_path / "whole.out")).wait(60) == 0
    for wanted in (3, 12):  # checkpoints
        process = program(str(tmp_path / "run"), str(tmp_path / "run.out"), "slow")
        end = time.monotonic() + 60
        while len(steps(tmp_path / "run")) == 0 or max(steps(tmp_path / "run")) < wanted:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < end
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
        assert not (tmp_path / "run.out").exists()
    assert program(str(tmp_path / "run"), str(tmp_path / "run.out")).wait(60) == 0
    assert (tmp_path / "run.out").read_bytes() == (tmp_path / "whole.out").read_bytes()
