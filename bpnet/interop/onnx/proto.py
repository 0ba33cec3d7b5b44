"""A graph as ONNX's own message, checked by its checker."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from typing import Any

import bpnet
from bpnet.errors import ConfigError, MissingExtraError
from bpnet.interop.onnx.graph import Dim, Graph, Node, Value
from bpnet.layers.base import Layer

OLDEST = 18
LARGEST = 2**31 - 1  # bytes of a message


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


def as_proto(graph: Graph, model: Layer) -> Any:
    """The graph as a checked ModelProto. Raises ConfigError where it is too large for one."""
    onnx = library()
    if sum(array.nbytes for array in graph.stored.values()) > LARGEST - 2**20:
        raise ConfigError("the model is larger than the 2 GiB that an ONNX file can hold")
    helper = onnx.helper
    nodes = [_node(onnx, node) for node in tidied(graph)]
    used = {name for node in nodes for name in node.input}
    made = helper.make_graph(
        nodes,
        type(model).__name__,
        [_info(onnx, value) for value in graph.inputs],
        [_info(onnx, value) for value in graph.outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in graph.stored.items() if name in used],
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
    onnx.checker.check_model(proto, full_check=True)
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
