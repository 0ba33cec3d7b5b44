"""Attention in tiles: no more scores at a time than fit on a multiprocessor.

Small matrices of probabilities are kept, as the op's contract has it: to read them takes less time than to make them
again, for they stay in the L2 cache. Of large ones the logarithms of the rows' sums are, and nothing of the size of
queries times keys is ever in memory.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet.ops.attention import keeps_probabilities
from bpnet.ops.random import keep_scale
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.common import BLOCK, BOOL, REAL, Array, named, real, row_grid
from bpnet_cupy.names_sequences import HEAD_SIZES, TILES

SIDE = 16  # threads along a side of a block
MANY = 264  # blocks from which tiles may be large: two for each multiprocessor of the largest GPUs

LONGEST = 1 << 30  # within a head the kernels count in 32 bits


def rows(x: Array) -> bool:
    """Whether x (N, T, W) is rows without gaps in them that do not overlap, as a part of wider rows is."""
    if x.ndim != 3 or x.dtype not in REAL or x.size == 0:
        return False
    *_, row, each = x.strides
    return bool(each == x.dtype.itemsize and row >= x.shape[2] * each and x.strides[0] >= x.shape[1] * row)


def taken(q: Array, k: Array, v: Array, mask: Array | None, keep: Array | None, heads: int) -> bool:
    """Whether the kernels take these arguments."""
    fits = all(max(*each.shape, each.strides[1]) < LONGEST for each in (q, k))
    return bool(
        rows(q)
        and rows(k)
        and rows(v)
        and q.dtype == k.dtype == v.dtype
        and k.strides == v.strides
        and fits
        and q.shape[2] // heads <= HEAD_SIZES[-1]
        and all(each is None or (each.dtype == BOOL and each.flags.c_contiguous) for each in (mask, keep))
    )


def thirds(x: Array) -> tuple[Array, Array, Array]:
    """q, k and v of what lies side by side, as views."""
    width = x.shape[-1] // 3
    return x[..., :width], x[..., width : 2 * width], x[..., 2 * width :]


def tiles(kernel: str, q: Array, heads: int, length: int) -> tuple[str, int]:
    """The instance of a kernel whose blocks share `length` rows, and the number of blocks."""
    size = q.shape[2] // heads
    width = next(each for each in HEAD_SIZES if each >= size)
    heads *= q.shape[0]
    wanted = 4 if heads * -(-length // (4 * SIDE)) >= MANY else 2
    several = max(
        r for (kind, r), sizes in TILES[kernel].items() if kind == named(q) and width in sizes and r <= wanted
    )
    return f"{kernel}<{named(q)}, {several}, {width}>", heads * -(-length // (several * SIDE))


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""

    def settings(q: Array, k: Array, heads: int, causal: bool, rate: float, *to: Array) -> tuple[Any, ...]:
        """The numbers that all kernels get, and those of a backward that writes to arrays as `to`."""
        n, n_queries, width = q.shape
        n_keys, size, each = k.shape[1], width // heads, q.dtype.itemsize
        whole = keeps_probabilities(n, heads, n_queries, n_keys)
        strides = (stride // each for stride in (*q.strides[:2], *k.strides[:2]))
        numbers: tuple[int, ...] = (n, heads, n_queries, n_keys, size, *strides, n_keys if whole else 1)
        numbers += tuple(stride // each for x in to for stride in x.strides[:2])
        kind = q.dtype.type
        flags = (np.bool_(whole), np.bool_(causal))
        return (*map(np.int64, numbers), *flags, kind(1 / math.sqrt(size)), kind(keep_scale(rate)))

    def kept_like(q: Array, k: Array, heads: int) -> Array:
        shape: tuple[int, ...] = (q.shape[0], heads, q.shape[1])
        whole = keeps_probabilities(q.shape[0], heads, q.shape[1], k.shape[1])
        return driver.empty((*shape, k.shape[1]) if whole else shape, q.dtype)

    def forward(
        out: Any, q: Array, k: Array, v: Array, mask: Array | None, keep: Array | None, heads: int, *more: Any
    ) -> list[Call]:
        kernel, grid = tiles("attention", q, heads, q.shape[1])
        return [driver.launch(kernel, grid, BLOCK, (*out, q, k, v, mask, keep, *settings(q, k, heads, *more)))]

    def backward(
        out: Any, dy: Array, y: Array, q: Array, k: Array, v: Array, kept: Array, mask: Array | None,
        keep: Array | None, heads: int, *more: Any,
    ) -> list[Call]:  # fmt: skip
        dq, dk, dv = out
        n, size = y.size * heads // y.shape[2], y.shape[2] // heads
        inner = driver.empty(n, y.dtype)
        width = 8 if size <= 16 else 32
        args = (inner, dy, y, np.int64(n), np.int64(size))
        first = driver.launch(f"attention_inner<{named(y)}, {width}>", row_grid(driver, n, width), BLOCK, args)
        given = (dy, inner, kept, q, k, v, mask, keep)
        of_queries, many = tiles("attention_backward_queries", q, heads, q.shape[1])
        of_keys, others = tiles("attention_backward_keys", q, heads, k.shape[1])
        return [
            first,
            driver.launch(of_queries, many, BLOCK, (dq, *given, *settings(q, k, heads, *more, dq))),
            driver.launch(of_keys, others, BLOCK, (dk, dv, *given, *settings(q, k, heads, *more, dk))),
        ]

    @ops.attention.register_bound(
        array_type,
        accepts=lambda q, k, v, mask, keep, heads, *_: taken(q, k, v, mask, keep, heads),
        allocate=lambda q, k, v, mask, keep, heads, *_: (driver.empty(q.shape, q.dtype), kept_like(q, k, heads)),
    )
    def _(out: Any, *args: Any) -> list[Call]:
        return forward(out, *args)

    @ops.self_attention.register_bound(
        array_type,
        accepts=lambda qkv, mask, keep, heads, *_: real(qkv) and taken(*thirds(qkv), mask, keep, heads),
        allocate=lambda qkv, mask, keep, heads, *_: (
            driver.empty((*qkv.shape[:2], qkv.shape[2] // 3), qkv.dtype),
            kept_like(qkv, qkv, heads),
        ),
    )
    def _(out: Any, qkv: Array, *settings: Any) -> list[Call]:
        return forward(out, *thirds(qkv), *settings)

    def gradients(dy: Array, y: Array, q: Array, k: Array, v: Array, *_: Any) -> Any:
        return tuple(driver.empty(x.shape, x.dtype) for x in (q, k, v))

    @ops.attention_backward.register_bound(
        array_type,
        accepts=lambda dy, y, q, k, v, kept, mask, keep, heads, *_: (
            real(dy, y, kept) and dy.dtype == q.dtype and taken(q, k, v, mask, keep, heads)
        ),
        allocate=gradients,
    )
    def _(out: Any, *args: Any) -> list[Call]:
        return backward(out, *args)

    @ops.self_attention_backward.register_bound(
        array_type,
        accepts=lambda dy, y, qkv, kept, mask, keep, heads, *_: (
            real(dy, y, qkv, kept) and taken(*thirds(qkv), mask, keep, heads)
        ),
        allocate=lambda dy, y, qkv, *_: driver.empty(qkv.shape, qkv.dtype),
    )
    def _(out: Any, dy: Array, y: Array, qkv: Array, *rest: Any) -> list[Call]:
        return backward(thirds(out), dy, y, *thirds(qkv), *rest)
