"""Several GPUs in one process: a kernel runs where its first argument lies, whatever the thread's current device is."""

from __future__ import annotations

from typing import Any

from bpnet.dispatch import guard

_registered: list[type] = []


def follow_the_array(cupy: Any) -> None:
    """Let every kernel on CuPy's arrays make its first argument's device the current one of its thread, for good.

    CuPy would run it on the current device, through peer access or not at all.
    """
    if cupy.ndarray in _registered:
        return
    _registered.append(cupy.ndarray)
    current, device = cupy.cuda.runtime.getDevice, cupy.cuda.Device

    @guard(cupy.ndarray)
    def follow(*args: Any) -> None:
        first = args[0][0] if type(args[0]) is tuple else args[0]
        number = first.data.device_id
        if number != current():
            device(number).use()
