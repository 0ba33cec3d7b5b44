"""Norms, attention and embeddings, divided among the threads by rows, samples, or columns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet.ops.attention import keeps_probabilities
from bpnet.ops.random import keep_scale
from bpnet_numpy.fused.blas import gemm
from bpnet_numpy.fused.instruction import Program, instruction
from bpnet_numpy.fused.parts import CACHE_LINE, MULTIPLICATIONS, PASS, column_sums, pieces, split, sums_of_parts
from bpnet_numpy.fused.variants.common import check_place, fused
from bpnet_numpy.kernels import attention, layer_norm
from bpnet_numpy.kernels.common import INDICES, Array, floating
from bpnet_numpy.scratch import borrow

CACHED = 1 << 12
"""Probabilities that are made at a time: with what they are made of they stay in the first-level cache."""
FEWEST = 16
"""Queries at a time, however many keys there are; of a causal one no more, so that little is computed unseen."""


# --- norms ---


def _vector(like: Array, *vectors: Array | None) -> bool:
    """Whether each is None or a vector that fits the rows of `like`."""
    given = [each for each in vectors if each is not None]
    return all(each.shape == like.shape[-1:] and floating(like, each) for each in given)


def _norm(out: Any, x: Array, gain: Array, bias: Array | None, epsilon: float, centring: bool) -> list[Call]:
    y, h, r = out
    for each, shape in ((y, x.shape), (h, x.shape), (r, (*x.shape[:-1], 1))):
        check_place(each, shape, x.dtype)
    width = x.shape[-1]
    y2, h2, r2, x2 = (each.reshape(-1, each.shape[-1]) for each in (y, h, r, x))

    def make(rows: slice) -> list[Program]:
        mine = (y2[rows], h2[rows], r2[rows], x2[rows])
        words = (*mine, gain, 0 if bias is None else bias, len(mine[0]), width, float(epsilon), centring)
        return [instruction("norm", x.dtype, *words)]

    return split(len(x2), x.size, make, least=PASS)


@fused(
    ops.layer_norm,
    accepts=lambda x, gain, bias, epsilon: x.ndim > 0 and x.size > 0 and _vector(x, gain, bias),
    allocate=layer_norm.allocate,
)
def _(out: Any, x: Array, gain: Array, bias: Array | None, epsilon: float) -> list[Call]:
    return _norm(out, x, gain, bias, epsilon, True)


@fused(
    ops.rms_norm,
    accepts=lambda x, gain, epsilon: x.ndim > 0 and x.size > 0 and _vector(x, gain),
    allocate=layer_norm.allocate,
)
def _(out: Any, x: Array, gain: Array, epsilon: float) -> list[Call]:
    return _norm(out, x, gain, None, epsilon, False)


def _norm_backward(out: Any, dy: Array, h: Array, r: Array, gain: Array, centring: bool) -> list[Call]:
    dx, *vectors = out
    width, dtype = dy.shape[-1], dy.dtype
    for each, shape in ((dx, dy.shape), (vectors[0], gain.shape), (vectors[1], gain.shape)):
        if each is not None:
            check_place(each, shape, dtype)
    dy2, h2, r2 = (each.reshape(-1, each.shape[-1]) for each in (dy, h, r))

    def make(rows: slice, places: list[Any]) -> Program:
        first = 0 if dx is None else dx.reshape(dy2.shape)[rows]
        words = (first, *places, dy2[rows], h2[rows], r2[rows], gain, len(dy2[rows]), width, centring)
        return instruction("norm_backward", dtype, *words)

    return sums_of_parts(vectors, pieces(len(dy2), dy.size, PASS), make, dy)


def _norm_kept(dy: Array, h: Array, r: Array, gain: Array, *_: bool) -> bool:
    shapes = h.shape == dy.shape and r.shape == (*dy.shape[:-1], 1)
    return dy.ndim > 0 and dy.size > 0 and shapes and floating(dy, h, r) and _vector(dy, gain)


@fused(ops.layer_norm_backward, accepts=_norm_kept, allocate=layer_norm.allocate_backward)
def _(out: Any, dy: Array, h: Array, r: Array, gain: Array, *_: bool) -> list[Call]:
    return _norm_backward(out, dy, h, r, gain, True)


@fused(ops.rms_norm_backward, accepts=_norm_kept, allocate=lambda *args: layer_norm.allocate_backward(*args)[:2])
def _(out: Any, dy: Array, h: Array, r: Array, gain: Array, *_: bool) -> list[Call]:
    return _norm_backward((*out, None), dy, h, r, gain, False)


# --- attention ---


def _attends(q: Array, k: Array, v: Array, mask: Any, keep: Any, heads: int, *rest: Any) -> bool:
    """Whether q, k and v lie as the body expects: heads side by side, k and v alike."""
    alike = k.shape == v.shape and k.strides == v.strides and q.shape[0] == k.shape[0] and q.shape[2] == k.shape[2]
    shapes = (q.shape[0], heads, q.shape[1], k.shape[1])
    masks = mask is None or (mask.shape == (k.shape[0], k.shape[1]) and mask.flags.c_contiguous)
    kept = keep is None or (keep.shape == shapes and keep.flags.c_contiguous)
    fitting = q.ndim == k.ndim == 3 and alike and masks and kept and q.shape[2] % heads == 0
    forward = all(each > 0 and each % q.itemsize == 0 for x in (q, k) for each in x.strides)
    return fitting and forward and min(*q.strides[:2], *k.strides[:2]) >= q.strides[2] and gemm(q.dtype) is not None


def _block(queries: int, keys: int, causal: bool) -> int:
    return min(queries, FEWEST if causal else max(FEWEST, CACHED // keys))


def _attention(
    name: str, y: Array, kept: Array, q: Array, k: Array, v: Array, mask: Any, keep: Any, heads: int, causal: bool,
    rate: float, *more: Array,
) -> list[Call]:  # fmt: skip
    found = gemm(q.dtype)
    assert found is not None
    n, queries, width = q.shape
    keys, size = k.shape[1], width // heads
    whole = keeps_probabilities(n, heads, queries, keys)
    block = _block(queries, keys, causal)
    gaps = [each // q.itemsize for each in (*q.strides[:2], *k.strides[:2])]

    def make(some: slice) -> list[Program]:
        scores = borrow(3 * block * keys, q.dtype, q)
        samples = [each if each is None else each[some] for each in (y, kept, q, k, v, mask, keep)]
        arrays = [0 if each is None else each for each in samples]
        sizes = (len(y[some]), heads, queries, keys, size, causal, whole, block)
        scales = (1 / math.sqrt(size), float(keep_scale(rate)))
        rest = [each[some] for each in more] or [0] * 4
        words = (*arrays, *sizes, scores, *gaps, *scales, found.address, found.bits, *rest, q.itemsize)
        return [instruction(name, q.dtype, *words)]

    return split(n, 4 * n * heads * queries * keys * size, make, least=MULTIPLICATIONS)


@fused(
    ops.attention,
    accepts=lambda *args: attention.accepts(*args) and _attends(*args),
    allocate=attention.allocate,
)
def _(out: Any, *args: Any) -> list[Call]:
    return _attention("attention", *out, *args)


@fused(
    ops.attention_backward,
    accepts=lambda dy, y, q, k, v, kept, *rest: (
        attention.accepts(dy, y, q, k, v, kept, *rest) and _attends(q, k, v, *rest)
        and dy.flags.c_contiguous and y.flags.c_contiguous and kept.flags.c_contiguous and q.flags.c_contiguous
        and k.flags.c_contiguous
    ),
    allocate=lambda dy, y, q, k, v, *_: tuple(np.empty(each.shape, each.dtype, like=each) for each in (q, k, v)),
)  # fmt: skip
def _(out: Any, dy: Array, y: Array, q: Array, k: Array, v: Array, kept: Array, *rest: Any) -> list[Call]:
    return _attention("attention_backward", y, kept, q, k, v, *rest, dy, *out)


@fused(
    ops.self_attention,
    accepts=lambda qkv, *rest: (
        qkv.ndim == 3 and qkv.flags.c_contiguous and attention.accepts(qkv, *rest)
        and _attends(*attention.thirds(qkv), *rest)
    ),
    allocate=lambda qkv, *rest: attention.allocate(*attention.thirds(qkv), *rest),
)  # fmt: skip
def _(out: Any, qkv: Array, *args: Any) -> list[Call]:
    return _attention("attention", *out, *attention.thirds(qkv), *args)


@fused(
    ops.self_attention_backward,
    accepts=lambda dy, y, qkv, kept, *rest: (
        qkv.ndim == 3 and floating(dy, y, qkv, kept) and attention.accepts(dy, y, qkv, kept, *rest)
        and _attends(*attention.thirds(qkv), *rest)
    ),
    allocate=lambda dy, y, qkv, *_: np.empty(qkv.shape, qkv.dtype, like=qkv),
)  # fmt: skip
def _(out: Any, dy: Array, y: Array, qkv: Array, kept: Array, *rest: Any) -> list[Call]:
    check_place(out, qkv.shape, qkv.dtype)
    return _attention("attention_backward", y, kept, *attention.thirds(qkv), *rest, dy, *attention.thirds(out))


# --- embeddings ---


@fused(
    ops.embedding_backward,
    accepts=lambda dy, ids, n_tokens: (
        floating(dy) and ids.dtype in INDICES and ids.flags.c_contiguous and ids.size > 0 and dy.ndim == ids.ndim + 1
        and dy.shape[:-1] == ids.shape and dy.shape[-1] > 0
    ),
    allocate=lambda dy, ids, n_tokens: np.empty((n_tokens, dy.shape[-1]), dy.dtype, like=dy),
)  # fmt: skip
def _(out: Array, dy: Array, ids: Array, n_tokens: int) -> list[Call]:
    check_place(out, (n_tokens, dy.shape[-1]), dy.dtype)
    rows, width = dy.reshape(ids.size, -1), dy.shape[-1]

    def make(some: slice) -> list[Program]:
        columns = out[:, some]
        operands = (columns, rows[:, some], ids, ids.itemsize, ids.size, n_tokens, columns.shape[1], width)
        return [instruction("embedding_backward", dy.dtype, *operands)]

    return split(width, dy.size, make, least=PASS, step=CACHE_LINE)


@fused(
    ops.embedding,
    accepts=lambda ids, W: (
        ids.dtype in INDICES and ids.flags.c_contiguous and ids.size > 0 and floating(W) and W.ndim == 2 and W.size > 0
    ),
    allocate=lambda ids, W: np.empty((*ids.shape, W.shape[1]), W.dtype, like=W),
)
def _(out: Array, ids: Array, W: Array) -> list[Call]:
    check_place(out, (*ids.shape, W.shape[1]), W.dtype)
    rows, flat = out.reshape(ids.size, -1), ids.reshape(-1)

    def make(some: slice) -> list[Program]:
        operands = (rows[some], W, flat[some], ids.itemsize, len(rows[some]), *W.shape)
        return [instruction("embedding", W.dtype, *operands)]

    return split(ids.size, out.size, make, least=PASS)


@fused(
    ops.add_positions,
    accepts=lambda x, table, start: (
        floating(x, table) and x.ndim > 1 and x.size > 0 and table.ndim == 2 and table.shape[1] == x.shape[-1]
        and 0 <= start <= len(table) - x.shape[-2]
    ),
    allocate=lambda x, *_: np.empty_like(x),
)  # fmt: skip
def _(out: Array, x: Array, table: Array, start: int) -> list[Call]:
    check_place(out, x.shape, x.dtype)
    own = table[start : start + x.shape[-2]].reshape(-1)
    samples, places = x.reshape(-1, own.size), out.reshape(-1, own.size)

    def make(some: slice) -> list[Program]:
        return [instruction("shifted", x.dtype, places[some], samples[some], own, len(samples[some]), own.size)]

    return split(len(samples), x.size, make, least=PASS)


@fused(
    ops.add_positions_backward,
    accepts=lambda dy, n_positions: floating(dy) and dy.ndim > 1 and dy.size > 0 and dy.shape[-2] <= n_positions,
    allocate=lambda dy, n_positions: np.empty((n_positions, dy.shape[-1]), dy.dtype, like=dy),
)
def _(out: Array, dy: Array, n_positions: int) -> list[Call]:
    length, width = dy.shape[-2:]
    check_place(out, (n_positions, width), dy.dtype)
    flat, target, rest = dy.reshape(-1, length * width), out[:length].reshape(-1), out[length:]
    calls = column_sums(target, flat)
    return [*calls, instruction("fill", dy.dtype, rest, rest.size, 0.0)] if rest.size else calls
