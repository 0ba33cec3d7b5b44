"""What metrics are made of: answers, and sums in float64 that stay on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.common import (
    BLOCK,
    FLOAT64,
    INT64,
    LABELS,
    Array,
    alike,
    blocks,
    labels_of,
    lanes,
    named,
    partial_blocks,
    real,
    row_grid,
    row_sum_grid,
    scratch,
)
from bpnet_cupy.kernels.linear import SLAB


def of_rows(scores: Array, labels: Array, *_: Any) -> bool:
    """Whether these are rows of scores with a label each."""
    return real(scores) and scores.ndim > 0 and labels_of(labels, scores.size // scores.shape[-1])


def answered(classes: Array, labels: Array, n_classes: int, *_: Any) -> bool:
    """Whether these are int64 answers, as `largest` gives them, and labels."""
    whole = classes.dtype == INT64 and classes.flags.c_contiguous and classes.size > 0
    return bool(whole and labels.dtype in LABELS and labels_of(labels, classes.size) and n_classes > 0)


def ignoring(ignore_index: int | None) -> tuple[Any, Any]:
    """The two arguments of a kernel for a label that does not count."""
    return np.bool_(ignore_index is not None), np.int64(ignore_index or 0)


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""

    def two(*_: Any) -> Array:
        return driver.empty(2, FLOAT64)

    @ops.largest.register_bound(
        array_type,
        accepts=lambda scores: real(scores) and scores.ndim > 0,
        allocate=lambda scores: driver.empty(scores.shape[:-1], INT64),
    )
    def _(out: Array, scores: Array) -> list[Call]:
        columns = scores.shape[-1]
        rows, width = scores.size // columns, lanes(columns, widest=32)
        args = (out, scores, np.int64(rows), np.int64(columns))
        return [driver.launch(f"largest<{named(scores)}, {width}>", row_grid(driver, rows, width), BLOCK, args)]

    @ops.above.register_bound(
        array_type,
        accepts=lambda scores, threshold: real(scores),
        allocate=lambda scores, threshold: driver.empty(scores.shape, INT64),
    )
    def _(out: Array, scores: Array, threshold: float) -> list[Call]:
        args = (out, scores, np.int64(scores.size), scores.dtype.type(threshold))
        return [driver.launch(f"above<{named(scores)}>", blocks(driver, scores.size), BLOCK, args)]

    def sum_of_rows(name: str, out: Array, scores: Array, labels: Array, *numbers: Any) -> list[Call]:
        columns = scores.shape[-1]
        rows, width = scores.size // columns, lanes(columns, widest=32)
        grid = row_sum_grid(rows, width)
        args = (out, scores, labels, *scratch(driver, grid, 2), np.int64(rows), np.int64(columns), *numbers)
        return [driver.launch(f"{name}<{named(scores)}, {named(labels)}, {width}>", grid, BLOCK, args)]

    @ops.count_top_k.register_bound(array_type, accepts=of_rows, allocate=two)
    def _(out: Array, scores: Array, labels: Array, k: int, ignore_index: int | None) -> list[Call]:
        return sum_of_rows("count_top_k", out, scores, labels, np.int64(k), *ignoring(ignore_index))

    @ops.sum_log_loss.register_bound(array_type, accepts=of_rows, allocate=two)
    def _(out: Array, scores: Array, labels: Array, from_logits: bool, ignore_index: int | None) -> list[Call]:
        return sum_of_rows("sum_log_loss", out, scores, labels, np.bool_(from_logits), *ignoring(ignore_index))

    @ops.confusion.register_bound(
        array_type,
        accepts=answered,
        allocate=lambda classes, labels, n_classes, _: driver.empty((n_classes, n_classes), FLOAT64),
    )
    def _(out: Array, classes: Array, labels: Array, n_classes: int, ignore_index: int | None) -> list[Call]:
        args = (out, classes, labels, np.int64(labels.size), np.int64(n_classes), *ignoring(ignore_index))
        return [driver.launch(f"confusion<{named(labels)}>", row_grid(driver, out.size, 32), BLOCK, args)]

    @ops.class_counts.register_bound(
        array_type,
        accepts=answered,
        allocate=lambda classes, labels, n_classes, _: driver.empty((3, n_classes), FLOAT64),
    )
    def _(out: Array, classes: Array, labels: Array, n_classes: int, ignore_index: int | None) -> list[Call]:
        args = (out, classes, labels, np.int64(labels.size), np.int64(n_classes), *ignoring(ignore_index))
        return [driver.launch(f"class_counts<{named(labels)}>", row_grid(driver, n_classes, 32), BLOCK, args)]

    @ops.sum_errors.register_bound(array_type, accepts=lambda y, targets, power: alike(y, targets), allocate=two)
    def _(out: Array, y: Array, targets: Array, power: int) -> list[Call]:
        grid = partial_blocks(y.size)
        args = (out, y, targets, *scratch(driver, grid), np.int64(y.size), np.bool_(power == 2))
        return [driver.launch(f"sum_errors<{named(y)}>", grid, BLOCK, args)]

    @ops.sum_deviations.register_bound(
        array_type,
        accepts=lambda y, targets, shift: alike(y, targets),
        allocate=lambda y, targets, shift: driver.empty((4, y.size // y.shape[0]), FLOAT64),
    )
    def _(out: Array, y: Array, targets: Array, shift: float) -> list[Call]:
        rows, columns = y.shape[0], out.shape[1]
        width = 8 if columns <= 16 else 32
        tiles, slabs = -(-columns // width), max(1, min(-(-rows // SLAB), 64))
        partial, counter = None, None
        if slabs > 1:
            partial, counter = driver.empty(3 * slabs * columns, FLOAT64), driver.zeros(tiles, np.dtype("uint32"))
        args = (out, y, targets, partial, counter, np.int64(rows), np.int64(columns), np.float64(shift))
        kernel = f"sum_deviations<{named(y)}, {width}>"
        return [driver.launch(kernel, (tiles, slabs), (width, BLOCK // width), args)]
