"""Thinc: its Relu and Softmax layers, its Adam."""

from __future__ import annotations

from typing import Any

import numpy as np
import thinc
from thinc.api import Adam, Relu, Softmax, chain

from benchmarks.peers.base import Peer
from benchmarks.reference import BETA1, BETA2, EPSILON, LEARNING_RATE
from benchmarks.workloads import Problem


class Thinc(Peer):
    """`begin_update`, the derivative, `finish_update`, as its documentation writes a loop.

    Its cross-entropy loss reports a sum of squares, so the mean cross-entropy is computed here. Its products are made
    by BLIS, on one thread whatever the others have; inference gives probabilities.
    """

    infers = "probabilities"

    def versions(self) -> dict[str, str]:
        return {"thinc": thinc.__version__, "numpy": np.__version__}

    def blas(self) -> str:
        return "BLIS, one thread"

    def load(self, problem: Problem) -> None:
        super().load(problem)
        self.rows = np.arange(problem.x.shape[1])

    def reset(self) -> None:
        *hidden, last = [weight.shape for weight in self.weights]
        self.layers = [Relu(n_out, n_in) for n_in, n_out in hidden] + [Softmax(last[1], last[0])]
        self.model = chain(*self.layers) if hidden else self.layers[0]
        self.model.initialize()
        for layer, weight in zip(self.layers, self.weights, strict=True):
            layer.set_param("W", weight.T.copy())
            layer.set_param("b", np.zeros(weight.shape[1], np.float32))
        self.optimizer = Adam(
            LEARNING_RATE, beta1=BETA1, beta2=BETA2, eps=EPSILON, L2=0.0, grad_clip=0.0, use_averages=False
        )

    def step(self, x: Any, labels: Any) -> float:
        probabilities, backprop = self.model.begin_update(x)
        loss = -np.log(probabilities[self.rows, labels]).mean()
        derivative = probabilities.copy()
        derivative[self.rows, labels] -= 1
        derivative /= len(labels)
        backprop(derivative)
        self.model.finish_update(self.optimizer)
        return float(loss)

    def infer(self, x: Any) -> Any:
        return self.model.predict(x)
