"""Sample arguments for the kernels of sequences: norms, embeddings, positions, attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.testing.cases.arrays import gate, gate_backward
from bpnet.testing.cases.common import Cases, normal, one_array

WIDE = [(1, 1), (3, 4), (0, 3), (5, 1), (2, 3, 4), (4, 1, 5), (257, 33), (1100, 40)]
EPSILON = 1e-5


def affine(bias: bool) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for shape in WIDE:
            x, gain = 2 + 3 * normal(rng, shape, dtype), normal(rng, shape[-1:], dtype)
            more = (normal(rng, shape[-1:], dtype),) if bias else ()
            yield (x, gain, *more, EPSILON)
            if bias:
                yield (x, gain, None, EPSILON)

    return cases


def normalized(flags: tuple[tuple[bool, ...], ...]) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for shape in WIDE:
            r = np.abs(normal(rng, (*shape[:-1], 1), dtype)) + np.asarray(0.1, dtype)
            arrays = normal(rng, shape, dtype), normal(rng, shape, dtype), r, normal(rng, shape[-1:], dtype)
            for each in flags:
                yield (*arrays, *each)

    return cases


def ids_of(rng: Any, shape: Any, n_tokens: int) -> Iterator[Any]:
    """Numbers of tokens; then, where there are any, with some that name none."""
    ids = rng.integers(0, n_tokens, size=shape)
    yield ids
    yield ids.astype(np.int32)
    if ids.size > 1:
        ids = ids.copy()
        ids.reshape(-1)[0], ids.reshape(-1)[-1] = -1, n_tokens
        yield ids


def embedding(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in ((1,), (4, 6), (0, 3), (2, 3, 5)):
        for n_tokens, width in ((1, 1), (7, 3), (300, 5)):
            for ids in ids_of(rng, shape, n_tokens):
                yield (ids, normal(rng, (n_tokens, width), dtype))


def embedding_backward(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for ids, W in embedding(rng, dtype):
        yield (normal(rng, (*ids.shape, W.shape[1]), dtype), ids, W.shape[0])


def scores(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for leading in ((1,), (4,), (0,), (2, 3), (130,)):
        for width, n_tokens in ((1, 1), (5, 3), (16, 33)):
            yield normal(rng, (*leading, width), dtype), normal(rng, (n_tokens, width), dtype)


def scores_backward(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for x, W in scores(rng, dtype):
        for flags in ((True, True), (False, True), (True, False)):
            yield (normal(rng, (*x.shape[:-1], len(W)), dtype), x, W, *flags)


def products(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for leading in ((), (1,), (3,), (0,), (2, 4)):
        for m, k, p in ((1, 1, 1), (3, 4, 5), (17, 8, 2)):
            yield normal(rng, (*leading, m, k), dtype), normal(rng, (*leading, k, p), dtype)


def products_backward(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for x, y in products(rng, dtype):
        yield normal(rng, (*x.shape[:-1], y.shape[-1]), dtype), x, y


def positions(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in ((1, 1, 2), (2, 5, 4), (0, 3, 2), (2, 3, 4, 6), (7, 4)):
        for start in (0, 3):
            yield normal(rng, shape, dtype), normal(rng, (shape[-2] + start + 2, shape[-1]), dtype), start


def turns(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape, size, n in (((2, 5, 12), 4, 8), ((1, 1, 2), 2, 2), ((0, 3, 4), 2, 4), ((3, 40, 16), 8, 16)):
        for start, direction in ((0, 1.0), (3, -1.0)):
            yield normal(rng, shape, dtype), size, n, 1e4, start, direction


def _sequences(rng: Any) -> Iterator[tuple[int, int, int, int, int, bool]]:
    """(samples, queries, keys, heads, head size, causal)."""
    yield 1, 1, 1, 1, 1, False
    for causal in (False, True):
        yield 2, 5, 5, 2, 3, causal
        yield 3, 4, 7, 1, 4, causal
        yield 0, 3, 3, 2, 2, causal
        yield 2, 6, 4, 2, 2, causal  # the first queries see no key where it is causal
        yield 5, 64, 64, 4, 8, causal
        yield 2, 1100, 1000, 2, 2, causal  # too many probabilities to be kept
        yield 1, 1, 9, 3, 2, causal


def attention(rng: Any, dtype: str, large: float = 80.0) -> Iterator[tuple[Any, ...]]:
    """With some scores of about the size `large`, which leaves single probabilities near 1."""
    for n, n_queries, n_keys, heads, size, causal in _sequences(rng):
        q = normal(rng, (n, n_queries, heads * size), dtype)
        k, v = (normal(rng, (n, n_keys, heads * size), dtype) for _ in range(2))
        mask = np.arange(n_keys) < rng.integers(1, n_keys + 1, size=(n, 1))
        yield q, k, v, None, None, heads, causal, 0.0
        if n_queries < 100:
            keep = rng.uniform(size=(n, heads, n_queries, n_keys)) > 0.25
            yield q, k, v, mask, None, heads, causal, 0.0
            yield large * q, k, v, mask, keep, heads, causal, 0.25
        if n > 1:
            mask = mask.copy()
            mask[-1] = False
            yield q, k, v, mask, None, heads, causal, 0.0


def attention_backward(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for q, k, v, *settings in attention(rng, dtype, 3.0):
        y, kept = ops.attention.reference.body(q, k, v, *settings)
        yield normal(rng, q.shape, dtype), y, q, k, v, kept, *settings


def self_attention(rng: Any, dtype: str, large: float = 80.0) -> Iterator[tuple[Any, ...]]:
    for q, k, v, *settings in attention(rng, dtype, large):
        if q.shape == k.shape:
            yield np.concatenate((q, k, v), axis=-1), *settings


def self_attention_backward(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for qkv, *settings in self_attention(rng, dtype, 3.0):
        y, kept = ops.self_attention.reference.body(qkv, *settings)
        yield normal(rng, y.shape, dtype), y, qkv, kept, *settings


CASES: dict[str, Cases] = {
    "layer_norm": affine(bias=True),
    "layer_norm_backward": normalized(((), (False, True, True), (True, False, False), (True, True, False))),
    "rms_norm": affine(bias=False),
    "rms_norm_backward": normalized(((), (False, True), (True, False))),
    "gelu_with_slope": one_array,
    "gelu_tanh_with_slope": one_array,
    "swiglu": gate,
    "swiglu_backward": gate_backward,
    "embedding": embedding,
    "embedding_backward": embedding_backward,
    "unembed": scores,
    "unembed_backward": scores_backward,
    "matmul": products,
    "matmul_backward": products_backward,
    "columns": lambda rng, dtype: iter(
        [(normal(rng, (5, 6), dtype), 1, 4), (normal(rng, (2, 3, 4), dtype), 0, 0), (normal(rng, (0, 3), dtype), 1, 3)]
    ),
    "add_positions": positions,
    "add_positions_backward": lambda rng, dtype: (
        (normal(rng, x.shape, dtype), len(table)) for x, table, start in positions(rng, dtype)
    ),
    "add_sinusoid": lambda rng, dtype: ((x, start) for x, table, start in positions(rng, dtype)),
    "rotate": turns,
    "attention": attention,
    "attention_backward": attention_backward,
    "self_attention": self_attention,
    "self_attention_backward": self_attention_backward,
}
