"""Containers, and layers that inference leaves out."""

from __future__ import annotations

from bpnet.interop.onnx.graph import Dim, Graph, Value
from bpnet.interop.onnx.registry import translates
from bpnet.layers.base import Layer
from bpnet.layers.containers import Concatenate, Recompute, Residual, Sequential
from bpnet.layers.dropout import Dropout, Dropout2d


@translates(Sequential, Recompute)
def in_order(graph: Graph, layer: Sequential, x: Value, **side: Value) -> Value:
    """One after the other."""
    for each in layer.layers:
        x = graph.translate(each, x, **side)
    return x


@translates(Residual)
def residual(graph: Graph, layer: Residual, x: Value, **side: Value) -> Value:
    """x + f(x)."""
    return graph.pointwise("Add", in_order(graph, layer, x, **side), x)


@translates(Concatenate)
def concatenate(graph: Graph, layer: Concatenate, x: Value, **side: Value) -> Value:
    """Every branch of x, joined. Where all lie in one order, they are joined in it."""
    found = [graph.translate(each, x, **side) for each in layer.layers]
    axis, first = layer.axis % found[0].ndim, found[0]
    if any(each.order != first.order for each in found):
        found = [graph.arranged(each) for each in found]
        first = found[0]
    length = _total([each.shape[axis] for each in found])
    shape = (*first.shape[:axis], length, *first.shape[axis + 1 :])
    result = Value("y", shape, first.dtype, first.order)
    return graph.emit("Concat", found, result, axis=first.order.index(axis))


def _total(lengths: list[Dim]) -> Dim:
    total = 0
    for length in lengths:
        if not isinstance(length, int):
            return lengths[0] if len(lengths) == 1 else None
        total += length
    return total


@translates(Dropout, Dropout2d)
def left_out(graph: Graph, layer: Layer, x: Value) -> Value:
    """Nothing: inference drops nothing."""
    return x
