"""Embeddings, positions, and products over leading axes."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet.ops.sequences import angles
from bpnet_numpy.kernels.common import INDICES, Array, first_like, floating, ones
from bpnet_numpy.scratch import borrow

FEW_TOKENS = 256  # up to which the gradient of an embedding is a product with one-hot columns


def _is_index(ids: Array) -> bool:
    return ids.dtype in INDICES and ids.flags.c_contiguous and ids.size > 0


@ops.embedding.register_bound(
    np.ndarray,
    accepts=lambda ids, W: _is_index(ids) and floating(W),
    allocate=lambda ids, W: np.empty((*ids.shape, W.shape[1]), W.dtype, like=W),
)
def _(out: Array, ids: Array, W: Array) -> list[Call]:
    flat, rows = ids.reshape(-1), out.reshape(-1, W.shape[1])
    unsigned = flat.view(f"u{ids.itemsize}")  # -1 becomes the largest number

    def call() -> None:
        W.take(flat, 0, rows, "clip")
        if unsigned[unsigned.argmax()] >= len(W):
            rows[unsigned >= len(W)] = 0

    return [call]


@ops.embedding_backward.register_bound(
    np.ndarray,
    accepts=lambda dy, ids, n_tokens: floating(dy) and _is_index(ids),
    allocate=lambda dy, ids, n_tokens: np.empty((n_tokens, dy.shape[-1]), dy.dtype, like=dy),
)
def _(out: Array, dy: Array, ids: Array, n_tokens: int) -> list[Call]:
    """A product with one-hot columns for few tokens; for many the rows of dy are sorted by token, and added in runs."""
    flat, rows = ids.reshape(-1), dy.reshape(-1, dy.shape[-1])
    if n_tokens <= FEW_TOKENS:
        hits = borrow((n_tokens, flat.size), np.bool_, dy)
        one_hot = borrow(hits.shape, dy.dtype, dy)
        tokens = np.arange(n_tokens, dtype=ids.dtype, like=ids)[:, None]
        return [
            partial(np.equal, tokens, flat, hits),
            partial(np.copyto, one_hot, hits),
            partial(np.dot, one_hot, rows, out),
        ]

    def call() -> None:
        order = np.argsort(flat, kind="stable")
        sorted_ids = flat[order]
        first = int(np.searchsorted(sorted_ids, 0))
        last = int(np.searchsorted(sorted_ids, n_tokens))
        out.fill(0)
        if first < last:
            sorted_ids, order = sorted_ids[first:last], order[first:last]
            starts = np.concatenate(([0], np.flatnonzero(sorted_ids[1:] != sorted_ids[:-1]) + 1))
            out[sorted_ids[starts]] = np.add.reduceat(rows.take(order, axis=0), starts, axis=0)

    return [call]


@ops.unembed.register_bound(
    np.ndarray,
    accepts=lambda x, W: floating(x, W) and x.ndim > 1 and x.size > 0,
    allocate=lambda x, W: np.empty((*x.shape[:-1], W.shape[0]), x.dtype, like=x),
)
def _(out: Array, x: Array, W: Array) -> list[Call]:
    return [partial(np.dot, x.reshape(-1, W.shape[1]), W.T, out.reshape(-1, W.shape[0]))]


@ops.unembed_backward.register_bound(
    np.ndarray,
    accepts=lambda dy, x, W, *_: floating(dy, x, W) and dy.ndim > 1 and x.size > 0,
    allocate=lambda dy, x, W, need_dx=True, need_dW=True: (
        np.empty_like(x) if need_dx else None,
        np.empty_like(W) if need_dW else None,
    ),
)
def _(out: Any, dy: Array, x: Array, W: Array, *_: bool) -> list[Call]:
    dx, dW = out
    rows, given = dy.reshape(-1, W.shape[0]), x.reshape(-1, W.shape[1])
    calls: list[Call] = [] if dW is None else [partial(np.dot, rows.T, given, dW)]
    if dx is not None:
        calls.append(partial(np.dot, rows, W, dx.reshape(given.shape)))
    return calls


def _product_accepts(*arrays: Array) -> bool:
    leading = {each.shape[:-2] for each in arrays}
    return floating(*arrays) and len(leading) == 1 and all(each.size for each in arrays)


@ops.matmul.register_bound(
    np.ndarray,
    accepts=_product_accepts,
    allocate=lambda x, y: np.empty((*x.shape[:-1], y.shape[-1]), x.dtype, like=x),
)
def _(out: Array, x: Array, y: Array) -> list[Call]:
    return [partial(np.matmul, x, y, out)]


@ops.matmul_backward.register_bound(
    np.ndarray, accepts=_product_accepts, allocate=lambda dz, x, y: (np.empty_like(x), np.empty_like(y))
)
def _(out: Any, dz: Array, x: Array, y: Array) -> list[Call]:
    dx, dy = out
    return [partial(np.matmul, dz, y.swapaxes(-1, -2), dx), partial(np.matmul, x.swapaxes(-1, -2), dz, dy)]


@ops.add_positions.register_bound(np.ndarray, accepts=lambda x, table, start: floating(x, table), allocate=first_like)
def _(out: Array, x: Array, table: Array, start: int) -> list[Call]:
    return [partial(np.add, x, table[start : start + x.shape[-2]], out)]


@ops.add_positions_backward.register_bound(
    np.ndarray,
    accepts=lambda dy, n_positions: floating(dy) and dy.size > 0,
    allocate=lambda dy, n_positions: np.empty((n_positions, dy.shape[-1]), dy.dtype, like=dy),
)
def _(out: Array, dy: Array, n_positions: int) -> list[Call]:
    length, width = dy.shape[-2:]
    flat = dy.reshape(-1, length * width)
    summed = out[:length].reshape(-1)
    return [partial(np.dot, ones(len(flat), dy), flat, summed), partial(out[length:].fill, 0)]


@ops.add_sinusoid.register_bound(np.ndarray, accepts=lambda x, start: floating(x), allocate=first_like)
def _(out: Array, x: Array, start: int) -> list[Call]:
    length, width = x.shape[-2:]
    found = angles(np, start, length, width // 2, 1e4, None)
    table = np.stack((np.sin(found), np.cos(found)), axis=-1).reshape(length, width).astype(x.dtype)
    return [partial(np.add, x, table, out)]


@ops.rotate.register_bound(np.ndarray, accepts=lambda x, *_: floating(x) and x.size > 0, allocate=first_like)
def _(out: Array, x: Array, head_size: int, n_columns: int, base: float, start: int, direction: float) -> list[Call]:
    length, half = x.shape[-2], head_size // 2
    found = angles(np, start, length, half, base, None)
    cos = np.cos(found).astype(x.dtype)[:, None, :]
    sin = (direction * np.sin(found)).astype(x.dtype)[:, None, :]
    shape = (*x.shape[:-1], n_columns // head_size, head_size)
    given, turned = x[..., :n_columns].reshape(shape), out[..., :n_columns].reshape(shape)
    a, b, c, d = given[..., :half], given[..., half:], turned[..., :half], turned[..., half:]
    scratch = borrow(a.shape, x.dtype, x)
    calls: list[Call] = [
        partial(np.multiply, a, cos, c),
        partial(np.multiply, b, sin, scratch),
        partial(np.subtract, c, scratch, c),
        partial(np.multiply, a, sin, d),
        partial(np.multiply, b, cos, scratch),
        partial(np.add, d, scratch, d),
    ]
    if n_columns < x.shape[-1]:
        calls.append(partial(np.copyto, out[..., n_columns:], x[..., n_columns:]))
    return calls
