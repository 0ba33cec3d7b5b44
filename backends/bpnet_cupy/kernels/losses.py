"""Losses in one pass: softmax with cross-entropy, and sums over single elements."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.common import (
    BLOCK,
    Array,
    alike,
    blocks,
    labels_of,
    lanes,
    named,
    normal,
    normalizer_args,
    number,
    op,
    packs,
    partial_blocks,
    real,
    row_grid,
    row_sum_grid,
    scratch,
)
from bpnet_cupy.names import LOSSES, SINGLE_LOSSES


def reciprocal(normalizer: float, scale: float = 1.0) -> float:
    """scale / normalizer, 0 where the normalizer is 0."""
    return scale / normalizer if normalizer else 0.0


def of_labels(p: Array, labels: Array, normalizer: Any, scale: Any = 1.0) -> bool:
    """Whether these are rows of classes with a label each, and numbers."""
    return real(p) and p.ndim == 2 and labels_of(labels, p.shape[0]) and number(normalizer) and number(scale)


def of_rows(p: Array, Q: Array, normalizer: Any, scale: Any = 1.0) -> bool:
    """Whether these are rows of classes with a row of targets each."""
    return alike(p, Q) and p.ndim == 2 and normal(normalizer) and number(scale)


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""

    def first_like(x: Array, *_: Any) -> Array:
        return driver.empty(x.shape, x.dtype)

    def loss_and_like(x: Array, *_: Any) -> Any:
        return driver.empty((), x.dtype), driver.empty(x.shape, x.dtype)

    def scalar(x: Array, *_: Any) -> Array:
        return driver.empty((), x.dtype)

    def cross_entropy(out: Any, logits: Array, labels: Array, normalizer: float, scale: float | None) -> list[Call]:
        rows, columns = logits.shape
        width = lanes(columns)
        grid = row_sum_grid(rows, width)
        kind = logits.dtype.type
        slope = kind(0 if scale is None else reciprocal(normalizer, scale))
        sizes = (np.int64(rows), np.int64(columns), np.float64(reciprocal(normalizer)), slope)
        kernel = f"softmax_cross_entropy<{named(logits)}, {named(labels)}, {width}, {_flag(scale is not None)}>"
        return [driver.launch(kernel, grid, BLOCK, (*out, logits, labels, *scratch(driver, grid), *sizes))]

    @ops.softmax_cross_entropy.register_bound(array_type, accepts=of_labels, allocate=loss_and_like)
    def _(out: Any, logits: Array, labels: Array, normalizer: float) -> list[Call]:
        return cross_entropy(out, logits, labels, normalizer, None)

    @ops.softmax_cross_entropy_gradient.register_bound(array_type, accepts=of_labels, allocate=loss_and_like)
    def _(out: Any, logits: Array, labels: Array, normalizer: float, scale: float) -> list[Call]:
        return cross_entropy(out, logits, labels, normalizer, scale)

    def label_slope(name: str, sign: float) -> None:
        @op(name).register_bound(array_type, accepts=of_labels, allocate=first_like)
        def _(out: Array, p: Array, labels: Array, normalizer: float, scale: float) -> list[Call]:
            slope = p.dtype.type(reciprocal(normalizer, sign * scale))
            args = (out, p, labels, *map(np.int64, p.shape), slope)
            return [driver.launch(f"{name}<{named(p)}, {named(labels)}>", blocks(driver, p.size), BLOCK, args)]

    label_slope("softmax_cross_entropy_backward", 1.0)
    label_slope("categorical_cross_entropy_backward", -1.0)

    @ops.categorical_cross_entropy.register_bound(array_type, accepts=of_labels, allocate=scalar)
    def _(out: Array, p: Array, labels: Array, normalizer: float) -> list[Call]:
        grid = partial_blocks(p.shape[0])
        factor = np.float64(reciprocal(normalizer))
        args = (out, p, labels, *scratch(driver, grid), *map(np.int64, p.shape), factor)
        return [driver.launch(f"categorical_cross_entropy<{named(p)}, {named(labels)}>", grid, BLOCK, args)]

    def soft(out: Any, logits: Array, Q: Array, normalizer: Any, scale: float | None) -> list[Call]:
        rows, columns = logits.shape
        width = lanes(columns)
        grid = row_sum_grid(rows, width)
        total, value = normalizer_args(normalizer)
        kernel = f"soft_cross_entropy<{named(logits)}, {width}, {_flag(scale is not None)}>"
        sizes = (np.int64(rows), np.int64(columns), value, logits.dtype.type(0 if scale is None else scale))
        return [driver.launch(kernel, grid, BLOCK, (*out, logits, Q, total, *scratch(driver, grid), *sizes))]

    @ops.soft_cross_entropy.register_bound(array_type, accepts=of_rows, allocate=loss_and_like)
    def _(out: Any, logits: Array, Q: Array, normalizer: Any) -> list[Call]:
        return soft(out, logits, Q, normalizer, None)

    @ops.soft_cross_entropy_gradient.register_bound(array_type, accepts=of_rows, allocate=loss_and_like)
    def _(out: Any, logits: Array, Q: Array, normalizer: Any, scale: float) -> list[Call]:
        return soft(out, logits, Q, normalizer, scale)

    @ops.soft_cross_entropy_backward.register_bound(array_type, accepts=of_rows, allocate=first_like)
    def _(out: Array, p: Array, Q: Array, normalizer: Any, scale: float) -> list[Call]:
        width = lanes(p.shape[1])
        total, value = normalizer_args(normalizer)
        args = (out, p, Q, total, *map(np.int64, p.shape), value, p.dtype.type(scale))
        kernel = f"soft_cross_entropy_backward<{named(p)}, {width}>"
        return [driver.launch(kernel, row_grid(driver, p.shape[0], width), BLOCK, args)]

    def in_one_pass(name: str, struct: str) -> None:
        @op(name).register_bound(
            array_type, accepts=lambda y, t, normalizer: alike(y, t) and normal(normalizer), allocate=scalar
        )
        def _(out: Array, y: Array, targets: Array, normalizer: Any) -> list[Call]:
            grid = partial_blocks(y.size)
            total, value = normalizer_args(normalizer)
            args = (out, y, targets, total, *scratch(driver, grid), np.int64(y.size), value)
            return [driver.launch(f"loss_sum<{named(y)}, {struct}>", grid, BLOCK, args)]

        @op(f"{name}_backward").register_bound(
            array_type,
            accepts=lambda y, t, normalizer, scale: alike(y, t) and normal(normalizer) and number(scale),
            allocate=first_like,
        )
        def _(out: Array, y: Array, targets: Array, normalizer: Any, scale: float) -> list[Call]:
            total, value = normalizer_args(normalizer)
            args = (out, y, targets, total, np.int64(y.size), value, y.dtype.type(scale))
            return [driver.launch(f"loss_slope<{named(y)}, {struct}>", packs(driver, y.size, y.dtype), BLOCK, args)]

    for name, struct in LOSSES.items():
        in_one_pass(name, struct)

    def settings(kind: Any, given: tuple[float, ...]) -> Any:
        return tuple(kind(each) for each in (*given, 0, 0, 0)[:3])

    def single(name: str, struct: str) -> None:
        @op(name).register_bound(array_type, accepts=lambda y, t, *_: alike(y, t), allocate=first_like)
        def _(out: Array, y: Array, targets: Array, *given: float) -> list[Call]:
            args = (out, y, targets, np.int64(y.size), *settings(y.dtype.type, given))
            return [driver.launch(f"loss_each<{named(y)}, {struct}>", packs(driver, y.size, y.dtype), BLOCK, args)]

        @op(f"{name}_backward").register_bound(
            array_type, accepts=lambda dl, y, t, *_: alike(dl, y, t), allocate=first_like
        )
        def _(out: Array, dl: Array, y: Array, targets: Array, *given: float) -> list[Call]:
            args = (out, dl, y, targets, np.int64(y.size), *settings(y.dtype.type, given))
            kernel = f"loss_each_backward<{named(y)}, {struct}>"
            return [driver.launch(kernel, packs(driver, y.size, y.dtype), BLOCK, args)]

    for name, struct in SINGLE_LOSSES.items():
        single(name, struct)


def _flag(value: bool) -> str:
    return "true" if value else "false"
