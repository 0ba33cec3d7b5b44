"""Losses of single elements and of rows, unreduced: what weights are put on."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet.dispatch import Call
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.common import BLOCK, Array, alike, blocks, lanes, named, op, packs, row_grid
from bpnet_cupy.names import ROW_LOSSES, SINGLE_LOSSES


def of_rows(dl: Array, x: Array, Q: Array) -> bool:
    """Whether these are one number a row, and two matrices of the rows."""
    return x.ndim == 2 and alike(x, Q) and dl.shape == x.shape[:1] and dl.dtype == x.dtype and dl.flags.c_contiguous


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""

    def first_like(x: Array, *_: Any) -> Array:
        return driver.empty(x.shape, x.dtype)

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

    def rows_forward(name: str, struct: str) -> None:
        @op(name).register_bound(
            array_type,
            accepts=lambda x, Q, *_: x.ndim == 2 and alike(x, Q),
            allocate=lambda x, *_: driver.empty(x.shape[:1], x.dtype),
        )
        def _(out: Array, x: Array, Q: Array, gamma: float = 0.0) -> list[Call]:
            width = lanes(x.shape[1])
            args = (out, x, Q, *map(np.int64, x.shape), x.dtype.type(gamma))
            kernel = f"loss_rows<{named(x)}, {width}, {struct}>"
            return [driver.launch(kernel, row_grid(driver, x.shape[0], width), BLOCK, args)]

    for name, struct in ROW_LOSSES.items():
        rows_forward(name, struct)

    def softmax_backward(name: str) -> None:
        @op(name).register_bound(
            array_type,
            accepts=lambda dl, x, Q, *_: of_rows(dl, x, Q),
            allocate=lambda dl, x, *_: driver.empty(x.shape, x.dtype),
        )
        def _(out: Array, dl: Array, logits: Array, Q: Array, gamma: float = 0.0) -> list[Call]:
            width = lanes(logits.shape[1])
            args = (out, dl, logits, Q, *map(np.int64, logits.shape), logits.dtype.type(gamma))
            kernel = f"focal_rows_backward<{named(logits)}, {width}>"
            return [driver.launch(kernel, row_grid(driver, logits.shape[0], width), BLOCK, args)]

    softmax_backward("soft_cross_entropy_rows_backward")
    softmax_backward("focal_rows_backward")

    def target_backward(name: str, divides: bool) -> None:
        @op(name).register_bound(array_type, accepts=of_rows, allocate=lambda dl, x, *_: driver.empty(x.shape, x.dtype))
        def _(out: Array, dl: Array, x: Array, Q: Array) -> list[Call]:
            args = (out, dl, x if divides else None, Q, *map(np.int64, x.shape))
            return [driver.launch(f"target_rows_backward<{named(x)}>", blocks(driver, x.size), BLOCK, args)]

    target_backward("probability_cross_entropy_rows_backward", True)
    target_backward("negative_log_likelihood_rows_backward", False)
    target_backward("kl_divergence_rows_backward", False)

    @op("multiclass_hinge_rows").register_bound(
        array_type,
        accepts=lambda x, Q, _: x.ndim == 2 and alike(x, Q),
        allocate=lambda x, *_: driver.empty(x.shape[:1], x.dtype),
    )
    def _(out: Array, scores: Array, Q: Array, margin: float) -> list[Call]:
        width = lanes(scores.shape[1], widest=32)
        args = (out, scores, Q, *map(np.int64, scores.shape), scores.dtype.type(margin))
        kernel = f"multiclass_hinge_rows<{named(scores)}, {width}>"
        return [driver.launch(kernel, row_grid(driver, scores.shape[0], width), BLOCK, args)]

    @op("multiclass_hinge_rows_backward").register_bound(
        array_type,
        accepts=lambda dl, x, Q, _: of_rows(dl, x, Q),
        allocate=lambda dl, x, *_: driver.empty(x.shape, x.dtype),
    )
    def _(out: Array, dl: Array, scores: Array, Q: Array, margin: float) -> list[Call]:
        width = lanes(scores.shape[1], widest=32)
        args = (out, dl, scores, Q, *map(np.int64, scores.shape), scores.dtype.type(margin))
        kernel = f"multiclass_hinge_rows_backward<{named(scores)}, {width}>"
        return [driver.launch(kernel, row_grid(driver, scores.shape[0], width), BLOCK, args)]
