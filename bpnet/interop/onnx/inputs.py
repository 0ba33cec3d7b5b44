"""What an exported model takes: the shape of x, further inputs, and the trial that they fit the model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from bpnet.dispatch import Array
from bpnet.errors import BpnetError, ConfigError, ShapeError
from bpnet.interop.onnx.graph import BATCH, Dim, Graph, Value, taken_by
from bpnet.layers.attention import MultiHeadAttention
from bpnet.layers.base import Layer
from bpnet.layers.batch_norm import BatchNorm, GroupNorm
from bpnet.layers.containers import Container, Sequential
from bpnet.layers.dense import Dense
from bpnet.layers.embedding import Embedding, Unembedding
from bpnet.layers.flatten import Reshape
from bpnet.layers.layer_norm import LayerNorm, RMSNorm
from bpnet.layers.normalize import Normalize
from bpnet.layers.positions import LearnedPositions, SinusoidalPositions
from bpnet.layers.recurrence import Recurrent
from bpnet.layers.transformer import TransformerBlock

LENGTH = "length"
SIDE: dict[str, tuple[str, tuple[Dim, ...]]] = {"mask": ("bool", (LENGTH,)), "lengths": ("int64", ())}
"""What bpnet's own layers take by keyword: dtype and shape of a sample."""
DTYPES = ("float32", "float64", "int64", "bool")
_SEQUENCES = (Recurrent, MultiHeadAttention, TransformerBlock, LearnedPositions, SinusoidalPositions)


def sample_shape(model: Layer, given: Any) -> tuple[Dim, ...]:
    """The shape of one sample of x: what is given, or what the first layer takes where that says it.

    Raises ConfigError where it does not, or where what is given is no shape.
    """
    if given is None:
        found = _guess(model, any(isinstance(layer, _SEQUENCES) for _, layer in model.walk()))
        if found is None:
            raise ConfigError(
                "the model's first layer does not say what shape a sample has; give it, as in input_shape=(28, 28, 1), "
                'or input_shape=("length", 16) where the length of sequences may change'
            )
        return found
    axes = (given,) if isinstance(given, (int, str)) else given
    try:
        return _axes(axes)
    except (TypeError, ValueError):
        raise ConfigError(
            "input_shape must be the shape of one sample without the axis of the batch: whole numbers of at least 1, "
            f'and names for lengths that may change, as in ("length", 16); got {given!r}'
        ) from None


def _axes(axes: Iterable[Any]) -> tuple[Dim, ...]:
    found: list[Dim] = []
    for axis in axes:
        if isinstance(axis, str):
            if not axis.isidentifier() or axis == BATCH:
                raise ValueError
        elif isinstance(axis, bool) or int(axis) != axis or axis < 1:
            raise ValueError
        found.append(axis if isinstance(axis, str) else int(axis))
    return tuple(found)


def _guess(model: Layer, sequences: bool) -> tuple[Dim, ...] | None:
    """The shape of a sample that a layer takes; None where it takes several."""
    axes: tuple[Dim, ...] = (LENGTH,) if sequences else ()
    if isinstance(model, Container):
        for layer in model.layers:
            found = _guess(layer, sequences)
            if found is not None or not (isinstance(model, Sequential) and layer.positionwise):
                return found
        return None
    if isinstance(model, Embedding):
        return (LENGTH,)
    if isinstance(model, Recurrent):
        return (LENGTH, model.n_in)
    if isinstance(model, (MultiHeadAttention, LearnedPositions)):
        return (LENGTH, model.n_features)
    if isinstance(model, TransformerBlock):
        return (LENGTH, model.attention.n_features)
    if isinstance(model, Reshape):
        return (math.prod(model.shape),)
    if isinstance(model, Normalize):
        return None if 1 in model.mean.shape else model.mean.shape
    if isinstance(model, Dense):
        return (*axes, model.n_in)
    if isinstance(model, (Unembedding, LayerNorm, RMSNorm, BatchNorm, GroupNorm)):
        return (*axes, model.n_features)
    return None


def side_inputs(model: Layer, given: Any, dtype: str) -> dict[str, tuple[str, tuple[Dim, ...]]]:
    """The further inputs by name, each with its dtype and the shape of a sample.

    given : names such as "mask" and "lengths", or a mapping from names to (dtype, shape of a sample)
    Raises ConfigError where the model does not take one, or what it is does not follow from its name.
    """
    if isinstance(given, str):
        given = (given,)
    wanted: dict[str, Any] = dict(given) if isinstance(given, Mapping) else dict.fromkeys(given)
    found = {}
    for name, what in wanted.items():
        if name not in taken_by(model):
            takes = ", ".join(sorted(taken_by(model))) or "none"
            raise ConfigError(f"the model takes no side input {name!r}; it takes: {takes}")
        if what is None and name not in SIDE:
            raise ConfigError(
                f"side: what {name!r} is must be said, as its dtype and the shape of a sample: "
                f'side={{{name!r}: ({dtype!r}, ("{name}_length", 16))}}'
            )
        try:
            kind, shape = SIDE[name] if what is None else what
            axes = _axes(shape)
        except (TypeError, ValueError):
            raise ConfigError(
                f"side: {name!r} needs a dtype and the shape of a sample, as in ({dtype!r}, (16,)); got {what!r}"
            ) from None
        if kind not in DTYPES:
            raise ConfigError(f"side: the dtype of {name!r} must be one of {', '.join(DTYPES)}, got {kind!r}")
        found[name] = (kind, axes)
    return found


def declare(graph: Graph, shape: tuple[Dim, ...], dtype: str, side: Mapping[str, Any]) -> tuple[Value, dict[str, Any]]:
    """Make x and the side inputs inputs of the graph. A mask is as long as x is."""
    x = graph.input("input", (BATCH, *shape), dtype)
    found = {}
    for name, (kind, axes) in side.items():
        own = x.shape[1:2] if axes == (LENGTH,) and shape and "context" not in side else axes
        found[name] = graph.input(name, (BATCH, *own), kind)
    return x, found


def trial(model: Layer, x: Value, side: Mapping[str, Value], guessed: bool) -> list[tuple[int, ...]]:
    """The shapes of the model's outputs for inputs of zeros, where lengths change for two lengths of all of them.

    guessed : whether the shape of x was, so that errors say so
    Raises the layer's error where the model does not take such inputs, with what to do.
    """
    names = sorted({axis for value in (x, *side.values()) for axis in value.shape[1:] if isinstance(axis, str)})
    lengths = _lengths(model, x, side) if names else [1]
    found = []
    for length in lengths:
        try:
            found.append(_outputs(model, x, side, length))
        except BpnetError as error:
            shape = tuple(x.shape[1:])
            why = f"; that a sample is {shape} was taken from the first layer, input_shape says otherwise"
            if names:
                why = (
                    f"; tried with {', '.join(names)} = {length}: where the model takes one length alone, give that "
                    f"number, as in input_shape={_with(shape, 64)}"
                )
            elif not guessed:
                raise
            raise type(error)(f"{error}{why}") from error
    return found


def _lengths(model: Layer, x: Value, side: Mapping[str, Value]) -> list[int]:
    """Two lengths to try: small ones, unless the model's windows do not fit into them."""
    if model.max_positions is not None:
        return sorted({min(length, model.max_positions) for length in (7, 8)}, reverse=True)
    for length in (8, 32):
        try:
            _outputs(model, x, side, length)
        except ShapeError:
            continue
        return [length, length - 1]
    return [128, 127]


def _with(shape: tuple[Dim, ...], length: int) -> tuple[Any, ...]:
    return tuple(length if isinstance(n, str) else n for n in shape)


def _outputs(model: Layer, x: Value, side: Mapping[str, Value], length: int) -> tuple[int, ...]:
    def blank(value: Value) -> Array:
        zeros = model.backend.zeros(_with((1, *value.shape[1:]), length), value.dtype)
        if value.name == "lengths":
            return zeros + length
        return ~zeros if value.dtype == "bool" else zeros

    return tuple(model(blank(x), **{name: blank(value) for name, value in side.items()}).shape)
