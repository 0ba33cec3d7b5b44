"""The table that `model.summary()` returns."""

from __future__ import annotations

from collections.abc import Iterator

from bpnet.errors import ConfigError
from bpnet.layers.base import Layer
from bpnet.layers.containers import Container

Shape = tuple[int, ...]


class Summary:
    """A table as text: `print(model.summary())`, or the last line of a notebook's cell.

    rows : (path, layer, output shape, number of parameters) of every layer that is no container
    """

    def __init__(self, rows: list[tuple[str, str, str, int]], note: str) -> None:
        self.rows = rows
        self.note = note

    def __str__(self) -> str:
        table = [("path", "layer", "output", "parameters"), *((p, k, o, f"{n:,}") for p, k, o, n in self.rows)]
        widths = [max(len(row[i]) for row in table) for i in range(4)]
        lines = [
            "  ".join([*(cell.ljust(w) for cell, w in zip(row[:3], widths, strict=False)), row[3].rjust(widths[3])])
            for row in table
        ]
        rule = "-" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:], rule, self.note])

    __repr__ = __str__


def summarize(model: Layer, input_shape: Shape | int | None) -> Summary:
    """Make the Summary of `model`.

    input_shape : the shape of one sample, without the batch's axis; with it the table has output shapes
    """
    if isinstance(input_shape, int):
        input_shape = (input_shape,)
    if input_shape is not None and not all(isinstance(n, int) and n >= 0 for n in input_shape):
        raise ConfigError(f"summary: input_shape is that of one sample, as (64,) or (28, 28), got {input_shape!r}")
    rows = []
    counted: set[int] = set()
    for path, layer, shape in _leaves(model, "", input_shape):
        own = {id(each): each for each in layer.parameters().values()}
        size = sum(parameter.size for key, parameter in own.items() if key not in counted)  # tied ones count once
        counted |= set(own)
        output = "" if shape is None else str(("N", *layer.output_shape(shape))).replace("'", "")
        rows.append((path or "(model)", repr(layer), output, size))
    store = model.store if model.initialized else None
    where = f"{store.dtype} on {store.backend.name}" if store is not None else "not initialized"
    item = 8 if store is not None and store.dtype == "float64" else 4
    frozen = sum(parameter.size for parameter in model.parameters().values() if not parameter.trainable)
    note = f", {frozen:,} of them frozen" if frozen else ""
    return Summary(rows, f"{model.n_parameters:,} parameters{note}, {model.n_parameters * item:,} bytes, {where}")


def _leaves(layer: Layer, path: str, shape: Shape | None) -> Iterator[tuple[str, Layer, Shape | None]]:
    """(path, layer, shape of its input) of every layer that is no container."""
    if not isinstance(layer, Container):
        yield path, layer, shape
        return
    inputs = layer.input_shapes(shape) if shape is not None else [None] * len(layer)
    for (name, child), child_shape in zip(layer.children(), inputs, strict=True):
        yield from _leaves(child, f"{path}.{name}" if path else name, child_shape)
