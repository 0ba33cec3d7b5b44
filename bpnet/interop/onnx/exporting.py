"""A model as an ONNX file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from bpnet.errors import ConfigError, DTypeError, StateError
from bpnet.files import check_writable, write_bytes
from bpnet.interop.onnx.graph import Dim, Graph, Value
from bpnet.interop.onnx.inputs import declare, sample_shape, side_inputs, trial
from bpnet.interop.onnx.proto import OLDEST, Beside, as_proto, check_opset, too_large
from bpnet.layers.base import Layer
from bpnet.layers.containers import Residual, Sequential
from bpnet.layers.normalize import Normalize

DATA = ".data"
"""Behind the name of a model's file, of that of its values."""


def export(
    model: Layer,
    path: str | os.PathLike[str] | None = None,
    *,
    input_shape: tuple[Dim, ...] | list[Dim] | int | str | None = None,
    side: Iterable[str] | Mapping[str, tuple[str, tuple[Dim, ...]]] = (),
    opset: int = OLDEST,
    normalize: bool = True,
    steps: bool = False,
    external_data: bool | None = None,
) -> Any:
    """Write the model's inference to `path` as an ONNX model, and return that, an onnx.ModelProto.

    It takes and gives what `model(x)` takes and gives: the input is called "input", its first axis, of any length,
    "batch", and the output "output". Needs the extra `onnx`.
    path        : of the file, which is written whole or not at all; None: nothing is written
    input_shape : of one sample; a name in the place of a number is a length that may change from call to call, as in
                  ("length", 16). None: what the first layer takes, where that says it
    side        : names of side inputs that become inputs too: "mask", "lengths"; or a mapping from names to the dtype
                  and the shape of a sample, as in {"context": ("float32", ("context_length", 16))}
    opset       : the version of ONNX's operators, at least 18
    normalize   : False: without the `Normalize` that begins the model; the input is then normalized already
    steps       : True: as `Layer.step`; the inputs past.* are zeros at the start (of attention, of length 0), then what
                  the outputs present.* gave
    external_data : whether values lie in a file beside it, `path` with .data behind its name, as ONNX's external data:
                  None, only where the model exceeds the 2 GiB of one file; the two must stay together
    Raises ConfigError, ShapeError, StateError; CheckpointError where the file cannot be written; MissingExtraError.
    """
    if not isinstance(model, Layer):
        hint = "; of an estimator, its model_" if hasattr(model, "model_") else ""
        raise DTypeError(f"export takes a model of bpnet, got {type(model).__name__}{hint}")
    check_opset(opset)
    if path is not None:
        check_writable(path)
    if not model.initialized:
        raise StateError("the model has no values yet: train it, load one, or call model.initialize()")
    dtype = model.store.dtype
    if dtype not in ("float32", "float64"):
        raise ConfigError(f'the model computes in {dtype}, which is not exported; model.to(dtype="float32") first')
    graph = Graph(model, opset=opset, left_out=None if normalize else _normalize_of(model), steps=steps)
    wanted = side_inputs(model, side, dtype)
    if steps and not model.can_step:
        raise StateError("steps=True needs a model whose layers can go on from states, as `can_step` says")
    if steps and wanted:
        raise ConfigError("steps=True takes no side inputs: a step has neither mask nor lengths")
    x, given = declare(graph, sample_shape(model, input_shape), model.input_dtype, wanted)
    shapes = trial(model, x, given, input_shape is None)
    graph.output(graph.translate(model, x, **given), "output")
    graph.outputs.sort(key=lambda value: value.name != "output")
    beside = _beside(path, external_data, too_large(graph))
    proto, found = as_proto(graph, model, beside)
    _compare(graph.outputs[0], found[0], shapes)
    if path is not None:
        if beside is not None:
            write_bytes(os.fsdecode(path) + DATA, beside.content())
        write_bytes(path, proto.SerializeToString(deterministic=True))
    return proto


def _beside(path: str | os.PathLike[str] | None, wanted: bool | None, needed: bool) -> Beside | None:
    """The file beside the model's, where there is to be one."""
    if wanted not in (None, True, False):
        raise ConfigError(f"external_data must be True, False or None, got {wanted!r}")
    if needed and wanted is False:
        raise ConfigError(
            "the model is larger than the 2 GiB that an ONNX file can hold; leave external_data at None, so that its "
            "values go into a file beside it"
        )
    if not (needed or wanted):
        return None
    if path is None:
        why = "the model is larger than the 2 GiB of one ONNX message" if needed else "external_data=True"
        raise ConfigError(f"{why}: pass a path, beside which a file of its values can be written")
    check_writable(os.fsdecode(path) + DATA)
    return Beside(os.path.basename(os.fsdecode(path)) + DATA)


def _normalize_of(model: Layer) -> Normalize:
    """The Normalize that begins the model; ConfigError where none does."""
    layer = model
    while isinstance(layer, Sequential) and not isinstance(layer, Residual) and layer.layers:
        layer = layer.layers[0]
    if not isinstance(layer, Normalize):
        raise ConfigError(
            f"normalize=False leaves out the Normalize that begins a model, and this one begins with {layer!r}; leave "
            "it at True"
        )
    return layer


def _compare(output: Value, found: tuple[Any, ...], shapes: list[tuple[int, ...]]) -> None:
    """Raise ConfigError where a translator has made something of another shape than the layer does."""
    for shape in shapes:
        pairs = list(zip(found, shape, strict=False))[1:]
        if len(found) != len(shape) or any(a is not None and a != b for a, b in pairs):
            raise ConfigError(
                f"the translation gives an output of shape {('batch', *found[1:])}, the model one of {shape} for one "
                "sample: a translator of a layer of your own does not do what the layer does"
            )
