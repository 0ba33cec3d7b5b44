"""PyTorch as its users write it: nn.Sequential, cross_entropy, torch.optim.Adam."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.peers.base import Peer
from benchmarks.reference import BETA1, BETA2, EPSILON, LEARNING_RATE
from benchmarks.workloads import Problem


class Torch(Peer):
    """Eager PyTorch. options : of torch.optim.Adam; none leaves the choice of its implementation to PyTorch."""

    def __init__(self, threads: int, **options: bool) -> None:
        super().__init__(threads)
        self.options = options
        torch.set_num_threads(threads)

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__}

    def blas(self) -> str:
        name = "MKL, statically linked" if torch.backends.mkl.is_available() else "not MKL"
        return f"{name}; {torch.backends.cpu.get_cpu_capability()}"

    def load(self, problem: Problem) -> None:
        super().load(problem)
        self.batches = [(torch.from_numpy(x), torch.from_numpy(labels)) for x, labels in problem.batches]

    def reset(self) -> None:
        self.linear = [torch.nn.Linear(*weight.shape) for weight in self.weights]
        layers: list[torch.nn.Module] = []
        for linear in self.linear:
            layers += [linear, torch.nn.ReLU()]
        self.set_weights()
        self.model = torch.nn.Sequential(*layers[:-1])
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=LEARNING_RATE, betas=(BETA1, BETA2), eps=EPSILON, **self.options
        )

    def set_weights(self) -> None:
        with torch.no_grad():
            for linear, weight in zip(self.linear, self.weights, strict=True):
                linear.weight.copy_(torch.from_numpy(weight.T.copy()))
                linear.bias.zero_()

    def step(self, x: Any, labels: Any) -> float:
        self.optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(self.model(x), labels)
        loss.backward()
        self.optimizer.step()
        return float(loss.item())

    def infer(self, x: Any) -> Any:
        with torch.inference_mode():
            return self.model(x)

    def gradients(self) -> list[Any] | None:
        return [linear.weight.grad.numpy().T for linear in self.linear if linear.weight.grad is not None]
