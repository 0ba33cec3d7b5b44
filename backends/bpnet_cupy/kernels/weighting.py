"""What labels and samples count for, and weighted sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet.dispatch import Call
from bpnet.ops.weighting import (
    label_targets,
    label_weight,
    soft_targets,
    soft_weight,
    sum_weights,
    weighted,
    weighted_sum,
    weighted_sum_backward,
)
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.common import (
    BLOCK,
    FLOAT64,
    LABELS,
    REAL,
    Array,
    blocks,
    named,
    normal,
    normalizer_args,
    number,
    partial_blocks,
    real,
    scratch,
)
from bpnet_cupy.names import TYPES


def _labels(labels: Array, weights: Array | None) -> bool:
    if labels.dtype not in LABELS or labels.size == 0 or not labels.flags.c_contiguous:
        return False
    return weights is None or (real(weights) and weights.ndim == 1 and labels.size % weights.size == 0)


def _values(values: Array, weights: Array | None, normalizer: Any) -> bool:
    if not real(values) or not normal(normalizer):
        return False
    return weights is None or (real(values, weights) and weights.ndim == 1 and values.size % weights.size == 0)


def _soft(targets: Array, weights: Array | None) -> bool:
    if not real(targets) or targets.ndim == 0:
        return False
    rows = targets.size // targets.shape[-1]
    return weights is None or (real(targets, weights) and weights.ndim == 1 and rows % weights.size == 0)


def _ignored(ignore_index: int | None) -> tuple[Any, Any]:
    return np.bool_(ignore_index is not None), np.int64(ignore_index or 0)


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""

    def samples(weights: Array | None) -> Any:
        return np.int64(1 if weights is None else weights.size)

    @label_targets.register_bound(
        array_type,
        accepts=lambda labels, n_classes, dtype, smoothing, class_weights, ignored, weights: (
            _labels(labels, weights) and np.dtype(dtype) in REAL and (weights is None or weights.dtype == dtype)
        ),
        allocate=lambda labels, n_classes, dtype, *_: driver.empty((labels.size, n_classes), np.dtype(dtype)),
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
        of_class = np.ones(n_classes) if class_weights is None else np.array(class_weights)
        on = driver.constants((1 - smoothing + smoothing / n_classes) * of_class, out.dtype)
        off = driver.constants(smoothing / n_classes * of_class, out.dtype)
        sizes = (np.int64(labels.size), np.int64(n_classes), samples(sample_weight))
        args = (out, labels, on, off, sample_weight, *sizes, *_ignored(ignore_index))
        kernel = f"label_targets<{named(out)}, {named(labels)}>"
        return [driver.launch(kernel, blocks(driver, out.size), BLOCK, args)]

    @label_weight.register_bound(
        array_type,
        accepts=lambda labels, n_classes, class_weights, ignored, weights: _labels(labels, weights),
        allocate=lambda *_: driver.empty((), FLOAT64),
    )
    def _(
        out: Array,
        labels: Array,
        n_classes: int,
        class_weights: tuple[float, ...] | None,
        ignore_index: int | None,
        sample_weight: Array | None,
    ) -> list[Call]:
        table = driver.constants(np.ones(n_classes) if class_weights is None else np.array(class_weights), FLOAT64)
        grid = partial_blocks(labels.size)
        sizes = (np.int64(labels.size), np.int64(n_classes), samples(sample_weight))
        args = (out, labels, table, sample_weight, *scratch(driver, grid), *sizes, *_ignored(ignore_index))
        kind = "float" if sample_weight is None else TYPES[sample_weight.dtype]
        return [driver.launch(f"label_weight<{kind}, {named(labels)}>", grid, BLOCK, args)]

    @weighted_sum.register_bound(
        array_type, accepts=_values, allocate=lambda values, *_: driver.empty((), values.dtype)
    )
    def _(out: Array, values: Array, weights: Array | None, normalizer: Any) -> list[Call]:
        grid = partial_blocks(values.size)
        total, value = normalizer_args(normalizer)
        sizes = (np.int64(values.size), samples(weights), value)
        args = (out, values, weights, total, *scratch(driver, grid), *sizes)
        return [driver.launch(f"weighted_sum<{named(values)}>", grid, BLOCK, args)]

    @weighted_sum_backward.register_bound(
        array_type,
        accepts=lambda values, weights, normalizer, scale: number(scale) and _values(values, weights, normalizer),
        allocate=lambda values, *_: driver.empty(values.shape, values.dtype),
    )
    def _(out: Array, values: Array, weights: Array | None, normalizer: Any, scale: float) -> list[Call]:
        total, value = normalizer_args(normalizer)
        args = (out, weights, total, np.int64(out.size), samples(weights), value, out.dtype.type(scale))
        return [driver.launch(f"weighted_sum_backward<{named(out)}>", blocks(driver, out.size), BLOCK, args)]

    @weighted.register_bound(
        array_type, accepts=_values, allocate=lambda values, *_: driver.empty(values.shape, values.dtype)
    )
    def _(out: Array, values: Array, weights: Array | None, normalizer: Any) -> list[Call]:
        total, value = normalizer_args(normalizer)
        args = (out, values, weights, total, np.int64(values.size), samples(weights), value)
        return [driver.launch(f"weighted<{named(values)}>", blocks(driver, values.size), BLOCK, args)]

    @sum_weights.register_bound(
        array_type, accepts=lambda weights, repeats: real(weights), allocate=lambda *_: driver.empty((), FLOAT64)
    )
    def _(out: Array, weights: Array, repeats: float) -> list[Call]:
        grid = partial_blocks(weights.size)
        args = (out, weights, *scratch(driver, grid), np.int64(weights.size), np.float64(repeats))
        return [driver.launch(f"sum_weights<{named(weights)}>", grid, BLOCK, args)]

    @soft_targets.register_bound(
        array_type,
        accepts=lambda targets, smoothing, class_weights, weights: _soft(targets, weights),
        allocate=lambda targets, *_: driver.empty(
            (targets.size // targets.shape[-1], targets.shape[-1]), targets.dtype
        ),
    )
    def _(
        out: Array,
        targets: Array,
        smoothing: float,
        class_weights: tuple[float, ...] | None,
        sample_weight: Array | None,
    ) -> list[Call]:
        columns, kind = out.shape[1], out.dtype.type
        of_class = None if class_weights is None else driver.constants(np.array(class_weights), out.dtype)
        sizes = (np.int64(out.size), np.int64(columns), samples(sample_weight), np.bool_(smoothing != 0))
        args = (out, targets, of_class, sample_weight, *sizes, kind(1 - smoothing), kind(smoothing / columns))
        return [driver.launch(f"soft_targets<{named(out)}>", blocks(driver, out.size), BLOCK, args)]

    @soft_weight.register_bound(
        array_type,
        accepts=lambda targets, class_weights, weights: _soft(targets, weights),
        allocate=lambda *_: driver.empty((), FLOAT64),
    )
    def _(out: Array, targets: Array, class_weights: tuple[float, ...], sample_weight: Array | None) -> list[Call]:
        grid = partial_blocks(targets.size)
        of_class = driver.constants(np.array(class_weights), FLOAT64)
        sizes = (np.int64(targets.size), np.int64(targets.shape[-1]), samples(sample_weight))
        args = (out, targets, of_class, sample_weight, *scratch(driver, grid), *sizes)
        return [driver.launch(f"soft_weight<{named(targets)}>", grid, BLOCK, args)]
