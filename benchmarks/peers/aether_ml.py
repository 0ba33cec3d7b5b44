"""aether-ml: explicit backpropagation on NumPy, as bpnet has it."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import aether
import numpy as np

from benchmarks.peers.base import Peer
from benchmarks.reference import BETA1, BETA2, EPSILON, LEARNING_RATE


class Aether(Peer):
    """The calls of its `Model.train`, without the accuracy that it measures beside them. It needs Python 3.12."""

    def versions(self) -> dict[str, str]:
        return {"aether-ml": version("aether-ml"), "numpy": np.__version__}

    def reset(self) -> None:
        self.model = aether.Model()
        self.dense = [aether.Dense(*weight.shape) for weight in self.weights]
        for index, dense in enumerate(self.dense):
            if index:
                self.model.add(aether.ReLU())
            self.model.add(dense)
        self.loss = aether.SoftmaxCategoricalCrossEntropy()
        self.optimizer = aether.Adam(lr=LEARNING_RATE, epsilon=EPSILON, beta_1=BETA1, beta_2=BETA2)
        self.model.configure(loss=self.loss, optimizer=self.optimizer)
        self.model.finalize((self.weights[0].shape[0],))
        for dense, weight in zip(self.dense, self.weights, strict=True):
            dense.set_parameters(weights=weight.copy())  # the biases are zeros

    def step(self, x: Any, labels: Any) -> float:
        out = self.model.forward(x, training=True)
        loss = self.loss.calculate(out, labels)
        self.loss.backward(out, labels)
        self.model.backward(self.loss.dinputs)
        self.optimizer.step()
        return float(loss)

    def infer(self, x: Any) -> Any:
        return self.model.forward(x, training=False)

    def gradients(self) -> list[Any] | None:
        return [dense.dweights for dense in self.dense]
