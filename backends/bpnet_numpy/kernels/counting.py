"""Right answers counted."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_numpy.kernels.common import Array


def _two(x: Array, *_: Any) -> Array:
    return np.empty(2, like=x)


@ops.count_correct.register_bound(
    np.ndarray, allocate=_two, accepts=lambda scores, labels, _: scores.size > 0 and labels.dtype.kind == "i"
)
def _(out: Array, scores: Array, labels: Array, ignore_index: int | None) -> list[Call]:
    n = labels.size
    largest = np.empty(labels.shape, np.intp, like=labels)

    def call() -> None:
        scores.argmax(-1, largest)
        hits = largest == labels
        if ignore_index is None:
            out[0], out[1] = np.count_nonzero(hits), n
        else:
            counted = labels != ignore_index
            out[0], out[1] = np.count_nonzero(hits & counted), np.count_nonzero(counted)

    return [call]


@ops.count_correct_binary.register_bound(np.ndarray, allocate=_two)
def _(out: Array, scores: Array, targets: Array, threshold: float) -> list[Call]:
    n = scores.size

    def call() -> None:
        out[0], out[1] = np.count_nonzero((scores > threshold) == (targets > 0.5)), n

    return [call]
