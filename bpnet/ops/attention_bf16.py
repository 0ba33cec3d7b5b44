"""Attention whose four products take bfloat16 and sum in float32: `attention`'s, of rounded factors.

Factors are q, k and v, which are bits as uint16; the probabilities, rounded after the softmax and what is dropped; and
in the backward dy and dS. Scores, softmax, y, what is kept and all gradients are float32.
"""

from __future__ import annotations

from bpnet.dispatch import Array, kernel, namespace
from bpnet.ops.attention import (
    attended,
    attended_backward,
    attention,
    attention_backward,
    self_attention,
    self_attention_backward,
    thirds,
)
from bpnet.ops.bfloat16 import ROUNDED, from_bf16, rounded, three
from bpnet.ops.costs import kernel_flops, size


def _n_probabilities(q: Array, k: Array, heads: int) -> int:
    return int(q.shape[0]) * heads * int(q.shape[1]) * int(k.shape[1])


def _attention_bf16_flops(
    q: Array, k: Array, v: Array, mask: Array | None, keep: Array | None, heads: int, causal: bool, rate: float
) -> int:
    products = kernel_flops(attention, (q, k, v, mask, keep, heads, causal, rate))
    return products + size((q, k, v)) + ROUNDED * _n_probabilities(q, k, heads)


def _attention_bf16_backward_flops(
    dy: Array, y: Array, q: Array, k: Array, v: Array, kept: Array, mask: Array | None, keep: Array | None, heads: int,
    causal: bool, rate: float,
) -> int:  # fmt: skip
    products = kernel_flops(attention_backward, (dy, y, q, k, v, kept, mask, keep, heads, causal, rate))
    return products + size((q, k, v)) + ROUNDED * (size(dy) + 2 * _n_probabilities(q, k, heads))


def _self_attention_bf16_flops(
    qkv: Array, mask: Array | None, keep: Array | None, heads: int, causal: bool, rate: float
) -> int:
    products = kernel_flops(self_attention, (qkv, mask, keep, heads, causal, rate))
    return products + size(qkv) + ROUNDED * _n_probabilities(qkv, qkv, heads)


def _self_attention_bf16_backward_flops(
    dy: Array, y: Array, qkv: Array, kept: Array, mask: Array | None, keep: Array | None, heads: int, causal: bool,
    rate: float,
) -> int:  # fmt: skip
    products = kernel_flops(self_attention_backward, (dy, y, qkv, kept, mask, keep, heads, causal, rate))
    return products + size(qkv) + ROUNDED * (size(dy) + 2 * _n_probabilities(qkv, qkv, heads))


@kernel(flops=_attention_bf16_flops)
def attention_bf16(
    q: Array, k: Array, v: Array, mask: Array | None, keep: Array | None, heads: int, causal: bool, rate: float
) -> tuple[Array, Array]:
    """`attention` with y = r(P) v, where r rounds to bfloat16, of q, k and v in bfloat16, bits as uint16.

    Returns y, (N, Tq, h d), and P or the logarithms of its rows' sums, as there; both float32.
    """
    return attended(*three(q, k, v), mask, keep, heads, causal, rate, rounded)


@kernel(flops=_attention_bf16_backward_flops)
def attention_bf16_backward(
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
    """The gradients of q, k and v, float32, as if P and dS were not rounded: `attention_backward` of rounded factors.

    dv = r(P)^T r(dy), dP = r(dy) v^T, dS = P (dP - the sum of r(dy) y) / sqrt(d), dq = r(dS) k, dk = r(dS)^T q.
    dy, y : float32; q, k, v : bits as uint16
    """
    return attended_backward(rounded(dy), y, *three(q, k, v), kept, mask, keep, heads, causal, rate, rounded)


@kernel(flops=_self_attention_bf16_flops)
def self_attention_bf16(
    qkv: Array, mask: Array | None, keep: Array | None, heads: int, causal: bool, rate: float
) -> tuple[Array, Array]:
    """`attention_bf16` of q, k and v that lie side by side. qkv : (N, T, 3 h d), bits as uint16"""
    return attended(*thirds(from_bf16(qkv)), mask, keep, heads, causal, rate, rounded)


@kernel(flops=_self_attention_bf16_backward_flops)
def self_attention_bf16_backward(
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
    """`attention_bf16_backward` with dq, dk and dv side by side: dqkv, (N, T, 3 h d), float32."""
    wide = thirds(from_bf16(qkv))
    found = attended_backward(rounded(dy), y, *wide, kept, mask, keep, heads, causal, rate, rounded)
    return namespace(dy).concat(found, axis=-1)
