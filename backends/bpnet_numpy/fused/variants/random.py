"""Dropout: the mask from Philox's words, and the selection by it."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet.ops.random import drop_threshold, keep_mask, keep_scale
from bpnet_numpy.fused.instruction import FLOAT32, instruction
from bpnet_numpy.fused.variants.common import alike, check_place, fused
from bpnet_numpy.fused.variants.update import COUNTERS
from bpnet_numpy.kernels.common import Array, first_like, floating


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _counted(counters: Array, index: int, rate: float) -> bool:
    tame = counters.dtype == COUNTERS and counters.flags.c_contiguous and 0 <= index < counters.size
    return tame and drop_threshold(rate) < 65536


def _mask(keep: Array, counters: Array, index: int, key: tuple[int, int], rate: float) -> Call:
    words = (*map(_signed, key), drop_threshold(rate))
    return instruction("keep_mask", FLOAT32, keep, keep.size, counters, index, *words)


@fused(
    keep_mask,
    accepts=lambda counters, index, key, shape, rate: _counted(counters, index, rate),
    allocate=lambda counters, index, key, shape, rate: np.empty(shape, np.bool_, like=counters),
)
def _(out: Array, counters: Array, index: int, key: tuple[int, int], shape: Any, rate: float) -> list[Call]:
    check_place(out, tuple(shape), np.dtype("bool"))
    return [_mask(out, counters, index, key, rate)]


@fused(
    ops.dropout,
    accepts=lambda x, counters, index, key, rate: floating(x) and _counted(counters, index, rate),
    allocate=lambda x, *_: (np.empty_like(x), np.empty(x.shape, np.bool_, like=x)),
)
def _(out: Any, x: Array, counters: Array, index: int, key: tuple[int, int], rate: float) -> list[Call]:
    y, keep = out
    check_place(y, x.shape, x.dtype)
    check_place(keep, x.shape, np.dtype("bool"))
    select = instruction("select", x.dtype, y, x, keep, x.size, keep_scale(rate))
    return [_mask(keep, counters, index, key, rate), select]


@fused(
    ops.dropout_backward,
    accepts=lambda dy, keep, rate: (
        floating(dy)
        and alike(dy, keep)
        and keep.dtype == np.bool_
        and keep.flags.c_contiguous
        and drop_threshold(rate) < 65536
    ),
    allocate=first_like,
)
def _(out: Array, dy: Array, keep: Array, rate: float) -> list[Call]:
    check_place(out, dy.shape, dy.dtype)
    return [instruction("select", dy.dtype, out, dy, keep, dy.size, keep_scale(rate))]
