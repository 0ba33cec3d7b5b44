"""Attention, a sample and a head at a time, and some queries of it: scores and probabilities stay in the cache.

Of a causal one a block of queries looks at no more keys than its last query sees. Arrays are views: q, k, v and their
gradients have the addresses of their first numbers, and the gaps between two samples, and two positions;
heads lie side by side, y and dy without gaps. Probabilities are kept whole, (N, heads, Tq, Tk), or else the logarithms
of the sums of exponentials, (N, heads, Tq). Whole rows are computed, also of what is not seen: loops of known length
become SIMD instructions.

Words of both: y, kept, q, k, v, mask or 0, keep or 0, samples, heads, Tq, Tk, head size, whether causal, whether whole,
block, scratch, numbers between samples of q, between positions of q, the same of k and v, scale, growth of what is not
dropped, gemm, bits of its sizes; then those of the backward: dy, dq, dk, dv.
"""

from __future__ import annotations

import math
from typing import Any

from numba import njit

from bpnet_numpy.fused.code.functions import exponential
from bpnet_numpy.fused.code.intrinsics import (
    ANY_ORDER,
    AS_IT_IS,
    FLAGS,
    TRANSPOSED,
    from_ordered,
    larger,
    matrix_product,
    number,
    ordered,
    real,
    uint8s,
    vector,
    word,
    words,
)


@njit(**FLAGS)
def _largest(x: Any, n: Any) -> Any:
    """The largest of n numbers, or any where NaN is among them. Integers are compared: the maximum of floating numbers
    depends on the order because of NaN, so no SIMD instructions would be made."""
    top = ordered(x[0])
    for j in range(1, n):
        top = larger(top, ordered(x[j]))
    return from_ordered(x[0], top)


@njit(**ANY_ORDER)
def _total(p: Any, x: Any, n: Any) -> Any:
    total = real(p, 0)
    for j in range(n):
        total += x[j]
    return total


@njit(**FLAGS)
def _hide(p: Any, x: Any, n: Any, seen: Any, mask: Any, masking: Any) -> None:
    """Set to -inf, of n scores, what is not seen."""
    low = -real(p, float("inf"))
    for j in range(seen, n):
        x[j] = low
    if masking:
        for j in range(n):
            x[j] = x[j] if mask[j] != 0 else low


@njit(**FLAGS)
def _exponentials(x: Any, n: Any) -> None:
    for j in range(n):
        x[j] = exponential(x[j])


@njit(**FLAGS)
def _drop(p: Any, to: Any, source: Any, n: Any, keep: Any, growth: Any) -> None:
    for j in range(n):
        to[j] = source[j] * growth if keep[j] != 0 else real(p, 0)


@njit(**FLAGS)
def _visible(causal: Any, i: Any, queries: Any, keys: Any) -> Any:
    """How many keys query i sees."""
    return min(keys, max(0, i + 1 + keys - queries)) if causal else keys


def attention(p: Any) -> None:
    """y = softmax(q k^T / sqrt(d)) v."""
    a = words(p)
    item = word(a, 28)
    samples, heads, queries, keys, size = word(a, 7), word(a, 8), word(a, 9), word(a, 10), word(a, 11)
    causal, whole, block, scratch = word(a, 12) != 0, word(a, 13) != 0, word(a, 14), word(a, 15)
    q_sample, q_row, k_sample, k_row = word(a, 16), word(a, 17), word(a, 18), word(a, 19)
    scale, growth, gemm, wide = real(p, number(a, 20)), real(p, number(a, 21)), word(a, 22), word(a, 23)
    one, zero = real(p, 1), real(p, 0)
    masking, dropping, width = word(a, 5) != 0, word(a, 6) != 0, heads * size
    second = scratch + item * block * keys
    shifts = vector(p, second + item * block * keys, block)
    low = -real(p, float("inf"))
    for s in range(samples):
        mask = uint8s(word(a, 5) + s * keys if masking else scratch, keys)
        for h in range(heads):
            q = word(a, 2) + item * (s * q_sample + h * size)
            k = word(a, 3) + item * (s * k_sample + h * size)
            v = word(a, 4) + item * (s * k_sample + h * size)
            y = word(a, 0) + item * (s * queries * width + h * size)
            pair = (s * heads + h) * queries
            for start in range(0, queries, block):
                stop = min(start + block, queries)
                n = stop - start
                seen = max(1, _visible(causal, stop - 1, queries, keys))
                ld = keys if whole else seen
                P = word(a, 1) + item * (pair + start) * keys if whole else scratch
                matrix_product(
                    p, gemm, wide, AS_IT_IS, TRANSPOSED, n, seen, size, scale, q + item * start * q_row, q_row,
                    k, k_row, zero, P, ld,
                )  # fmt: skip
                all_rows = vector(p, P, n * ld)
                for i in range(n):
                    row = vector(p, P + item * i * ld, ld)
                    _hide(p, row, ld, _visible(causal, start + i, queries, keys), mask, masking)
                    top = _largest(row, ld)
                    shift = zero if top == low else top
                    shifts[i] = shift
                    for j in range(ld):
                        row[j] -= shift
                _exponentials(all_rows, n * ld)
                for i in range(n):
                    row = vector(p, P + item * i * ld, ld)
                    total = _total(p, row, ld)
                    total = one if total == 0 else total
                    inverse = one / total
                    for j in range(ld):
                        row[j] *= inverse
                    if not whole:
                        vector(p, word(a, 1) + item * (pair + start + i), 1)[0] = shifts[i] + math.log(total)
                    if dropping:
                        keep = uint8s(word(a, 6) + (pair + start + i) * keys, keys)
                        _drop(p, vector(p, second + item * i * ld, ld), row, seen, keep, growth)
                matrix_product(
                    p, gemm, wide, AS_IT_IS, AS_IT_IS, n, size, seen, one, second if dropping else P, ld, v, k_row,
                    zero, y + item * start * width, width,
                )  # fmt: skip


def attention_backward(p: Any) -> None:
    """dq, dk and dv, from the last queries to the first, so that the first block sets all of dk and dv."""
    a = words(p)
    item = word(a, 28)
    samples, heads, queries, keys, size = word(a, 7), word(a, 8), word(a, 9), word(a, 10), word(a, 11)
    causal, whole, block, scratch = word(a, 12) != 0, word(a, 13) != 0, word(a, 14), word(a, 15)
    q_sample, q_row, k_sample, k_row = word(a, 16), word(a, 17), word(a, 18), word(a, 19)
    scale, growth, gemm, wide = real(p, number(a, 20)), real(p, number(a, 21)), word(a, 22), word(a, 23)
    one, zero = real(p, 1), real(p, 0)
    masking, dropping, width = word(a, 5) != 0, word(a, 6) != 0, heads * size
    first, second = scratch, scratch + item * block * keys
    third = second + item * block * keys
    for s in range(samples):
        mask = uint8s(word(a, 5) + s * keys if masking else scratch, keys)
        for h in range(heads):
            at_q, at_k = item * (s * q_sample + h * size), item * (s * k_sample + h * size)
            at_y = item * (s * queries * width + h * size)
            q, k, v = word(a, 2) + at_q, word(a, 3) + at_k, word(a, 4) + at_k
            dq, dk, dv = word(a, 25) + at_q, word(a, 26) + at_k, word(a, 27) + at_k
            y, dy = word(a, 0) + at_y, word(a, 24) + at_y
            pair = (s * heads + h) * queries
            blocks = (queries + block - 1) // block
            for b in range(blocks):
                start = (blocks - 1 - b) * block
                stop = min(start + block, queries)
                n = stop - start
                seen = keys if b == 0 else max(1, _visible(causal, stop - 1, queries, keys))
                more = zero if b == 0 else one
                ld = keys if whole else seen
                P = word(a, 1) + item * (pair + start) * keys if whole else first
                if not whole:
                    matrix_product(
                        p, gemm, wide, AS_IT_IS, TRANSPOSED, n, seen, size, scale, q + item * start * q_row, q_row,
                        k, k_row, zero, P, ld,
                    )  # fmt: skip
                    all_rows = vector(p, P, n * ld)
                    for i in range(n):
                        row = vector(p, P + item * i * ld, ld)
                        _hide(p, row, ld, _visible(causal, start + i, queries, keys), mask, masking)
                        shift = vector(p, word(a, 1) + item * (pair + start + i), 1)[0]
                        for j in range(ld):
                            row[j] -= shift
                    _exponentials(all_rows, n * ld)
                Q = P
                if dropping:
                    Q = third
                    for i in range(n):
                        keep = uint8s(word(a, 6) + (pair + start + i) * keys, keys)
                        row = vector(p, P + item * i * ld, ld)
                        _drop(p, vector(p, third + item * i * ld, ld), row, seen, keep, growth)
                matrix_product(
                    p, gemm, wide, TRANSPOSED, AS_IT_IS, seen, size, n, one, Q, ld, dy + item * start * width, width,
                    more, dv, k_row,
                )  # fmt: skip
                matrix_product(
                    p, gemm, wide, AS_IT_IS, TRANSPOSED, n, seen, size, scale, dy + item * start * width, width, v,
                    k_row, zero, second, ld,
                )  # fmt: skip
                for i in range(n):
                    row, probability = vector(p, second + item * i * ld, ld), vector(p, P + item * i * ld, ld)
                    if dropping:
                        keep = uint8s(word(a, 6) + (pair + start + i) * keys, keys)
                        _drop(p, row, row, seen, keep, growth)
                    place = item * (start + i) * width
                    inner = scale * _inner(p, vector(p, dy + place, size), vector(p, y + place, size))
                    for j in range(seen):
                        row[j] = (row[j] - inner) * probability[j]
                matrix_product(
                    p, gemm, wide, AS_IT_IS, AS_IT_IS, n, size, seen, one, second, ld, k, k_row, zero,
                    dq + item * start * q_row, q_row,
                )  # fmt: skip
                matrix_product(
                    p, gemm, wide, TRANSPOSED, AS_IT_IS, seen, size, n, one, second, ld, q + item * start * q_row,
                    q_row, more, dk, k_row,
                )  # fmt: skip


@njit(**ANY_ORDER)
def _inner(p: Any, x: Any, y: Any) -> Any:
    total = real(p, 0)
    for j in range(x.size):
        total += x[j] * y[j]
    return total
