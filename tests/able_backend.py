"""NumPy with every optional ability, for tests: what is recorded, scoped and uploaded can be looked at."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from bpnet.dispatch import Call
from bpnet_numpy import NumpyBackend


class AbleBackend(NumpyBackend):
    """Its graphs make the recorded calls.

    fails   : asked with the number of the capture, what it raises, or None
    spoil   : makes other calls of those recorded, as a backend with an error would
    scopes  : the precisions of all scopes entered so far; depth : those that are open
    """

    def __init__(
        self,
        name: str = "able",
        *,
        fails: Callable[[int], BaseException | None] = lambda number: None,
        spoil: Callable[[list[Call]], list[Call]] = list,
    ) -> None:
        super().__init__()
        self.name = name
        self.fails = fails
        self.spoil = spoil
        self.captures: list[list[Call]] = []
        self.replays: list[int] = []
        self.scopes: list[str] = []
        self.depth = 0
        self.uploaders: list[FakeUploader] = []

    @contextlib.contextmanager
    def scope(self, matmul_precision: str = "float32") -> Iterator[None]:
        self.scopes.append(matmul_precision)
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def capture(self, calls: Sequence[Call]) -> Call:
        assert self.depth, "outside of the scope"
        number = len(self.captures)
        self.captures.append(list(calls))
        error = self.fails(number)
        if error is not None:
            raise error
        recorded = self.spoil(list(calls))

        def replay() -> None:
            assert self.depth, "outside of the scope"
            self.replays.append(number)
            for call in recorded:
                call()

        return replay

    def uploader(self) -> FakeUploader:
        self.uploaders.append(FakeUploader())
        return self.uploaders[-1]

    def explain_memory_error(self, error: MemoryError) -> str:
        return f"the device has 5 bytes ({error})"


class FakeUploader:
    """Two places, whose arrays are spoiled as soon as the next batch is received."""

    def __init__(self) -> None:
        self.free: queue.Queue[Any] = queue.Queue()
        self.free.put(0)
        self.free.put(1)
        self.present: tuple[int, tuple[Any, ...]] | None = None
        self.closed = False
        self.sent = 0

    def send(self, arrays: Sequence[Any]) -> Any:
        place = self.free.get(timeout=20)
        if self.closed:
            raise RuntimeError("closed")
        self.sent += 1
        assert all(type(each) is np.ndarray for each in arrays)
        return place, tuple(each.copy() for each in arrays)

    def receive(self, sent: Any) -> tuple[Any, ...]:
        if self.present is not None:
            place, arrays = self.present
            for each in arrays:
                each[...] = -1
            self.free.put(place)
        self.present = sent
        return sent[1]

    def close(self) -> None:
        self.closed = True
        self.free.put(None)
