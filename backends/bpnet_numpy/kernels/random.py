"""Random bits and dropout."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet.ops.random import drop_threshold, keep_mask, keep_scale, philox
from bpnet_numpy.kernels.common import SIGNED, Array, constant, first_like, floating
from bpnet_numpy.scratch import borrow


@philox.register(np.ndarray)
def _(counters: Array, index: int, key: tuple[int, int], n_words: int) -> Array:
    counter = np.array([0, counters[index], counters[0], 0], dtype=np.uint64)
    words = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=counter).random_raw(n_words)
    return np.asarray(words, dtype=np.uint64)


def _mask(keep: Array, counters: Array, index: int, key: tuple[int, int], rate: float) -> None:
    words = philox(counters, index, key, -(-keep.size // 4))
    bits = words.astype("<u8", copy=False).view("<u2")[: keep.size]
    np.greater_equal(bits, np.uint16(drop_threshold(rate)), keep.reshape(-1))


@keep_mask.register_bound(
    np.ndarray,
    accepts=lambda counters, index, key, shape, rate: drop_threshold(rate) < 65536,
    allocate=lambda counters, index, key, shape, rate: np.empty(shape, np.bool_, like=counters),
)
def _(out: Array, counters: Array, index: int, key: tuple[int, int], shape: Any, rate: float) -> list[Call]:
    return [partial(_mask, out, counters, index, key, rate)]


def _select(keep: Array, x: Array, scale: float, out: Array) -> list[Call]:
    """out = where(keep, x * scale, 0), by bits: a dropped infinity is 0, not NaN."""
    signed = SIGNED[x.dtype]
    bits = borrow(keep.shape, np.int8, keep)
    return [
        partial(np.multiply, x, constant(scale, x.dtype), out),
        partial(np.negative, keep.view(np.int8), bits),
        partial(np.bitwise_and, out.view(signed), bits, out.view(signed)),
    ]


@ops.dropout.register_bound(
    np.ndarray,
    accepts=lambda x, counters, index, key, rate: floating(x) and drop_threshold(rate) < 65536,
    allocate=lambda x, *_: (np.empty_like(x), np.empty(x.shape, np.bool_, like=x)),
)
def _(out: Any, x: Array, counters: Array, index: int, key: tuple[int, int], rate: float) -> list[Call]:
    y, keep = out
    return [partial(_mask, keep, counters, index, key, rate), *_select(keep, x, keep_scale(rate), y)]


@ops.dropout_backward.register_bound(
    np.ndarray,
    accepts=lambda dy, keep, rate: floating(dy) and keep.flags.c_contiguous and drop_threshold(rate) < 65536,
    allocate=first_like,
)
def _(out: Array, dy: Array, keep: Array, rate: float) -> list[Call]:
    return _select(keep, dy, keep_scale(rate), out)
