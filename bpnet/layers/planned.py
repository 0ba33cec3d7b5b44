"""Inference from a plan: a model that is called again on arrays of known shapes makes prepared calls.

Only models whose layers are all bpnet's own are planned: what those do depends on shapes and public attributes alone,
and a plan is made anew when one of those has been set. The results are the same bits as those of the layers' own calls,
which the first replay is held to. A plan is taken out while it runs, so that threads which share a model never share
buffers: a thread that finds none computes without one, and another plan is made in time.

Many samples go through all layers in blocks, where the backend says how many of them its caches hold (`block`): so that
what a layer writes is still there when the next one reads it. Blocks are cut by shapes alone, planned or not. With side
inputs there are none: a mask of shape (T, T) has no rows of samples, and its shape does not say so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from bpnet.dispatch import Array, version, watched
from bpnet.plan import Plan
from bpnet.trace import Trace

if TYPE_CHECKING:
    from bpnet.layers.base import Layer
    from bpnet.store import Store

MAX_BYTES = 1 << 26  # of the buffers of all plans of a model
MAX_PLANS = 64


class _Shape:
    """What is known about the calls on arrays of some shapes: how many were eager, and the plans that are free."""

    def __init__(self) -> None:
        self.eager = 0
        self.refused = False
        self.free: list[Plan] = []

    def take(self) -> Plan | None:
        """A free plan, which nobody else then has, or None."""
        try:
            return self.free.pop()
        except IndexError:
            return None


class Inference:
    """The plans of one model in its present state: this store, these settings."""

    def __init__(self, model: Layer, store: Store) -> None:
        self.store = store
        self.values = store.values  # another array here means that the model was moved
        self.version = version()
        self.bytes = 0
        self.shapes: dict[Any, _Shape] = {}
        self.trusted = all(type(layer).__module__.startswith("bpnet.layers.") for _, layer in model.walk())
        self.block: int | None = getattr(store.backend, "block", None) if self.trusted else None

    def holds(self, store: Store | None) -> bool:
        """Whether the plans are still those of the model."""
        return self.store is store and self.values is store.values and self.version == version()

    def run(self, x: Array, compute: Callable[[Array], Array]) -> Array:
        """compute(x), in blocks where there are many samples, by plans where they are free for arrays like these."""
        if self.block is None or x.ndim < 2 or x.shape[0] <= self.block:
            return self._planned(x.shape, (x,), compute)
        first = self._planned((self.block, *x.shape[1:]), (x[: self.block],), compute)
        if first.ndim == 0 or first.shape[0] != self.block:
            return compute(x)  # the first axis is not that of samples
        xp = self.store.backend.xp
        y = xp.empty((x.shape[0], *first.shape[1:]), dtype=first.dtype)
        y[: self.block] = first
        for start in range(self.block, x.shape[0], self.block):
            part = slice(start, start + self.block)
            own = x[part]
            y[part] = self._planned(own.shape, (own,), compute)
        return y

    def run_beside(self, x: Array, side: dict[str, Array], compute: Callable[..., Array]) -> Array:
        """compute(x, **side), by plans where they are free for arrays like these under these names."""
        if not all(array.flags.c_contiguous for array in side.values()):
            return compute(x, **side)
        key = (x.shape, *((name, array.shape) for name, array in side.items()))
        return self._planned(key, (x, *side.values()), partial(_named, compute, tuple(side)))

    def _planned(self, key: Any, given: tuple[Array, ...], compute: Callable[..., Array]) -> Array:
        """compute(*given), by a plan where one is free. key : what tells apart calls that need plans of their own"""
        known = self.shapes.get(key)
        if known is None:
            if not self.trusted or len(self.shapes) >= MAX_PLANS:
                return compute(*given)
            known = self.shapes[key] = _Shape()
        plan = known.take()
        if plan is None:
            return compute(*given) if known.refused else self._learn(known, given, compute)
        try:
            if not plan.takes(*given) or not given[0].flags.c_contiguous:
                return compute(*given)
            return plan.replay(*given)
        finally:
            known.free.append(plan)

    def _learn(self, known: _Shape, given: tuple[Array, ...], compute: Callable[..., Array]) -> Array:
        """The first call is eager, the second is recorded and, where that can be, makes a plan of the next ones."""
        known.eager += 1
        if known.eager % 2 or self.bytes > MAX_BYTES:
            return compute(*given)
        trace = Trace(given, self.store.known_arrays)
        result = trace.record(lambda: compute(*given))
        value = trace.value_of(result)
        possible = not trace.refusal and trace.steps and value not in trace.input_values
        known.refused = not (possible and self._prove(known, trace, value, given, result))
        trace.close()
        return result

    def _prove(self, known: _Shape, trace: Trace, value: Any, given: tuple[Array, ...], result: Array) -> bool:
        backend = self.store.backend
        plan = Plan(trace, value, backend)
        if not plan.prepared or self.bytes + plan.bytes > MAX_BYTES:
            return False
        if backend.to_numpy(plan.replay(*given)).tobytes() != backend.to_numpy(result).tobytes():
            return False
        self.bytes += plan.bytes
        known.free.append(plan)
        return True


def _named(compute: Callable[..., Array], names: tuple[str, ...], x: Array, *side: Array) -> Array:
    return compute(x, **dict(zip(names, side, strict=True)))


def infer(model: Layer, x: Array, side: dict[str, Any], compute: Callable[..., Array]) -> Array:
    """compute(x, **side) for a model that nothing contains, by a plan where one holds."""
    store = model._store
    if watched() or store is None or type(x) is not store.backend.array_type:
        return compute(x, **side)
    plans = model._inference
    if plans is None or not plans.holds(store):
        plans = model._inference = Inference(model, model.store)
    if not side:
        return plans.run(x, compute)
    given = {name: each for name, each in side.items() if each is not None}
    arrays = all(type(each) is type(x) for each in given.values())
    if not arrays or len({id(x), *map(id, given.values())}) <= len(given):  # one array that is two inputs
        return compute(x, **side)
    return plans.run_beside(x, given, compute)
