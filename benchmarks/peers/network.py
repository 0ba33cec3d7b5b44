"""A network of `benchmarks.images`, `benchmarks.gpt` or `benchmarks.lstm`, in whichever library."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np

from benchmarks import networks
from benchmarks.peers.base import Peer
from benchmarks.workloads import Problem

LARGE = 30 << 20
"""Bytes of an array that each process makes and drops. glibc then keeps what is freed up to this size; else whether a
library gets its arrays from the system in each step would depend on what its process happened to free before."""


class NetworkPeer(Peer):
    """module : of this folder's parent, which holds the network; kind : its class, which makes a step"""

    metrics = ("network", "curve")

    def __init__(self, threads: int, module: str, kind: str, **options: Any) -> None:
        super().__init__(threads)
        self.module, self.kind, self.options = module, kind, options
        self.trains = kind != "Floor"  # type: ignore[misc]
        self.made: Any = None

    def versions(self) -> dict[str, str]:
        names = {"Ours": ("bpnet-xp", "numpy"), "Torch": ("torch",), "Jax": ("jax", "jaxlib"), "Floor": ("numpy",)}
        found = {name.removesuffix("-xp"): version(name) for name in names[self.kind]}
        if self.kind == "Ours":
            import bpnet as bp

            model = bp.Sequential(bp.Dense(2, 2)).initialize(backend="numpy")
            model(model.asarray([[1.0, 2.0]]))  # so that it is known who makes the kernels
            kernels = model.backend.describe()["kernels"].split()
            if kernels[0] == "numba":
                found["numba"] = kernels[1]
        return found

    def blas(self) -> str:
        if self.kind == "Torch":
            import torch

            return f"PyTorch's own; {torch.backends.cpu.get_cpu_capability()}"
        return "XLA's own products" if self.kind == "Jax" else super().blas()

    def load(self, problem: Problem) -> None:
        """Make the network, from the problem's weights by the names of bpnet's parameters."""
        super().load(problem)
        np.empty(LARGE, np.uint8)
        weights = dict(zip(problem.names[1:], problem.weights, strict=True))
        if self.kind in ("Ours", "Floor"):
            self.made = getattr(networks, self.kind)(weights, self.module)
        else:
            kind = getattr(import_module(f"benchmarks.{self.module}"), self.kind)
            self.made = kind(weights, self.threads, **self.options)
        self.batches = [self.made.batch(x, labels) for x, labels in problem.batches]

    def reset(self) -> None:
        """Nothing: what was compiled or planned belongs to these arrays, and a step costs the same later on."""

    def step(self, x: Any, labels: Any) -> float:
        loss: float = self.made.step(x, labels)
        return loss
