"""Convolutions and pools. ONNX's take (N, C, H, W), whichever way around bpnet's do."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet.errors import ConfigError
from bpnet.interop.onnx.graph import Dim, Graph, Value
from bpnet.interop.onnx.registry import translates
from bpnet.layers.convolution import Conv1d, Conv2d, ConvTranspose2d
from bpnet.layers.images import Spatial, Windowed
from bpnet.layers.pooling import (
    AvgPool1d,
    AvgPool2d,
    GlobalAveragePool1d,
    GlobalAveragePool2d,
    GlobalMaxPool1d,
    GlobalMaxPool2d,
    MaxPool1d,
    MaxPool2d,
)


def channels_first(graph: Graph, x: Value, channels: str) -> Value:
    """x, which has its channels "first" or "last", with them first in the tensor."""
    if channels == "first" or x.ndim < 3:
        return graph.arranged(x)
    return graph.arranged(x, (0, x.ndim - 1, *range(1, x.ndim - 1)))


def _size(layer: Spatial, x: Value) -> tuple[Dim, ...]:
    """The lengths of the axes over which windows slide."""
    return x.shape[1:-1] if layer.channels == "last" else x.shape[2:]


def _after(layer: Spatial, x: Value, channels: int | None) -> tuple[Dim, ...]:
    """The shape of what the layer gives."""
    sample: Any = x.shape[1:]
    if all(isinstance(n, int) for n in sample):
        return (x.shape[0], *layer.output_shape(sample))
    size = tuple(n if _keeps(layer) else None for n in _size(layer, x))
    n_out: Dim = (x.shape[-1] if layer.channels == "last" else x.shape[1]) if channels is None else channels
    return (x.shape[0], *size, n_out) if layer.channels == "last" else (x.shape[0], n_out, *size)


def _keeps(layer: Any) -> bool:
    """Whether there are as many places as there were pixels."""
    return layer._padding == "same" and set(layer._stride) == {1}


def _pads(layer: Windowed, size: tuple[Dim, ...]) -> dict[str, Any]:
    """What says how much padding there is: with "same", which depends on the size, in numbers where those are known."""
    known: Any = size
    if layer._padding == "same" and not all(isinstance(n, int) for n in size):
        if set(layer._stride) != {1}:
            if set(layer._dilation) != {1}:
                raise ConfigError(
                    f'{layer!r}: padding="same" with a stride and a dilation depends on the size of the input; give '
                    f"input_shape with numbers in the place of {', '.join(map(str, size))}"
                )
            return {"auto_pad": "SAME_UPPER"}
        known = layer._size  # with a stride of 1 any size has the same padding
    pairs = layer.window(*known).padding[2 - layer.axes :]
    return {"pads": [pair[0] for pair in pairs] + [pair[1] for pair in pairs]}


def _window(layer: Windowed) -> dict[str, Any]:
    return {"kernel_shape": list(layer._size), "strides": list(layer._stride)}


def _result(x: Value, shape: tuple[Dim, ...]) -> Value:
    return Value("y", shape, x.dtype, x.order if len(shape) == x.ndim else ())


@translates(Conv1d, Conv2d)
def convolution(graph: Graph, layer: Conv2d, x: Value) -> Value:
    """Conv, whose weight is (O, C, KH, KW)."""
    x = channels_first(graph, x, layer.channels)
    n = layer.axes
    weight = graph.parameter(layer.weight, lambda w: w.transpose(n + 1, n, *range(n)), "as Conv")
    bias = [] if layer.bias is None else [graph.parameter(layer.bias)]
    attributes = _window(layer) | {"dilations": list(layer._dilation), "group": layer.groups}
    attributes |= _pads(layer, _size(layer, x))
    result = _result(x, _after(layer, x, layer.n_out))
    return graph.emit("Conv", [x, weight, *bias], result, **attributes)


@translates(ConvTranspose2d)
def transposed_convolution(graph: Graph, layer: ConvTranspose2d, x: Value) -> Value:
    """ConvTranspose, whose weight is (C, O, KH, KW)."""
    x = channels_first(graph, x, layer.channels)
    weight = graph.parameter(layer.weight, lambda w: w.transpose(3, 2, 0, 1), "as ConvTranspose")
    bias = [] if layer.bias is None else [graph.parameter(layer.bias)]
    attributes = _window(layer) | {"dilations": list(layer._dilation), "group": layer.groups}
    attributes |= {"output_padding": list(layer._more)} if any(layer._more) else {}
    assert not isinstance(layer._padding, str)
    (top, bottom), (left, right) = layer._padding
    result = _result(x, _after(layer, x, layer.n_out))
    given = [x, weight, *bias]
    return graph.emit("ConvTranspose", given, result, pads=[top, left, bottom, right], **attributes)


@translates(MaxPool1d, MaxPool2d)
def max_pool(graph: Graph, layer: MaxPool2d, x: Value) -> Value:
    """MaxPool; runtimes refuse a padding of the kernel's size, which is then made before it."""
    x = channels_first(graph, x, layer.channels)
    attributes = _pads(layer, _size(layer, x))
    pads = attributes.get("pads", [0])
    result = _result(x, _after(layer, x, None))
    if any(n >= k for n, k in zip(pads, layer._size * 2, strict=False)):
        sides = [0, 0, *pads[: layer.axes], 0, 0, *pads[layer.axes :]]
        lying = Value("y", (*x.shape[:1], *(None,) * (x.ndim - 1)), x.dtype, x.order)
        lowest = graph.constant(np.array(-np.inf, graph.dtype))
        x = graph.emit("Pad", [x, graph.constant(np.array(sides, np.int64)), lowest], lying, mode="constant")
        attributes = {"pads": [0] * len(pads)}
    attributes |= _window(layer) | {"dilations": list(layer._dilation)}
    return graph.emit("MaxPool", [x], result, **attributes)


@translates(AvgPool1d, AvgPool2d)
def average_pool(graph: Graph, layer: AvgPool2d, x: Value) -> Value:
    """AveragePool."""
    x = channels_first(graph, x, layer.channels)
    attributes = _window(layer) | _pads(layer, _size(layer, x)) | {"count_include_pad": int(layer.count_padding)}
    return graph.emit("AveragePool", [x], _result(x, _after(layer, x, None)), **attributes)


@translates(GlobalAveragePool1d, GlobalAveragePool2d, GlobalMaxPool1d, GlobalMaxPool2d)
def global_pool(graph: Graph, layer: Spatial, x: Value) -> Value:
    """GlobalAveragePool or GlobalMaxPool, and Flatten, since they leave axes of length 1."""
    x = channels_first(graph, x, layer.channels)
    kind = "GlobalAveragePool" if isinstance(layer, GlobalAveragePool2d) else "GlobalMaxPool"
    n = x.shape[-1] if layer.channels == "last" else x.shape[1]
    pooled = graph.emit(kind, [x], Value("y", (x.shape[0], n, *(1,) * layer.axes), x.dtype))
    return graph.op("Flatten", pooled, shape=(x.shape[0], n), axis=1)
