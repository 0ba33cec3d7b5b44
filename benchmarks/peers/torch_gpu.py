"""PyTorch on a GPU: eager, compiled, and the whole step as a CUDA graph."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import torch

from benchmarks.peers.torch_eager import Torch
from benchmarks.reference import BETA1, BETA2, EPSILON, LEARNING_RATE
from benchmarks.workloads import Problem

MATMUL = {"float32": "highest", "tf32": "high", "bf16": "medium"}


class TorchGpu(Torch):
    """how : "eager"; "default" or "reduce-overhead", the modes of torch.compile; "graph", the whole step captured.

    Adam is PyTorch's fused one, which is the fastest; its forward and loss are compiled together. bf16 is autocast:
    parameters in float32, cast in every step, since PyTorch keeps no copies of them.
    """

    metrics = (*Torch.metrics, "input")

    def __init__(self, threads: int, how: str = "eager", device: str = "cuda") -> None:
        super().__init__(threads)
        self.how = how
        self.device = torch.device(device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError(f"PyTorch {torch.__version__} finds no usable GPU")

    def versions(self) -> dict[str, str]:
        found = super().versions()
        if self.device.type == "cuda":
            found |= {"torch's CUDA": torch.version.cuda, "device": torch.cuda.get_device_name()}
        return found

    def blas(self) -> str:
        return "cuBLAS" if self.device.type == "cuda" else super().blas()

    def load(self, problem: Problem) -> None:
        super().load(problem)
        torch.set_float32_matmul_precision(MATMUL[self.precision])
        self.batches = [(x.to(self.device), labels.to(self.device)) for x, labels in self.batches]
        self._build()

    def reset(self) -> None:
        """In place, so that what was compiled or captured stays."""
        with torch.no_grad():
            for linear, weight in zip(self.linear, self.weights, strict=True):
                linear.weight.copy_(torch.from_numpy(weight.T.copy()))
                linear.bias.zero_()
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()

    def _build(self) -> None:
        super().reset()
        self.model.to(self.device)
        on_gpu = self.device.type == "cuda"
        self.optimizer = torch.optim.Adam(
            self.model.parameters(),
            lr=LEARNING_RATE,
            betas=(BETA1, BETA2),
            eps=EPSILON,
            fused=on_gpu or None,
            capturable=self.how == "graph",
        )
        self._loss = self._plain_loss
        if self.how in ("default", "reduce-overhead"):
            self._loss = torch.compile(self._plain_loss, mode=None if self.how == "default" else self.how)
        self._graphs: dict[Any, Any] = {}

    def _plain_loss(self, x: Any, labels: Any) -> Any:
        # What is cached must not outlive a graph's recording.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16", cache_enabled=False):
            return torch.nn.functional.cross_entropy(self.model(x), labels)

    def _train(self, x: Any, labels: Any) -> Any:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(x, labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def queue(self, x: Any, labels: Any) -> Any:
        if self.how != "graph":
            if self.how == "reduce-overhead":
                torch.compiler.cudagraph_mark_step_begin()
            return self._train(x, labels)
        found = self._graphs.get(x.shape)
        if found is None:
            return self._capture(x, labels)
        graph, static_x, static_labels, loss = found
        static_x.copy_(x)
        static_labels.copy_(labels)
        graph.replay()
        return loss

    def _capture(self, x: Any, labels: Any) -> Any:
        """The first steps are real ones, on a side stream as PyTorch asks for; then one is recorded."""
        count = self._graphs.setdefault("steps", 0)
        if count < 3:
            self._graphs["steps"] = count + 1
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                loss = self._train(x, labels)
            torch.cuda.current_stream().wait_stream(side)
            return loss
        static_x, static_labels = x.clone(), labels.clone()
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            loss = self._plain_loss(static_x, static_labels)
            loss.backward()
            self.optimizer.step()
        self._graphs[x.shape] = graph, static_x, static_labels, loss.detach()
        graph.replay()
        return loss.detach()

    def step(self, x: Any, labels: Any) -> float:
        return float(self.queue(x, labels).item())

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def gradients(self) -> list[Any] | None:
        return [linear.weight.grad.cpu().numpy().T for linear in self.linear if linear.weight.grad is not None]

    def bring(self, batches: list[Any]) -> float:
        """From page-locked memory, which its users fill ahead, without waiting for each copy."""
        on_gpu = self.device.type == "cuda"
        pinned = [torch.from_numpy(x).pin_memory() if on_gpu else torch.from_numpy(x).clone() for x in batches[:2]]
        start = perf_counter()
        for index, x in enumerate(batches):
            pinned[index % 2].copy_(torch.from_numpy(x))
            pinned[index % 2].to(self.device, non_blocking=True)
        self.wait()
        return perf_counter() - start

    def arrived_sum(self, x: Any) -> float:
        return float(torch.from_numpy(x).to(self.device).sum(dtype=torch.float64).item())
