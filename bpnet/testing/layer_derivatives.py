"""The derivatives of a layer held to differences, and what else checks of layers share."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from bpnet.backend import to_numpy
from bpnet.dispatch import Array
from bpnet.layers.base import Layer
from bpnet.testing.differences import Comparison, compare


def reset(model: Layer) -> None:
    """Set all counters to 0, so that the next forward draws what the first one drew."""
    model.store.counters[...] = 0


def derivatives(
    model: Layer, x: Any, *others: Any, side: Mapping[str, Any] | None = None, seed: int = 0
) -> dict[str, Comparison]:
    """dx and every parameter's gradient of a float64 `model`, held to differences of the sum of y dy, dy random.

    x, others : NumPy arrays, as the layer takes them; side : its side inputs by name
    Returns a Comparison each, by name: "dx", "dx of input 1" and so on, and the parameters' paths. Integers have none.
    """
    given_arrays = [np.asarray(each) for each in (x, *others)]
    sides = {name: model.asarray(value) for name, value in (side or {}).items()}
    rng = np.random.default_rng([seed, 1])  # of no use would be a dy that equals x, if that was drawn with the seed
    reset(model)
    model.store.consume_gradients()
    y = model.forward(*map(model.asarray, given_arrays), **sides)
    dy = rng.normal(size=tuple(y.shape))
    dxs = as_gradients(model.backward(model.asarray(dy)), len(given_arrays))
    given = {path for path, parameter in model.parameters().items() if parameter._filled}
    model.store.complete_gradients()

    def loss(place: int = 0, value: Any = None) -> float:
        reset(model)
        arrays = list(given_arrays)
        arrays[place] = arrays[place] if value is None else value
        return float(np.sum(to_numpy(model.forward(*map(model.asarray, arrays), **sides)) * dy))

    factors = {"the number of samples": float(len(given_arrays[0])), "the number of elements of y": float(dy.size)}
    found = {}
    for place, (array, dx) in enumerate(zip(given_arrays, dxs, strict=True)):
        if array.dtype.kind == "f":
            name = "dx" if place == 0 else f"dx of input {place}"
            found[name] = compare(dx, partial(loss, place), array, seed=seed, factors=factors)
    for path, parameter in model.parameters().items():
        if not parameter.trainable:
            continue
        value = np.array(to_numpy(parameter.value))

        def loss_of(changed: Any, parameter: Any = parameter) -> float:
            parameter.value = changed
            return loss()

        computed = np.array(to_numpy(parameter.grad))
        comparison = compare(computed, loss_of, value, seed=seed, factors=factors)
        if not comparison.agrees and path not in given:
            hint = f"{comparison.diagnosis}; no gradient came by the parameter's accumulate(gradient)"
            comparison = Comparison(comparison.error, comparison.tolerance, hint)
        found[path] = comparison
        parameter.value = value
    for _, each in model.walk():
        each._kept = None
    return found


def assert_derivatives(model: Layer, x: Any, *, seed: int = 0) -> None:
    """Raise AssertionError, with the diagnosis, unless all derivatives of a float64 `model` at `x` are right."""
    wrong = [
        f"{named(name)} {each.diagnosis}" for name, each in derivatives(model, x, seed=seed).items() if not each.agrees
    ]
    assert not wrong, f"{model!r}: {'; '.join(wrong)}"


def named(name: str) -> str:
    """A gradient as an error names it."""
    return name if name.startswith("dx") else f"the gradient of {name!r}"


def same_bits(a: Array, b: Array) -> bool:
    """Whether two arrays are of one shape and dtype and agree in every bit."""
    a, b = to_numpy(a), to_numpy(b)
    return bool(a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes())


def as_gradients(dx: Any, n: int) -> tuple[Any, ...]:
    """What a backward returned, as one gradient for each of `n` arrays."""
    found = dx if isinstance(dx, tuple) else (dx,) * (1 if n == 1 or dx is not None else n)
    if len(found) != n:
        raise AssertionError(f"backward returned {len(found)} gradients for {n} arrays")
    return found
