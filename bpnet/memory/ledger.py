"""What is held of memory, and the most that was: a ledger in place of an allocator."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Any, Self

from bpnet.errors import ConfigError

Array = Any


class OutlineError(ConfigError):
    """What was to be done needs the values of an array, or was done past NumPy's protocols."""


_present = threading.local()


class Ledger:
    """Bytes that are held, and the most that were, while this ledger is the thread's.

    place : what was at work when the peak was reached; set `at` before
    """

    def __init__(self) -> None:
        self.present = self.peak = 0
        self.at = self.place = 0
        self.known: dict[Hashable, dict[Hashable, Array]] = {}
        self.trusted = False  # whether a body of ours is at work, which may read what are zeros

    def add(self, n: int) -> None:
        """Allocate n bytes, or free them where n is negative."""
        self.present += n
        if self.present > self.peak:
            self.peak, self.place = self.present, self.at

    def reset(self) -> None:
        """Forget the peak."""
        self.peak, self.place = self.present, self.at

    def __enter__(self) -> Self:
        self._before = getattr(_present, "ledger", None)
        _present.ledger = self
        return self

    def __exit__(self, *_: object) -> None:
        _present.ledger = self._before
        self.known.clear()


def ledger() -> Ledger:
    """The ledger of this thread."""
    found: Ledger | None = getattr(_present, "ledger", None)
    if found is None:
        raise OutlineError("an array without memory was used outside of the estimate that it belongs to")
    return found


class Block:
    """Some bytes of a ledger, for as long as this object lives."""

    __slots__ = ("bytes", "ledger")

    def __init__(self, n: int) -> None:
        found = ledger()
        found.add(n)
        self.bytes, self.ledger = n, found

    def __del__(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.add(-self.bytes)
