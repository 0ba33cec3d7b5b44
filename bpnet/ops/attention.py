"""Scaled dot-product attention of several heads, with the derivative written out.

Small matrices of probabilities are kept for the backward. Of larger ones only the logarithm of every row's sum is, and
the backward makes them again, some queries at a time: `keeps_probabilities` is the rule, a matter of shapes alone.
"""

from __future__ import annotations

import math

from bpnet.dispatch import Array, kernel, namespace
from bpnet.ops.costs import Shaped
from bpnet.ops.factors import Factor, exactly
from bpnet.ops.random import keep_scale

KEPT = 1 << 22  # probabilities up to which they are kept: 16 MiB in float32
BLOCK = 1 << 20  # of probabilities that are made at a time where they are not kept


def keeps_probabilities(n: int, heads: int, n_queries: int, n_keys: int) -> bool:
    """Whether attention keeps its probabilities for the backward."""
    return n * heads * n_queries * n_keys <= KEPT


def query_blocks(n: int, heads: int, n_queries: int, n_keys: int) -> list[tuple[int, int]]:
    """The (start, stop) of the queries that are treated at a time."""
    size = n_queries
    if not keeps_probabilities(n, heads, n_queries, n_keys):
        size = max(1, BLOCK // max(1, n * heads * n_keys))
    return [(start, min(start + size, n_queries)) for start in range(0, n_queries, max(1, size))]


def _forward_flops(q: Array, k: Array, keep: Array | None, heads: int) -> int:
    n, n_queries, width = map(int, q.shape)
    s = n * heads * n_queries * int(k.shape[1])
    return 4 * s * (width // heads) + (6 if keep is None else 7) * s + 2 * n * heads * n_queries


def _backward_flops(q: Array, k: Array, keep: Array | None, heads: int) -> int:
    n, n_queries, width = map(int, q.shape)
    n_keys, size = int(k.shape[1]), width // heads
    s = n * heads * n_queries * n_keys
    again = 0 if keeps_probabilities(n, heads, n_queries, n_keys) else 2 * s * size + 3 * s
    gathered = 2 * n * n_keys * width * max(1, len(query_blocks(n, heads, n_queries, n_keys)))
    return 2 * n * n_queries * width + 8 * s * size + (3 if keep is None else 5) * s + gathered + again


def _attention_flops(
    q: Array, k: Array, v: Array, mask: Array | None, keep: Array | None, heads: int, causal: bool, rate: float
) -> int:
    return _forward_flops(q, k, keep, heads)


def _attention_backward_flops(
    dy: Array, y: Array, q: Array, k: Array, v: Array, kept: Array, mask: Array | None, keep: Array | None, heads: int,
    causal: bool, rate: float,
) -> int:  # fmt: skip
    return _backward_flops(q, k, keep, heads)


def _third(qkv: Array) -> Shaped:
    return Shaped((*map(int, qkv.shape[:-1]), int(qkv.shape[-1]) // 3))


def _self_attention_flops(
    qkv: Array, mask: Array | None, keep: Array | None, heads: int, causal: bool, rate: float
) -> int:
    return _forward_flops(_third(qkv), _third(qkv), keep, heads)


def _self_attention_backward_flops(
    dy: Array, y: Array, qkv: Array, kept: Array, mask: Array | None, keep: Array | None, heads: int, causal: bool,
    rate: float,
) -> int:  # fmt: skip
    return _backward_flops(_third(qkv), _third(qkv), keep, heads)


def _heads(x: Array, heads: int) -> Array:
    """(N, T, heads d) as (N, heads, T, d)."""
    xp = namespace(x)
    n, length, width = x.shape
    return xp.permute_dims(xp.reshape(x, (n, length, heads, width // heads)), (0, 2, 1, 3))


def _joined(x: Array) -> Array:
    """(N, heads, T, d) as (N, T, heads d)."""
    xp = namespace(x)
    n, heads, length, size = x.shape
    return xp.reshape(xp.permute_dims(x, (0, 2, 1, 3)), (n, length, heads * size))


def _scores(q: Array, k: Array, mask: Array | None, causal: bool, start: int, n_queries: int) -> Array:
    """q k^T / sqrt(d), -inf where a query must not look. q : (N, h, B, d), from query `start` on; k : (N, h, Tk, d)"""
    xp = namespace(q)
    s = xp.matmul(q, xp.matrix_transpose(k)) * (1 / math.sqrt(q.shape[-1]))
    n_keys = k.shape[-2]
    if mask is not None:
        s = xp.where(mask[:, None, None, :], s, -math.inf)
    if causal:
        last = xp.arange(start, start + q.shape[-2], device=q.device) + (n_keys - n_queries)
        s = xp.where(xp.arange(n_keys, device=q.device)[None, :] <= last[:, None], s, -math.inf)
    return s


def _probabilities(s: Array) -> tuple[Array, Array]:
    """softmax(s) over the last axis and the logarithm of the sum; zeros, and 0, in rows that are all -inf."""
    xp = namespace(s)
    top = xp.max(s, axis=-1, keepdims=True)
    top = xp.where(top == -math.inf, 0, top)
    e = xp.exp(s - top)
    total = xp.sum(e, axis=-1, keepdims=True)
    safe = xp.where(total == 0, 1, total)
    return e / safe, (top + xp.log(safe))[..., 0]


def _dropped(x: Array, keep: Array | None, rate: float) -> Array:
    return x if keep is None else namespace(x).where(keep, x * keep_scale(rate), 0)


def attended(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    keep: Array | None,
    heads: int,
    causal: bool,
    rate: float,
    factor: Factor = exactly,
) -> tuple[Array, Array]:
    """What `attention` returns. factor : what the probabilities become before they are multiplied"""
    xp = namespace(q)
    n_queries = q.shape[1]
    qs, ks, vs = _heads(q, heads), _heads(k, heads), _heads(v, heads)
    whole = keeps_probabilities(q.shape[0], heads, n_queries, k.shape[1])
    parts, kept = [], []
    for start, stop in query_blocks(q.shape[0], heads, n_queries, k.shape[1]) or [(0, 0)]:
        s = _scores(qs[:, :, start:stop, :], ks, mask, causal, start, n_queries)
        p, total = _probabilities(s)
        some_keep = None if keep is None else keep[:, :, start:stop, :]
        parts.append(xp.matmul(factor(_dropped(p, some_keep, rate)), vs))
        kept.append(p if whole else total)
    return _joined(xp.concat(parts, axis=2)), kept[0] if len(kept) == 1 else xp.concat(kept, axis=2)


def attended_backward(
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
    factor: Factor = exactly,
) -> tuple[Array, Array, Array]:
    """What `attention_backward` returns. factor : what P and dS become before they are multiplied"""
    xp = namespace(q)
    n_queries = q.shape[1]
    qs, ks, vs, ys, dys = (_heads(each, heads) for each in (q, k, v, y, dy))
    scale = 1 / math.sqrt(qs.shape[-1])
    inner = xp.sum(dys * ys, axis=-1, keepdims=True)
    whole = keeps_probabilities(q.shape[0], heads, n_queries, k.shape[1])
    dq, dk, dv = [], xp.zeros_like(ks), xp.zeros_like(vs)
    for start, stop in query_blocks(q.shape[0], heads, n_queries, k.shape[1]) or [(0, 0)]:
        some_q, some_dy = qs[:, :, start:stop, :], dys[:, :, start:stop, :]
        if whole:
            p = kept
        else:
            s = _scores(some_q, ks, mask, causal, start, n_queries)
            p = xp.exp(s - kept[:, :, start:stop, None])
        some_keep = None if keep is None else keep[:, :, start:stop, :]
        dv = dv + xp.matmul(xp.matrix_transpose(factor(_dropped(p, some_keep, rate))), some_dy)
        dp = _dropped(xp.matmul(some_dy, xp.matrix_transpose(vs)), some_keep, rate)
        ds = factor(p * (dp - inner[:, :, start:stop, :]) * scale)
        dq.append(xp.matmul(ds, ks))
        dk = dk + xp.matmul(xp.matrix_transpose(ds), some_q)
    return _joined(xp.concat(dq, axis=2)), _joined(dk), _joined(dv)


@kernel(flops=_attention_flops)
def attention(
    q: Array, k: Array, v: Array, mask: Array | None, keep: Array | None, heads: int, causal: bool, rate: float
) -> tuple[Array, Array]:
    """y = P v for every head, P = softmax(q k^T / sqrt(d)) over the keys. [Vaswani et al. 2017, eq. 1]

    q : (N, Tq, h d); k, v : (N, Tk, h d), Tk >= 1; mask : (N, Tk) bool, true where a key is there; None: everywhere
    causal : query i sees keys 0 ... i + Tk - Tq only, so that the last query sees the last key
    keep   : (N, h, Tq, Tk) bool or None: probabilities that are not dropped, and grow by `keep_scale(rate)`
    A query that sees no key gets y = 0.
    Returns y, (N, Tq, h d), and what the backward needs: P, or the logarithms of its rows' sums, (N, h, Tq), where P is
    large.
    """
    return attended(q, k, v, mask, keep, heads, causal, rate)


@kernel(flops=_attention_backward_flops)
def attention_backward(
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
) -> tuple[Array, Array, Array]:
    """The derivatives of `attention` with respect to q, k and v.

    dv = P^T dy, dP = dy v^T; the softmax's derivative is dS = P (dP - sum_j P_j dP_j), in which that sum is the sum of
    dy y over a head's features: it needs no P. Then dq = dS k / sqrt(d) and dk = dS^T q / sqrt(d). Where probabilities
    were dropped, dv is of what was left, and dP is dropped and grows as P did.
    """
    return attended_backward(dy, y, q, k, v, kept, mask, keep, heads, causal, rate)


def thirds(x: Array) -> tuple[Array, Array, Array]:
    """q, k and v of what lies side by side."""
    width = x.shape[-1] // 3
    return x[..., :width], x[..., width : 2 * width], x[..., 2 * width :]


@kernel(flops=_self_attention_flops)
def self_attention(
    qkv: Array, mask: Array | None, keep: Array | None, heads: int, causal: bool, rate: float
) -> tuple[Array, Array]:
    """`attention` of q, k and v that lie side by side, as one product makes them. qkv : (N, T, 3 h d)"""
    found: tuple[Array, Array] = attention(*thirds(qkv), mask, keep, heads, causal, rate)
    return found


@kernel(flops=_self_attention_backward_flops)
def self_attention_backward(
    dy: Array,
    y: Array,
    qkv: Array,
    kept: Array,
    mask: Array | None,
    keep: Array | None,
    heads: int,
    causal: bool,
    rate: float,
) -> Array:
    """`attention_backward` with dq, dk and dv side by side: dqkv, (N, T, 3 h d)."""
    found = attention_backward(dy, y, *thirds(qkv), kept, mask, keep, heads, causal, rate)
    return namespace(dy).concat(found, axis=-1)
