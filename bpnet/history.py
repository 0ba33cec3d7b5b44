"""What a fit returns."""

from __future__ import annotations

import numbers
import os
from collections.abc import Iterator
from typing import Any

from bpnet.callbacks.monitor import Monitor
from bpnet.errors import ConfigError

BOOKKEEPING = ("epoch", "learning_rate", "seconds")


def is_number(value: Any) -> bool:
    """Whether a row's value is one number, and no truth value."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def as_text(name: str, value: Any) -> str:
    """A row's value as short text; '' for what does not fit into a line, such as a confusion matrix."""
    if isinstance(value, (list, tuple)) and len(value) <= 4 and all(is_number(each) for each in value):
        return f"[{' '.join(as_text('', each) for each in value)}]"
    if not is_number(value):
        return ""
    if name == "learning_rate" or isinstance(value, int):
        return f"{value:g}"
    size = abs(value)
    return f"{value:.4f}" if size == 0 or 1e-3 <= size < 1e5 or size != size else f"{value:.3e}"


class History:
    """What each epoch ended with: rows of numbers, and columns by name (`history["val_accuracy"]`).

    rows        : a dict for every complete epoch; `pandas.DataFrame(history.rows)` is a table of them
    interrupted : whether Ctrl-C ended the fit
    stopped     : why a callback ended it, or ''
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.interrupted = False
        self.stopped = ""

    def __getitem__(self, name: str) -> list[Any]:
        if not isinstance(name, str):
            raise TypeError(f"a column's name, such as 'loss', got {name!r}; the epochs are in history.rows")
        if self.rows and name not in self.rows[0]:
            raise KeyError(f"{name!r}; there are {', '.join(self.rows[0])}")
        return [row[name] for row in self.rows]

    def keys(self) -> list[str]:
        """The names of the columns; `dict(history)` has them with their values."""
        return list(self.rows[0]) if self.rows else []

    def best(self, monitor: str = "val_loss", mode: str = "auto") -> dict[str, Any]:
        """The row of the epoch with the best value, the first of equal ones.

        mode : "min", "max", or "auto", which reads the name: losses and errors fall, accuracies rise
        Raises ConfigError where there is no such column, or no number in it.
        """
        watched = Monitor("History.best", monitor, mode=mode)
        if not self.rows:
            raise ConfigError("History.best: no epoch is complete")
        watched.start(self.keys())
        found = None
        for row in self.rows:
            if watched.improves(row):
                found = row
        if found is None:
            raise ConfigError(f"History.best: every value of {monitor!r} is NaN")
        return found

    def plot(self, path: str | os.PathLike[str] | None = None, *, ax: Any = None) -> Any:
        """Draw the loss, the metrics, and the learning rate where it changed; return the matplotlib Figure.

        path : also write the picture there; the ending says how (.png, .svg, .pdf)
        ax   : a matplotlib Axes to draw the loss alone into
        Works without a display. Raises MissingExtraError without matplotlib, ConfigError where no epoch is complete,
        CheckpointError where the file cannot be written.
        """
        from bpnet.plotting import plot

        return plot(self, path, ax)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        last = "nothing"
        if self.rows:
            texts = {name: as_text(name, value) for name, value in self.rows[-1].items() if name != "epoch"}
            last = ", ".join(f"{name} {text}" for name, text in texts.items() if text)
        end = "; interrupted" if self.interrupted else f"; stopped: {self.stopped}" if self.stopped else ""
        return f"<History of {len(self.rows)} epochs; the last: {last}{end}>"
