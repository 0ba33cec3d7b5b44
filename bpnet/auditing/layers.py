"""A layer alone, with the very inputs that it gets inside its model: its derivatives, and what is promised of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from bpnet.auditing import suspects
from bpnet.auditing.copies import Inputs, named, said
from bpnet.auditing.gradients import hold
from bpnet.auditing.promises import promises
from bpnet.auditing.report import Row
from bpnet.auditing.several import each_input
from bpnet.backend import Backend, to_numpy
from bpnet.layers.base import Layer
from bpnet.layers.tree import is_number
from bpnet.testing.differences import Comparison
from bpnet.testing.layer_derivatives import reset


class Alone:
    """A layer of a float64 model, run where it stands.

    model : the whole, in whose store the layer's parameters lie; inputs : what the layer gets there
    """

    def __init__(self, model: Layer, layer: Layer, inputs: Inputs, seed: int) -> None:
        self.model, self.layer, self.inputs, self.seed = model, layer, inputs, seed
        self.args = list(inputs.args)
        self.side = {name: self._there(value) for name, value in inputs.side.items()}

    def _there(self, value: Any) -> Any:
        return self.model.asarray(np.array(value)) if isinstance(value, np.ndarray) else value

    def forward(self) -> Any:
        """The output for the present arguments; random bits are those of the first step."""
        reset(self.model)
        return self.layer.forward(*map(self._there, self.args), **self.side)

    def output(self) -> Any:
        """The same, on the host."""
        return np.array(to_numpy(self.forward()))

    def gradients(self, dy: Any) -> tuple[Any, ...]:
        """What one forward and backward give: dx for every argument; the parameters hold theirs."""
        self.model.store.consume_gradients()
        self.forward()
        dx = self.layer.backward(self.model.asarray(np.array(dy)))
        self.given = {path for path, parameter in self.layer.parameters().items() if parameter._filled}
        self.model.store.complete_gradients()
        return dx if isinstance(dx, tuple) else (dx,)

    def upstream(self, y: Any) -> list[Any]:
        """Two random dy for the output y."""
        return [np.random.default_rng([self.seed, 2, k]).normal(size=y.shape) for k in range(2)]

    def factors(self) -> dict[str, float]:
        """Numbers that a gradient may be off by, by name."""
        shape: tuple[int, ...] = next((each.shape for each in self.args if isinstance(each, np.ndarray)), ())
        found = {"the number of samples": float(shape[0])} if shape else {}
        if len(shape) > 1:
            found["the length of the last axis"] = float(shape[-1])
        found["the number of elements of x"] = float(np.prod(shape, dtype=float))
        for name, value in self.layer.config.items():
            if is_number(value) and 0 < value < 1:
                found |= {f"1 / (1 - {name})": 1 / (1 - float(value)), f"1 / {name}": 1 / float(value)}
            elif is_number(value) and value > 1:
                found[name] = float(value)
        return found

    def dx(self, index: int) -> Comparison:
        """The derivative by the argument at `index`."""
        start = np.asarray(self.args[index])

        def function(value: Any) -> Any:
            self.args[index] = value
            return self.output()

        def backward(value: Any, dy: Any) -> Any:
            self.args[index] = value
            found = self.gradients(dy)[index]
            if found is None:
                raise ValueError("backward returned None where dx is needed")
            return to_numpy(found)

        try:
            return self._hold(start, function, backward, suspects.of_layer_input)
        finally:
            self.args[index] = start

    def parameter(self, path: str) -> Comparison:
        """The derivative by a parameter."""
        parameter = self.layer.parameters()[path]
        start = np.array(to_numpy(parameter.value))

        def function(value: Any) -> Any:
            parameter.value = value
            return self.output()

        def backward(value: Any, dy: Any) -> Any:
            parameter.value = value
            self.gradients(dy)
            return np.array(to_numpy(parameter.grad))

        try:
            found = self._hold(start, function, backward, suspects.of_parameter)
        finally:
            parameter.value = start
        if not found.agrees and path not in self.given:
            hint = f"{found.diagnosis}; no gradient came by the parameter's accumulate(gradient)"
            found = Comparison(found.error, found.tolerance, hint, found.relative, found.ratio, found.kinks, found.how)
        return found

    def _hold(self, start: Any, function: Any, backward: Any, guesses: Any) -> Comparison:
        return hold(start, function, backward, self.upstream, seed=self.seed, factors=self.factors(), suspects=guesses)


def as_row(where: str, what: str, compare: Any) -> Row:
    """A row of the comparison that `compare()` makes; what it raises is what is wrong."""
    try:
        found: Comparison = compare()
    except Exception as error:
        return Row(where, what, False, diagnosis=f"raised {said(error)}")
    ratio = None if found.agrees else found.ratio
    return Row(where, what, found.agrees, found.relative, ratio, found.diagnosis, found.kinks, found.how)


def layer_rows(
    model: Layer, path: str, layer: Layer, inputs: Inputs, backend: Backend, seed: int, *, inner: bool = True
) -> Iterator[Row]:
    """The rows of one layer: dx, its parameters, and its promises. inner : also the parameters of layers within it."""
    where = named(path, layer)
    alone = Alone(model, layer, inputs, seed)
    floating = [i for i, each in enumerate(inputs.args) if isinstance(each, np.ndarray) and each.dtype.kind == "f"]
    for index in floating:
        what = "dx" if len(inputs.args) == 1 else f"dx of argument {index}"
        yield as_row(where, what, partial(alone.dx, index))
    others = {f"{name}.{each}" for name, child in layer.children() for each in child.parameters()}
    for name, parameter in layer.parameters().items():
        if parameter.trainable and (inner or name not in others):
            yield as_row(where, name, partial(alone.parameter, name))
    yield from promise_rows(where, layer, inputs, backend, seed)


def promise_rows(where: str, layer: Layer, inputs: Inputs, backend: Backend, seed: int) -> Iterator[Row]:
    """One row where all promises are kept; one for each that is broken. None for inputs that are no arrays."""
    broken: dict[str, str] = {}
    number = 0
    for by, check in each_input(layer, inputs, backend, seed):
        for name, promise in promises(check):
            number += 1
            try:
                promise()
            except AssertionError as error:
                broken.setdefault(str(error), name + by)
            except Exception as error:
                broken.setdefault(f"raised {said(error)}", name + by)
    for message, name in broken.items():
        yield Row(where, name, False, diagnosis=message)
    if number and not broken:
        yield Row(where, "promises", True, how=f"{number} checks")
