"""Recurrent layers. ONNX's take positions first, and have their gates in another order."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet.interop.onnx.graph import Graph, Value
from bpnet.interop.onnx.registry import translates
from bpnet.layers.recurrence import Recurrent
from bpnet.layers.recurrent import GRU, LSTM, RNN

# Where each gate of ONNX's order is in ours: i, o, f, c of i, f, g, o; z, r, h of r, z, n.
GATES: dict[type[Recurrent], tuple[str, tuple[int, ...]]] = {
    RNN: ("RNN", (0,)),
    LSTM: ("LSTM", (0, 3, 1, 2)),
    GRU: ("GRU", (1, 0, 2)),
}


def _blocks(array: Any, order: tuple[int, ...]) -> Any:
    """The blocks of gates along the last axis in another order."""
    parts = np.split(array, len(order), axis=-1)
    return np.concatenate([parts[place] for place in order], axis=-1)


def _lengths(graph: Graph, x: Value, lengths: Value) -> Value:
    """The lengths within 0 ... T, as int32."""
    longest = graph.length(x, 1)
    clipped = graph.op("Min", graph.op("Max", lengths, graph.constant(np.array([0], np.int64))), longest)
    return graph.op("Cast", clipped, dtype="int32", to="int32")


@translates(RNN, LSTM, GRU)
def recurrent(graph: Graph, layer: Recurrent, x: Value, lengths: Value | None = None) -> Value:
    """One RNN, LSTM or GRU a layer, with both directions in it; they lie as (T, directions, N, H) behind it."""
    base = next(each for each in type(layer).__mro__ if each in GATES)
    kind, order = GATES[base]
    ways, width, batch = layer.n_directions, layer.n_hidden, x.shape[0]
    counts = None if lengths is None else graph.once(
        ("lengths", lengths.name, x.shape[1] or x.name), lambda: _lengths(graph, x, lengths)
    )  # fmt: skip
    attributes: dict[str, Any] = {"hidden_size": width}
    attributes |= {"direction": "bidirectional"} if ways == 2 else {}
    attributes |= {"linear_before_reset": 1} if kind == "GRU" else {}
    if isinstance(layer, RNN):
        attributes["activations"] = [layer.activation.capitalize()] * ways
    x = graph.arranged(x, (1, 0, 2))
    for level in range(layer.n_layers):
        which = range(level * ways, (level + 1) * ways)

        def each(arrays: list[Any]) -> Any:
            return np.stack([_blocks(array, order).T for array in arrays])

        W = graph.joined([layer.weight[i] for i in which], each, "as " + kind)
        R = graph.joined([layer.recurrent[i] for i in which], each, "as " + kind)
        parameters = [p for i in which for p in layer._learned(i)[2:]]
        B = graph.joined(parameters, lambda arrays: _biases(arrays, ways, order), "as " + kind)
        pasts = []
        if graph.steps:
            names = ("h", "c") if kind == "LSTM" else ("h",)
            pasts = [graph.state(f"{name}.{level}", (batch, width)) for name in names]
        last = layer.last and level == layer.n_layers - 1
        state = Value("y", (ways, batch, width), graph.dtype)
        results = [
            None if last else Value("y", (x.shape[1], ways, batch, width), graph.dtype),
            state if last or pasts else None,
            state if len(pasts) == 2 else None,
        ]
        while results[-1] is None:
            results.pop()
        given: list[Value | None] = [x, W, R, B, counts, *(_lifted(graph, past) for past in pasts)]
        found = graph.emit_each(kind, given if given[4] or pasts else given[:4], results, **attributes)
        for past, present in zip(pasts, found[1:], strict=False):
            graph.keep_state(past, _first(graph, present))
        x = _last(graph, found[1]) if last else _side_by_side(graph, found[0], layer)
    return x


def _biases(arrays: list[Any], ways: int, order: tuple[int, ...]) -> Any:
    """(directions, 2 gates H): the biases of x, then those of h, of which a GRU has the new part's."""
    rows = []
    for way in range(ways):
        own = arrays[way * len(arrays) // ways : (way + 1) * len(arrays) // ways]
        inner = np.zeros_like(own[0])
        if len(own) == 2:
            inner[-own[1].size :] = own[1]
        rows.append(np.concatenate([_blocks(own[0], order), inner]))
    return np.stack(rows)


def _lifted(graph: Graph, past: Value) -> Value:
    """(N, H) as (1, N, H)."""
    return graph.op("Unsqueeze", past, graph.constant(np.array([0], np.int64)), shape=(1, *past.shape))


def _first(graph: Graph, x: Value) -> Value:
    """(1, N, H) as (N, H)."""
    return graph.op("Squeeze", x, graph.constant(np.array([0], np.int64)), shape=x.shape[1:])


def _last(graph: Graph, x: Value) -> Value:
    """The last states (directions, N, H) as (N, directions H)."""
    ways, batch, width = x.shape
    if ways == 1:
        return _first(graph, x)
    assert isinstance(width, int)
    turned = graph.op("Transpose", x, shape=(batch, ways, width), perm=[1, 0, 2])
    return graph.op("Flatten", turned, shape=(batch, 2 * width), axis=1)


def _side_by_side(graph: Graph, x: Value, layer: Recurrent) -> Value:
    """(T, directions, N, H) as the value (N, T, directions H), which lies as (T, N, ...)."""
    length, ways, batch, width = x.shape
    if ways == 1:
        y = graph.op("Squeeze", x, graph.constant(np.array([1], np.int64)), shape=(length, batch, width))
    else:
        turned = graph.op("Transpose", x, shape=(length, batch, ways, width), perm=[0, 2, 1, 3])
        y = graph.reshape(turned, [0, 0, layer.n_outputs], (length, batch, layer.n_outputs))
    return Value(y.name, (batch, length, layer.n_outputs), y.dtype, (1, 0, 2))
