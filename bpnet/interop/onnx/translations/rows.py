"""Activations, dense layers, tables of tokens, and what gives a sample another shape."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bpnet.interop.onnx.graph import Graph, Value
from bpnet.interop.onnx.registry import translates
from bpnet.layers.activations import (
    ELU,
    GELU,
    Hardswish,
    LeakyReLU,
    LogSoftmax,
    Mish,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from bpnet.layers.base import Layer
from bpnet.layers.dense import Dense
from bpnet.layers.embedding import Embedding, Unembedding
from bpnet.layers.flatten import Flatten, Reshape
from bpnet.layers.parametric import GLU, PReLU, SwiGLU

_SAME_NAME: dict[type[Layer], str] = {ReLU: "Relu", Sigmoid: "Sigmoid", Tanh: "Tanh", Softplus: "Softplus"}


@translates(*_SAME_NAME)
def same(graph: Graph, layer: Layer, x: Value) -> Value:
    """What is one operator in both."""
    kind = next(_SAME_NAME[base] for base in type(layer).__mro__ if base in _SAME_NAME)
    return graph.pointwise(kind, x)


@translates(LeakyReLU)
def leaky_relu(graph: Graph, layer: LeakyReLU, x: Value) -> Value:
    """LeakyRelu, whose attribute is the slope."""
    return graph.pointwise("LeakyRelu", x, alpha=layer.slope)


@translates(ELU)
def elu(graph: Graph, layer: ELU, x: Value) -> Value:
    """Elu."""
    return graph.pointwise("Elu", x, alpha=layer.alpha)


@translates(Hardswish)
def hardswish(graph: Graph, layer: Hardswish, x: Value) -> Value:
    """HardSwish."""
    return graph.pointwise("HardSwish", x)


@translates(SiLU)
def silu(graph: Graph, layer: Layer | None, x: Value) -> Value:
    """x sigmoid(x)."""
    return graph.pointwise("Mul", x, graph.pointwise("Sigmoid", x))


@translates(Mish)
def mish(graph: Graph, layer: Mish, x: Value) -> Value:
    """x tanh(softplus(x))."""
    return graph.pointwise("Mul", x, graph.pointwise("Tanh", graph.pointwise("Softplus", x)))


@translates(GELU)
def gelu(graph: Graph, layer: GELU, x: Value) -> Value:
    """x (1 + erf(x / sqrt(2))) / 2, or its form with a tanh: the operator Gelu is of opset 20."""
    half = graph.pointwise("Mul", x, graph.constant(0.5))
    if layer.approximate == "tanh":
        cube = graph.pointwise("Mul", graph.pointwise("Mul", x, x), x)
        inner = graph.pointwise("Add", x, graph.pointwise("Mul", cube, graph.constant(0.044715)))
        curve = graph.pointwise("Tanh", graph.pointwise("Mul", inner, graph.constant(math.sqrt(2 / math.pi))))
    else:
        curve = graph.pointwise("Erf", graph.pointwise("Mul", x, graph.constant(math.sqrt(0.5))))
    return graph.pointwise("Mul", half, graph.pointwise("Add", curve, graph.constant(1.0)))


@translates(Softmax)
def softmax(graph: Graph, layer: Softmax, x: Value) -> Value:
    """Softmax, over the last axis."""
    return graph.rowwise("Softmax", x, axis=-1)


@translates(LogSoftmax)
def log_softmax(graph: Graph, layer: LogSoftmax, x: Value) -> Value:
    """LogSoftmax, over the last axis."""
    return graph.rowwise("LogSoftmax", x, axis=-1)


@translates(PReLU)
def prelu(graph: Graph, layer: PReLU, x: Value) -> Value:
    """PRelu, whose slopes lie along the last axis."""
    return graph.rowwise("PRelu", x, graph.parameter(layer.slope))


def halves(graph: Graph, x: Value) -> tuple[Value, ...]:
    """The halves of the last axis."""
    width = x.shape[-1]
    assert isinstance(width, int)
    return graph.split(x, (width // 2, width // 2))


@translates(GLU)
def glu(graph: Graph, layer: GLU, x: Value) -> Value:
    """The first half times the sigmoid of the second."""
    first, second = halves(graph, x)
    return graph.pointwise("Mul", first, graph.pointwise("Sigmoid", second))


@translates(SwiGLU)
def swiglu(graph: Graph, layer: SwiGLU, x: Value) -> Value:
    """The SiLU of the first half times the second."""
    first, second = halves(graph, x)
    return graph.pointwise("Mul", silu(graph, None, first), second)


@translates(Dense)
def dense(graph: Graph, layer: Dense, x: Value) -> Value:
    """Gemm of rows; MatMul and Add where there are further axes."""
    W, b = graph.parameter(layer.weight), None if layer.bias is None else graph.parameter(layer.bias)
    shape = (*x.shape[:-1], layer.n_out)
    if x.ndim == 2:
        return graph.op("Gemm", x, W, *([] if b is None else [b]), shape=shape)
    y = graph.rowwise("MatMul", x, W, shape=shape)
    return y if b is None else graph.rowwise("Add", y, b)


@translates(Embedding)
def embedding(graph: Graph, layer: Embedding, x: Value) -> Value:
    """Gather of rows of the table."""
    return graph.op(
        "Gather", graph.parameter(layer.weight), x, shape=(*x.shape, layer.n_features), dtype=graph.dtype, axis=0
    )


@translates(Unembedding)
def unembedding(graph: Graph, layer: Unembedding, x: Value) -> Value:
    """The product with the transpose of the table, which a tied Embedding takes as it is."""
    W, shape = graph.parameter(layer.weight), (*x.shape[:-1], layer.n_tokens)
    if x.ndim == 2:
        return graph.op("Gemm", x, W, shape=shape, transB=1)
    turned = graph.op("Transpose", W, shape=(layer.n_features, layer.n_tokens), perm=[1, 0])
    return graph.rowwise("MatMul", x, turned, shape=shape)


@translates(Flatten)
def flatten(graph: Graph, layer: Flatten, x: Value) -> Value:
    """Flatten, in the order of the value's own axes."""
    known: Any = x.shape[1:]
    width = math.prod(known) if all(isinstance(n, int) for n in known) else None
    return graph.op("Flatten", x, shape=(x.shape[0], width), axis=1)


@translates(Reshape)
def reshape(graph: Graph, layer: Reshape, x: Value) -> Value:
    """Reshape, which leaves the first axis."""
    target = np.array([0, *layer.shape], np.int64)
    return graph.op("Reshape", x, graph.constant(target), shape=(x.shape[0], *layer.shape))
