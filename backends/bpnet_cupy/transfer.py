"""Batches on their way from the host's memory to the device, while it computes.

CuPy's pool does not know which streams still use an array, so nothing is allocated and freed on the way: two places,
each with page-locked memory on the host and its counterpart on the device, are filled in turn. Events order them: a
place is filled again only when the device has computed with it, and computed with only when it is filled.
"""

from __future__ import annotations

import queue
from collections.abc import Sequence
from typing import Any

import numpy as np

from bpnet.dispatch import Array
from bpnet.errors import StateError

PLACES = 2


class _Place:
    """One batch's memory on both sides, by position, shape and dtype.

    filled : when the latest copy into it is done; used : when the device is done with it
    """

    def __init__(self, cuda: Any) -> None:
        self.filled = cuda.Event(disable_timing=True)
        self.used = cuda.Event(disable_timing=True)
        self.buffers: dict[tuple[int, tuple[int, ...], str], tuple[Any, Array]] = {}
        self.arrays: tuple[Array, ...] = ()


class CupyUploader:
    """`bpnet.abilities.Uploader` on a CUDA device.

    index : of the device; stream : a non-blocking one for copies alone; empty_pinned : cupyx.empty_pinned
    """

    def __init__(self, cupy: Any, empty_pinned: Any, index: int, stream: Any) -> None:
        self._cupy = cupy
        self._empty_pinned = empty_pinned
        self._index = index
        self._stream = stream
        self._closed = False
        self._present: _Place | None = None
        self._free: queue.Queue[_Place | None] = queue.Queue()
        with self._here:
            self._places = [_Place(cupy.cuda) for _ in range(PLACES)]
        for place in self._places:
            self._free.put(place)

    @property
    def _here(self) -> Any:
        return self._cupy.cuda.Device(self._index)

    def send(self, arrays: Sequence[Any]) -> _Place:
        """Copy host arrays into page-locked memory, and let the copy stream bring them to the device."""
        place = self._free.get()
        if place is None or self._closed:
            self._free.put(None)
            raise StateError("this uploader is closed")
        with self._here, self._stream:
            place.filled.synchronize()  # the copy before has left the page-locked memory
            self._stream.wait_event(place.used)
            given = []
            for index, array in enumerate(arrays):
                host, device = self._buffers(place, index, array)
                np.copyto(host, array)
                device.set(host, stream=self._stream)
                given.append(device)
            place.filled.record(self._stream)
        place.arrays = tuple(given)
        return place

    def _buffers(self, place: _Place, index: int, array: Any) -> tuple[Any, Array]:
        key = (index, array.shape, str(array.dtype))
        found = place.buffers.get(key)
        if found is None:
            host = self._empty_pinned(array.shape, array.dtype)
            found = place.buffers[key] = (host, self._cupy.empty(array.shape, array.dtype))
        return found

    def receive(self, sent: _Place) -> tuple[Array, ...]:
        """Let the current stream wait for the copy, and give the place before back behind what is asked for so far."""
        self._give_back()
        self._cupy.cuda.get_current_stream().wait_event(sent.filled)
        self._present = sent
        return sent.arrays

    def _give_back(self) -> None:
        if self._present is not None:
            self._present.used.record(self._cupy.cuda.get_current_stream())
            self._free.put(self._present)
            self._present = None

    def close(self) -> None:
        """Let `send` go, and wait until neither copies nor computations use the buffers: the pool gets them back."""
        self._closed = True
        self._free.put(None)
        if self._present is not None:
            self._present.used.record(self._cupy.cuda.get_current_stream())
        with self._here:
            self._stream.synchronize()
            for place in self._places:
                place.used.synchronize()
