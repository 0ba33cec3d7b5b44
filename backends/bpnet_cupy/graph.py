"""A row of prepared calls as one CUDA graph.

Recipe. The calls are made on a non-blocking stream of their own while that is captured: nothing runs, the driver notes
the launches with their pointers and scalars. So whatever they allocate on the way must stay where it is: it comes from
a pool of the graph's own, which lives as long as the graph. Kernels that were never launched are loaded at their first
launch, which a capture forbids, so all calls have been made once before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bpnet.dispatch import Call
from bpnet.errors import BackendError

_PER_PROCESS = threading.Lock()  # a capture is of a stream, but pools and the first use of libraries are everybody's


class Graph:
    """Recorded calls; a call launches all of them on the current stream.

    graph : CuPy's; pool : where what the calls allocate lies; calls : they hold the arrays that are named
    """

    __slots__ = ("_calls", "_graph", "_launch", "_pool")

    def __init__(self, graph: Any, pool: Any, calls: Sequence[Call]) -> None:
        self._graph = graph
        self._launch = graph.launch
        self._pool = pool
        self._calls = calls

    def __call__(self) -> None:
        """Launch the graph behind what the current stream has to do."""
        self._launch()


def capture(cupy: Any, device: Any, stream: Any, calls: Sequence[Call], prepare: Callable[[], object]) -> Graph:
    """Record `calls` on the non-blocking `stream` of `device`.

    prepare : called on that stream before, allocates what the calls expect to find there (a workspace)
    Whatever happens, the capture is ended and the stream usable again; what a call raises is raised.
    """
    cuda = cupy.cuda
    with _PER_PROCESS, device, stream:
        prepare()
        pool = cuda.MemoryPool()
        with cuda.using_allocator(pool.malloc), _no_copies_from_the_host(cupy):
            stream.begin_capture()
            whole = False
            try:
                for call in calls:
                    call()
                whole = True
            finally:
                graph = _end(stream, whole)
        graph.upload(stream)
    return Graph(graph, pool, tuple(calls))


@contextmanager
def _no_copies_from_the_host(cupy: Any) -> Iterator[None]:
    """Let this thread get no page-locked memory, through which CuPy copies host arrays.

    The graph would copy again at each launch, from memory that has become somebody else's: other numbers in silence.
    """
    thread = threading.get_ident()
    malloc = cupy.get_default_pinned_memory_pool().malloc

    def allocate(size: int) -> Any:
        if threading.get_ident() == thread:
            raise BackendError(
                "a call copies numbers from the host, which a graph cannot repeat; a kernel's constants are to be "
                "brought to the device when it is bound"
            )
        return malloc(size)

    cupy.cuda.set_pinned_memory_allocator(allocate)
    try:
        yield
    finally:
        cupy.cuda.set_pinned_memory_allocator(malloc)


def _end(stream: Any, whole: bool) -> Any:
    """End the capture; where a call has failed, what ending it raises would hide why."""
    try:
        return stream.end_capture()
    except Exception:
        if whole:
            raise
        return None
