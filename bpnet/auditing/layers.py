"""A layer alone, with the very inputs that it gets inside its model: its derivatives, and what is promised of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from bpnet.auditing import suspects
from bpnet.auditing.copies import Inputs, named, said
from bpnet.auditing.gradients import hold
from bpnet.auditing.report import Row
from bpnet.backend import Backend, to_numpy
from bpnet.layers.base import Layer
from bpnet.layers.tree import is_number
from bpnet.testing.differences import Comparison
from bpnet.testing.layers import LayerCheck, reset, same_bits

DRAWS = 64


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
    if inputs.plain and floating:
        yield from promise_rows(where, layer, inputs.args[0], backend, seed)


class InPlace(LayerCheck):
    """The checks of `bpnet.testing.check_layer`, of a layer as it is and with inputs that it gets."""

    def __init__(self, layer: Layer, x: Any, backend: Backend, seed: int) -> None:
        self.layer, self.x, self.backend, self.seed = layer, x, backend, seed
        self.shape, self.dtype, self.where = x.shape, "float64", ""
        self.n_ids = None

    def model(self, dtype: str | None = None) -> Layer:
        """A copy with the layer's values."""
        twin = copy.deepcopy(self.layer)
        twin.to(self.backend, dtype or self.dtype)
        twin.materialize()
        return twin

    def fail(self, what: str) -> AssertionError:
        """The broken promise."""
        return AssertionError(what)

    def two_steps_agree(self) -> None:
        """The same forward and backward give the same bits."""
        first, gradients = self.pass_through(self.model())
        second, again = self.pass_through(self.model())
        if not same_bits(first, second):
            raise self.fail("dx is not deterministic: two equal calls give other bits")
        for name, gradient in gradients.items():
            if not same_bits(gradient, again[name]):
                raise self.fail(f"the gradient of {name!r} is not deterministic: two equal calls give other bits")

    def samples_do_not_mix(self) -> None:
        """In inference, what a sample's output is does not depend on the others."""
        model = self.model()
        whole = np.array(to_numpy(self.call("inference", model, model.asarray(self.x))))
        if len(self.x) < 2 or whole.shape[:1] != self.x.shape[:1]:
            return
        one = np.array(to_numpy(self.call("inference of one sample", model, model.asarray(self.x[1:2]))))
        scale = max(1.0, float(np.max(np.abs(whole), initial=0.0)))
        if one.shape != whole[1:2].shape or not np.all(np.abs(one - whole[1:2]) <= 1e-9 * scale):
            raise self.fail(
                "layer(x) mixes samples: the output for one of them alone is another than among others; is a sum or "
                "mean taken over the wrong axis?"
            )

    def draws_are_inference_on_average(self) -> None:
        """A layer that draws random numbers gives, on average, what it gives in inference; not a multiple of it."""
        model = self.model()
        if not model.streams() or list(model.children()):
            return
        x = model.asarray(self.x)
        target = np.array(to_numpy(model(x)))
        size = float(np.sum(target * target))
        if not size:
            return
        total, ratios = np.zeros_like(target), []
        for step in range(DRAWS):
            model.store.counters[...] = 0
            model.store.counters[0] = step
            drawn = np.array(to_numpy(model.forward(x)))
            total += drawn / DRAWS
            ratios.append(float(np.sum(drawn * target)) / size)
        ratio, spread = float(np.mean(ratios)), float(np.std(ratios)) / DRAWS**0.5
        if abs(ratio - 1) <= 5 * spread + 1e-3:
            return
        kept = [name for name, value in self.layer.config.items() if is_number(value) and abs(1 - value - ratio) < 0.05]
        hint = f": what is kept must be divided by 1 - {kept[0]}" if kept else ""
        raise self.fail(f"forward gives {ratio:.2f}x what inference gives, on average over {DRAWS} draws{hint}")


PROMISES = (
    "nothing_is_random_but_streams",
    "two_steps_agree",
    "inference_is_forward_and_keeps_nothing",
    "samples_do_not_mix",
    "draws_are_inference_on_average",
    "what_is_kept_is_taken_once",
    "gradients_accumulate",
    "need_dx_false_changes_no_gradient",
    "views_and_read_only_arrays_give_the_same",
)


def promise_rows(where: str, layer: Layer, x: Any, backend: Backend, seed: int) -> Iterator[Row]:
    """One row where all promises are kept; one for each that is broken."""
    check = InPlace(layer, x, backend, seed)
    checks: list[tuple[str, Any]] = [
        (f"shapes and untouched arrays, {dtype}", partial(check.shapes_dtypes_and_untouched_arrays, dtype))
        for dtype in ("float32", "float64")
    ]
    checks += [(name.replace("_", " "), getattr(check, name)) for name in PROMISES]
    broken: dict[str, str] = {}
    for name, promise in checks:
        try:
            promise()
        except AssertionError as error:
            broken.setdefault(str(error), name)
        except Exception as error:
            broken.setdefault(f"raised {said(error)}", name)
    for message, name in broken.items():
        yield Row(where, name, False, diagnosis=message)
    if not broken:
        yield Row(where, "promises", True, how=f"{len(checks)} checks")
