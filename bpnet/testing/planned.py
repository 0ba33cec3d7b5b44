"""A forward and backward replayed from a plan against the same made eagerly, with inputs of any kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bpnet.backend import to_numpy
from bpnet.dispatch import Array
from bpnet.layers.base import Layer
from bpnet.plan import Plan
from bpnet.testing.layer_derivatives import reset, same_bits
from bpnet.trace import Trace


def why_a_planned_pass_differs(model: Layer, dy: Array, arrays: tuple[Array, ...], side: Mapping[str, Array]) -> str:
    """What a planned pass makes otherwise than the eager one, in words; '' where every bit is the same.

    A Trainer has one floating x; integers, several arrays and side inputs are planned like that too. What cannot be
    planned is trained eagerly, so there is nothing to differ.
    """
    store, n = model.store, len(arrays)

    def step(dy: Array, *given: Array) -> Array:
        y = model.forward(*given[:n], **dict(zip(side, given[n:], strict=True)))
        model.backward(dy, need_dx=False)
        return y

    def state(y: Array) -> dict[str, Any]:
        store.complete_gradients()
        found = {"y": y} | {f"the gradient of {path!r}": p.grad for path, p in model.parameters().items()}
        return {name: np.array(to_numpy(each)) for name, each in found.items()}

    inputs = (dy, *arrays, *side.values())
    reset(model)
    store.consume_gradients()
    trace = Trace(inputs, store.known_arrays)
    result = trace.record(lambda: step(*inputs))
    value = trace.value_of(result)
    eager = state(result)
    if trace.refusal:
        return ""
    plan = Plan(trace, value, store.backend)
    trace.close()
    for _ in range(2):
        reset(model)
        store.grads[...] = 0
        planned = state(plan.replay(*inputs))
        differing = [name for name, each in eager.items() if not same_bits(each, planned[name])]
        if differing:
            return f"a planned pass is not the eager one: {', '.join(differing)} differ"
    return ""
