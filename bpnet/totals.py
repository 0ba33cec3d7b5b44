"""Sums over the batches of an epoch: they stay on the device until somebody asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bpnet import ops
from bpnet.backend import Backend, to_numpy
from bpnet.dispatch import Array, note_change
from bpnet.metrics import Metric


class Totals:
    """The loss with its weight, and every metric's sums, by name.

    The arrays are made when the shape of a metric's sums is known, and set to zero for each epoch: a recorded step
    names them. They are made anew only where data of another form, such as longer sequences, need others.
    """

    def __init__(self, backend: Backend, metrics: Sequence[Metric]) -> None:
        self.backend = backend
        self.metrics = tuple(metrics)
        self.loss = backend.zeros((2,), "float64")
        self.sums: dict[str, Array] = {}

    def prepare(self, prediction: Array, target: Array) -> None:
        """Make what the metrics need for predictions and targets like these."""
        for metric in self.metrics:
            measured = metric.measure(prediction, target)
            known = self.sums.get(metric.name)
            if known is None or known.shape != measured.shape or known.device != measured.device:
                self.sums[metric.name] = self.backend.zeros(tuple(measured.shape), "float64")
                if known is not None:
                    note_change()  # recorded steps name the array before

    def serves(self, backend: Backend, metrics: Sequence[Metric], device: Any) -> bool:
        """Whether these are the sums for metrics and a model on that backend and device."""
        return self.backend is backend and self.metrics == tuple(metrics) and self.loss.device == device

    def arrays(self) -> dict[str, Array]:
        """All arrays by name."""
        return {"total loss": self.loss} | {f"total {name}": sums for name, sums in self.sums.items()}

    def reset(self) -> None:
        """Start from zero."""
        for array in self.arrays().values():
            array[...] = 0

    def count(self, prediction: Array, target: Array) -> None:
        """Add a batch to the metrics' sums."""
        for metric in self.metrics:
            ops.add_(self.sums[metric.name], metric.measure(prediction, target))

    def count_loss(self, value: Array, weight: Any) -> None:
        """Add a batch's loss, which stands for `weight`, a number or a 0-d array."""
        ops.accumulate_(self.loss, value, weight)

    def read(self) -> dict[str, Any]:
        """The results by name; waits for the device."""
        total, weight = to_numpy(self.loss).tolist()
        results: dict[str, Any] = {"loss": total / weight if weight else 0.0}
        return results | {metric.name: metric.result(to_numpy(self.sums[metric.name])) for metric in self.metrics}
