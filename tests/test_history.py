"""What a fit returns, how it is told, and its picture."""

from __future__ import annotations

import builtins
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import bpnet as bp
from bpnet.history import as_text
from bpnet.progress import Lines, describe


def history(**columns: list[Any]) -> bp.History:
    made = bp.History()
    n = len(next(iter(columns.values())))
    for i in range(n):
        row = {name: values[i] for name, values in columns.items()}
        made.rows.append({"epoch": float(i + 1), **row, "seconds": 0.25})
    return made


TYPICAL = history(
    loss=[2.0, 0.5, 0.05],
    accuracy=[0.5, 0.75, 1.0],
    mae=[4.0, 3.0, 2.0],
    confusion_matrix=[[[1, 2], [3, 4]]] * 3,
    val_loss=[1.5, 0.75, math.nan],
    val_accuracy=[0.25, 0.75, 0.75],
    val_mae=[5.0, 4.0, 4.5],
    learning_rate=[0.1, 0.1, 0.01],
)


# --- best ---


def test_best_is_the_row_of_the_best_epoch_the_first_of_equal_ones() -> None:
    assert TYPICAL.best() == TYPICAL.rows[1]
    assert TYPICAL.best("loss")["epoch"] == 3
    assert TYPICAL.best("val_accuracy") is TYPICAL.rows[1]
    assert TYPICAL.best("loss", "max")["epoch"] == 1
    assert TYPICAL.best("seconds", mode="min")["epoch"] == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bp.History().best(), "History.best: no epoch is complete"),
        (lambda: TYPICAL.best("val_acc"), "there is no 'val_acc' to watch; there are epoch, loss.*mean 'val_accuracy'"),
        (lambda: history(loss=[1.0]).best(), "watches 'val_loss', and this fit has no validation data"),
        (lambda: TYPICAL.best("seconds"), "the name 'seconds' does not say which is better; give mode='min' or mode="),
        (lambda: TYPICAL.best("loss", "least"), "mode must be one of auto, min, max, got 'least'"),
        (lambda: history(loss=[math.nan]).best("loss"), "every value of 'loss' is NaN"),
        (lambda: TYPICAL.best("confusion_matrix", "min"), "'confusion_matrix' is a list, not a number"),
    ],
)
def test_best_refuses(make: Any, message: str) -> None:
    with pytest.raises(bp.ConfigError, match=message):
        make()


# --- as text ---


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("loss", 0.51234, "0.5123"), ("loss", 0.0, "0.0000"), ("loss", 1.5e-7, "1.500e-07"), ("loss", 2e6, "2.000e+06"),
        ("loss", -3.0, "-3.0000"), ("loss", math.nan, "nan"), ("loss", math.inf, "inf"), ("n", 12, "12"),
        ("learning_rate", 0.001, "0.001"), ("learning_rate", 2.5e-6, "2.5e-06"), ("f1", [0.5, 1.0], "[0.5000 1.0000]"),
        ("f1", [0.1] * 5, ""), ("matrix", [[1, 2], [3, 4]], ""), ("more", {"a": 1}, ""), ("flag", True, ""),
    ],
)  # fmt: skip
def test_a_value_as_text(name: str, value: Any, text: str) -> None:
    assert as_text(name, value) == text


def test_an_epoch_as_a_line_leaves_out_what_does_not_fit() -> None:
    row = TYPICAL.rows[0]
    assert describe(row) == (
        "loss 2.0000  accuracy 0.5000  mae 4.0000  val_loss 1.5000  val_accuracy 0.2500  val_mae 5.0000  0.25 s"
    )
    assert "  learning_rate 0.1  0.25 s" in describe(row, learning_rate=True)


def test_the_learning_rate_is_told_once_it_has_changed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(epochs=3)
    for epoch, row in enumerate(TYPICAL.rows, start=1):
        lines.epoch(epoch, row)
    first, second, third = capsys.readouterr().out.splitlines()
    assert "learning_rate" not in first + second
    assert third.startswith("epoch 3/3  loss 0.0500")
    assert third.endswith("learning_rate 0.01  0.25 s")


def test_a_bar_shows_lists_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    from bpnet.progress import Bar

    with Bar(1, 2) as bar:
        bar.step(1)
        bar.epoch(1, {"epoch": 1.0, "loss": 0.5, "f1": [0.5, 1.0], "seconds": 0.25})
    shown = " ".join(capsys.readouterr().out.split())
    assert "loss 0.5000" in shown
    assert "[0.5000 1.0000]" in shown


def test_a_historys_text() -> None:
    made = history(loss=[0.5], f1=[[0.5, 1.0]], learning_rate=[0.001])
    text = "<History of 1 epochs; the last: loss 0.5000, f1 [0.5000 1.0000], learning_rate 0.001, seconds 0.2500"
    assert repr(made) == text + ">"
    made.stopped = "enough"
    assert repr(made) == text + "; stopped: enough>"
    made.interrupted = True
    assert repr(made) == text + "; interrupted>"
    assert repr(bp.History()) == "<History of 0 epochs; the last: nothing>"


# --- the picture ---


def lines(axes: Any) -> dict[str, list[float]]:
    return {line.get_label(): [float(y) for y in line.get_ydata()] for line in axes.lines}


def test_the_picture_has_a_panel_for_each_kind_of_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # its import would fail
    figure = TYPICAL.plot(tmp_path / "curve.png")
    loss, accuracy, mae, rate = figure.axes
    assert [each.get_ylabel() for each in figure.axes] == ["loss", "accuracy", "mae", "learning rate"]
    assert {each.get_xlabel() for each in figure.axes} == {"epoch"}
    drawn = lines(loss)
    assert drawn["training"] == [2.0, 0.5, 0.05]
    assert drawn["validation"][:2] == [1.5, 0.75]
    assert math.isnan(drawn["validation"][2])
    assert drawn["best 0.75, epoch 2"] == [0.75]
    assert lines(accuracy)["training"] == [0.5, 0.75, 1.0]
    assert lines(accuracy)["validation"] == [0.25, 0.75, 0.75]
    assert lines(accuracy)["best 0.75, epoch 2"] == [0.75]
    assert lines(mae)["best 4, epoch 2"] == [4.0]
    assert loss.get_yscale() == "log"
    assert mae.get_yscale() == accuracy.get_yscale() == rate.get_yscale() == "linear"
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_shares_have_a_panel_of_their_own_and_losses_below_0_a_linear_axis() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    made = history(loss=[100.0, -1.0], accuracy=[0.1, 0.2], f1=[0.3, 0.4], val_f1=[0.1, 0.1], learning_rate=[1.0, 1.0])
    loss, shares = made.plot().axes
    assert loss.get_yscale() == "linear"
    assert list(lines(shares)) == ["accuracy", "f1", "f1, validation"]


def test_one_epoch_can_be_drawn_into_axes_of_ones_own(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from matplotlib.figure import Figure

    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert history(loss=[0.5], accuracy=[1.0]).plot(tmp_path / "one.svg", ax=right) is figure
    assert not left.lines
    assert [line.get_ydata().tolist() for line in right.lines] == [[0.5]]
    assert right.lines[0].get_marker() == "o"
    assert (tmp_path / "one.svg").read_text().startswith("<?xml")


def test_the_picture_of_a_fit_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    import numpy as np

    x, y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30) % 3
    trainer = bp.Trainer(bp.Dense(4, 3), bp.SoftmaxCrossEntropy(), bp.SGD(0.1), metrics=[bp.Accuracy()])
    made = trainer.fit(x, y, validation_data=(x, y), epochs=3, progress=False)
    again = trainer.fit(x, y, epochs=2, progress=False)
    assert len(made.plot(tmp_path / "a.png").axes) == 2
    assert again.plot().axes[0].lines[0].get_xdata().tolist() == [4.0, 5.0]


def test_the_picture_of_nothing_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    with pytest.raises(bp.ConfigError, match="History.plot: no epoch is complete, so there is nothing to draw"):
        bp.History().plot(tmp_path / "a.png")
    with pytest.raises(bp.CheckpointError, match="there is no folder"):
        TYPICAL.plot(tmp_path / "no" / "a.png")
    with pytest.raises(bp.CheckpointError, match=re.escape("a.xyz': Format 'xyz' is not supported")):
        TYPICAL.plot(tmp_path / "a.xyz")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_needs_an_ending_and_axes_that_are_some(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    history = bp.History()
    history.rows = [{"epoch": 1.0, "loss": 1.0}]
    with pytest.raises(bp.ConfigError, match="a file's ending, as .png, says how to draw; got '.*course'"):
        history.plot(tmp_path / "course")
    with pytest.raises(bp.ConfigError, match="History.plot: ax must be a matplotlib Axes, got 3; a path is the first"):
        history.plot(ax=3)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *more: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError("No module named 'matplotlib'")
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(bp.MissingExtraError, match=re.escape('pip install "bpnet-xp[plot]"')):
        TYPICAL.plot()
