"""The promises of a layer that takes several arrays, integers, or side inputs: held for each of its inputs in turn."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np

from bpnet.auditing.copies import Inputs
from bpnet.auditing.promises import InPlace
from bpnet.backend import Backend, to_numpy
from bpnet.dispatch import Array, namespace
from bpnet.layers.base import Layer
from bpnet.testing.layer_derivatives import same_bits

Bound = tuple[tuple[Any, ...], dict[str, Any]]


class OneInput(Layer):
    """A layer as a function of one of its inputs, the others being what they are inside the model.

    layer : what is held; args, side : host arrays, and what else it is called with
    index : of the argument that is x; None where no argument has a derivative, and x takes no part
    """

    def __init__(self, layer: Layer, args: tuple[Any, ...], side: dict[str, Any], index: int | None) -> None:
        self.layer = layer
        self.args = args
        self.side = side
        self.index = index
        self._latest: tuple[Array, Bound] | None = None  # not kept: whether a backward may come is the layer's to say

    def _inputs(self, x: Array) -> Bound:
        args = [x if place == self.index else self._there(each) for place, each in enumerate(self.args)]
        return tuple(args), {name: self._there(each) for name, each in self.side.items()}

    def _there(self, value: Any) -> Any:
        return self.root.asarray(np.array(value)) if isinstance(value, np.ndarray) else value

    def _untouched(self, method: str, inputs: Bound, x: Array) -> None:
        """Raise AssertionError where the layer has written into one of the other inputs."""
        args, side = inputs
        names = [(f"argument {place}", each) for place, each in enumerate(args)]
        pairs = zip([*names, *side.items()], [*self.args, *self.side.values()], strict=True)
        for (name, each), before in pairs:
            if isinstance(before, np.ndarray) and each is not x and not same_bits(each, self._there(before)):
                raise AssertionError(f"{method} wrote into {name}")

    def __call__(self, x: Array) -> Array:
        """The layer's inference, of all inputs."""
        args, side = self._inputs(x)
        y = self.layer(*args, **side)
        self._untouched("inference", (args, side), x)
        return y

    def forward(self, x: Array) -> Array:
        """The layer's, of all inputs."""
        inputs = self._inputs(x)
        y = self.layer.forward(*inputs[0], **inputs[1])
        self._untouched("forward", inputs, x)
        self._latest = (x, inputs)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """The gradient of x alone; the others must be there, or be None where an input is of integers."""
        found = self.layer.backward(dy, need_dx)
        if self._latest is None:
            raise AssertionError("a backward without a forward must raise StateError")
        x, inputs = self._latest
        self._untouched("backward", inputs, x)
        several = found if isinstance(found, tuple) else (found,)
        if not need_dx:
            return None if all(each is None for each in several) else next(each for each in several if each is not None)
        if len(several) != len(self.args):
            raise AssertionError(
                f"backward returned {len(several)} gradients for {len(self.args)} inputs; it must return one for each, "
                "in their order, None for one of integers"
            )
        for place, (each, given) in enumerate(zip(several, inputs[0], strict=True)):
            if isinstance(given, type(x)) and self.args[place].dtype.kind != "f" and each is not None:
                raise AssertionError(
                    f"backward returned a gradient of argument {place}, which is of integers; not None"
                )
        return namespace(x).zeros_like(x) if self.index is None else several[self.index]


class Several(InPlace):
    """The checks of a layer by one of its inputs."""

    def __init__(self, layer: Layer, inputs: Inputs, index: int | None, backend: Backend, seed: int) -> None:
        self.inputs, self.index = inputs, index
        n = next((len(each) for each in inputs.args if isinstance(each, np.ndarray) and each.ndim), 1)
        super().__init__(layer, np.zeros((n, 1)) if index is None else inputs.args[index], backend, seed)

    def wrapped(self, layer: Layer, rows: slice | None, dtype: str | None = None) -> Layer:
        """A copy of the layer as a function of one input; rows : of every input that has samples."""
        cut = {
            name: each[rows] if rows is not None and np.shape(each)[:1] == self.x.shape[:1] else each
            for name, each in [*enumerate(self.inputs.args), *self.inputs.side.items()]
        }
        args = tuple(cut[place] for place in range(len(self.inputs.args)))
        twin = OneInput(copy.deepcopy(layer), args, {name: cut[name] for name in self.inputs.side}, self.index)
        twin.to(self.backend, dtype or self.dtype)
        twin.materialize()
        return twin

    def fail(self, what: str) -> AssertionError:
        """The broken promise; parameters have the names that they have in the layer."""
        return AssertionError(what.replace("'layer.", "'"))

    def model(self, dtype: str | None = None) -> Layer:
        """A copy with the layer's values and the other inputs."""
        return self.wrapped(self.layer, None, dtype)

    def alone(self, rows: slice) -> Any:
        """In inference, the output for some samples alone."""
        model = self.wrapped(self.layer, rows)
        return np.array(to_numpy(self.call("inference of one sample", model, model.asarray(self.x[rows]))))


def each_input(layer: Layer, inputs: Inputs, backend: Backend, seed: int) -> Iterator[tuple[str, InPlace]]:
    """What a broken promise is said of, and the checks, for every input that has a derivative; for one where none has.

    Empty where the layer is called with something that is no array.
    """
    if inputs.plain and inputs.args[0].dtype.kind == "f":
        yield "", InPlace(layer, inputs.args[0], backend, seed)
        return
    arrays = [each for each in inputs.args if isinstance(each, np.ndarray)]
    if len(arrays) < len(inputs.args) or not arrays:
        return
    floating = [place for place, each in enumerate(inputs.args) if each.dtype.kind == "f"]
    indices: list[int | None] = [*floating] or [None]
    for index in indices:
        name = "" if len(floating) < 2 else f", by argument {index}"
        yield name, Several(layer, inputs, index, backend, seed)
