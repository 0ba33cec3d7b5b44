"""The table that `model.summary()` returns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bpnet.dispatch import recording
from bpnet.errors import BpnetError, ConfigError
from bpnet.layers.base import Layer
from bpnet.layers.containers import Container
from bpnet.ops.costs import CostRecorder

Shape = tuple[int, ...]


class Summary:
    """A table as text: `print(model.summary())`, or the last line of a notebook's cell.

    rows : (path, layer, output shape, number of parameters, FLOPs) of every layer that is no container; the
           floating-point operations are those of one sample's inference (`bpnet.cost` has those of training), None
           where they are not known
    in_bf16 : the paths of those that multiply in bfloat16 as the model stands; empty where it computes in float32
    """

    def __init__(
        self, rows: list[tuple[str, str, str, int, int | None]], note: str, in_bf16: frozenset[str] = frozenset()
    ) -> None:
        self.rows = rows
        self.note = note
        self.in_bf16 = in_bf16

    def __str__(self) -> str:
        table = [("path", "layer", "output", "parameters", "FLOPs per sample")]
        table += [(p, k, o, f"{n:,}", "" if f is None else f"{f:,}") for p, k, o, n, f in self.rows]
        if all(row[-1] is None for row in self.rows):
            table = [row[:-1] for row in table]  # type: ignore[misc]
        if self.in_bf16:
            products = ["products", *("bfloat16" if row[0] in self.in_bf16 else "" for row in self.rows)]
            table = [(*row[:3], each, *row[3:]) for row, each in zip(table, products, strict=True)]  # type: ignore[misc]
        lines = aligned(table, 4 if self.in_bf16 else 3)
        rule = "-" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:], rule, self.note])

    __repr__ = __str__


def aligned(table: Sequence[tuple[str, ...]], texts: int) -> list[str]:
    """Rows of cells as lines with columns two blanks apart; the first `texts` columns stand left, numbers right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < texts else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]


def summarize(model: Layer, input_shape: Shape | int | None) -> Summary:
    """Make the Summary of `model`.

    input_shape : the shape of one sample, without the batch's axis; with it the table has output shapes and FLOPs
    """
    if isinstance(input_shape, int):
        input_shape = (input_shape,)
    if input_shape is not None and not all(isinstance(n, int) and n >= 0 for n in input_shape):
        raise ConfigError(f"summary: input_shape is that of one sample, as (64,) or (28, 28), got {input_shape!r}")
    rows, in_bf16 = [], set[str]()
    counted: set[int] = set()
    rounded = model.initialized and model.store.precision == "bf16"
    for path, layer, shape in _leaves(model, "", input_shape):
        own = {id(each): each for each in layer.parameters().values()}
        size = sum(parameter.size for key, parameter in own.items() if key not in counted)  # tied ones count once
        counted |= set(own)
        if rounded and any(each.computes_in_bf16 for _, each in layer.walk()):
            in_bf16.add(path or "(model)")
        output = "" if shape is None else str(("N", *layer.output_shape(shape))).replace("'", "")
        rows.append((path or "(model)", repr(layer), output, size, None if shape is None else _flops(layer, shape)))
    store = model.store if model.initialized else None
    where = f"{store.dtype} on {store.backend.name}" if store is not None else "not initialized"
    item = 8 if store is not None and store.dtype == "float64" else 4
    parameters, counted_only = model.parameters().values(), sum(s.size for s in model.statistics().values())
    frozen = sum(parameter.size for parameter in parameters if not parameter.trainable) - counted_only
    parts = [f"{frozen:,} of them frozen"] * bool(frozen) + [f"{counted_only:,} statistics"] * bool(counted_only)
    note = "".join(f", {part}" for part in parts)
    flops = None if input_shape is None else _flops(model, input_shape)
    work = "" if flops is None else f", {flops:,} FLOPs per sample"
    held = f"{model.n_parameters * item:,} bytes"
    if store is not None and store.compute is not None:
        held += f" and {2 * (model.n_parameters - counted_only):,} of their copies in bfloat16"
    return Summary(rows, f"{model.n_parameters:,} parameters{note}, {held}, {where}{work}", frozenset(in_bf16))


def _flops(layer: Layer, shape: Shape) -> int | None:
    """The floating-point operations of one sample's inference; None where the layer cannot run yet, or does not say."""
    recorder = CostRecorder()
    try:
        x = layer.blank(shape)
        with recording(recorder):
            layer(x)
    except BpnetError:
        return None
    return None if recorder.undeclared else recorder.cost.flops


def _leaves(layer: Layer, path: str, shape: Shape | None) -> Iterator[tuple[str, Layer, Shape | None]]:
    """(path, layer, shape of its input) of every layer that is no container."""
    if not isinstance(layer, Container):
        yield path, layer, shape
        return
    inputs = layer.input_shapes(shape) if shape is not None else [None] * len(layer)
    for (name, child), child_shape in zip(layer.children(), inputs, strict=True):
        yield from _leaves(child, f"{path}.{name}" if path else name, child_shape)
