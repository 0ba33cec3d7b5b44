"""Central differences in float64: what every derivative is held against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import bpnet as bp

STEP = 1e-6


def gradient(f: Callable[[Any], float], x: Any) -> Any:
    """d f / d x for a scalar function of a NumPy array, one central difference an element."""
    x = np.array(x, dtype=np.float64)
    result = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + STEP
        above = f(x.copy())
        x[index] = kept - STEP
        below = f(x.copy())
        x[index] = kept
        result[index] = (above - below) / (2 * STEP)
    return result


def assert_gradient(computed: Any, f: Callable[[Any], float], x: Any, *, name: str = "gradient") -> None:
    """`computed` agrees with the differences of `f` at `x` to 1e-6 of the larger of 1 and its own size."""
    expected = gradient(f, x)
    found = bp.to_numpy(computed)
    assert found.shape == expected.shape, f"{name}: shape {found.shape}, not {expected.shape}"
    scale = max(1.0, float(np.max(np.abs(expected), initial=0.0)))
    np.testing.assert_allclose(found, expected, atol=2e-7 * scale, rtol=0, err_msg=name)


def check_layer(model: bp.Layer, x: Any, seed: int = 0) -> None:
    """dx and every parameter's gradient of an initialized float64 `model`, for the loss sum(y * dy) with random dy."""
    backend = model.backend
    rng = np.random.default_rng(seed)
    y = model.forward(model.asarray(np.asarray(x)))
    dy = rng.normal(size=tuple(y.shape))
    dx = model.backward(model.asarray(dy))
    model.store.counters[...] = 0  # the same dropout masks from here on

    def loss(value: Any) -> float:
        result = backend.to_numpy(model.forward(model.asarray(value)))
        return float(np.sum(result * dy))

    assert_gradient(dx, loss, x, name="dx")
    for path, parameter in model.parameters().items():
        if not parameter.trainable:
            assert not bp.to_numpy(parameter.grad).any(), f"{path}: a gradient, though it is not trained"
            continue

        def loss_of(value: Any, parameter: bp.Parameter = parameter) -> float:
            kept = bp.to_numpy(parameter.value).copy()
            parameter.value = value
            result = loss(x)
            parameter.value = kept
            return result

        computed = bp.to_numpy(parameter.grad).copy()
        assert_gradient(computed, loss_of, bp.to_numpy(parameter.value), name=path)
