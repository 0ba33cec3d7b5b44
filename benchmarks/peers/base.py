"""The peer: one way to train the same network, in a process of its own."""

from __future__ import annotations

from typing import Any, ClassVar

from benchmarks import machine
from benchmarks.workloads import Problem

Array = Any


class Peer:
    """Base of the peers. An instance lives in a child and takes one workload after the other.

    metrics : the names of the metrics it supports
    trains  : whether it computes losses and logits; False for a bound that leaves parts of the work out
    batches : (x, labels) in the peer's own kind of array; the conversion is not timed
    """

    metrics: ClassVar[tuple[str, ...]] = ("step", "inference", "train", "train few")
    trains: ClassVar[bool] = True

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.weights: list[Array] = []
        self.batches: list[tuple[Any, Any]] = []
        self.host_inputs: list[Any] = []
        self.precision = "float32"

    def versions(self) -> dict[str, str]:
        """The libraries that do the work, with their versions."""
        raise NotImplementedError

    def blas(self) -> str:
        """What makes its matrix products: by default the BLAS that NumPy brings."""
        pools = machine.thread_pools()
        if pools is None:
            return "BLAS unknown, threadpoolctl is not installed"
        found = [pool for pool in pools if pool["user_api"] == "blas"]
        return ", ".join(f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')}" for pool in found)

    def load(self, problem: Problem) -> None:
        """Take a workload's weights and batches."""
        self.weights = problem.weights
        self.batches = problem.batches
        self.host_inputs = list(problem.x)
        self.precision = problem.precision

    def reset(self) -> None:
        """Go back to the initial weights, with a new optimizer."""
        raise NotImplementedError

    def step(self, x: Any, labels: Any) -> float:
        """Forward, loss, backward, Adam; return the loss as a number on the host."""
        raise NotImplementedError

    def sources(self) -> list[str]:
        """The files that its code is read from, where somebody might ask."""
        return []

    def fit(self, epochs: int, shuffle: bool) -> list[float]:
        """Train for so many passes over all batches; return every epoch's mean loss."""
        raise NotImplementedError

    def queue(self, x: Any, labels: Any) -> Any:
        """Ask for a step; `wait` waits for it. By default it is made."""
        return self.step(x, labels)

    def bring(self, batches: list[Any]) -> float:
        """Bring host batches to the device as fast as a training could use them; return the seconds for all."""
        raise NotImplementedError

    def arrived_sum(self, x: Any) -> float:
        """The sum of one host batch, computed where it is brought to."""
        raise NotImplementedError

    def infer(self, x: Any) -> Any:
        """Return the logits, ready to be read."""
        raise NotImplementedError

    def wait(self) -> None:
        """Return when everything asked for is done; nothing to do where calls return when they are."""

    def gradients(self) -> list[Array] | None:
        """The weights' gradients of the last step, (n_in, n_out) each, where the peer can show them."""
        return None
