"""bpnet: a Trainer's step, and the model's call."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from time import perf_counter
from typing import Any

import numpy as np

import bpnet as bp
from benchmarks.peers.base import Peer
from benchmarks.reference import BETA1, BETA2, EPSILON, LEARNING_RATE
from benchmarks.workloads import Problem


class Bpnet(Peer):
    """bpnet on one of its backends. options : of `bpnet.Trainer`, such as plan=False or capture="off"."""

    metrics = (*Peer.metrics, "fit", "input")

    def __init__(self, threads: int, backend: str = "numpy", **options: Any) -> None:
        super().__init__(threads)
        self.options = options
        self.scope = ExitStack()
        self.backend = bp.get_backend(backend)
        self.weights = [np.ones((2, 3), np.float32), np.ones((3, 2), np.float32)]
        self.reset()
        x, labels = np.ones((4, 2), np.float32), np.zeros(4, np.int64)
        self.step(self.backend.asarray(x), self.backend.asarray(labels))  # so that it is known who makes the kernels

    def versions(self) -> dict[str, str]:
        found = {"bpnet": bp.__version__, "numpy": np.__version__}
        if self.backend.name != "numpy":
            found |= {f"{self.backend.name} {name}": text for name, text in self.backend.describe().items()}
        elif (kernels := self.backend.describe()["kernels"].split())[0] == "numba":
            found["numba"] = kernels[1]
        return found

    def blas(self) -> str:
        return super().blas() if self.backend.name == "numpy" else "cublasLt"

    def load(self, problem: Problem) -> None:
        super().load(problem)
        asarray = self.backend.asarray
        self.batches = [(asarray(x), asarray(labels)) for x, labels in problem.batches]

    def sources(self) -> list[str]:
        bp.get_backend("numpy")
        return [str(sys.modules[name].__file__) for name in ("bpnet", "bpnet_numpy")]

    def reset(self) -> None:
        self.dense = [bp.Dense(*weight.shape) for weight in self.weights]
        layers: list[bp.Layer] = []
        for dense in self.dense:
            layers += [dense, bp.ReLU()]
        self.model = bp.Sequential(*layers[:-1]).initialize(backend=self.backend)
        for dense, weight in zip(self.dense, self.weights, strict=True):
            dense.weight.value = weight  # the biases are drawn as zeros
        optimizer = bp.Adam(LEARNING_RATE, beta1=BETA1, beta2=BETA2, epsilon=EPSILON)
        options = self.options
        if self.precision == "bf16":  # parameters in float32, and copies of them for the products
            options = options | {"precision": "bf16"}
        elif self.precision != "float32":
            options = options | {"matmul_precision": self.precision}
        self.trainer = bp.Trainer(self.model, bp.SoftmaxCrossEntropy(), optimizer, **options)
        self.scope.close()
        if hasattr(self.trainer, "working"):  # not in every revision that this one is compared with
            self.scope.enter_context(self.trainer.working())  # as a fit does, for all of its steps

    def step(self, x: Any, labels: Any) -> float:
        return float(self.trainer.step(x, labels))

    def queue(self, x: Any, labels: Any) -> Any:
        return self.trainer.step(x, labels)

    def fit(self, epochs: int, shuffle: bool) -> list[float]:
        x, labels = (np.concatenate(parts) for parts in zip(*self.batches, strict=True))
        size = len(self.batches[0][0])
        history = self.trainer.fit(x, labels, epochs=epochs, batch_size=size, shuffle=shuffle, progress=False)
        return [float(loss) for loss in history["loss"]]

    def infer(self, x: Any) -> Any:
        return self.model(x)

    def wait(self) -> None:
        self.backend.synchronize()

    def gradients(self) -> list[Any] | None:
        return [bp.to_numpy(dense.weight.grad) for dense in self.dense]

    def bring(self, batches: list[Any]) -> float:
        """As a fit on a memory map does: by the backend's uploader where it has one."""
        make = getattr(self.backend, "uploader", None)
        start = perf_counter()
        if make is None:
            for x in batches:
                self.backend.asarray(x)
        else:
            uploader = make()
            for x in batches:
                uploader.receive(uploader.send((x,)))
            uploader.close()
        self.wait()
        return perf_counter() - start

    def arrived_sum(self, x: Any) -> float:
        xp = self.backend.xp
        return float(xp.sum(self.backend.asarray(x), dtype=xp.float64))
