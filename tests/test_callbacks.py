"""The callbacks that bpnet brings: first alone, told of invented rows, then in fits."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bpnet as bp
from bpnet import callbacks
from bpnet.callbacks import BestCheckpoint, CSVLogger, EarlyStopping, JSONLogger, ReduceOnPlateau
from bpnet.callbacks.monitor import direction

NAMES = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")
RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(40, 5)), RNG.integers(0, 3, 40)


def trainer(backend: Any = None, optimizer: bp.Optimizer | None = None, **more: Any) -> bp.Trainer:
    model = bp.Sequential(bp.Dense(5, 7), bp.Tanh(), bp.Dense(7, 3)).initialize(seed=4, backend=backend)
    return bp.Trainer(model, bp.SoftmaxCrossEntropy(), optimizer or bp.SGD(0.1), metrics=[bp.Accuracy()], **more)


def fit(each: bp.Trainer, *called: bp.callbacks.Callback, validation: bool = True, epochs: int = 8) -> bp.History:
    data = {"validation_data": (X[30:], Y[30:])} if validation else {}
    return each.fit(X[:30], Y[:30], epochs=epochs, batch_size=10, progress=False, callbacks=called, **data)


class FakeTrainer:
    """As much of a Trainer as callbacks look at."""

    def __init__(self, learning_rate: float = 0.1) -> None:
        self.model = bp.Dense(1, 1).initialize(0)
        self.optimizer: Any = bp.SGD(learning_rate)
        self.reason = ""

    def stop(self, reason: str) -> None:
        self.reason = reason

    def averaged(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()


def told(callback: Any, values: list[float], name: str = "val_loss", fake: Any = None) -> list[float]:
    """The learning rate after every epoch until the callback stops, the values being those of `name`."""
    fake = fake or FakeTrainer()
    callback.on_fit_start(fake, NAMES)
    rates = []
    for epoch, value in enumerate(values, start=1):
        fake.model.store.values[...] = epoch
        callback.on_epoch_end(fake, {"epoch": float(epoch), name: value})
        rates.append(fake.optimizer.learning_rate)
        if fake.reason:
            break
    callback.on_fit_end(fake, bp.History())
    return rates


# --- which way is better ---


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("loss", "min"), ("val_loss", "min"), ("mae", "min"), ("val_rmse", "min"), ("my_error", "min"),
        ("perplexity", "min"), ("accuracy", "max"), ("val_top5_accuracy", "max"), ("macro_f1", "max"), ("R2", "max"),
        ("val_precision", "max"), ("recall", "max"),
    ],
)  # fmt: skip
def test_a_name_says_which_way_is_better(name: str, expected: str) -> None:
    assert direction("x", name) == expected
    assert direction("x", name, "max") == "max"


@pytest.mark.parametrize("name", ["seconds", "learning_rate", "gloss", "losses_of_accuracy_error", "confusion_matrix"])
def test_a_name_that_does_not_say_it_needs_a_mode(name: str) -> None:
    with pytest.raises(bp.ConfigError, match=f"EarlyStopping: the name '{name}' does not say which is better; give mo"):
        EarlyStopping(name).on_fit_start(FakeTrainer(), ("epoch", name))  # type: ignore[arg-type]
    EarlyStopping(name, mode="min").on_fit_start(FakeTrainer(), ("epoch", name))  # type: ignore[arg-type]


# --- early stopping ---


@pytest.mark.parametrize(
    ("values", "settings", "epochs", "best", "best_epoch"),
    [
        ([3, 2, 1, 0.5], {}, 4, 0.5, 4),
        ([3, 2, 2, 2, 1], {"patience": 2}, 4, 2, 2),
        ([3, 2, 2, 1, 1, 1, 0], {"patience": 2}, 6, 1, 4),
        ([3, 2.95, 2.9, 2.85], {"patience": 2, "min_delta": 0.2}, 3, 3, 1),
        ([3, 2.9, 2.8, 2.7], {"patience": 2, "min_delta": 0.1}, 4, 2.8, 3),
        ([1, 2, 3], {"patience": 1}, 2, 1, 1),
        ([1, 2, 2, 2], {"patience": 2, "mode": "max"}, 4, 2, 2),
        ([math.nan, 5, math.nan, math.nan], {"patience": 2}, 4, 5, 2),
        ([math.nan, math.nan, 1], {"patience": 2}, 2, math.nan, 0),
        ([math.inf, 5, 6, 7], {"patience": 2}, 4, 5, 2),
        ([-math.inf, math.nan, -math.inf], {"patience": 2}, 3, -math.inf, 1),
    ],
)
def test_early_stopping_counts_epochs_without_anything_better(
    values: Any, settings: Any, epochs: int, best: float, best_epoch: int
) -> None:
    each = EarlyStopping(**settings)
    for _ in range(2):  # nothing is left over for the second fit
        fake = FakeTrainer()
        assert len(told(each, values, fake=fake)) == epochs
        assert (each.best, each.best_epoch) == pytest.approx((best, best_epoch), nan_ok=True)
        assert (epochs < len(values)) <= bool(fake.reason)
        assert np.all(fake.model.store.values == (best_epoch or epochs))


def test_early_stopping_says_why() -> None:
    fake = FakeTrainer()
    told(EarlyStopping(patience=2), [0.25, 1, 1], fake=fake)
    assert fake.reason == "val_loss has not become better for 2 epochs; the best was 0.25 after epoch 1"
    fake = FakeTrainer()
    told(EarlyStopping(patience=1), [math.nan], fake=fake)
    assert fake.reason == "val_loss has not become better for 1 epoch; it was never a number"


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.sampled_from([math.nan, math.inf, 1.0, 2.0, 3.0, 4.0, -1.0]), min_size=1, max_size=12),
    patience=st.integers(1, 4),
    mode=st.sampled_from(["min", "max"]),
)
def test_early_stopping_ends_with_the_first_epoch_that_is_patience_after_the_best(
    values: list[float], patience: int, mode: str
) -> None:
    def best_before(epoch: int) -> int:
        found = 0
        for i, v in enumerate(values[:epoch], start=1):
            if v == v and (not found or (v < values[found - 1] if mode == "min" else v > values[found - 1])):
                found = i
        return found

    expected = next((e for e in range(1, len(values) + 1) if e - best_before(e) >= patience), len(values))
    each = EarlyStopping(patience=patience, mode=mode, restore_best=False)
    assert len(told(each, values)) == expected
    assert each.best_epoch == best_before(expected)


def test_the_best_parameters_come_back_into_the_same_arrays(backend: bp.Backend) -> None:
    each, seen = trainer(backend, bp.Adam(0.5)), {}

    def look(told: bp.Trainer, row: dict[str, Any]) -> None:
        seen[row["epoch"]] = (row["val_loss"], bp.to_numpy(told.model.store.values).copy())

    stopping = EarlyStopping(patience=3)
    values = each.model.store.values
    history = fit(each, stopping, callbacks.EveryEpoch(look), epochs=60)
    assert len(history) < 60
    assert (
        history.stopped
        == f"val_loss has not become better for 3 epochs; the best was {stopping.best:.6g} after "
        + (f"epoch {stopping.best_epoch}")
    )
    assert stopping.best_epoch == len(history) - 3
    assert stopping.best == min(history["val_loss"]) == seen[stopping.best_epoch][0]
    assert each.model.store.values is values
    assert np.array_equal(bp.to_numpy(values), seen[stopping.best_epoch][1])
    assert not np.array_equal(seen[len(history)][1], seen[stopping.best_epoch][1])
    assert each.evaluate(X[30:], Y[30:])["loss"] == pytest.approx(stopping.best, rel=1e-6)
    assert "planned, " in each.plan_report()
    again = fit(each, validation=False, epochs=2)  # the plans go on from the restored parameters
    eager = trainer(backend, bp.Adam(0.5), plan=False)
    fit(eager, EarlyStopping(patience=3), epochs=60)
    assert fit(eager, validation=False, epochs=2)["loss"] == again["loss"]


def test_after_an_error_the_parameters_stay_as_its_message_says() -> None:
    each = trainer()

    def fail(told: bp.Trainer, row: dict[str, Any]) -> None:
        if row["epoch"] == 3:
            told.model.store.values[...] = 7
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fit(each, EarlyStopping(), callbacks.EveryEpoch(fail))
    assert np.all(each.model.store.values == 7)


def test_without_restoring_the_last_parameters_stay() -> None:
    each = trainer(optimizer=bp.Adam(0.5))
    last = {}
    stopping = EarlyStopping(patience=3, restore_best=False)
    keep = callbacks.EveryEpoch(lambda told, row: last.update(values=told.model.store.values.copy()))
    fit(each, stopping, keep, epochs=60)
    assert np.array_equal(each.model.store.values, last["values"])


def test_the_averages_come_back_with_the_parameters(tmp_path: Path) -> None:
    each = trainer(optimizer=bp.Adam(0.5, average=0.5))
    stopping, best = EarlyStopping(patience=3), BestCheckpoint(tmp_path / "best.safetensors")
    outputs = {}
    look = callbacks.EveryEpoch(lambda told, row: outputs.update({row["epoch"]: np.array(told.predict(X))}))
    history = fit(each, stopping, best, look, epochs=60)
    assert stopping.best_epoch == best.best_epoch < len(history) < 60
    assert np.array_equal(each.predict(X), outputs[best.best_epoch])
    assert np.array_equal(bp.predict(bp.load(best.path), X), outputs[best.best_epoch])
    assert not np.array_equal(bp.predict(each.model, X), outputs[best.best_epoch])  # the parameters themselves


# --- what is watched must be there ---


WATCHERS: list[Callable[[str], Any]] = [
    EarlyStopping,
    lambda name: BestCheckpoint("best.safetensors", monitor=name),
    ReduceOnPlateau,
]


@pytest.mark.parametrize("make", WATCHERS)
def test_a_name_that_no_epoch_will_have_is_refused_before_training(
    make: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    each = trainer()
    before = each.model.store.values.tobytes()
    owner = type(make("val_loss")).__name__
    with pytest.raises(
        bp.ConfigError,
        match=f"{owner} watches 'val_loss', and this fit has no validation data: give validation_data=\\(x, y\\), or "
        "watch one of epoch, loss, accuracy, learning_rate, seconds",
    ):
        fit(each, make("val_loss"), validation=False)
    with pytest.raises(
        bp.ConfigError,
        match=f"{owner}: there is no 'val_f1' to watch; there are epoch, loss, accuracy, val_loss, ",
    ):
        fit(each, make("val_f1"))
    with pytest.raises(
        bp.ConfigError, match="there is no 'val_acc' to watch; there are.*; did you mean 'val_accuracy'"
    ):
        fit(each, make("val_acc"))
    assert each.model.store.values.tobytes() == before
    assert os.listdir(tmp_path) == []


def test_what_is_no_number_cannot_be_watched() -> None:
    each = trainer()
    each.metrics = [bp.ConfusionMatrix()]
    with pytest.raises(bp.ConfigError, match="EarlyStopping: 'confusion_matrix' is a list, not a number, and cannot"):
        fit(each, EarlyStopping("confusion_matrix", mode="min"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EarlyStopping(patience=0), "EarlyStopping: patience must be an integer of at least 1, got 0"),
        (lambda: EarlyStopping(patience=1.5), "EarlyStopping: patience must be an integer of at least 1, got 1.5"),
        (lambda: EarlyStopping(patience=True), "patience must be an integer"),
        (lambda: EarlyStopping(min_delta=-1), "EarlyStopping: min_delta must be a number at least 0, got -1"),
        (lambda: EarlyStopping(min_delta=math.nan), "min_delta must be a number at least 0, got nan"),
        (
            lambda: EarlyStopping(mode="maximum"),
            "mode must be one of auto, min, max, got 'maximum'; did you mean 'max'",
        ),
        (lambda: EarlyStopping(restore_best="yes"), "EarlyStopping: restore_best must be True or False, got 'yes'"),
        (lambda: EarlyStopping(3), "EarlyStopping: monitor must be a name, such as 'val_loss', got 3"),
        (lambda: ReduceOnPlateau(factor=1), "ReduceOnPlateau: factor must lie between 0 and 1, got 1"),
        (lambda: ReduceOnPlateau(factor=0.0), "factor must lie between 0 and 1, got 0.0"),
        (lambda: ReduceOnPlateau(factor=2), "factor must be a number between 0 and 1, got 2"),
        (lambda: ReduceOnPlateau(patience=-1), "patience must be an integer of at least 0, got -1"),
        (lambda: ReduceOnPlateau(cooldown=None), "cooldown must be an integer of at least 0, got None"),
        (lambda: ReduceOnPlateau(threshold="a"), "threshold must be a number at least 0, got 'a'"),
        (lambda: ReduceOnPlateau(min_learning_rate=math.inf), "min_learning_rate must be a number at least 0, got inf"),
        (lambda: ReduceOnPlateau(relative=None), "ReduceOnPlateau: relative must be True or False, got None"),
        (lambda: BestCheckpoint("x", info={"a": {1, 2}}), "BestCheckpoint: info must hold JSON values"),
        (lambda: BestCheckpoint("x", info={1: "a"}), r"BestCheckpoint: info needs names that are text, got \[1\]"),
        (lambda: CSVLogger("x", append="yes"), "CSVLogger: append must be True or False, got 'yes'"),
        (lambda: callbacks.TimeLimit(-1), "TimeLimit: seconds must be a number at least 0, got -1"),
        (lambda: callbacks.EveryEpoch(3), r"EveryEpoch needs a function of \(trainer, row\), got 3"),
        (lambda: callbacks.EveryStep(print, n=0), "EveryStep: n must be an integer of at least 1, got 0"),
        (lambda: callbacks.TensorBoard(""), "TensorBoard: folder must be a path, got ''"),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(bp.ConfigError, match=message):
        make()


def test_a_callbacks_text_shows_its_settings() -> None:
    assert repr(EarlyStopping(patience=3)) == (
        "EarlyStopping(monitor='val_loss', patience=3, min_delta=0.0, mode='auto', restore_best=True)"
    )
    assert repr(callbacks.TimeLimit(2)) == "TimeLimit(seconds=2.0)"
    assert repr(callbacks.Callback()) == "Callback()"


# --- plateau ---


@pytest.mark.parametrize(
    ("values", "settings", "expected"),
    [
        ([1, 1, 1, 1, 1, 1], {"patience": 1}, [1, 1, 0.1, 0.1, 0.01, 0.01]),
        ([1, 1, 1, 1, 1, 1], {"patience": 0, "cooldown": 1}, [1, 0.1, 0.1, 0.01, 0.01, 0.001]),
        ([1, 1, 1, 1], {"patience": 0, "min_learning_rate": 0.04}, [1, 0.1, 0.04, 0.04]),
        ([1, 0.9, 0.8, 0.7], {"patience": 0, "threshold": 0.2}, [1, 0.1, 0.01, 0.01]),
        ([1, 0.9, 0.8, 0.7], {"patience": 0, "threshold": 0.25, "relative": False}, [1, 0.1, 0.01, 0.01]),
        ([1, 2, 3, 3], {"patience": 0, "mode": "max", "factor": 0.5}, [1, 1, 1, 0.5]),
        ([math.nan, math.nan, 1, math.nan], {"patience": 0}, [0.1, 0.01, 0.01, 0.001]),
        ([-1, -1.5, -1.5], {"patience": 0}, [1, 1, 0.1]),
        ([math.inf, 4, 4], {"patience": 0}, [1, 1, 0.1]),
    ],
)
def test_the_learning_rate_is_reduced_on_a_plateau(values: Any, settings: Any, expected: Any) -> None:
    each = ReduceOnPlateau(**settings)
    for _ in range(2):
        assert told(each, values, fake=FakeTrainer(1.0)) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(6))
def test_plateaus_are_those_of_pytorch(seed: int) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    rng = np.random.default_rng(seed)
    values = (np.maximum(1 - np.arange(60) / 30, 0.3) + 0.05 * rng.normal(size=60)).tolist()
    values[20] = math.nan
    common = {"factor": 0.5, "patience": int(rng.integers(0, 4)), "cooldown": int(rng.integers(0, 3))}
    threshold, relative = float(rng.choice([1e-4, 0.05])), bool(seed % 2)
    for mode in ("min", "max"):
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.8)
        theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer,
            mode=mode,
            threshold=threshold,
            threshold_mode="rel" if relative else "abs",
            min_lr=1e-3,
            **common,
        )
        expected = []
        for value in values:
            theirs.step(value)
            expected.append(optimizer.param_groups[0]["lr"])
        ours = ReduceOnPlateau(mode=mode, threshold=threshold, relative=relative, min_learning_rate=1e-3, **common)
        assert told(ours, values, fake=FakeTrainer(0.8)) == pytest.approx(expected, rel=1e-15)
        assert len(set(expected)) > 1


def test_a_plateau_in_a_fit_changes_the_learning_rate_of_later_epochs() -> None:
    each = trainer()
    history = fit(each, ReduceOnPlateau("loss", patience=0, threshold=10.0, relative=False, factor=0.5), epochs=4)
    assert history["learning_rate"] == [0.1, 0.1, 0.05, 0.025]
    assert each.optimizer.learning_rate == pytest.approx(0.0125)


@pytest.mark.parametrize("rate", [bp.StepDecay(0.1, every=3, factor=0.5), lambda step: 0.1])
def test_a_schedule_and_a_plateau_contradict_each_other(rate: Any) -> None:
    each = trainer(optimizer=bp.SGD(rate))
    with pytest.raises(
        bp.ConfigError, match="ReduceOnPlateau sets the learning rate, and the optimizer's schedule doe"
    ):
        fit(each, ReduceOnPlateau("loss"))
    assert int(each.model.store.counters[0]) == 0


# --- checkpoints ---


def test_the_best_model_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    each, outputs = trainer(optimizer=bp.Adam(0.5)), {}
    look = callbacks.EveryEpoch(lambda told, row: outputs.update({row["epoch"]: np.array(told.predict(X))}))
    best = BestCheckpoint(path, info={"data": "made"})
    history = fit(each, best, look, epochs=25)
    loaded = bp.load(path)
    assert best.best_epoch == history.best("val_loss")["epoch"] < 25
    assert np.array_equal(bp.predict(loaded, X), outputs[best.best_epoch])
    assert loaded.info == {"data": "made", "epoch": best.best_epoch, "val_loss": best.best}
    assert os.listdir(tmp_path) == ["best.safetensors"]


def test_a_checkpoint_starts_afresh_with_every_fit(tmp_path: Path) -> None:
    best = BestCheckpoint(tmp_path / "best.safetensors", monitor="accuracy")
    told(best, [0.9, 0.95], "accuracy")
    told(best, [0.1, 0.3, 0.2], "accuracy")
    assert (best.best, best.best_epoch) == (0.3, 2)
    assert bp.load(best.path).info == {"epoch": 2, "accuracy": 0.3}


def test_any_text_may_name_a_checkpoints_info(tmp_path: Path) -> None:
    best = BestCheckpoint(tmp_path / "best.safetensors", monitor="loss", info={"path": "digits.csv", "self": 1})
    fit(trainer(), best, epochs=1)
    assert bp.load(best.path).info == {"path": "digits.csv", "self": 1, "epoch": 1, "loss": best.best}


class Unsaved(bp.Dense):
    """A layer made of a function, which no file can hold."""

    def __init__(self, function: Callable[[], int]) -> None:
        super().__init__(X.shape[1], function())


def test_a_model_that_no_file_can_hold_is_refused_before_the_first_step(tmp_path: Path) -> None:
    model = bp.Sequential(Unsaved(lambda: 3))
    each = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.SGD(0.1))
    before = bp.to_numpy(model.store.values).copy()
    with pytest.raises(bp.ConfigError, match=r"Unsaved\(function=\.\.\.\) is <function .*, which JSON cannot hold"):
        fit(each, BestCheckpoint(tmp_path / "best.safetensors", monitor="loss"), epochs=1)
    np.testing.assert_array_equal(bp.to_numpy(model.store.values), before)
    assert each.epoch == 0
    assert os.listdir(tmp_path) == []


def test_a_value_that_is_never_a_number_leaves_no_file(tmp_path: Path) -> None:
    best = BestCheckpoint(tmp_path / "best.safetensors")
    told(best, [math.nan, math.nan])
    assert os.listdir(tmp_path) == []
    assert math.isnan(best.best)


# --- logs ---


def test_csv_reads_back_as_the_history(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    each = trainer()
    each.metrics = [bp.Accuracy(), bp.ConfusionMatrix(), bp.F1(average=None)]
    history = fit(each, CSVLogger(path), epochs=3)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == history.keys()
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    for row, expected in zip(rows, history.rows, strict=True):
        assert {name: json.loads(value) for name, value in row.items()} == expected
    assert path.read_bytes().count(b"\n") == 4
    assert b"\r" not in path.read_bytes()


def test_json_lines_read_back_as_the_history(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    each = trainer()
    each.metrics = [bp.ConfusionMatrix()]
    history = fit(each, JSONLogger(path), epochs=3)
    assert [json.loads(line) for line in path.read_text().splitlines()] == history.rows


@pytest.mark.parametrize(("make", "head"), [(CSVLogger, 1), (JSONLogger, 0)])
def test_a_log_is_written_anew_or_goes_on(make: Any, head: int, tmp_path: Path) -> None:
    path = tmp_path / "log"
    each = trainer()
    fit(each, make(path), epochs=3)
    fit(each, make(path), epochs=2)
    assert len(path.read_text().splitlines()) == 2 + head
    appending = make(path, append=True)
    fit(each, appending, epochs=2)
    fit(each, appending, epochs=1)
    lines = path.read_text().splitlines()
    assert len(lines) == 5 + head
    epochs = [json.loads(line)["epoch"] if make is JSONLogger else int(line.split(",")[0]) for line in lines[head:]]
    assert epochs == [4, 5, 6, 7, 8]
    new = make(tmp_path / "new", append=True)
    fit(each, new, epochs=1)
    assert len((tmp_path / "new").read_text().splitlines()) == 1 + head


@pytest.mark.parametrize("make", [CSVLogger, JSONLogger])
def test_a_torn_last_line_stays_a_line_of_its_own(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "log"
    each = trainer()
    fit(each, make(path), epochs=2)
    torn = path.read_bytes()[:-7]
    path.write_bytes(torn)
    fit(each, make(path, append=True), epochs=1)
    assert path.read_bytes().startswith(torn + b"\n")
    assert path.read_bytes().count(b"\n") == torn.count(b"\n") + 2


def test_csv_does_not_go_on_under_another_header(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    each = trainer()
    fit(each, CSVLogger(path), epochs=1)
    before = path.read_bytes()
    with pytest.raises(
        bp.ConfigError,
        match="begins with 'epoch,loss,accuracy,val_loss,.*', and this fit has the columns epoch,loss,accuracy,learn",
    ):
        fit(each, CSVLogger(path, append=True), validation=False)
    assert path.read_bytes() == before


def test_a_fit_that_does_not_start_leaves_an_earlier_log_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    fit(trainer(), CSVLogger(path), epochs=1)
    before = path.read_bytes()
    with pytest.raises(bp.ConfigError, match="no 'val_los_error'"):
        fit(trainer(), CSVLogger(path), EarlyStopping("val_los_error"))
    fit(trainer(), CSVLogger(path), epochs=0)
    assert path.read_bytes() == before


@pytest.mark.parametrize("make", [CSVLogger, JSONLogger])
def test_logs_are_closed_and_whole_after_an_error(make: Any, tmp_path: Path) -> None:
    def fail(told: bp.Trainer, row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise RuntimeError("mine")

    log = make(tmp_path / "log")
    with pytest.raises(RuntimeError, match="mine"):
        fit(trainer(), log, callbacks.EveryEpoch(fail))
    assert log._file is None
    assert len((tmp_path / "log").read_text().splitlines()) == 2 + (make is CSVLogger)


def test_what_json_lacks_is_null(tmp_path: Path) -> None:
    log = JSONLogger(tmp_path / "log")
    log.on_fit_start(FakeTrainer(), NAMES)  # type: ignore[arg-type]
    row = {"epoch": 1.0, "loss": math.nan, "r2": -math.inf, "f1": [0.5, math.nan], "x": np.float32(0.5), "d": {1: (2,)}}
    log.on_epoch_end(FakeTrainer(), row)  # type: ignore[arg-type]
    log.on_fit_end(FakeTrainer(), bp.History())  # type: ignore[arg-type]
    assert (tmp_path / "log").read_text() == (
        '{"epoch": 1, "loss": null, "r2": null, "f1": [0.5, null], "x": 0.5, "d": {"1": [2]}}\n'
    )


@pytest.mark.parametrize("make", [CSVLogger, JSONLogger, BestCheckpoint], ids=lambda each: each.__name__)
@pytest.mark.parametrize(
    ("path", "message"),
    [("", "cannot write to '': name a file"), ("folder", "it is a folder"), ("no/log", "there is no folder")],
)
def test_a_file_that_cannot_be_written_is_refused_before_training(
    make: Any, path: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    each = trainer()
    before = each.model.store.values.tobytes()
    with pytest.raises(bp.CheckpointError, match=message):
        fit(each, make(path))
    assert each.model.store.values.tobytes() == before
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_log_that_may_not_be_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch(mode=0o444)
    with pytest.raises(bp.CheckpointError, match="it may not be changed"):
        fit(trainer(), CSVLogger(path))


# --- the small ones ---


def test_functions_are_called_every_epoch_and_every_nth_step() -> None:
    epochs: list[Any] = []
    steps: list[Any] = []
    by_step = callbacks.EveryStep(lambda told: steps.append(int(told.model.store.counters[0])), n=4)
    by_epoch = callbacks.EveryEpoch(lambda told, row: epochs.append((told.epoch, row["epoch"])))
    each = trainer()
    for _ in range(2):
        fit(each, by_step, by_epoch, epochs=3)  # 9 steps
    assert steps == [4, 8, 13, 17]
    assert epochs == [(n, float(n)) for n in range(1, 7)]


def test_a_time_limit_ends_the_fit_within_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("bpnet.callbacks.stopping.time.monotonic", lambda: float(next(clock)))
    each = trainer()
    history = fit(each, callbacks.TimeLimit(5))  # the clock starts at 0; steps end at 1, 2, 3 | 4, 5
    assert len(history) == 1
    assert int(each.model.store.counters[0]) == 5
    assert history.stopped == "the time limit of 5 s was reached"
