"""The matrix of targets that labels stand for, and what they count for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bpnet.dispatch import Call
from bpnet.ops.weighting import label_targets, label_weight
from bpnet_numpy.kernels.common import INDICES, SIGNED, Array
from bpnet_numpy.kernels.losses import starts


class _Counted:
    """Labels of any shape as a row: which of them count, and a class for each, 0 where it does not count."""

    def __init__(self, labels: Array, n_classes: int, ignore_index: int | None, weights: Array | None, dtype: Any):
        self.labels, self.n_classes, self.ignore_index = labels.reshape(-1), n_classes, ignore_index
        self.unsigned = self.labels.view(np.uint64 if labels.itemsize == 8 else np.uint32)  # -1 is the largest number
        n = self.labels.size
        self.counted, self.other, self.classes = (
            np.empty(n, np.bool_, like=labels),
            np.empty(n, np.bool_, like=labels),
            np.empty(n, np.int64, like=labels),
        )
        self.row = np.empty(n, dtype, like=labels)  # what each row counts for
        self.column: Any = None if weights is None else weights[:, None]
        self.by_sample = self.row.reshape((n, 1) if weights is None else (len(weights), n // len(weights)))

    def look(self) -> None:
        """Set classes and row."""
        np.less(self.unsigned, self.n_classes, self.counted)
        if self.ignore_index is not None:
            np.not_equal(self.labels, self.ignore_index, self.other)
            np.logical_and(self.counted, self.other, self.counted)
        np.multiply(self.labels, self.counted, self.classes)
        if self.column is None:
            np.copyto(self.row, self.counted)
        else:
            np.multiply(self.counted.reshape(self.by_sample.shape), self.column, self.by_sample, dtype=self.row.dtype)


def _accept(labels: Array, weights: Array | None) -> bool:
    tame = labels.dtype in INDICES and labels.flags.c_contiguous and labels.size > 0
    return tame and (weights is None or (weights.dtype in SIGNED and weights.size > 0))


@label_targets.register_bound(
    np.ndarray,
    accepts=lambda labels, n_classes, dtype, smoothing, class_weights, ignored, weights: (
        _accept(labels, weights) and np.dtype(dtype) in SIGNED and (weights is None or weights.dtype == dtype)
    ),
    allocate=lambda labels, n_classes, dtype, *_: np.empty((labels.size, n_classes), dtype, like=labels),
)
def _(
    out: Array,
    labels: Array,
    n_classes: int,
    dtype: str,
    smoothing: float,
    class_weights: tuple[float, ...] | None,
    ignore_index: int | None,
    sample_weight: Array | None,
) -> list[Call]:
    counted = _Counted(labels, n_classes, ignore_index, sample_weight, dtype)
    of_class = np.ones(n_classes) if class_weights is None else np.array(class_weights)
    off = np.asarray(smoothing / n_classes * of_class, dtype)
    on = np.asarray((1 - smoothing + smoothing / n_classes) * of_class, dtype)
    flat, begin = out.reshape(-1), starts(labels.size, n_classes, labels)
    index, picked = np.empty(labels.size, np.int64, like=labels), np.empty(labels.size, dtype, like=labels)
    row = counted.row[:, None]

    def call() -> None:
        counted.look()
        if smoothing:
            np.multiply(row, off, out)
        else:
            out.fill(0)
        on.take(counted.classes, None, picked, "clip")
        np.multiply(picked, counted.row, picked)
        np.add(begin, counted.classes, index)
        flat[index] = picked

    return [call]


@label_weight.register_bound(
    np.ndarray,
    accepts=lambda labels, n_classes, class_weights, ignored, weights: _accept(labels, weights),
    allocate=lambda labels, *_: np.empty((), like=labels),
)
def _(
    out: Array,
    labels: Array,
    n_classes: int,
    class_weights: tuple[float, ...] | None,
    ignore_index: int | None,
    sample_weight: Array | None,
) -> list[Call]:
    counted = _Counted(labels, n_classes, ignore_index, sample_weight, np.float64)
    table = np.ones(n_classes) if class_weights is None else np.array(class_weights)
    picked = np.empty(math.prod(labels.shape), like=labels)

    def call() -> None:
        counted.look()
        table.take(counted.classes, None, picked, "clip")
        out.fill(np.dot(picked, counted.row))

    return [call]
