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


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""

    @philox.register_bound(
        array_type,
        accepts=lambda counters, index, key, n: counts(counters) and n > 0,
        allocate=lambda counters, index, key, n: driver.empty(n, np.dtype("uint64")),
    )
    def _(out: Array, counters: Array, index: int, key: tuple[int, int], n_words: int) -> list[Call]:
        args = (out, *stream(counters, index, key), np.int64(n_words))
        return [driver.launch("philox", blocks(driver, -(-n_words // 4)), BLOCK, args)]

    @keep_mask.register_bound(
        array_type,
        accepts=lambda counters, index, key, shape, rate: counts(counters) and math.prod(shape) > 0,
        allocate=lambda counters, index, key, shape, rate: driver.empty(shape, BOOL),
    )
    def _(out: Array, counters: Array, index: int, key: tuple[int, int], shape: Any, rate: float) -> list[Call]:
        args = (out, *stream(counters, index, key), np.int64(out.size), np.uint32(drop_threshold(rate)))
        return [driver.launch("keep_mask", blocks(driver, -(-out.size // KEPT_AT_ONCE)), BLOCK, args)]

    @ops.dropout.register_bound(
        array_type,
        accepts=lambda x, counters, index, key, rate: real(x) and counts(counters) and drop_threshold(rate) < 65536,
        allocate=lambda x, *_: (driver.empty(x.shape, x.dtype), driver.empty(x.shape, BOOL)),
    )
    def _(out: Any, x: Array, counters: Array, index: int, key: tuple[int, int], rate: float) -> list[Call]:
        numbers = (np.int64(x.size), np.uint32(drop_threshold(rate)), x.dtype.type(keep_scale(rate)))
        args = (*out, x, *stream(counters, index, key), *numbers)
        return [driver.launch(f"dropout<{named(x)}>", blocks(driver, -(-x.size // KEPT_AT_ONCE)), BLOCK, args)]

    @ops.dropout_backward.register_bound(
        array_type,
        accepts=lambda dy, keep, rate: (
            real(dy)
            and keep.shape == dy.shape
            and keep.dtype == BOOL
            and keep.flags.c_contiguous
            and drop_threshold(rate) < 65536
        ),
        allocate=lambda dy, *_: driver.empty(dy.shape, dy.dtype),
    )
    def _(out: Array, dy: Array, keep: Array, rate: float) -> list[Call]:
        args = (out, dy, keep, np.int64(dy.size), dy.dtype.type(keep_scale(rate)))
        return [driver.launch(f"dropout_backward<{named(dy)}>", packs(driver, dy.size, dy.dtype), BLOCK, args)]
