"""Mistakes in settings, gathered, so that all are reported at once: each with its key, what was found, what may be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bpnet.errors import ConfigError

Place = tuple[str | int, ...]


def path_of(place: Place) -> str:
    """A key as people write it: ("model", "layers", 2) is model.layers[2]."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def shown(value: Any) -> str:
    """A value in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


class Mistakes:
    """A list of mistakes. Those of a key that came from elsewhere, such as an option, are reported under that name.

    labels : the name to show for a key's path, as {"training.epochs": "--epochs"}
    """

    def __init__(self, labels: Mapping[str, str] | None = None) -> None:
        self.labels = dict(labels or {})
        self.lines: list[str] = []
        self._places: list[str] = []

    def label(self, place: Place) -> str:
        """The name under which mistakes at `place` are reported."""
        path = path_of(place)
        return self.labels.get(path, path)

    def add(self, place: Place, text: str) -> None:
        """Note what is wrong at `place`; at () where no key is to blame. "must ..." continues the key's name."""
        joint = " " if text.startswith(("must ", "is missing")) else ": "
        self._note(place, f"{self.label(place)}{joint}{text}" if place else text)

    def must_be(self, place: Place, allowed: str, found: Any) -> None:
        """Note that `place` must be `allowed`, and that `found` stands there."""
        self._note(place, f"{self.label(place)} must be {allowed}, got {shown(found)}")

    def _note(self, place: Place, line: str) -> None:
        self.lines.append(line)
        self._places.append(path_of(place))

    def at(self, *places: str) -> bool:
        """Whether something was noted at one of the keys or below them."""
        return any(found == p or found.startswith((f"{p}.", f"{p}[")) for found in self._places for p in places)

    def __len__(self) -> int:
        return len(self.lines)

    def raise_if_any(self, before: Sequence[str] = (), *, where: str = "") -> None:
        """Raise one ConfigError of all mistakes, those `before` first."""
        raise_all([*before, *self.lines], where=where)


def raise_all(lines: Iterable[str], *, where: str = "") -> None:
    """Raise one ConfigError of all `lines`, where there are any; where : the file they are about, if any."""
    lines = list(lines)
    prefix = f"{where}: " if where else ""
    if len(lines) == 1:
        raise ConfigError(prefix + lines[0])
    if lines:
        lines = [line.replace("\n", "\n    ") for line in lines]
        raise ConfigError("\n  ".join([f"{prefix}{len(lines)} settings cannot be used:", *lines]))
