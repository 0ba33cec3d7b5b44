"""A History as a picture, drawn by matplotlib without its global state."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from bpnet.callbacks.monitor import direction
from bpnet.errors import CheckpointError, ConfigError, MissingExtraError
from bpnet.files import check_writable

if TYPE_CHECKING:
    from bpnet.history import History

TRAINING, VALIDATION = "#3b6fb6", "#d9742b"
COLORS = (TRAINING, "#2f9e77", "#8a5fb0", "#c2476b", "#7a7a3a", "#4b4b4b")
LOG_FROM = 20.0  # a panel whose largest value is so many times the smallest gets a logarithmic axis


def plot(history: History, path: str | os.PathLike[str] | None, ax: Any) -> Any:
    """Draw `history` into a new Figure, or its loss into `ax`; see `History.plot`."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            f'History.plot needs matplotlib, which is missing ({error}): pip install "bpnet-xp[plot]"'
        ) from error
    if not history.rows:
        raise ConfigError("History.plot: no epoch is complete, so there is nothing to draw")
    if path is not None:
        if not os.path.splitext(os.fspath(path))[1]:
            raise ConfigError(f"History.plot: a file's ending, as .png, says how to draw; got {os.fspath(path)!r}")
        check_writable(path)
    if ax is not None and not hasattr(ax, "figure"):
        raise ConfigError(f"History.plot: ax must be a matplotlib Axes, got {ax!r}; a path is the first argument")
    panels = [["loss"]] if ax is not None else _panels(history)
    if ax is not None:
        figure, axes = ax.figure, [ax]
    else:
        columns = 2 if len(panels) == 4 else min(len(panels), 3)
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(4.6 * columns, 3.5 * rows), layout="constrained")
        axes = [figure.add_subplot(rows, columns, index) for index in range(1, len(panels) + 1)]
    for each, names in zip(axes, panels, strict=True):
        _draw(each, history, names)
    if path is not None:
        try:
            figure.savefig(path, dpi=150)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot write {os.fspath(path)!r}: {error}") from error
    return figure


def _numbers(history: History, name: str) -> list[float]:
    """The column as floats, NaN where a value is no number; [] where there is no such column or no number in it."""
    from bpnet.history import is_number

    values = [float(row[name]) if is_number(row.get(name)) else math.nan for row in history.rows]
    return values if any(math.isfinite(value) for value in values) else []


def _panels(history: History) -> list[list[str]]:
    """The names that share a panel: the loss; all shares between 0 and 1; every other metric; the learning rate."""
    names = [n for n in history if n not in ("epoch", "seconds", "learning_rate", "loss") and n[:4] != "val_"]
    names = [n for n in names if _numbers(history, n)]
    shares = [n for n in names if all(0 <= v <= 1 for v in _both(history, n) if v == v)]
    panels = [["loss"], *([shares] if shares else []), *([n] for n in names if n not in shares)]
    if len(set(_numbers(history, "learning_rate"))) > 1:
        panels.append(["learning_rate"])
    return panels


def _both(history: History, name: str) -> list[float]:
    return _numbers(history, name) + _numbers(history, f"val_{name}")


def _draw(ax: Any, history: History, names: list[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = [row.get("epoch", index) for index, row in enumerate(history.rows, start=1)]
    single = len(names) == 1
    style: dict[str, Any] = {"linewidth": 1.8, "marker": "o" if len(epochs) <= 25 else "", "markersize": 3.5}
    if names == ["learning_rate"]:
        style["drawstyle"] = "steps-mid"
    lines = 0
    for index, name in enumerate(names):
        color = COLORS[index % len(COLORS)]
        title = name.replace("_", " ")
        validation = _numbers(history, f"val_{name}")
        label = ("training" if validation else None) if single else title
        ax.plot(epochs, _numbers(history, name), color=color, label=label, **style)
        lines += label is not None
        if validation:
            label = "validation" if single else f"{title}, validation"
            color, dash = (VALIDATION, "-") if single else (color, "--")
            ax.plot(epochs, validation, color=color, linestyle=dash, label=label, **style)
            lines += 1
            if single:
                _mark_best(ax, epochs, validation, name)
    values = [value for name in names for value in _both(history, name) if math.isfinite(value)]
    if values and min(values) > 0 and max(values) / min(values) >= LOG_FROM:
        ax.set_yscale("log")
    ax.set_xlabel("epoch")
    ax.set_ylabel(names[0].replace("_", " ") if single else "share")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.grid(True, which="major", color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    if lines:
        ax.legend(frameon=False, fontsize="small")


def _mark_best(ax: Any, epochs: list[float], values: list[float], name: str) -> None:
    """A ring around the best value of the validation, where the name says which that is."""
    try:
        choose = min if direction("plot", name) == "min" else max
    except ConfigError:
        return
    finite = [(v, e) for v, e in zip(values, epochs, strict=True) if math.isfinite(v)]
    value, epoch = choose(finite, key=lambda pair: pair[0])
    ring = {"linestyle": "", "marker": "o", "markersize": 9, "markerfacecolor": "none", "color": VALIDATION}
    ax.plot([epoch], [value], label=f"best {value:.4g}, epoch {epoch:.0f}", **ring)
