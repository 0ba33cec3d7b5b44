"""The next batches made in a thread while the present one is used."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

from bpnet.data.dataset import check_batch_size
from bpnet.errors import ConfigError

T = TypeVar("T")
_END = object()


class _Failure:
    """What the other iterator raised."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def prefetch(batches: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """Give what `batches` gives, in its order, made by a thread that is up to `depth` items ahead.

    batches : any iterable; only the thread runs it, from the first item that is asked for on
    depth   : the number of items kept ready, at least 1; each takes memory
    What it raises is raised here, with its traceback, behind the items made before. When the consumer stops early, by
    close(), an exception or by dropping this generator, the thread ends after the item that it is making, and the
    iterator is closed. Raises ConfigError.
    """
    depth = check_batch_size(depth, "depth")
    if not isinstance(batches, Iterable):
        raise ConfigError(f"prefetch needs something to iterate over, got {type(batches).__name__}")
    return _prefetch(batches, depth)


def _prefetch(batches: Iterable[T], depth: int) -> Generator[T, None, None]:
    ready: queue.Queue[Any] = queue.Queue()
    room = threading.Semaphore(depth)
    stop = threading.Event()
    # The thread must not hold this generator, or dropping that would never close it: it gets these objects alone. Its
    # context is the caller's, and with it the backend chosen there.
    work = contextvars.copy_context().run
    thread = threading.Thread(target=work, args=(_work, batches, ready, room, stop), name="bpnet prefetch", daemon=True)
    try:
        thread.start()
        while True:
            item = ready.get()
            room.release()
            if item is _END:
                return
            if isinstance(item, _Failure):
                try:
                    raise item.error
                finally:
                    del item  # or the error and this frame would hold each other
            yield item
            del item
    finally:
        stop.set()
        room.release()
        # The garbage collector may close this in any thread, the one to wait for among them.
        if thread.ident is not None and thread is not threading.current_thread():
            thread.join()


def _work(batches: Iterable[Any], ready: queue.Queue[Any], room: threading.Semaphore, stop: threading.Event) -> None:
    iterator: Any = None
    end: Any = _END
    try:
        iterator = iter(batches)
        while True:
            room.acquire()
            if stop.is_set():
                break
            try:
                item = next(iterator)
            except StopIteration:
                break
            ready.put(item)
            del item  # not kept alive here while the next one is made
    except BaseException as error:
        end = _Failure(error)
    try:
        if isinstance(iterator, Generator):
            iterator.close()
    except BaseException as error:
        end = _Failure(error)
    ready.put(end)
