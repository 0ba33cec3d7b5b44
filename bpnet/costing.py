"""What a training step costs: floating-point operations and bytes, layer by layer, forward, backward and update.

The step is made, on a copy, and every kernel call in it is counted by what its kernel declares; so a layer, loss or
optimizer needs no formula of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bpnet import ops
from bpnet.dispatch import recording
from bpnet.door import Door
from bpnet.errors import ConfigError, DataError
from bpnet.layers import Layer
from bpnet.layers.summary import aligned
from bpnet.losses import Loss, MeanSquaredError
from bpnet.ops.costs import Cost, CostRecorder
from bpnet.optimizers import Optimizer

LOSS, OPTIMIZER = "(loss)", "(optimizer)"
DIRECTIONS = ("forward", "backward", "update")


@dataclass(frozen=True)
class CostRow:
    """What one layer, the loss or the optimizer costs.

    path : of the layer, "" for the model itself; "(loss)" and "(optimizer)"
    name : as it is written
    """

    path: str
    name: str
    forward: Cost
    backward: Cost
    update: Cost

    @property
    def total(self) -> Cost:
        """All three together."""
        return self.forward + self.backward + self.update


@dataclass(frozen=True)
class CostReport:
    """What `cost` found; prints as a table.

    rows       : in the order of the model; a container's own row is what it does itself, without its layers
    n_samples  : of the batch
    undeclared : kernels that do not declare their operations (`@kernel(flops=...)`), which count 0 here
    """

    rows: tuple[CostRow, ...]
    n_samples: int
    undeclared: tuple[str, ...]

    def _sum(self, direction: str) -> Cost:
        return sum((getattr(row, direction) for row in self.rows), Cost())

    @property
    def forward(self) -> Cost:
        """The forward, the loss's included."""
        return self._sum("forward")

    @property
    def backward(self) -> Cost:
        """The backward, the loss's included."""
        return self._sum("backward")

    @property
    def update(self) -> Cost:
        """The optimizer's step."""
        return self._sum("update")

    @property
    def total(self) -> Cost:
        """The whole step."""
        return self._sum("total")

    def __str__(self) -> str:
        whole = CostRow("total", f"{self.n_samples} samples", self.forward, self.backward, self.update)
        shown = [each for each in DIRECTIONS if getattr(whole, each) != Cost()]
        table = [("path", "layer", *(cell for each in shown for cell in (f"{each} FLOPs", "bytes")))]
        for row in (*self.rows, whole):
            costs = [getattr(row, each) for each in shown]
            numbers = [f"{number:,}" for each in costs for number in (each.flops, each.bytes)]
            table.append((row.path or "(model)", row.name, *numbers))
        lines = aligned(table, 2)
        rule = "-" * len(lines[0])
        note = [f"not declared, and counted as 0: {', '.join(self.undeclared)}"] if self.undeclared else []
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], *note])

    __repr__ = __str__


class _ByLayer(CostRecorder):
    """Knows on whose behalf a call is made."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[tuple[str, str], Cost] = {}
        self._open: list[tuple[str, str]] = []

    def note(self, cost: Cost) -> None:
        """Count one call for whoever is at work."""
        key = self._open[-1]
        self.found[key] = self.found.get(key, Cost()) + cost

    @contextmanager
    def at(self, path: str, direction: str) -> Iterator[None]:
        """Count the calls of the block for this layer."""
        self._open.append((path, direction))
        try:
            yield
        finally:
            self._open.pop()

    def watched(self, path: str, direction: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method of a layer, counted for it."""

        def counted(*args: Any, **keywords: Any) -> Any:
            with self.at(path, direction):
                return method(*args, **keywords)

        return counted


def cost(
    model: Layer,
    x: Any,
    loss: Loss | None = None,
    y: Any = None,
    optimizer: Optimizer | None = None,
    *,
    sample_weight: Any = None,
) -> CostReport:
    """Count the floating-point operations and the bytes of one training step on the batch `x`, `y`, layer by layer.

    Without a loss: of the model's forward and backward alone. Without an optimizer there is no update. The step is made
    on copies, so that nothing of what is given changes. Calls are counted as an eager step makes them; a plan makes
    some of them one, which saves bytes, and hardly operations.
    Raises ConfigError, or what the Trainer would say of the data.

    >>> import numpy as np
    >>> import bpnet as bp
    >>> model = bp.Sequential(bp.Dense(64, 32), bp.ReLU(), bp.Dense(32, 10))
    >>> found = bp.cost(model, np.zeros((8, 64)))
    >>> found.forward.flops  # of 8 samples: 2 * 64 * 32 + 32, a maximum each, 2 * 32 * 10 + 10
    38480
    """
    _check(model, loss, y, optimizer, sample_weight)
    model, optimizer = copy.deepcopy(model), copy.deepcopy(optimizer)
    loss = copy.copy(loss)
    door = Door(model, loss or MeanSquaredError(), ())
    given = door.x(x)
    if given.ndim == 0 or given.shape[0] == 0:
        raise DataError(f"cost needs at least one sample, got x of shape {tuple(given.shape)}")
    target = None if loss is None else door.y(y)
    weight = None if sample_weight is None else door.x(sample_weight)
    recorder = _ByLayer()
    layers = dict(model.walk())
    for path, layer in layers.items():
        for method in ("forward", "backward"):
            vars(layer)[method] = recorder.watched(path, method, getattr(layer, method))
    with recording(recorder):
        _step(recorder, model, given, loss, target, weight, optimizer)
    names = {path: type(each).__name__ if list(each.children()) else repr(each) for path, each in layers.items()}
    names |= {} if loss is None else {LOSS: repr(loss)}
    names |= {} if optimizer is None else {OPTIMIZER: type(optimizer).__name__}
    found = [
        CostRow(path, name, *(recorder.found.get((path, direction), Cost()) for direction in DIRECTIONS))
        for path, name in names.items()
    ]
    containers = {path for path, each in layers.items() if list(each.children())}
    rows = tuple(row for row in found if row.total != Cost() or row.path not in containers)
    return CostReport(rows, int(given.shape[0]), tuple(recorder.undeclared))


def _step(
    recorder: _ByLayer, model: Layer, x: Any, loss: Loss | None, y: Any, weight: Any, optimizer: Optimizer | None
) -> None:
    """Forward, loss, backward, update, as the Trainer makes them."""
    prediction = model.forward(x)
    if loss is None:
        model.backward(model.backend.xp.ones_like(prediction), need_dx=False)
    else:
        with recorder.at(LOSS, "forward"):
            total = loss.total_weight(tuple(prediction.shape), y, weight)
            value = loss.forward(prediction, y, total, weight)
            penalty = model.penalty()
            if penalty is not None:
                ops.add(value, penalty)
        with recorder.at(LOSS, "backward"):
            dy = loss.backward()
        model.backward(dy, need_dx=False)
    if optimizer is not None:
        with recorder.at(OPTIMIZER, "update"):
            optimizer.step(model)


def _check(model: Any, loss: Any, y: Any, optimizer: Any, sample_weight: Any) -> None:
    for what, value, kind, article in (
        ("model", model, Layer, "a Layer"),
        ("loss", loss, Loss, "a Loss"),
        ("optimizer", optimizer, Optimizer, "an Optimizer"),
    ):
        if not isinstance(value, kind) and (value is not None or what == "model"):
            hint = "; write its instance, with parentheses" if isinstance(value, type) else ""
            raise ConfigError(f"cost: {what} must be {article}, got {value!r}{hint}")
    if (loss is None) != (y is None):
        raise ConfigError("cost takes a loss together with its targets y" + ("" if y is None else ", got no loss"))
    if loss is None and sample_weight is not None:
        raise ConfigError("cost: sample_weight belongs to a loss")


__all__ = ["CostReport", "CostRow", "cost"]
