"""Attention by products of whole matrices: of bits of bfloat16, which tensor cores multiply, and of large heads.

Queries, keys and values are laid out head by head. cublasLt makes the scores, a kernel makes probabilities of them and
writes what is left of those as factors, and cublasLt multiplies them with the values. Scores that the op keeps lie
where it keeps them. Of others no more than `KEPT` numbers are there at a time: those of some heads, or of some queries
of one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from bpnet.dispatch import Call
from bpnet.ops.attention import KEPT, keeps_probabilities
from bpnet.ops.random import keep_scale
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.common import BLOCK, FLOAT32, UINT16, Array, blocks, lanes, named, packs, row_grid
from bpnet_cupy.kernels.convolution import plain_product, turned


class Heads(NamedTuple):
    """The sizes of an attention, and what goes with them to its kernels."""

    samples: int
    heads: int
    n_queries: int
    n_keys: int
    size: int
    kind: Any  # of scores and results
    factor: Any  # of what is multiplied
    mask: Array | None
    keep: Array | None
    causal: bool
    rate: float

    @property
    def matrices(self) -> int:
        """The number of matrices of scores."""
        return self.samples * self.heads

    @property
    def whole(self) -> bool:
        """Whether probabilities are kept."""
        return keeps_probabilities(self.samples, self.heads, self.n_queries, self.n_keys)

    @property
    def most(self) -> int:
        """The scores that are made at a time."""
        heads, queries = next(self.parts())
        return int((heads.stop - heads.start) * (queries.stop - queries.start) * self.n_keys)

    def parts(self) -> Iterator[tuple[slice, slice]]:
        """The matrices and the queries of each part."""
        each = self.n_queries * self.n_keys
        if self.whole or each <= KEPT:
            step = self.matrices if self.whole else KEPT // each
            for start in range(0, self.matrices, step):
                yield slice(start, min(start + step, self.matrices)), slice(0, self.n_queries)
            return
        step = max(1, KEPT // self.n_keys)
        for matrix in range(self.matrices):
            for start in range(0, self.n_queries, step):
                yield slice(matrix, matrix + 1), slice(start, min(start + step, self.n_queries))

    def numbers(self, heads: slice, queries: slice) -> tuple[Any, ...]:
        """The numbers that a kernel takes for a part."""
        rows = (heads.stop - heads.start) * (queries.stop - queries.start)
        first = heads.start * self.n_queries + queries.start
        sizes = (rows, first, self.samples, self.heads, self.n_queries, self.n_keys)
        scales = self.kind.type(1 / math.sqrt(self.size)), self.kind.type(keep_scale(self.rate))
        return (*map(np.int64, sizes), np.bool_(self.causal), *scales)


def heads_of(
    q: Array, n_keys: int, width: int, mask: Array | None, keep: Array | None, heads: int, causal: bool, rate: float
) -> Heads:
    """The sizes. q : what the queries are in, of whatever width; width : of all heads together"""
    kind = FLOAT32 if q.dtype == UINT16 else q.dtype
    return Heads(
        q.shape[0], heads, q.shape[1], n_keys, width // heads, kind, q.dtype, mask, keep, causal, rate
    )  # fmt: skip


class _Layout:
    """Sequences head by head: every part (samples * heads, length, size)."""

    def __init__(self, driver: Driver, sizes: Heads) -> None:
        self.driver, self.sizes, self.calls = driver, sizes, list[Call]()

    def empty(self, length: int, parts: int = 1) -> Array:
        """Where results go."""
        return self.driver.empty((parts * self.sizes.matrices, length, self.sizes.size), self.sizes.kind)

    def split(self, x: Array, parts: int = 1) -> tuple[Array, ...]:
        """The parts that lie side by side in x, as factors."""
        sizes, item = self.sizes, x.dtype.itemsize
        n, length = x.shape[:2]
        out = self.driver.empty((parts * sizes.matrices, length, sizes.size), sizes.factor)
        numbers = (parts, n, sizes.heads, length, sizes.size, *(stride // item for stride in x.strides[:2]))
        name = f"split_heads<{named(out)}, {named(x)}>"
        args = (out, x, *map(np.int64, numbers))
        self.calls.append(self.driver.launch(name, packs(self.driver, out.size, out.dtype), BLOCK, args))
        return _slices(out, parts)

    def join(self, out: Array, x: Array, parts: int = 1, bits: Array | None = None) -> None:
        """Write parts side by side. bits : gets those of bfloat16, too"""
        sizes = self.sizes
        args = (out, bits, x, *map(np.int64, (parts, sizes.samples, sizes.heads, out.shape[1], sizes.size)))
        grid = packs(self.driver, out.size, out.dtype)
        self.calls.append(self.driver.launch(f"join_heads<{named(out)}>", grid, BLOCK, args))

    def product(self, out: Array, a: Array, b: Array, beta: float = 0.0) -> None:
        """out = a b + beta out, matrix by matrix."""
        self.calls.append(plain_product(self.driver, out, a, b, beta))


def _slices(x: Array, parts: int) -> tuple[Array, ...]:
    n = x.shape[0] // parts
    return tuple(x[i * n : (i + 1) * n] for i in range(parts))


def forward(driver: Driver, out: tuple[Array, ...], given: tuple[Array, ...], sizes: Heads) -> list[Call]:
    """The calls of an attention. out : y, what is kept, perhaps a place for y's bits; given : (qkv,) or (q, k, v)"""
    y, kept, *bits = out
    layout = _Layout(driver, sizes)
    q, k, v = layout.split(given[0], 3) if len(given) == 1 else (layout.split(each)[0] for each in given)
    found = layout.empty(sizes.n_queries)
    scratch = None if sizes.whole else driver.empty(sizes.most, sizes.kind)
    factors = driver.empty(sizes.most, sizes.factor)
    for heads, queries in sizes.parts():
        shape = (heads.stop - heads.start, queries.stop - queries.start, sizes.n_keys)
        s = kept.reshape(shape) if scratch is None else scratch[: math.prod(shape)].reshape(shape)
        weights = factors[: math.prod(shape)].reshape(shape)
        layout.product(s, q[heads, queries], turned(k[heads]))
        width = lanes(sizes.n_keys)
        logarithms = None if sizes.whole else kept
        args = (s, logarithms, weights, sizes.mask, sizes.keep, *sizes.numbers(heads, queries))
        name = f"softmax_scores<{named(s)}, {named(weights)}, {width}>"
        layout.calls.append(driver.launch(name, row_grid(driver, shape[0] * shape[1], width), BLOCK, args))
        layout.product(found[heads, queries], weights, v[heads])
    layout.join(y, found, bits=bits[0] if bits else None)
    return layout.calls


def backward(
    driver: Driver, out: tuple[Array, ...], dy: Array, y: Array, given: tuple[Array, ...], kept: Array, sizes: Heads
) -> list[Call]:
    """The calls of its derivative. out, given : (dqkv,) and (qkv,), or (dq, dk, dv) and (q, k, v)"""
    layout, side_by_side = _Layout(driver, sizes), len(given) == 1
    q, k, v = layout.split(given[0], 3) if side_by_side else (layout.split(each)[0] for each in given)
    (slope,) = layout.split(dy)
    layout.calls.append(inner_products(driver, inner := driver.empty(y.size // sizes.size, y.dtype), dy, y, sizes))
    if side_by_side:
        gradients = layout.empty(sizes.n_queries, 3)
        dq, dk, dv = _slices(gradients, 3)
    else:
        dq, dk, dv = (layout.empty(length) for length in (sizes.n_queries, sizes.n_keys, sizes.n_keys))
    again = None if sizes.whole else driver.empty(sizes.most, sizes.kind)
    of_p, factors = driver.empty(sizes.most, sizes.kind), driver.empty((2, sizes.most), sizes.factor)
    for heads, queries in sizes.parts():
        shape = (heads.stop - heads.start, queries.stop - queries.start, sizes.n_keys)
        n, beta = math.prod(shape), 1.0 if queries.start else 0.0
        dp, weights, ds = (each[:n].reshape(shape) for each in (of_p, factors[0], factors[1]))
        s = kept.reshape(shape) if again is None else again[:n].reshape(shape)
        if not sizes.whole:
            layout.product(s, q[heads, queries], turned(k[heads]))
        layout.product(dp, slope[heads, queries], turned(v[heads]))
        arrays = (weights, ds, s, dp, inner, None if sizes.whole else kept, sizes.mask, sizes.keep)
        args = (*arrays, *sizes.numbers(heads, queries))
        name = f"scores_backward<{named(s)}, {named(ds)}>"
        layout.calls.append(driver.launch(name, blocks(driver, n), BLOCK, args))
        layout.product(dv[heads], turned(weights), slope[heads, queries], beta)
        layout.product(dq[heads, queries], ds, k[heads])
        layout.product(dk[heads], turned(ds), q[heads, queries], beta)
    if side_by_side:
        layout.join(out[0], gradients, 3)
    else:
        for target, each in zip(out, (dq, dk, dv), strict=True):
            layout.join(target, each)
    return layout.calls


def inner_products(driver: Driver, inner: Array, dy: Array, y: Array, sizes: Heads) -> Call:
    """inner = for every position and head the sum of dy y, of dy as the products take it."""
    width = 8 if sizes.size <= 16 else 32
    args = (inner, dy, y, np.int64(inner.size), np.int64(sizes.size), np.bool_(sizes.factor == UINT16))
    return driver.launch(f"attention_inner<{named(y)}, {width}>", row_grid(driver, inner.size, width), BLOCK, args)
