"""Prefetch: the same items in the same order, what is raised, and no thread that stays."""

from __future__ import annotations

import gc
import threading
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bpnet as bp
from bpnet.data import prefetch

PATIENCE = 30.0  # seconds after which a test has failed; none waits for it


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "bpnet prefetch"]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    assert workers() == []
    yield
    gc.collect()
    for thread in workers():
        thread.join(PATIENCE)
    assert workers() == []


class Source:
    """Numbers, counted as they are made, with a note when the iterator is closed."""

    def __init__(self, n: int = 1000) -> None:
        self.n = n
        self.made = 0
        self.closed = threading.Event()
        self.thread: Any = None
        self.progress = threading.Condition()

    def __iter__(self) -> Iterator[int]:
        self.thread = threading.current_thread()
        try:
            for number in range(self.n):
                with self.progress:
                    self.made += 1
                    self.progress.notify_all()
                yield number
        finally:
            self.closed.set()

    def wait_for(self, made: int) -> bool:
        with self.progress:
            return self.progress.wait_for(lambda: self.made >= made, PATIENCE)


@settings(max_examples=30, deadline=None)
@given(items=st.lists(st.integers()), depth=st.integers(1, 5))
def test_every_item_comes_once_and_in_order(items: list[int], depth: int) -> None:
    assert list(prefetch(items, depth)) == items


def test_another_thread_makes_the_items() -> None:
    source = Source(5)
    assert list(prefetch(source)) == [0, 1, 2, 3, 4]
    assert source.thread is not threading.current_thread()
    assert source.closed.is_set()


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_it_is_ahead_by_depth_and_no_further(depth: int) -> None:
    source = Source()
    items = prefetch(source, depth)
    assert source.made == 0  # nothing happens before the first item is asked for
    assert next(items) == 0
    assert source.wait_for(1 + depth)
    threading.Event().wait(0.05)
    assert source.made == 1 + depth
    assert next(items) == 1
    assert source.wait_for(2 + depth)
    items.close()
    assert source.made <= 3 + depth


def test_an_exception_comes_behind_the_items_before_it_with_its_traceback() -> None:
    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise bp.DataError("the third batch is damaged")

    items = prefetch(failing())
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(bp.DataError, match="the third batch is damaged") as caught:
        next(items)
    assert "failing" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    with pytest.raises(StopIteration):
        next(items)


def test_an_iterable_that_cannot_be_iterated_says_so_here() -> None:
    class Broken:
        def __iter__(self) -> Iterator[int]:
            raise RuntimeError("no iterator")

    with pytest.raises(RuntimeError, match="no iterator"):
        next(prefetch(Broken()))


@pytest.mark.parametrize("how", ["close", "del", "break", "raise", "keyboard"])
def test_the_thread_ends_when_the_consumer_does(how: str) -> None:
    source = Source()
    items = prefetch(source, 3)
    assert next(items) == 0
    if how == "close":
        items.close()
    elif how == "del":
        del items
        gc.collect()
    elif how == "break":
        for number in items:
            if number == 5:
                break
        del items
    else:
        kind = ValueError if how == "raise" else KeyboardInterrupt
        with pytest.raises(kind):
            items.throw(kind("stop"))
    assert workers() == []
    assert source.closed.is_set()
    assert source.made < 20


def test_a_consumer_that_fails_in_its_loop_leaves_no_thread() -> None:
    source = Source()

    def consume() -> None:
        for number in prefetch(source):
            if number == 3:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        consume()
    gc.collect()
    assert source.closed.wait(PATIENCE)


def test_a_generator_that_was_never_asked_starts_no_thread() -> None:
    items = prefetch(Source())
    assert workers() == []
    items.close()
    assert workers() == []


def test_a_full_queue_does_not_keep_the_thread() -> None:
    source = Source()
    items = prefetch(source, 1)
    next(items)
    assert source.wait_for(2)  # it now waits for room
    items.close()
    assert workers() == []


def test_many_at_once_and_one_within_another() -> None:
    chained = prefetch(prefetch(range(50), 1), 2)
    assert list(chained) == list(range(50))
    several = [prefetch(range(20)) for _ in range(8)]
    assert [list(pair) for pair in zip(*several, strict=True)] == [[i] * 8 for i in range(20)]


def test_an_inner_prefetch_ends_when_the_outer_is_closed() -> None:
    source = Source()
    chained = prefetch(prefetch(source))
    next(chained)
    chained.close()
    assert workers() == []
    assert source.closed.is_set()


def test_an_error_while_closing_does_not_hide_the_consumers() -> None:
    def stubborn() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            raise ValueError("while closing")

    items = prefetch(stubborn())
    next(items)
    with pytest.raises(ZeroDivisionError):
        items.throw(ZeroDivisionError())


def test_the_chosen_backend_reaches_the_thread() -> None:
    def names() -> Iterator[str]:
        yield bp.get_backend().name

    with bp.use_backend("strict"):
        assert list(prefetch(names())) == ["strict"]


def test_batches_are_the_same() -> None:
    data = bp.Dataset(np.arange(60.0).reshape(30, 2), np.arange(30), weight=np.ones(30))
    for direct, fetched in zip(data.batches(7, seed=1), prefetch(data.batches(7, seed=1)), strict=True):
        for a, b in zip(direct, fetched, strict=True):
            assert np.array_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 0), "depth must be an integer of at least 1, got 0"),
        (([], True), "depth must be an integer of at least 1, got True"),
        (([], 1.5), "depth must be an integer of at least 1, got 1.5"),
        ((3,), "prefetch needs something to iterate over, got int"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(arguments: Any, message: str) -> None:
    with pytest.raises(bp.ConfigError, match=message):
        prefetch(*arguments)
