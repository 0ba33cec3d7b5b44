"""PyTorch through torch.compile: forward, loss and backward as one graph each, and, if asked, Adam too."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.peers.torch_eager import Torch
from benchmarks.workloads import Problem


class Compiled(Torch):
    """optimizer_too : compile `optimizer.step` as well, in the place of PyTorch's own Adam.

    Compiled anew for every workload, before anything is timed. The shapes are static.
    """

    def __init__(self, threads: int, optimizer_too: bool = False, **options: bool) -> None:
        super().__init__(threads, **options)
        self.optimizer_too = optimizer_too

    def load(self, problem: Problem) -> None:
        super().load(problem)
        torch.compiler.reset()
        super().reset()
        model, cross_entropy = self.model, torch.nn.functional.cross_entropy

        def loss_of(x: Any, labels: Any) -> Any:
            return cross_entropy(model(x), labels)

        self.loss_of = torch.compile(loss_of, dynamic=False)
        self.logits_of = torch.compile(model, dynamic=False)
        self.update = torch.compile(self.optimizer.step) if self.optimizer_too else self.optimizer.step

    def reset(self) -> None:
        """Write the initial values where the compiled code expects them: new objects would be compiled anew."""
        self.set_weights()
        for state in self.optimizer.state.values():
            for slot in state.values():
                slot.zero_()

    def step(self, x: Any, labels: Any) -> float:
        self.optimizer.zero_grad()
        loss = self.loss_of(x, labels)
        loss.backward()
        self.update()
        return float(loss.item())

    def infer(self, x: Any) -> Any:
        with torch.inference_mode():
            return self.logits_of(x)
