"""Attention: products by BLAS on views of q, k and v as they lie, some samples at a time.

Where probabilities are kept, samples are taken together as long as their matrices stay in the cache; where they are
not, one sample and some queries at a time, and of a causal one only the keys that those queries see.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet.ops.attention import keeps_probabilities
from bpnet.ops.random import keep_scale
from bpnet_numpy.kernels.common import SIGNED, TINY_TOTAL, Array, constant, ones
from bpnet_numpy.scratch import borrow, borrow_like

CACHED = 1 << 16  # probabilities that are treated at a time
FEWEST = 32  # queries at a time, however many keys there are: products of less are slow


def _heads(x: Array, heads: int) -> Array:
    """(N, T, heads d), whose last axis has no gaps, as a view (N, heads, T, d)."""
    n, length, width = x.shape
    return x.reshape(n, length, heads, width // heads).transpose(0, 2, 1, 3)


def _swapped(x: Array) -> Array:
    return x.swapaxes(-1, -2)


class _Part:
    """Some samples and some of their queries, with the keys that these see: views, and the calls' scratch."""

    def __init__(self, arrays: dict[str, Any], samples: slice, queries: slice, n_keys: int) -> None:
        self.samples, self.queries = samples, queries
        self.mask = None if arrays["mask"] is None else arrays["mask"][samples, :n_keys]
        self.keep = None if arrays["keep"] is None else arrays["keep"][samples, :, queries, :n_keys]
        for name in ("q", "y", "dy", "dq", "inner"):
            if name in arrays:
                setattr(self, name, arrays[name][samples, :, queries])
        for name in ("k", "v", "dk", "dv"):
            if name in arrays:
                setattr(self, name, arrays[name][samples, :, :n_keys])

    q: Array
    k: Array
    v: Array
    y: Array
    dy: Array
    dq: Array
    dk: Array
    dv: Array
    inner: Array


class _Attention:
    """What forward and backward share: the parts, the scratch, and the scores."""

    def __init__(
        self, q: Array, k: Array, mask: Array | None, keep: Array | None, heads: int, causal: bool, rate: float
    ) -> None:
        n, n_queries, width = q.shape
        n_keys = k.shape[1]
        self.heads, self.causal, self.dtype = heads, causal, q.dtype
        self.n_queries, self.n_keys, self.size = n_queries, n_keys, width // heads
        self.scale = constant(1 / math.sqrt(self.size), q.dtype)
        self.grown = constant(keep_scale(rate), q.dtype)
        self.whole = keeps_probabilities(n, heads, n_queries, n_keys)
        self.group = max(1, CACHED // max(1, heads * n_queries * n_keys)) if self.whole else 1
        self.block = n_queries if self.whole else max(FEWEST, CACHED // (heads * n_keys))
        rows = (min(self.group, n), heads, min(self.block, n_queries))
        self.scaled = borrow((*rows, self.size), q.dtype, q)
        self.some = borrow(math.prod(rows) * n_keys, q.dtype, q)
        self.more = borrow_like(self.some)
        self.shift, self.total = (
            np.empty((math.prod(rows),), q.dtype, like=q),
            np.empty((math.prod(rows),), q.dtype, like=q),
        )
        self.bias = np.where(self._hidden(), -np.inf, 0).astype(q.dtype) if causal else None

    def _hidden(self) -> Array:
        last = np.arange(self.n_queries, like=self.scaled)[:, None] + (self.n_keys - self.n_queries)
        return np.arange(self.n_keys, like=self.scaled)[None, :] > last

    def parts(self, n: int, arrays: dict[str, Any]) -> list[_Part]:
        """Views of every part."""
        found = []
        for sample in range(0, n, self.group):
            for start in range(0, self.n_queries, self.block):
                stop = min(start + self.block, self.n_queries)
                seen = self.n_keys
                if self.causal and not self.whole:
                    seen = min(seen, max(1, stop + self.n_keys - self.n_queries))
                found.append(_Part(arrays, slice(sample, min(sample + self.group, n)), slice(start, stop), seen))
        return found

    def shaped(self, buffer: Array, part: _Part) -> Array:
        """A piece of a scratch buffer, of the shape of the part's probabilities."""
        shape = (*part.q.shape[:3], part.k.shape[2])
        return buffer[: math.prod(shape)].reshape(shape)

    def scores(self, part: _Part, out: Array) -> None:
        """Set out to q k^T / sqrt(d), and to -inf where a query must not look."""
        q = np.multiply(part.q, self.scale, self.scaled[: part.q.shape[0], :, : part.q.shape[2]])
        np.matmul(q, _swapped(part.k), out)
        if self.bias is not None:
            np.add(out, self.bias[part.queries, : part.k.shape[2]], out)
        if part.mask is not None:
            np.copyto(out, -np.inf, where=~part.mask[:, None, None, :])

    def softmax(self, p: Array, logarithms: Array | None) -> None:
        """Make probabilities of scores in place, zeros in rows that are all -inf; and the logarithms of the sums.

        Any shift common to a row cancels. One for all rows costs a fraction of a maximum per row, and serves unless
        some row's sum of exponentials gets too small.
        """
        flat, rows = p.reshape(-1), p.reshape(-1, p.shape[-1])
        e = self.more[: p.size]
        shift, total, e_rows = self.shift[: len(rows)], self.total[: len(rows)], e.reshape(rows.shape)
        summing = ones(rows.shape[1], p)
        shift.fill(flat[flat.argmax()])
        total.fill(0)
        if shift[0] > -np.inf:
            np.subtract(flat, shift[0], e)
            np.exp(e, e)
            np.dot(e_rows, summing, total)
        if not total[total.argmin()] > TINY_TOTAL:  # so that NaN comes here too
            np.maximum.reduce(rows, axis=1, out=shift)
            np.copyto(shift, 0, where=shift == -np.inf)
            np.subtract(rows, shift[:, None], e_rows)
            np.exp(e, e)
            np.dot(e_rows, summing, total)
            np.copyto(total, 1, where=total == 0)
        np.divide(e_rows, total[:, None], rows)
        if logarithms is not None:
            np.add(shift, np.log(total, total), total)
            logarithms[...] = total.reshape(logarithms.shape)

    def dropped(self, p: Array, part: _Part, out: Array) -> Array:
        """P with what is dropped as 0 and the rest grown: P itself where nothing is dropped."""
        if part.keep is None:
            return p
        signed = SIGNED[p.dtype]
        np.multiply(p, self.grown, out)
        np.bitwise_and(out.view(signed), np.negative(part.keep.view(np.int8)), out.view(signed))
        return out


def _forward(
    out: Any,
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    keep: Array | None,
    heads: int,
    causal: bool,
    rate: float,
) -> list[Call]:
    y, kept = out
    shared = _Attention(q, k, mask, keep, heads, causal, rate)
    arrays = {"q": q, "k": k, "v": v, "y": y}
    views = {name: _heads(each, heads) for name, each in arrays.items()} | {"mask": mask, "keep": keep}
    parts = shared.parts(len(q), views)

    def call() -> None:
        for part in parts:
            p = kept[part.samples] if shared.whole else shared.shaped(shared.some, part)
            shared.scores(part, p)
            shared.softmax(p, None if shared.whole else kept[part.samples, :, part.queries])
            np.matmul(shared.dropped(p, part, shared.shaped(shared.more, part)), part.v, part.y)

    return [call]


def _backward(
    out: tuple[Array, Array, Array],
    dy: Array,
    y: Array,
    q: Array,
    k: Array,
    v: Array,
    kept: Array,
    mask: Array | None,
    keep: Array | None,
    heads: int,
    causal: bool,
    rate: float,
) -> list[Call]:
    shared = _Attention(q, k, mask, keep, heads, causal, rate)
    dtype, (n, n_queries, width) = q.dtype, q.shape
    dq, dk, dv = out
    product, inner = borrow((n, n_queries, width), dtype, q), borrow(n * n_queries * heads, dtype, q)
    arrays = {"q": q, "k": k, "v": v, "y": y, "dy": dy, "dq": dq, "dk": dk, "dv": dv}
    views = {name: _heads(each, heads) for name, each in arrays.items()} | {"mask": mask, "keep": keep}
    views["inner"] = inner.reshape(n, n_queries, heads, 1).transpose(0, 2, 1, 3)
    parts = shared.parts(n, views)
    rows, summing = product.reshape(-1, shared.size), ones(shared.size, q)

    def call() -> None:
        np.multiply(dy, y, product)
        np.dot(rows, summing, inner)
        np.multiply(inner, shared.scale, inner)
        if not shared.whole:
            dk.fill(0)
            dv.fill(0)
        for part in parts:
            ds = shared.shaped(shared.some, part)
            if shared.whole:
                p = kept[part.samples]
                np.matmul(_swapped(shared.dropped(p, part, ds)), part.dy, part.dv)
            else:
                p = shared.shaped(shared.more, part)
                shared.scores(part, p)
                np.subtract(p, kept[part.samples, :, part.queries, None], p)
                np.exp(p, p)
                np.add(part.dv, np.matmul(_swapped(shared.dropped(p, part, ds)), part.dy), part.dv)
            scaled = np.multiply(part.dy, shared.scale, shared.scaled[: part.dy.shape[0], :, : part.dy.shape[2]])
            np.matmul(scaled, _swapped(part.v), ds)
            shared.dropped(ds, part, ds)
            np.subtract(ds, part.inner, ds)
            np.multiply(ds, p, ds)
            np.matmul(ds, part.k, part.dq)
            if shared.whole:
                np.matmul(_swapped(ds), part.q, part.dk)
            else:
                np.add(part.dk, np.matmul(_swapped(ds), part.q), part.dk)

    return [call]


def accepts(first: Array, *rest: Any) -> bool:
    """Arrays of one dtype whose last axis has no gaps, none of them empty; masks of truth values."""
    arrays = [first, *(each for each in rest if isinstance(each, np.ndarray))]
    kinds = [each for each in arrays if each.dtype != np.bool_]
    return (
        first.dtype in SIGNED
        and all(each.dtype == first.dtype and each.size and each.strides[-1] == each.itemsize for each in kinds)
        and all(each.flags.c_contiguous for each in arrays if each.dtype == np.bool_)
    )


def allocate(q: Array, k: Array, v: Array, mask: Any, keep: Any, heads: int, *_: Any) -> Any:
    """Where y goes, and what is kept: probabilities, or where these are not the logarithms of their sums."""
    n, n_queries, _width = q.shape
    whole = keeps_probabilities(n, heads, n_queries, k.shape[1])
    shape = (n, heads, n_queries, k.shape[1]) if whole else (n, heads, n_queries)
    return np.empty(q.shape, q.dtype, like=q), np.empty(shape, q.dtype, like=q)


@ops.attention.register_bound(np.ndarray, accepts=accepts, allocate=allocate)
def _(out: Any, *args: Any) -> list[Call]:
    return _forward(out, *args)


@ops.attention_backward.register_bound(
    np.ndarray,
    accepts=accepts,
    allocate=lambda dy, y, q, k, v, *_: tuple(np.empty(each.shape, each.dtype, like=each) for each in (q, k, v)),
)
def _(out: Any, *args: Any) -> list[Call]:
    return _backward(out, *args)


def thirds(x: Array) -> tuple[Array, Array, Array]:
    """Views of q, k and v in an array that holds them side by side."""
    width = x.shape[-1] // 3
    return x[..., :width], x[..., width : 2 * width], x[..., 2 * width :]


@ops.self_attention.register_bound(
    np.ndarray, accepts=accepts, allocate=lambda qkv, *rest: allocate(*thirds(qkv), *rest)
)
def _(out: Any, qkv: Array, *args: Any) -> list[Call]:
    return _forward(out, *thirds(qkv), *args)


@ops.self_attention_backward.register_bound(
    np.ndarray, accepts=accepts, allocate=lambda dy, y, qkv, *_: np.empty(qkv.shape, qkv.dtype, like=qkv)
)
def _(out: Any, dy: Array, y: Array, qkv: Array, *args: Any) -> list[Call]:
    return _backward(thirds(out), dy, y, *thirds(qkv), *args)
