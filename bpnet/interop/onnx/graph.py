"""The graph that translators write: values, nodes and stored arrays, in plain Python. Needs no onnx.

bpnet's images are (N, H, W, C), ONNX's operators take (N, C, H, W); its recurrent ones take positions first. So a Value
knows in which order its axes lie in the tensor of the graph. An operator that needs an order asks for it (`arranged`),
others leave it as it is: a Transpose is written where the order changes, and nowhere else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from bpnet.backend import to_numpy
from bpnet.errors import ConfigError
from bpnet.interop.onnx.registry import translator_of
from bpnet.layers.base import Layer
from bpnet.layers.containers import Container
from bpnet.parameter import Parameter

Dim = int | str | None
"""A length, the name of one that may change from call to call, or None where that has no name."""
BATCH = "batch"
Made = TypeVar("Made")


@dataclass(frozen=True)
class Value:
    """An array in the graph.

    name  : of the tensor that holds it
    shape : each axis a length, or the name of one that may change from call to call, or None; "batch" comes first
    dtype : "float32", "float64", "int64" or "bool"
    order : which axis of the value each axis of the tensor is: (0, 3, 1, 2) for an image (N, H, W, C) that lies as
            (N, C, H, W)
    """

    name: str
    shape: tuple[Dim, ...]
    dtype: str
    order: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.order:
            object.__setattr__(self, "order", tuple(range(len(self.shape))))

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)


@dataclass(frozen=True)
class Node:
    """A call of an operator."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)


class Graph:
    """What a translator writes into: `op` adds a call of an operator, `parameter` and `constant` add stored arrays.

    dtype    : of the model, "float32" or "float64"
    opset    : the version of ONNX's operators
    left_out : a layer of the model that is not part of the graph, or None
    steps    : whether the graph goes on from states, as `Layer.step` does, which are then inputs and outputs of it
    """

    def __init__(self, model: Layer, *, opset: int, left_out: Layer | None = None, steps: bool = False) -> None:
        self.dtype, self.opset = model.store.dtype, opset
        self.left_out, self.steps = left_out, steps
        self.nodes: list[Node] = []
        self.stored: dict[str, Any] = {}
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self._places = {id(layer): path for path, layer in model.walk()}
        self._paths = {id(parameter): path for path, parameter in model.parameters().items()}
        self._names: set[str] = set(self._paths.values())
        self._forms: dict[str, dict[tuple[int, ...], Value]] = {}
        self._made: dict[Hashable, Any] = {}
        self._path = ""

    # --- layers ---

    def translate(self, layer: Layer, x: Value, **side: Value) -> Value:
        """What `layer` makes of x: what its translator writes. Of the side inputs it gets those that it takes.

        Raises ConfigError where nobody has registered a translator for its class.
        """
        if layer is self.left_out:
            return x
        place = self._places.get(id(layer), self._path)
        translator = translator_of(type(layer))
        if translator is None:
            name = type(layer).__name__
            raise ConfigError(
                f"no translation into ONNX is known for the layer {layer!r} at {place!r}; write one, a function of "
                f"(graph, layer, x) below @bpnet.interop.onnx.translates({name}), as docs/onnx.md shows"
            )
        with self._at(place):
            found = translator(self, layer, x, **{k: v for k, v in side.items() if k in taken_by(layer)})
        if not isinstance(found, Value):
            raise ConfigError(f"the translator of {type(layer).__name__} must return a Value, it returned {found!r}")
        return found

    @contextmanager
    def _at(self, path: str) -> Iterator[None]:
        before, self._path = self._path, path
        try:
            yield
        finally:
            self._path = before

    # --- operators ---

    def op(self, kind: str, *inputs: Value | None, **more: Any) -> Value:
        """Call the ONNX operator `kind`, and return what it gives.

        inputs : None for one that is left out
        shape, dtype : of the result, by default those of the first input; what else is given by keyword are attributes
        """
        given = [None if each is None else self.arranged(each) for each in inputs]
        first = next(each for each in given if each is not None)
        shape, dtype = more.pop("shape", first.shape), more.pop("dtype", first.dtype)
        return self.emit(kind, given, Value("y", tuple(shape), dtype), **more)

    def rowwise(self, kind: str, x: Value, *more: Value | None, **attributes: Any) -> Value:
        """Call an operator that treats elements alone, or rows along the last axis; x keeps the order of its axes.

        more : values with x's axes, which are brought into its order, single numbers, or what lies along the last axis
        shape : of the result, by default x's
        """
        x = x if x.order[-1:] == (x.ndim - 1,) else self.arranged(x)
        given = [self.arranged(each, x.order) if each is not None and each.ndim == x.ndim else each for each in more]
        shape, dtype = attributes.pop("shape", x.shape), attributes.pop("dtype", x.dtype)
        return self.emit(kind, [x, *given], Value("y", tuple(shape), dtype, x.order), **attributes)

    def pointwise(self, kind: str, x: Value, *more: Value, **attributes: Any) -> Value:
        """Call an operator that treats elements alone; x keeps the order of its axes, whichever that is.

        more : values with x's axes, or single numbers
        """
        if any(each.ndim not in (0, x.ndim) for each in more):
            return self.rowwise(kind, x, *more, **attributes)
        given = [self.arranged(each, x.order) if each.ndim else each for each in more]
        dtype = attributes.pop("dtype", x.dtype)
        return self.emit(kind, [x, *given], replace(x, dtype=dtype), **attributes)

    def emit(self, kind: str, inputs: Sequence[Value | None], result: Value, **attributes: Any) -> Value:
        """Call an operator with tensors as they lie; `result` says what it gives, under a name that does not matter."""
        found: Value = self.emit_each(kind, inputs, [result], **attributes)[0]
        return found

    def emit_each(
        self, kind: str, inputs: Sequence[Value | None], results: Sequence[Value | None], **attributes: Any
    ) -> list[Any]:
        """Call an operator that gives several tensors; None stands for one that nobody asks for."""
        name = self.name(f"{self._path}/{kind}" if self._path else kind)
        found = [
            None if each is None else replace(each, name=name if place == 0 else self.name(f"{name}.{place}"))
            for place, each in enumerate(results)
        ]
        given = tuple("" if each is None else each.name for each in inputs)
        made = tuple("" if each is None else each.name for each in found)
        self.nodes.append(Node(kind, name, given, made, attributes))
        return found

    def arranged(self, x: Value, order: Sequence[int] | None = None) -> Value:
        """The same value with its axes in this order in the tensor; by default in their own."""
        order = tuple(range(x.ndim)) if order is None else tuple(order)
        if x.order == order:
            return x
        forms = self._forms.setdefault(x.name, {x.order: x})
        if order not in forms:
            perm = [x.order.index(axis) for axis in order]
            forms[order] = self.emit("Transpose", [x], replace(x, order=order), perm=perm)
            self._forms[forms[order].name] = forms
        return forms[order]

    def reshape(self, x: Value, target: Sequence[int], shape: Sequence[Dim]) -> Value:
        """x in the shape `target`, where 0 is a length that stays and -1 one that follows; `shape` names each."""
        return self.op("Reshape", x, self.constant(np.array(target, np.int64)), shape=shape)

    def split(self, x: Value, sizes: Sequence[int]) -> tuple[Value, ...]:
        """Parts of the last axis, of these sizes."""
        x = x if x.order[-1:] == (x.ndim - 1,) else self.arranged(x)
        parts = [replace(x, shape=(*x.shape[:-1], size)) for size in sizes]
        return tuple(self.emit_each("Split", [x, self.constant(np.array(sizes, np.int64))], parts, axis=-1))

    # --- what is stored ---

    def parameter(
        self, parameter: Parameter, change: Callable[[Any], Any] | None = None, form: str = "changed"
    ) -> Value:
        """The values of a parameter, stored under its path.

        change : makes of the NumPy array what the operator takes; `form` names that, since what is stored both ways
                 needs two names
        """
        if change is None:
            return self.joined([parameter], lambda arrays: arrays[0], "as it is")
        return self.joined([parameter], lambda arrays: change(arrays[0]), form)

    def joined(self, parameters: Sequence[Parameter], join: Callable[[list[Any]], Any], form: str = "joined") -> Value:
        """What `join` makes of the NumPy arrays of several parameters, stored under their paths with a + between."""
        key = ("stored", tuple(map(id, parameters)), form)
        found: Value | None = self._made.get(key)
        if found is None:
            path = "+".join(self._paths[id(each)] for each in parameters)
            name = self.name(f"{path}:{form}") if path in self.stored else path
            array = np.array(join([to_numpy(each.value) for each in parameters]), dtype=self.dtype, order="C")
            self._names.add(name)
            self.stored[name] = array
            found = self._made[key] = Value(name, array.shape, self.dtype)
        return found

    def constant(self, array: Any, dtype: str | None = None) -> Value:
        """A stored array that is no parameter; a number is of the model's dtype unless another is given."""
        found = np.array(array, dtype=dtype or (None if isinstance(array, np.ndarray) else self.dtype), order="C")

        def store() -> Value:
            name = self.name("constant")
            self.stored[name] = found
            return Value(name, found.shape, str(found.dtype))

        return self.once(("constant", str(found.dtype), found.shape, found.tobytes()), store)

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` writes, which is written once for every key, such as a causal mask that several layers need."""
        if key not in self._made:
            with self._at(""):
                self._made[key] = make()
        found: Made = self._made[key]
        return found

    # --- lengths and positions ---

    def length(self, x: Value, axis: int) -> Value:
        """The length of an axis as an int64 array (1,): a constant where it is known."""
        known = x.shape[axis]
        if isinstance(known, int):
            return self.constant(np.array([known], np.int64))
        place = x.order.index(axis % x.ndim)
        return self.emit("Shape", [x], Value("y", (1,), "int64"), start=place, end=place + 1)

    def scalar(self, x: Value) -> Value:
        """An array (1,) as one without axes."""
        return self.op("Squeeze", x, shape=())

    def counted(self, length: Value, start: Value | None = None) -> Value:
        """The int64 numbers start, start + 1, ... of this length; both as arrays (1,), the first 0 by default."""
        if start is None and length.name in self.stored:
            return self.constant(np.arange(int(self.stored[length.name][0]), dtype=np.int64))
        zero, one = self.constant(np.array(0, np.int64)), self.constant(np.array(1, np.int64))
        if start is None:
            return self.op("Range", zero, self.scalar(length), one, shape=(None,))
        return self.op("Range", self.scalar(start), self.scalar(self.op("Add", start, length)), one, shape=(None,))

    # --- the graph's inputs and outputs ---

    def input(self, name: str, shape: tuple[Dim, ...], dtype: str) -> Value:
        """An input of the graph."""
        found = Value(self.name(name), shape, dtype)
        self.inputs.append(found)
        return found

    def state(self, name: str, shape: tuple[Dim, ...], dtype: str | None = None) -> Value:
        """What the layer that is translated goes on from, as the input past.PATH.NAME; all zeros at the start."""
        path = f"{self._path}." if self._path else ""
        return self.input(f"past.{path}{name}", shape, dtype or self.dtype)

    def keep_state(self, past: Value, x: Value) -> None:
        """Let x be the output present.PATH.NAME: what the next call is given in the place of `past`."""
        self.output(x, "present." + past.name.removeprefix("past."))

    def output(self, x: Value, name: str) -> None:
        """Let x be an output of the graph."""
        x = self.arranged(x)
        made = self.emit("Identity", [x], x)
        self.nodes[-1] = replace(self.nodes[-1], outputs=(name,))
        self.outputs.append(replace(made, name=name))

    def name(self, wanted: str) -> str:
        """`wanted`, or with a number behind it where that is taken."""
        name, number = wanted, 0
        while name in self._names:
            number += 1
            name = f"{wanted}.{number}"
        self._names.add(name)
        return name


def taken_by(layer: Layer) -> frozenset[str]:
    """The names of what a layer's inference takes behind x."""
    if isinstance(layer, Container):
        return layer.accepted()
    parameters = list(inspect.signature(type(layer).__call__).parameters.values())[2:]
    return frozenset(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
