"""One forward and one backward of a copy of a model, with everything that passed between its layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bpnet.backend import to_numpy
from bpnet.beside import brought, check_names
from bpnet.data.checks import check_lengths
from bpnet.data.dataset import as_array, as_side
from bpnet.dispatch import Array
from bpnet.door import Door
from bpnet.errors import ConfigError, DataError, ShapeError
from bpnet.layers import Layer, Sequential
from bpnet.losses import Loss, MeanSquaredError
from bpnet.pairing import check_pairing

INPUT = -1  # the source of what comes from outside
UNKNOWN = -2


def host(x: Array) -> Any:
    """A NumPy copy."""
    return np.array(to_numpy(x))


class Call:
    """What one layer was given and returned, on the host.

    x, y, dy, dx : as they passed through forward and backward; dx is None where the layer returned none
    gradients    : what it added to each of its parameters, by the parameter's path
    source       : the number of the call whose output is x, INPUT or UNKNOWN
    inner        : the numbers of the calls that it made of layers in it
    """

    def __init__(
        self, path: str, layer: Layer, given: Array, side: dict[str, Any], x: Any, y: Any, source: int, inner: list[int]
    ) -> None:
        self.path = path
        self.layer = layer
        self.given = given
        self.side = side
        self.x = x
        self.y = y
        self.dy = np.zeros_like(y)
        self.dx: Any = None
        self.gradients: dict[str, Any] = {}
        self.source = source
        self.inner = inner

    @property
    def name(self) -> str:
        """The layer as it is written."""
        return repr(self.layer)


class Record:
    """The whole run.

    calls    : in the order in which their forwards ended; plain Sequentials are none
    x, y, dy, dx : of the whole model; target, value, loss : of the loss, or None
    parameters, gradients : every parameter's value and gradient after the backward, by path
    """

    def __init__(self, original: Layer) -> None:
        self.name = repr(original)
        self.model = copy.deepcopy(original)
        self.calls: list[Call] = []
        self.loss: Loss | None = None
        self.target: Any = None
        self.sample_weight: Any = None
        self.value: Any = None
        self.normalizer: Any = None  # of the loss, where that is not the batch's own
        self.is_given = False  # whether dvalues were
        self._produced: list[tuple[Array, int]] = []  # the arrays themselves, so that `is` finds them
        self._open: list[list[int]] = []
        self._by_layer: dict[int, Call] = {}
        self._active: list[Call] = []
        store = self.model.store
        if original.initialized:
            self._take_streams(original)
        self.dtype, self.backend = store.dtype, store.backend
        self._counters = store.backend.xp.asarray(store.counters, copy=True)

    def _take_streams(self, original: Layer) -> None:
        """Draw what the original would draw next: its counters, and its keys where it is part of a larger model."""
        theirs, ours = original.streams(), self.model.store
        counters = host(original.root.store.counters)
        ours.counters[0] = int(counters[0])
        for index, (path, stream) in enumerate(ours.streams.items(), start=1):
            _, place, key = theirs[path].source
            ours.counters[index] = int(counters[place])
            stream.attach(path, ours.counters, index, key)

    # --- running ---

    def watch(self) -> None:
        """Note what passes through every layer of the copy from now on."""
        for path, layer in self.model.walk():
            kind = type(layer)
            if kind.forward is Sequential.forward and kind.backward is Sequential.backward:
                continue
            vars(layer)["forward"] = self._forward(path, layer, layer.forward)
            vars(layer)["backward"] = self._backward(layer, layer.backward)
        for path, parameter in self.model.parameters().items():
            vars(parameter)["accumulate"] = self._accumulate(path, parameter.accumulate)

    def unwatch(self) -> None:
        """Let the copy be as it was."""
        for _, layer in self.model.walk():
            vars(layer).pop("forward", None)
            vars(layer).pop("backward", None)
        for parameter in self.model.parameters().values():
            vars(parameter).pop("accumulate", None)

    def _forward(self, path: str, layer: Layer, forward: Callable[..., Array]) -> Callable[..., Array]:
        def watched(x: Array, **side: Any) -> Array:
            before = host(x)
            source = next((number for array, number in reversed(self._produced) if array is x), UNKNOWN)
            self._open.append([])
            y = forward(x, **side)
            inner = self._open.pop()
            number = len(self.calls)
            call = Call(path, layer, x, side, before, host(y), source, inner)
            self.calls.append(call)
            self._by_layer[id(layer)] = call
            self._produced.append((y, number))
            if self._open:
                self._open[-1].append(number)
            return y

        return watched

    def _backward(self, layer: Layer, backward: Callable[..., Array]) -> Callable[..., Array]:
        def watched(dy: Array, *more: Any, **keywords: Any) -> Array:
            call = self._by_layer[id(layer)]
            call.dy = host(dy)
            self._active.append(call)
            try:
                dx = backward(dy, *more, **keywords)
            finally:
                self._active.pop()
            call.dx = None if dx is None else host(dx)
            return dx

        return watched

    def _accumulate(self, path: str, accumulate: Callable[..., None]) -> Callable[..., None]:
        def watched(gradient: Array) -> None:
            accumulate(gradient)
            if self._active:
                found = self._active[-1].gradients
                found[path] = host(gradient) + found[path] if path in found else host(gradient)

        return watched

    def go(
        self, x: Array, loss: Loss | None, target: Array, dvalues: Any, weight: Array | None, side: dict[str, Array]
    ) -> None:
        """Forward and backward, for real."""
        self.x = host(x)
        self._produced.append((x, INPUT))
        self.watch()
        try:
            y = self.model.forward(x, **side)
            self.y = host(y)
            self.last = next((number for array, number in reversed(self._produced) if array is y), UNKNOWN)
            if loss is not None:
                loss.check(y, target, weight)
                loss.check_values(self.target, "y", int(y.shape[-1]))
                self.value = host(loss.forward(y, target, self.normalizer, weight))
                dy = loss.backward()
            else:
                dy = self._given(dvalues, y)
            self.dy = host(dy)
            dx = self.model.backward(dy)
            self.dx = None if dx is None else host(dx)  # ids have no derivative
        finally:
            self.unwatch()
        self.model.store.complete_gradients()
        members = self.model.parameters()
        self.parameters = {path: host(parameter.value) for path, parameter in members.items()}
        self.gradients = {path: host(parameter.grad) for path, parameter in members.items()}
        self.frozen = {path for path, parameter in members.items() if not parameter.trainable}
        self._produced.clear()

    def _given(self, dvalues: Any, y: Array) -> Array:
        self.is_given = dvalues is not None
        if dvalues is None:
            dvalues = np.ones(tuple(y.shape))
        dvalues = to_numpy(as_array(dvalues, "dvalues"))
        if dvalues.shape != tuple(y.shape):
            raise ShapeError(f"dvalues must have the output's shape {tuple(y.shape)}, got {dvalues.shape}")
        return self.backend.asarray(dvalues, dtype=self.dtype)

    def probe(self, call: Call, dy: Any) -> Any:
        """What the layer's own backward makes of another `dy`, after its own forward of the same x."""
        self.model.store.counters[...] = self._counters
        call.layer.forward(call.given, **call.side)
        return host(call.layer.backward(self.backend.asarray(np.asarray(dy, call.dy.dtype))))


def run(
    model: Layer,
    x: Any,
    loss: Loss | None,
    y: Any,
    dvalues: Any,
    sample_weight: Any = None,
    normalizer: Any = None,
    side: Mapping[str, Any] | None = None,
) -> Record:
    """Copy the model, run it, and return what was seen. Raises where the parts do not belong together.

    normalizer : what the loss is divided by, where x and y are a part of a batch
    side       : arrays by name that the model takes by keyword, one row a sample
    """
    if not isinstance(model, Layer):
        raise ConfigError(f"explain takes a layer or a model, got {type(model).__name__}")
    if loss is not None and not isinstance(loss, Loss):
        hint = f"; write {loss.__name__}()" if isinstance(loss, type) else "; a gradient of the outputs is dvalues="
        raise ConfigError(f"explain: loss must be a Loss, got {loss!r}{hint}")
    if (loss is None) != (y is None):
        raise ConfigError("explain takes a loss together with its targets y" + ("" if y is None else ", got no loss"))
    if loss is not None and dvalues is not None:
        raise ConfigError("explain takes a loss or dvalues, not both: the loss gives the gradient of the outputs")
    if loss is None and sample_weight is not None:
        raise ConfigError("explain: sample_weight belongs to a loss")
    record = Record(model)
    record.normalizer = normalizer
    if loss is not None:
        check_pairing(model, loss, ())
        record.loss = loss = copy.copy(loss)
    door = Door(record.model, loss or MeanSquaredError(), ())
    given = door.x(x)
    if given.ndim == 0 or given.shape[0] == 0:
        raise DataError(f"explain needs at least one sample, got x of shape {tuple(given.shape)}")
    target = weight = None
    if loss is not None:
        target = door.y(y)
        record.target = host(target)
        if sample_weight is not None:
            weight = door.values(sample_weight)
            record.sample_weight = host(weight)
    beside = as_side(side)
    check_names(beside, record.model)
    for name, array in beside.items():
        check_lengths(given, array, name_y=name)
    record.go(given, loss, target, dvalues, weight, brought(beside, record.model))
    return record
