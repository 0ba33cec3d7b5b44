"""What a fit returns."""

from __future__ import annotations


class History:
    """What each epoch ended with: rows of numbers, and columns by name (`history["val_accuracy"]`).

    interrupted : whether Ctrl-C ended the fit
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.interrupted = False

    def __getitem__(self, name: str) -> list[float]:
        if self.rows and name not in self.rows[0]:
            raise KeyError(f"{name!r}; there are {', '.join(self.rows[0])}")
        return [row[name] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        last = ", ".join(f"{k} {v:.4g}" for k, v in self.rows[-1].items()) if self.rows else "nothing"
        return f"<History of {len(self.rows)} epochs; the last: {last}>"
