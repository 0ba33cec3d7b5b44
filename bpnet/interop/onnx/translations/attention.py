"""Attention, positions, and the block of transformers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.interop.onnx.graph import Graph, Value
from bpnet.interop.onnx.registry import translates
from bpnet.layers.attention import MultiHeadAttention
from bpnet.layers.positions import LearnedPositions, SinusoidalPositions
from bpnet.layers.transformer import TransformerBlock

STORED = 256  # positions up to which a causal mask is stored, in 64 KiB, where the length is known
LOWEST = {"float32": -3e38, "float64": -1e308}  # so low that its exponential is 0, yet no infinity, which makes NaN


def _column(graph: Graph, x: Value, axis: int) -> Value:
    """x with a further axis of length 1."""
    shape = (*x.shape[:axis], 1, *x.shape[axis:])
    return graph.op("Unsqueeze", x, graph.constant(np.array([axis], np.int64)), shape=shape)


# --- positions ---


def _positions(graph: Graph, x: Value, start: Value | None) -> Value:
    """The numbers of the positions of x (N, T, D), of which `start` (1,) were before."""
    key = ("positions", x.shape[1] if x.shape[1] is not None else x.name, start and start.name)
    return graph.once(key, lambda: graph.counted(graph.length(x, 1), start))


def _start(graph: Graph, x: Value) -> Value | None:
    """How many positions were before, (1,), where the graph goes on from states: one for all layers of the model."""
    if not graph.steps:
        return None

    def make() -> Value:
        past = graph.state("positions", (1,), "int64")
        graph.keep_state(past, graph.op("Add", past, graph.length(x, 1)))
        return past

    return graph.once("start", make)


def _angles(graph: Graph, positions: Value, n: int, base: float) -> tuple[Value, Value]:
    """Cosine and sine, (T, n), of every position times base^(-i / n).

    The angles are made in float64 and brought below 2 pi, so that none loses digits on its way into float32.
    """

    def make() -> tuple[Value, Value]:
        speeds = np.exp(np.arange(n, dtype=np.float64) * (-math.log(base) / n))[None, :]
        length = positions.shape[0]
        if positions.name in graph.stored:
            found = graph.stored[positions.name].astype(np.float64)[:, None] * speeds
            return graph.constant(np.cos(found), graph.dtype), graph.constant(np.sin(found), graph.dtype)
        column = _column(graph, graph.op("Cast", positions, dtype="float64", to="float64"), 1)
        turned = graph.op("Mul", column, graph.constant(speeds), shape=(length, n))
        turned = graph.op("Mod", turned, graph.constant(2 * math.pi, "float64"), fmod=1)
        small = graph.op("Cast", turned, dtype=graph.dtype, to=graph.dtype)
        return graph.op("Cos", small), graph.op("Sin", small)

    return graph.once(("angles", positions.name, n, base), make)


@translates(LearnedPositions)
def learned_positions(graph: Graph, layer: LearnedPositions, x: Value) -> Value:
    """x plus the rows of the table that the positions name."""
    table = graph.parameter(layer.weight)
    if graph.steps or x.shape[1] != layer.n_positions:
        numbers = _positions(graph, x, _start(graph, x))
        table = graph.op("Gather", table, numbers, shape=(x.shape[1], layer.n_features), axis=0)
    return graph.op("Add", x, table)


@translates(SinusoidalPositions)
def sinusoidal_positions(graph: Graph, layer: SinusoidalPositions, x: Value) -> Value:
    """x plus sines and cosines, which are stored where the length is known."""
    length, width = x.shape[1:]
    assert isinstance(width, int)
    if isinstance(length, int) and not graph.steps:
        table = ops.add_sinusoid(np.zeros((length, width), graph.dtype), 0)
        return graph.op("Add", x, graph.constant(table))
    cos, sin = _angles(graph, _positions(graph, x, _start(graph, x)), width // 2, 1e4)
    both = [_column(graph, each, 2) for each in (sin, cos)]
    pairs = graph.op("Concat", *both, shape=(length, width // 2, 2), axis=2)
    return graph.op("Add", x, graph.reshape(pairs, [0, width], (length, width)))


# --- attention ---


def _heads(graph: Graph, x: Value, heads: int) -> Value:
    """(N, T, heads d) as (N, T, heads, d)."""
    width: Any = x.shape[-1]
    shape = (*x.shape[:-1], heads, width // heads)
    return graph.reshape(x, [0, 0, heads, width // heads], shape)


def _turned(graph: Graph, layer: MultiHeadAttention, x: Value, positions: Value) -> Value:
    """The heads (N, T, heads, d) turned by their positions: pairs (i, i + d / 2) of features."""
    half = layer.head_size // 2
    assert layer.rotary is not None
    cos, sin = (_column(graph, each, 1) for each in _angles(graph, positions, half, layer.rotary))
    a, b = graph.split(x, (half, half))
    first = graph.op("Sub", graph.op("Mul", a, cos), graph.op("Mul", b, sin))
    second = graph.op("Add", graph.op("Mul", a, sin), graph.op("Mul", b, cos))
    return graph.op("Concat", first, second, shape=x.shape, axis=-1)


def _causal(graph: Graph, q: Value, k: Value, start: Value | None) -> Value:
    """(T, S) bool: whether query i, which stands at i + start, may look at key j."""

    def make() -> Value:
        own, others = _positions(graph, q, start), _positions(graph, k, None)
        shape = (q.shape[1], k.shape[1])
        if own.name in graph.stored and graph.stored[own.name].size <= STORED:
            return graph.constant(graph.stored[others.name][None, :] <= graph.stored[own.name][:, None])
        return graph.op("LessOrEqual", _column(graph, others, 0), _column(graph, own, 1), shape=shape, dtype="bool")

    names = [each.shape[1] if each.shape[1] is not None else each.name for each in (q, k)]
    return graph.once(("causal", *names, start and start.name), make)


def _attend(
    graph: Graph, layer: MultiHeadAttention, q: Value, k: Value, v: Value, seen: Value | None, masked: bool
) -> Value:
    """softmax(q k^T / sqrt(d)) v of heads (N, ., heads, d), as (N, T, D).

    seen : which scores count, or None for all; masked : whether there may be rows of which none does, whose result is 0
    """
    n, n_queries, heads, size = q.shape
    shape = (n, heads, n_queries, k.shape[1])
    q = graph.op("Mul", q, graph.constant(1 / math.sqrt(layer.head_size)))
    q = graph.op("Transpose", q, shape=(n, heads, n_queries, size), perm=[0, 2, 1, 3])
    k = graph.op("Transpose", k, shape=(n, heads, size, k.shape[1]), perm=[0, 2, 3, 1])
    v = graph.op("Transpose", v, shape=(n, heads, v.shape[1], size), perm=[0, 2, 1, 3])
    scores = graph.op("MatMul", q, k, shape=shape)
    if seen is not None:
        scores = graph.op("Where", seen, scores, graph.constant(LOWEST[graph.dtype]), shape=shape, dtype=graph.dtype)
    p = graph.op("Softmax", scores, axis=-1)
    if masked:
        p = graph.op("Where", seen, p, graph.constant(0.0), shape=shape, dtype=graph.dtype)
    a = graph.op("MatMul", p, v, shape=(n, heads, n_queries, size))
    a = graph.op("Transpose", a, shape=(n, n_queries, heads, size), perm=[0, 2, 1, 3])
    return graph.reshape(a, [0, 0, layer.n_features], (n, n_queries, layer.n_features))


def _seen(graph: Graph, mask: Value | None, causal: Value | None) -> Value | None:
    """Which scores (N, heads, T, S) count."""
    if mask is None:
        return causal
    keys = graph.once(("mask", mask.name), lambda: _column(graph, _column(graph, mask, 1), 1))
    if causal is None:
        return keys
    shape = (mask.shape[0], 1, *causal.shape)
    return graph.once(("seen", mask.name, causal.name), lambda: graph.op("And", keys, causal, shape=shape))


@translates(MultiHeadAttention)
def multi_head_attention(
    graph: Graph, layer: MultiHeadAttention, x: Value, context: Value | None = None, mask: Value | None = None
) -> Value:
    """Products, heads, and the mean of values by the softmax of scores."""
    width, heads = layer.n_features, layer.n_heads
    if context is None:
        q, k, v = graph.split(graph.translate(layer.qkv, x), (width,) * 3)
    else:
        q = graph.translate(layer.query, x)
        k, v = graph.split(graph.translate(layer.key_value, context), (width,) * 2)
    q, k, v = (_heads(graph, each, heads) for each in (q, k, v))
    start, pasts = None, []
    if graph.steps:
        pasts = [graph.state(name, (x.shape[0], "past", heads, layer.head_size)) for name in ("key", "value")]
        start = graph.once("past", lambda: graph.length(pasts[0], 1))
    if layer.rotary is not None:
        q, k = (_turned(graph, layer, each, _positions(graph, x, start)) for each in (q, k))
    if pasts:
        shape = (x.shape[0], "past + " + str(x.shape[1]), heads, layer.head_size)
        k, v = (graph.op("Concat", past, new, shape=shape, axis=1) for past, new in zip(pasts, (k, v), strict=True))
        for past, present in zip(pasts, (k, v), strict=True):
            graph.keep_state(past, present)
    seen = _seen(graph, mask, _causal(graph, q, k, start) if layer.causal else None)
    return graph.translate(layer.output, _attend(graph, layer, q, k, v, seen, mask is not None))


@translates(TransformerBlock)
def transformer_block(graph: Graph, layer: TransformerBlock, x: Value, **side: Value) -> Value:
    """Attention and the two products, each added to what it gets."""
    if layer.pre_norm:
        h = graph.translate(layer.attention, graph.translate(layer.attention_norm, x), **side)
        h = graph.pointwise("Add", x, h)
        return graph.pointwise("Add", h, graph.translate(layer.feed, graph.translate(layer.feed_norm, h)))
    h = graph.pointwise("Add", x, graph.translate(layer.attention, x, **side))
    h = graph.translate(layer.attention_norm, h)
    return graph.translate(layer.feed_norm, graph.pointwise("Add", h, graph.translate(layer.feed, h)))
