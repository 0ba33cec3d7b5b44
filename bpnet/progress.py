"""What a fit tells while it runs: a bar on a terminal, a line an epoch elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Protocol, Self


class Progress(Protocol):
    """Told of every step's end and every epoch's end."""

    def __enter__(self) -> Self:
        """Start."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and leave the output usable."""

    def step(self, done: int) -> None:
        """`done` steps of this epoch are done."""

    def epoch(self, epoch: int, row: dict[str, float]) -> None:
        """An epoch ended with these numbers."""


def describe(row: dict[str, float]) -> str:
    """The numbers of an epoch as text."""
    shown = "  ".join(f"{k} {v:.4f}" for k, v in row.items() if k not in ("epoch", "learning_rate", "seconds"))
    return f"{shown}  {row['seconds']:.2f} s"


class Silent:
    """Says nothing."""

    def __init__(self, epochs: int = 0, steps: int = 0) -> None:
        self.epochs = epochs

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def step(self, done: int) -> None:
        """Say nothing."""

    def epoch(self, epoch: int, row: dict[str, float]) -> None:
        """Say nothing."""


class Lines(Silent):
    """Prints a line an epoch."""

    def epoch(self, epoch: int, row: dict[str, float]) -> None:
        """Print the epoch's numbers."""
        print(f"epoch {epoch:>{len(str(self.epochs))}}/{self.epochs}  {describe(row)}", flush=True)


class Bar(Silent):
    """A bar over all steps with the latest epoch's numbers, drawn by rich."""

    def __init__(self, epochs: int, steps: int) -> None:
        super().__init__(epochs)
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self.steps = steps
        self.finished = 0
        self.bar: Any = RichProgress(
            TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
        )
        self.task = self.bar.add_task("", total=epochs * steps, epoch=1, numbers="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def step(self, done: int) -> None:
        """Move the bar."""
        self.bar.update(self.task, completed=self.finished * self.steps + done)

    def epoch(self, epoch: int, row: dict[str, float]) -> None:
        """Show the epoch's numbers."""
        self.finished += 1
        completed = self.finished * self.steps
        self.bar.update(self.task, completed=completed, epoch=min(epoch + 1, self.epochs), numbers=describe(row))


def make_progress(wanted: bool, epochs: int, steps: int) -> Progress:
    """A bar where standard output is a terminal, lines elsewhere, nothing when not wanted."""
    if not wanted or sys.stdout is None:
        return Silent()
    return Bar(epochs, steps) if sys.stdout.isatty() else Lines(epochs)
