"""What a fit tells while it runs: a bar on a terminal, a line an epoch elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Protocol, Self

from bpnet.history import BOOKKEEPING, as_text


class Progress(Protocol):
    """Told of every step's end and every epoch's end."""

    def __enter__(self) -> Self:
        """Start."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and leave the output usable."""

    def begin(self, finished: int) -> None:
        """So many epochs were finished before: those of a fit that is resumed."""

    def step(self, done: int) -> None:
        """`done` steps of this epoch are done."""

    def epoch(self, epoch: int, row: dict[str, Any]) -> None:
        """An epoch ended with these numbers."""


def describe(row: dict[str, Any], *, learning_rate: bool = False) -> str:
    """The numbers of an epoch as text, with the learning rate where that is asked; what does not fit is left out."""
    left_out = ("epoch", "seconds") if learning_rate else BOOKKEEPING
    texts = {name: as_text(name, value) for name, value in row.items() if name not in left_out}
    shown = "  ".join(f"{name} {text}" for name, text in texts.items() if text)
    return f"{shown}  {row['seconds']:.2f} s"


class Silent:
    """Says nothing."""

    def __init__(self, epochs: int = 0, steps: int = 0) -> None:
        self.epochs = epochs
        self.finished = 0
        self.rates: set[Any] = set()

    def describe(self, row: dict[str, Any]) -> str:
        """The numbers of an epoch; the learning rate from the epoch on in which it has changed."""
        self.rates.add(row.get("learning_rate"))
        return describe(row, learning_rate=len(self.rates) > 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def begin(self, finished: int) -> None:
        """Count on from there."""
        self.finished = finished

    def step(self, done: int) -> None:
        """Say nothing."""

    def epoch(self, epoch: int, row: dict[str, Any]) -> None:
        """Say nothing."""


class Lines(Silent):
    """Prints a line an epoch."""

    def epoch(self, epoch: int, row: dict[str, Any]) -> None:
        """Print the epoch's numbers."""
        print(f"epoch {epoch:>{len(str(self.epochs))}}/{self.epochs}  {self.describe(row)}", flush=True)


class Bar(Silent):
    """A bar over all steps with the latest epoch's numbers, drawn by rich."""

    def __init__(self, epochs: int, steps: int) -> None:
        super().__init__(epochs)
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self.steps = steps
        self.bar: Any = RichProgress(
            TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
        )
        self.task = self.bar.add_task("", total=epochs * steps, epoch=1, numbers="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def begin(self, finished: int) -> None:
        """Move the bar to there."""
        super().begin(finished)
        self.bar.update(self.task, completed=finished * self.steps, epoch=min(finished + 1, self.epochs))

    def step(self, done: int) -> None:
        """Move the bar."""
        self.bar.update(self.task, completed=self.finished * self.steps + done)

    def epoch(self, epoch: int, row: dict[str, Any]) -> None:
        """Show the epoch's numbers."""
        self.finished += 1
        completed = self.finished * self.steps
        self.bar.update(self.task, completed=completed, epoch=min(epoch + 1, self.epochs), numbers=self.describe(row))


def make_progress(wanted: bool, epochs: int, steps: int) -> Progress:
    """A bar where standard output is a terminal, lines elsewhere, nothing when not wanted."""
    if not wanted or sys.stdout is None:
        return Silent()
    return Bar(epochs, steps) if sys.stdout.isatty() else Lines(epochs)
