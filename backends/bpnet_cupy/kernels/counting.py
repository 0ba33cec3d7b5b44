"""Right answers counted, and running totals."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.common import (
    BLOCK,
    FLOAT64,
    Array,
    alike,
    labels_of,
    lanes,
    named,
    nothing,
    number,
    partial_blocks,
    real,
    row_sum_grid,
    scratch,
)


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""

    def two(*_: Any) -> Array:
        return driver.empty(2, FLOAT64)

    @ops.count_correct.register_bound(
        array_type,
        accepts=lambda scores, labels, _: (
            real(scores) and scores.ndim > 0 and labels_of(labels, scores.size // scores.shape[-1])
        ),
        allocate=two,
    )
    def _(out: Array, scores: Array, labels: Array, ignore_index: int | None) -> list[Call]:
        columns = scores.shape[-1]
        rows, width = scores.size // columns, lanes(columns, widest=32)
        grid = row_sum_grid(rows, width)
        numbers = (np.int64(rows), np.int64(columns), np.bool_(ignore_index is not None), np.int64(ignore_index or 0))
        kernel = f"count_correct<{named(scores)}, {named(labels)}, {width}>"
        return [driver.launch(kernel, grid, BLOCK, (out, scores, labels, *scratch(driver, grid, 2), *numbers))]

    @ops.count_correct_binary.register_bound(
        array_type, accepts=lambda scores, targets, threshold: alike(scores, targets), allocate=two
    )
    def _(out: Array, scores: Array, targets: Array, threshold: float) -> list[Call]:
        grid = partial_blocks(scores.size)
        numbers = (np.int64(scores.size), scores.dtype.type(threshold))
        args = (out, scores, targets, *scratch(driver, grid), *numbers)
        return [driver.launch(f"count_correct_binary<{named(scores)}>", grid, BLOCK, args)]

    @ops.accumulate_.register_bound(
        array_type,
        accepts=lambda total, value, weight: (
            total.dtype == FLOAT64
            and total.size == 2
            and total.flags.c_contiguous
            and real(value)
            and value.size == 1
            and (number(weight) or (real(weight) and weight.size == 1))
        ),
        allocate=nothing,
    )
    def _(_: None, total: Array, value: Array, weight: Any) -> list[Call]:
        array = None if number(weight) else weight
        kernel = f"accumulate<{named(value)}, {'double' if array is None else named(array)}>"
        count = np.float64(weight if array is None else 0)
        return [driver.launch(kernel, 1, 32, (total, value, array, count))]
