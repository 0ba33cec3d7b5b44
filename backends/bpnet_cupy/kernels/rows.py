"""Softmax and its logarithm over the last axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet.dispatch import Call
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.common import BLOCK, Array, alike, lanes, named, op, row_grid


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""

    def first_like(x: Array, *_: Any) -> Array:
        return driver.empty(x.shape, x.dtype)

    def by_row(name: str) -> None:
        @op(name).register_bound(
            array_type, accepts=lambda *arrays: arrays[0].ndim > 0 and alike(*arrays), allocate=first_like
        )
        def _(out: Array, *arrays: Array) -> list[Call]:
            columns = out.shape[-1]
            rows, width = out.size // columns, lanes(columns)
            args = (out, *arrays, np.int64(rows), np.int64(columns))
            kernel = f"{name}<{named(out)}, {width}>"
            return [driver.launch(kernel, row_grid(driver, rows, width), BLOCK, args)]

    for name in ("softmax", "softmax_backward", "log_softmax", "log_softmax_backward"):
        by_row(name)
