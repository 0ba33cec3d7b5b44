"""What a fit returns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class History:
    """What each epoch ended with: rows of numbers, and columns by name (`history["val_accuracy"]`).

    interrupted : whether Ctrl-C ended the fit; stopped : why a callback ended it, or ''
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

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        last = ", ".join(f"{k} {v:.4g}" for k, v in self.rows[-1].items()) if self.rows else "nothing"
        return f"<History of {len(self.rows)} epochs; the last: {last}>"
