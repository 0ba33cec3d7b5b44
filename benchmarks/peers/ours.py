"""bpnet on its NumPy backend."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import bpnet as bp
from benchmarks.peers.base import Peer
from benchmarks.reference import BETA1, BETA2, EPSILON, LEARNING_RATE


class Bpnet(Peer):
    """A Trainer's step, and the model's call. plan : as in `bpnet.Trainer`."""

    def __init__(self, threads: int, plan: bool = True) -> None:
        super().__init__(threads)
        self.plan = plan
        self.weights = [np.ones((2, 3), np.float32), np.ones((3, 2), np.float32)]
        self.reset()
        self.step(np.ones((4, 2), np.float32), np.zeros(4, np.int64))  # so that numba, if it is used, is imported

    def versions(self) -> dict[str, str]:
        found = {"bpnet": bp.__version__, "numpy": np.__version__}
        if "numba" in sys.modules:
            found["numba"] = sys.modules["numba"].__version__
        return found

    def reset(self) -> None:
        self.dense = [bp.Dense(*weight.shape) for weight in self.weights]
        layers: list[bp.Layer] = []
        for dense in self.dense:
            layers += [dense, bp.ReLU()]
        self.model = bp.Sequential(*layers[:-1]).initialize(backend="numpy")
        for dense, weight in zip(self.dense, self.weights, strict=True):
            dense.weight.value = weight  # the biases are drawn as zeros
        optimizer = bp.Adam(LEARNING_RATE, beta1=BETA1, beta2=BETA2, epsilon=EPSILON)
        self.trainer = bp.Trainer(self.model, bp.SoftmaxCrossEntropy(), optimizer, plan=self.plan)

    def step(self, x: Any, labels: Any) -> float:
        return float(self.trainer.step(x, labels))

    def infer(self, x: Any) -> Any:
        return self.model(x)

    def gradients(self) -> list[Any] | None:
        return [dense.weight.grad for dense in self.dense]
