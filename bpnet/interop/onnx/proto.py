"""A graph as ONNX's own message, checked by its checker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np

import bpnet
from bpnet.errors import ConfigError, MissingExtraError
from bpnet.interop.onnx.graph import Dim, Graph, Node, Value
from bpnet.layers.base import Layer

OLDEST = 18
LARGEST = 2**31 - 1  # bytes of a message
BESIDE = 1 << 10  # bytes of an array from which on it goes into a file of its own kind, where there is one
PAGE = 1 << 12  # what offsets there are multiples of, so that the file can be mapped


def library() -> Any:
    """The package onnx; MissingExtraError where it is not installed."""
    try:
        for name in ("checker", "helper", "numpy_helper", "shape_inference"):
            import_module(f"onnx.{name}")
        return import_module("onnx")
    except ImportError as error:
        raise MissingExtraError(
            f'the export needs the package onnx, which is missing ({error}): pip install "bpnet-xp[onnx]"'
        ) from error


def check_opset(opset: Any) -> None:
    """Raise ConfigError unless the installed onnx has this opset and this export writes it."""
    newest = library().defs.onnx_opset_version()
    if isinstance(opset, bool) or not isinstance(opset, int) or not OLDEST <= opset <= newest:
        raise ConfigError(
            f"opset must be a whole number in {OLDEST} ... {newest}, the newest that the installed onnx has; "
            f"got {opset!r}"
        )


def too_large(graph: Graph) -> bool:
    """Whether the values do not fit into one message."""
    return sum(int(array.nbytes) for array in graph.stored.values()) > LARGEST - 2**20


class Beside:
    """The values of a model that lie in a file beside it, as ONNX's external data. name : of that file"""

    def __init__(self, name: str) -> None:
        self.name = name
        self.arrays: list[Any] = []
        self._end = 0

    def tensor(self, array: Any, name: str) -> Any:
        """What stands in the model for an array, which is then a part of the file."""
        onnx = library()
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        tensor = onnx.TensorProto(name=name, dims=array.shape, data_location=onnx.TensorProto.EXTERNAL)
        tensor.data_type = _dtype(onnx, array.dtype.name)
        for key, value in (("location", self.name), ("offset", self._end), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        self.arrays.append(array)
        self._end += -(-array.nbytes // PAGE) * PAGE
        return tensor

    def content(self) -> Iterator[bytes | memoryview]:
        """The file, piece by piece."""
        for array in self.arrays:
            yield array.reshape(-1).view(np.uint8).data
            yield bytes(-array.nbytes % PAGE)


def as_proto(graph: Graph, model: Layer, beside: Beside | None = None) -> tuple[Any, list[tuple[Any, ...]]]:
    """The graph as a ModelProto, checked, and the shapes of its outputs, as ONNX infers them: numbers, and None for
    what it cannot know.

    beside : takes the large values, which the checks then see as inputs of their shapes
    """
    onnx = library()
    nodes = [_node(onnx, node) for node in tidied(graph)]
    used = {name for node in nodes for name in node.input}
    stored = {name: array for name, array in graph.stored.items() if name in used}
    apart = {} if beside is None else {name: array for name, array in stored.items() if array.nbytes >= BESIDE}
    values = [onnx.numpy_helper.from_array(array, name) for name, array in stored.items() if name not in apart]
    shapes = [Value(name, array.shape, array.dtype.name) for name, array in apart.items()]
    checked = _message(graph, model, nodes, values, shapes)
    onnx.checker.check_model(checked, full_check=True)
    found = inferred(checked)
    if beside is None:
        return checked, found
    return _message(graph, model, nodes, [*values, *(beside.tensor(a, name) for name, a in apart.items())], []), found


def _message(graph: Graph, model: Layer, nodes: list[Any], values: list[Any], more: list[Value]) -> Any:
    """A ModelProto. values : its initializers; more : inputs beside those of the graph"""
    onnx = library()
    helper = onnx.helper
    made = helper.make_graph(
        nodes,
        type(model).__name__,
        [_info(onnx, value) for value in (*graph.inputs, *more)],
        [_info(onnx, value) for value in graph.outputs],
        values,
    )
    opset = helper.make_opsetid("", graph.opset)
    proto = helper.make_model(
        made,
        opset_imports=[opset],
        ir_version=helper.find_min_ir_version_for([opset]),
        producer_name="bpnet",
        producer_version=bpnet.__version__,
    )
    helper.set_model_props(proto, described(model))
    return proto


def described(model: Layer) -> dict[str, str]:
    """What the file says beside the graph: of what the model's info knows, what its outputs mean."""
    found = {}
    for name in ("classes", "vocabulary", "data", "loss", "recipe_name"):
        value = model.info.get(name)
        if value:
            found[name] = value if isinstance(value, str) else json.dumps(value)
    return found


def inferred(proto: Any) -> list[tuple[Any, ...]]:
    """The shapes of the outputs, as ONNX infers them: numbers, and None for what it cannot know."""
    onnx = library()
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    for value in bare.graph.output:
        value.type.tensor_type.ClearField("shape")
    whole = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True, data_prop=True)
    shapes = [value.type.tensor_type.shape.dim for value in whole.graph.output]
    return [tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims) for dims in shapes]


def tidied(graph: Graph) -> list[Node]:
    """The nodes without those that nobody needs; an Identity goes where its node can give the output's name itself."""
    nodes, named = list(graph.nodes), {value.name for value in graph.outputs}
    needed, kept = set(named), []
    for node in reversed(nodes):
        if needed & set(node.outputs):
            kept.append(node)
            needed |= set(node.inputs) - {""}
    nodes = kept[::-1]
    made = {name for node in nodes for name in node.outputs}
    new = {
        node.inputs[0]: node.outputs[0]
        for node in nodes
        if node.kind == "Identity" and node.outputs[0] in named and node.inputs[0] in made
    }
    return [
        replace(
            node,
            inputs=tuple(new.get(name, name) for name in node.inputs),
            outputs=tuple(new.get(name, name) for name in node.outputs),
        )
        for node in nodes
        if not (node.kind == "Identity" and new.get(node.inputs[0]) == node.outputs[0])
    ]


def _node(onnx: Any, node: Node) -> Any:
    attributes = dict(node.attributes)
    if isinstance(attributes.get("to"), str):
        attributes["to"] = _dtype(onnx, attributes["to"])
    return onnx.helper.make_node(node.kind, node.inputs, node.outputs, name=node.name, **attributes)


def _dtype(onnx: Any, dtype: str) -> int:
    found: int = getattr(onnx.TensorProto, {"float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper()))
    return found


def _info(onnx: Any, value: Value) -> Any:
    shape: list[Dim] = list(value.shape)
    return onnx.helper.make_tensor_value_info(value.name, _dtype(onnx, value.dtype), shape)
