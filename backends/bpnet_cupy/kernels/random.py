"""Random bits and dropout: NumPy's Philox4x64-10, the same bits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet.ops.random import drop_threshold, keep_mask, keep_scale, philox
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.common import BLOCK, BOOL, Array, blocks, counts, named, packs, real

KEPT_AT_ONCE = 16
"""Elements of a mask that one block of Philox decides on."""


def stream(counters: Array, index: int, key: tuple[int, int]) -> tuple[Any, ...]:
    """The arguments of a kernel that say which words are drawn."""
    return (counters, np.int64(index % counters.size), np.uint64(key[0]), np.uint64(key[1]))


def _axis(keep: Array) -> int:
    """The axis behind the first along which a mask of channels has several; 0 where there is none."""
    return next((i for i, n in enumerate(keep.shape) if i and n != 1), 0)


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""

    @philox.register_bound(
        array_type,
        accepts=lambda counters, index, key, n: counts(counters) and n > 0,
        allocate=lambda counters, index, key, n: driver.empty(n, np.dtype("uint64")),
    )
    def _(out: Array, counters: Array, index: int, key: tuple[int, int], n_words: int) -> list[Call]:
        args = (out, *stream(counters, index, key), np.int64(n_words))
        return [driver.launch("philox<0>", blocks(driver, -(-n_words // 4)), BLOCK, args)]

    def mask(out: Array, counters: Array, index: int, key: tuple[int, int], rate: float) -> list[Call]:
        args = (out, *stream(counters, index, key), np.int64(out.size), np.uint32(drop_threshold(rate)))
        return [driver.launch("keep_mask<0>", blocks(driver, -(-out.size // KEPT_AT_ONCE)), BLOCK, args)]

    @keep_mask.register_bound(
        array_type,
        accepts=lambda counters, index, key, shape, rate: counts(counters) and math.prod(shape) > 0,
        allocate=lambda counters, index, key, shape, rate: driver.empty(shape, BOOL),
    )
    def _(out: Array, counters: Array, index: int, key: tuple[int, int], shape: Any, rate: float) -> list[Call]:
        return mask(out, counters, index, key, rate)

    @ops.dropout.register_bound(
        array_type,
        accepts=lambda x, counters, index, key, rate: real(x) and counts(counters) and drop_threshold(rate) < 65536,
        allocate=lambda x, *_: (driver.empty(x.shape, x.dtype), driver.empty(x.shape, BOOL)),
    )
    def _(out: Any, x: Array, counters: Array, index: int, key: tuple[int, int], rate: float) -> list[Call]:
        y, keep, *bits = out
        numbers = (np.int64(x.size), np.uint32(drop_threshold(rate)), x.dtype.type(keep_scale(rate)))
        args = (y, keep, bits[0] if bits else None, x, *stream(counters, index, key), *numbers)
        return [driver.launch(f"dropout<{named(x)}>", blocks(driver, -(-x.size // KEPT_AT_ONCE)), BLOCK, args)]

    def of_channels(out: Array, x: Array, keep: Array, rate: float) -> list[Call]:
        """out = x * scale where the mask of channels keeps it, else 0."""
        axis = _axis(keep)
        channels, inner = (1, 1) if not axis else (keep.shape[axis], math.prod(x.shape[axis + 1 :]))
        numbers = map(np.int64, (x.shape[0], x.size // x.shape[0], channels, inner))
        args = (out, x, keep, *numbers, x.dtype.type(keep_scale(rate)))
        return [driver.launch(f"keep_channels<{named(x)}>", blocks(driver, x.size), BLOCK, args)]

    @ops.dropout_channels.register_bound(
        array_type,
        accepts=lambda x, counters, index, key, rate, axis: (
            real(x) and 0 <= axis < x.ndim and counts(counters) and drop_threshold(rate) < 65536
        ),
        allocate=lambda x, counters, index, key, rate, axis: (
            driver.empty(x.shape, x.dtype),
            driver.empty(tuple(n if i in (0, axis) else 1 for i, n in enumerate(x.shape)), BOOL),
        ),
    )
    def _(out: Any, x: Array, counters: Array, index: int, key: tuple[int, int], rate: float, _axis: int) -> list[Call]:
        y, keep = out
        return [*mask(keep, counters, index, key, rate), *of_channels(y, x, keep, rate)]

    def kept(dy: Array, keep: Array, rate: float) -> bool:
        """Whether the mask is of every element, or of channels as `dropout_channels` makes it."""
        axis = _axis(keep)
        channels = tuple(n if i in (0, axis) else 1 for i, n in enumerate(dy.shape))
        return bool(
            real(dy)
            and keep.shape in (dy.shape, channels)
            and keep.dtype == BOOL
            and keep.flags.c_contiguous
            and drop_threshold(rate) < 65536
        )

    @ops.dropout_backward.register_bound(
        array_type, accepts=kept, allocate=lambda dy, *_: driver.empty(dy.shape, dy.dtype)
    )
    def _(out: Array, dy: Array, keep: Array, rate: float) -> list[Call]:
        if keep.shape != dy.shape:
            return of_channels(out, dy, keep, rate)
        args = (out, dy, keep, np.int64(dy.size), dy.dtype.type(keep_scale(rate)))
        return [driver.launch(f"dropout_backward<{named(dy)}>", packs(driver, dy.size, dy.dtype), BLOCK, args)]
