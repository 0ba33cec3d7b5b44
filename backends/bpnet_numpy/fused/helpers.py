"""The threads that help compiled bodies: as many as NumPy's OpenBLAS may use, this one included.

They belong to the process, are started when the first body that divides its work is bound, wait without using the
processor when there has been no work for a millisecond, and end with the interpreter. A forked process
starts its own. Where the system has no POSIX threads nobody helps.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
from typing import Any

import numpy as np

from bpnet.processors import usable
from bpnet_numpy.fused.blas import address
from bpnet_numpy.fused.instruction import machine
from bpnet_numpy.threads import openblas

MOST = 16
"""Threads that work on one product at most."""

_state: Any = None
_kept: list[Any] = []
_threads: list[threading.Thread] = []
_lock = threading.Lock()


def _memory(words: int) -> Any:
    """Zeros that begin with a cache line."""
    whole = np.zeros(words + 8, np.int64)
    start = -whole.ctypes.data % 64 // 8
    return whole[start : start + words]


def _prepare(code: Any) -> bool:
    """Set the state to that of a team without work; False where the system lacks what it needs."""
    try:
        library = ctypes.CDLL(None)
        functions = {
            code.LOCK: library.pthread_mutex_lock,
            code.UNLOCK: library.pthread_mutex_unlock,
            code.WAIT: library.pthread_cond_wait,
            code.BROADCAST: library.pthread_cond_broadcast,
            code.YIELD: library.sched_yield,
        }
        _state[:] = 0
        for word, make in ((code.MUTEX, library.pthread_mutex_init), (code.CONDITION, library.pthread_cond_init)):
            memory = _memory(32)  # larger than either is anywhere
            _kept.append(memory)
            make(ctypes.c_void_p(memory.ctypes.data), None)
            _state[word] = memory.ctypes.data
        for word, function in functions.items():
            _state[word] = address(function)
    except (AttributeError, OSError, TypeError):
        return False
    return True


def wanted() -> int:
    """How many threads are to work, this one included."""
    library = openblas()
    return min(usable() if library is None else library.get(), MOST)


def team() -> tuple[int, int]:
    """The addresses of the team's state and of the function that tells how many threads OpenBLAS may use; 0: none."""
    global _state
    library = openblas()
    tell = 0 if library is None else address(library.get)
    if wanted() < 2:
        return 0, tell
    with _lock:
        code = machine().team
        if _state is None:
            _state = _memory(code.SIZE)
            if not _prepare(code):
                return 0, tell
            atexit.register(dismiss)
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=_forget)
        if not _threads:
            _state[code.STOP] = 0  # after `dismiss`
        while _state[code.MUTEX] and len(_threads) < wanted() - 1:
            place = len(_threads) + 1
            thread = threading.Thread(
                target=machine().serve, args=(_state.ctypes.data, place), name=f"bpnet-{place}", daemon=True
            )
            thread.start()
            _threads.append(thread)
        return (_state.ctypes.data if _threads else 0), tell


def dismiss() -> None:
    """Let the helpers end, and wait until they have; who is bound to the team works alone from then on."""
    with _lock:
        if _threads:
            machine().dismiss(_state.ctypes.data)
            for thread in _threads:
                thread.join()
            _threads.clear()


def _forget() -> None:
    """A forked process has the state and none of the threads."""
    global _lock
    _lock = threading.Lock()
    _threads.clear()
    _prepare(machine().team)
