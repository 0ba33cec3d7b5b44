"""bpnet on its NumPy backend."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import bpnet as bp
from benchmarks.peers.base import Peer
from benchmarks.reference import BETA1, BETA2, EPSILON, LEARNING_RATE


class Bpnet(Peer):
    """A Trainer's step and fit, and the model's call. plan : as in `bpnet.Trainer`."""

    metrics = ("step", "inference", "fit")

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

    def sources(self) -> list[str]:
        bp.get_backend("numpy")
        return [str(sys.modules[name].__file__) for name in ("bpnet", "bpnet_numpy")]

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

    def fit(self, epochs: int, shuffle: bool) -> list[float]:
        x, labels = (np.concatenate(parts) for parts in zip(*self.batches, strict=True))
        size = len(self.batches[0][0])
        history = self.trainer.fit(x, labels, epochs=epochs, batch_size=size, shuffle=shuffle, progress=False)
        return [float(loss) for loss in history["loss"]]

    def infer(self, x: Any) -> Any:
        return self.model(x)

    def gradients(self) -> list[Any] | None:
        return [dense.weight.grad for dense in self.dense]
