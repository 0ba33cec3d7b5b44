"""`bpnet export`: a saved model as an ONNX file."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

import bpnet
from bpnet.commands import common
from bpnet.commands.saved import Saved
from bpnet.commands.settings import ExportSettings, validated
from bpnet.errors import ConfigError


def export(
    model: common.ModelArgument,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="FILE", help="Where it goes. Default: MODEL with .onnx.")
    ] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(
            metavar="SHAPE",
            help="Of one sample, as 28,28,1; a name, as in length,16, is a length that may change. Default: what the "
            "first layer takes.",
        ),
    ] = None,
    opset: Annotated[
        str | None, typer.Option(metavar="N", help="The version of ONNX's operators (default 18).")
    ] = None,
    normalize: Annotated[
        bool, typer.Option(help="Whether what the data are normalized by is part of the file.")
    ] = True,
    steps: Annotated[
        bool, typer.Option("--steps", help="Of sequences: go on from states, which are further inputs and outputs.")
    ] = False,
    as_json: common.JsonOption = False,
) -> None:
    """Write a saved model as an ONNX file. Onnxruntime and others read it."""
    settings = validated(ExportSettings, model=model, out=out, input_shape=input_shape, opset=opset)
    out = settings.out or os.path.splitext(settings.model)[0] + ".onnx"
    if os.path.exists(out) and os.path.samefile(out, settings.model):
        raise ConfigError(f"--out: {out!r} is the model itself; name another file")
    from bpnet.interop.onnx import export as exported

    saved = Saved(settings.model, "numpy")
    proto = exported(
        saved.model, out, input_shape=settings.input_shape, opset=settings.opset, normalize=normalize, steps=steps
    )
    inputs, outputs = (
        {value.name: _type(value) for value in values} for values in (proto.graph.input, proto.graph.output)
    )
    size = os.path.getsize(out)
    print(f"{out}: ONNX, opset {settings.opset}, {len(proto.graph.node)} operators, {size:,} bytes")
    for word, values in (("takes", inputs), ("gives", outputs)):
        for name, (dtype, shape) in values.items():
            print(f"{word}  {name}: {dtype} ({', '.join(map(str, shape))}{',' * (len(shape) == 1)})")
    if as_json:
        common.print_json(
            {
                "model": settings.model,
                "out": out,
                "opset": settings.opset,
                "nodes": len(proto.graph.node),
                "bytes": size,
                "inputs": {name: {"dtype": dtype, "shape": shape} for name, (dtype, shape) in inputs.items()},
                "outputs": {name: {"dtype": dtype, "shape": shape} for name, (dtype, shape) in outputs.items()},
                "metadata": {each.key: each.value for each in proto.metadata_props},
                "versions": {"bpnet": bpnet.__version__},
            }
        )


def _type(value: Any) -> tuple[str, list[int | str]]:
    """Dtype and shape of an input or an output; a length without a name is "?"."""
    found = value.type.tensor_type
    dtype = {1: "float32", 11: "float64", 7: "int64", 9: "bool"}[found.elem_type]
    return dtype, [dim.dim_value or dim.dim_param or "?" for dim in found.shape.dim]
