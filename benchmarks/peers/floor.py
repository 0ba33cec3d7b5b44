"""The floor: the matrix products that a step cannot do without, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.peers.base import Peer
from benchmarks.reference import Reference


class Floor(Peer):
    """NumPy's BLAS with every output given. The first layer's dx is not needed, so it is not computed.

    The operands are those of the first step (x alone changes from batch to batch), made by the reference: products of
    the right shapes and of honest numbers.
    """

    trains = False

    def versions(self) -> dict[str, str]:
        return {"numpy": np.__version__}

    def reset(self) -> None:
        reference = Reference(self.weights)
        reference.step(*self.batches[0])
        inputs = [_float32(each) for each in reference.inputs]
        derivatives = [_float32(each) for each in reference.derivatives]
        outputs = [np.empty_like(dy) for dy in derivatives]
        self.dW = [np.empty_like(weight) for weight in self.weights]
        self.first = self.weights[0], outputs[0], derivatives[0], self.dW[0]
        self.forward = list(zip(inputs, self.weights, outputs, strict=True))[1:]
        self.backward: list[Any] = []
        for x, weight, dy, dW in zip(inputs[1:], self.weights[1:], derivatives[1:], self.dW[1:], strict=True):
            self.backward += [(x.T, dy, dW), (dy, weight.T, np.empty_like(x))]
        self.backward.reverse()

    def step(self, x: Any, labels: Any) -> float:
        dot = np.dot
        weight, y, dy, dW = self.first
        dot(x, weight, y)
        for product in self.forward:
            dot(*product)
        for product in self.backward:
            dot(*product)
        dot(x.T, dy, dW)
        return 0.0

    def infer(self, x: Any) -> Any:
        dot = np.dot
        weight, y, _, _ = self.first
        dot(x, weight, y)
        for product in self.forward:
            dot(*product)
        return self.forward[-1][2] if self.forward else y

    def gradients(self) -> list[Any] | None:
        return self.dW


def _float32(x: Any) -> Any:
    return np.ascontiguousarray(x, np.float32)
