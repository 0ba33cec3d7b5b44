"""Normalization: of data, of batches, of groups, of rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bpnet.interop.onnx.graph import Graph, Value
from bpnet.interop.onnx.registry import translates
from bpnet.interop.onnx.translations.images import channels_first
from bpnet.layers.batch_norm import BatchNorm, GroupNorm
from bpnet.layers.layer_norm import LayerNorm, RMSNorm
from bpnet.layers.normalize import Normalize


@translates(Normalize)
def normalize(graph: Graph, layer: Normalize, x: Value) -> Value:
    """(x - mean) / std."""
    centred = graph.op("Sub", x, graph.parameter(layer.mean))
    return graph.op("Div", centred, graph.parameter(layer.std))


@translates(BatchNorm)
def batch_norm(graph: Graph, layer: BatchNorm, x: Value) -> Value:
    """BatchNormalization by the running statistics."""
    x = channels_first(graph, x, layer.channels)
    weight = graph.constant(np.ones(layer.n_features, graph.dtype)) if layer.weight is None else None
    bias = graph.constant(np.zeros(layer.n_features, graph.dtype)) if layer.bias is None else None
    given = [
        x,
        weight or graph.parameter(layer.weight),  # type: ignore[arg-type]
        bias or graph.parameter(layer.bias),  # type: ignore[arg-type]
        graph.parameter(layer.running_mean),
        graph.parameter(layer.running_variance),
    ]
    return graph.emit("BatchNormalization", given, x, epsilon=layer.epsilon)


def _scaled(graph: Graph, centred: Value, axis: int, epsilon: float) -> Value:
    """x / sqrt(mean of x^2 over the axis + epsilon)."""
    square = graph.pointwise("Mul", centred, centred)
    mean = _mean(graph, square, axis)
    root = graph.pointwise("Sqrt", graph.pointwise("Add", mean, graph.constant(epsilon)))
    return graph.pointwise("Div", centred, root)


def _mean(graph: Graph, x: Value, axis: int) -> Value:
    """The mean over an axis, which stays with length 1."""
    shape = tuple(1 if i == axis else n for i, n in enumerate(x.shape))
    place = np.array([x.order.index(axis)], np.int64)
    result = Value("y", shape, x.dtype, x.order)
    return graph.emit("ReduceMean", [x, graph.constant(place)], result, keepdims=1)


@translates(GroupNorm)
def group_norm(graph: Graph, layer: GroupNorm, x: Value) -> Value:
    """By hand: the channels of a group and their places as one axis, whose mean and variance are taken."""
    x = channels_first(graph, x, layer.channels)
    lying = tuple(x.shape[axis] for axis in x.order)
    places: Any = lying[2:]
    known = all(isinstance(n, int) for n in places)
    each = layer.n_features // layer.n_groups * math.prod(places) if known else -1
    plain = Value(x.name, lying, x.dtype)
    grouped = graph.reshape(plain, [0, layer.n_groups, each], (lying[0], layer.n_groups, each if known else None))
    centred = graph.pointwise("Sub", grouped, _mean(graph, grouped, 2))
    scaled = _scaled(graph, centred, 2, layer.epsilon)
    if known:
        y = graph.reshape(scaled, [0, layer.n_features, *places], lying)
    else:
        size = graph.emit("Shape", [x], Value("y", (x.ndim,), "int64"))
        y = graph.op("Reshape", scaled, size, shape=lying)
    for kind, parameter in (("Mul", layer.weight), ("Add", layer.bias)):
        if parameter is not None:
            column = (layer.n_features, *(1,) * (x.ndim - 2))
            y = graph.op(kind, y, graph.parameter(parameter, lambda a: a.reshape(column), "column"))  # noqa: B023
    return Value(y.name, x.shape, x.dtype, x.order)


@translates(LayerNorm)
def layer_norm(graph: Graph, layer: LayerNorm, x: Value) -> Value:
    """LayerNormalization over the last axis."""
    bias = [] if layer.bias is None else [graph.parameter(layer.bias)]
    return graph.rowwise("LayerNormalization", x, graph.parameter(layer.weight), *bias, axis=-1, epsilon=layer.epsilon)


@translates(RMSNorm)
def rms_norm(graph: Graph, layer: RMSNorm, x: Value) -> Value:
    """By hand: the operator is of opset 23."""
    return graph.rowwise("Mul", _scaled(graph, x, x.ndim - 1, layer.epsilon), graph.parameter(layer.weight))
