"""Attention in tiles: no more scores at a time than fit on a multiprocessor.

Small matrices of probabilities are kept, as the op's contract has it: to read them takes less time than to make them
again, for they stay in the L2 cache. Of large ones the logarithms of the rows' sums are, and nothing of the size of
queries times keys is ever in memory. Bits of bfloat16, and heads that the registers of a tile do not hold, are left to
`attention_products`.
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
from bpnet_cupy.kernels import attention_products
from bpnet_cupy.kernels.attention_products import heads_of, inner_products
from bpnet_cupy.kernels.common import BLOCK, BOOL, FLOAT32, REAL, UINT16, Array, halves, named, real
from bpnet_cupy.names_sequences import HEAD_SIZES, TILES

SIDE = 16  # threads along a side of a block
MANY = 264  # blocks from which tiles may be large: two for each multiprocessor of the largest GPUs

LONGEST = 1 << 30  # within a head the kernels count in 32 bits


def rows(x: Array) -> bool:
    """Whether x (N, T, W) is rows without gaps in them that do not overlap, as a part of wider rows is."""
    if x.ndim != 3 or x.dtype not in (*REAL, UINT16) or x.size == 0:
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
        return driver.empty((*shape, k.shape[1]) if whole else shape, FLOAT32 if q.dtype == UINT16 else q.dtype)

    def by_products(q: Array, heads: int) -> bool:
        return bool(q.dtype == UINT16 or q.shape[2] // heads > HEAD_SIZES[-1])

    def forward(
        out: Any, q: Array, k: Array, v: Array, mask: Array | None, keep: Array | None, heads: int, *more: Any
    ) -> list[Call]:
        if by_products(q, heads):
            sizes = heads_of(q, k.shape[1], q.shape[2], mask, keep, heads, *more)
            return attention_products.forward(driver, out, (q, k, v), sizes)
        kernel, grid = tiles("attention", q, heads, q.shape[1])
        return [driver.launch(kernel, grid, BLOCK, (*out, q, k, v, mask, keep, *settings(q, k, heads, *more)))]

    def backward(
        out: Any, dy: Array, y: Array, q: Array, k: Array, v: Array, kept: Array, mask: Array | None,
        keep: Array | None, heads: int, *more: Any,
    ) -> list[Call]:  # fmt: skip
        dq, dk, dv = out
        sizes = heads_of(q, k.shape[1], q.shape[2], mask, keep, heads, *more)
        if by_products(q, heads):
            return attention_products.backward(driver, out, dy, y, (q, k, v), kept, sizes)
        inner = driver.empty(y.size // sizes.size, y.dtype)
        first = inner_products(driver, inner, dy, y, sizes)
        given = (dy, inner, kept, q, k, v, mask, keep)
        of_queries, many = tiles("attention_backward_queries", q, heads, q.shape[1])
        of_keys, others = tiles("attention_backward_keys", q, heads, k.shape[1])
        return [
            first,
            driver.launch(of_queries, many, BLOCK, (dq, *given, *settings(q, k, heads, *more, dq))),
            driver.launch(of_keys, others, BLOCK, (dk, dv, *given, *settings(q, k, heads, *more, dk))),
        ]

    def results(q: Array, k: Array, v: Array, mask: Array | None, keep: Array | None, heads: int, *_: Any) -> Any:
        kind = FLOAT32 if q.dtype == UINT16 else q.dtype
        return driver.empty(q.shape, kind), kept_like(q, k, heads)

    def results_of_thirds(qkv: Array, mask: Array | None, keep: Array | None, heads: int, *_: Any) -> Any:
        return results(*thirds(qkv), mask, keep, heads)

    def forward_of_thirds(
        out: Any, qkv: Array, mask: Array | None, keep: Array | None, heads: int, *more: Any
    ) -> list[Call]:
        q, k, v = thirds(qkv)
        if by_products(q, heads):
            sizes = heads_of(qkv, qkv.shape[1], q.shape[2], mask, keep, heads, *more)
            return attention_products.forward(driver, out, (qkv,), sizes)
        return forward(out, q, k, v, mask, keep, heads, *more)

    def backward_of_thirds(
        out: Array, dy: Array, y: Array, qkv: Array, kept: Array, mask: Array | None, keep: Array | None, heads: int,
        *more: Any,
    ) -> list[Call]:  # fmt: skip
        q, k, v = thirds(qkv)
        if by_products(q, heads):
            sizes = heads_of(qkv, qkv.shape[1], q.shape[2], mask, keep, heads, *more)
            return attention_products.backward(driver, (out,), dy, y, (qkv,), kept, sizes)
        return backward(thirds(out), dy, y, q, k, v, kept, mask, keep, heads, *more)

    def gradients(dy: Array, y: Array, q: Array, k: Array, v: Array, *_: Any) -> Any:
        return tuple(driver.empty(x.shape, dy.dtype) for x in (q, k, v))

    def gradient_of_thirds(dy: Array, y: Array, qkv: Array, *_: Any) -> Any:
        return driver.empty(qkv.shape, dy.dtype)

    ops.attention.register_bound(
        array_type,
        accepts=lambda q, k, v, mask, keep, heads, *_: q.dtype in REAL and taken(q, k, v, mask, keep, heads),
        allocate=results,
    )(forward)
    ops.attention_bf16.register_bound(
        array_type,
        accepts=lambda q, k, v, mask, keep, heads, *_: q.dtype == UINT16 and taken(q, k, v, mask, keep, heads),
        allocate=results,
    )(forward)
    ops.self_attention.register_bound(
        array_type,
        accepts=lambda qkv, mask, keep, heads, *_: real(qkv) and taken(*thirds(qkv), mask, keep, heads),
        allocate=results_of_thirds,
    )(forward_of_thirds)
    ops.self_attention_bf16.register_bound(
        array_type,
        accepts=lambda qkv, mask, keep, heads, *_: halves(qkv) and taken(*thirds(qkv), mask, keep, heads),
        allocate=results_of_thirds,
    )(forward_of_thirds)
    ops.attention_backward.register_bound(
        array_type,
        accepts=lambda dy, y, q, k, v, kept, mask, keep, heads, *_: (
            real(dy, y, kept) and dy.dtype == q.dtype and taken(q, k, v, mask, keep, heads)
        ),
        allocate=gradients,
    )(backward)
    ops.attention_bf16_backward.register_bound(
        array_type,
        accepts=lambda dy, y, q, k, v, kept, mask, keep, heads, *_: (
            _single(dy, y, kept) and q.dtype == UINT16 and taken(q, k, v, mask, keep, heads)
        ),
        allocate=gradients,
    )(backward)
    ops.self_attention_backward.register_bound(
        array_type,
        accepts=lambda dy, y, qkv, kept, mask, keep, heads, *_: (
            real(dy, y, qkv, kept) and taken(*thirds(qkv), mask, keep, heads)
        ),
        allocate=gradient_of_thirds,
    )(backward_of_thirds)
    ops.self_attention_bf16_backward.register_bound(
        array_type,
        accepts=lambda dy, y, qkv, kept, mask, keep, heads, *_: (
            _single(dy, y, kept) and halves(qkv) and taken(*thirds(qkv), mask, keep, heads)
        ),
        allocate=gradient_of_thirds,
    )(backward_of_thirds)


def _single(*arrays: Array) -> bool:
    return real(*arrays) and bool(arrays[0].dtype == FLOAT32)
