"""Metrics: what is measured on a workload, and what must agree between peers before it is."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle, islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benchmarks.reference import Reference
from benchmarks.workloads import Problem

if TYPE_CHECKING:
    from benchmarks.peers.base import Peer

Facts = dict[str, list[float]]


class Metric:
    """Base of the metrics. A peer says in `Peer.metrics` which it supports.

    measure  : runs in the peer's process; returns seconds per unit of work
    check    : runs in the peer's process; returns the numbers that must agree, by name; a peer may leave some out
    expected : the same numbers from the reference, in the parent
    """

    name: ClassVar[str]
    what: ClassVar[str]

    def measure(self, peer: Peer, count: int) -> float:
        raise NotImplementedError

    def check(self, peer: Peer) -> Facts:
        raise NotImplementedError

    def expected(self, problem: Problem) -> Facts:
        raise NotImplementedError


def _seconds_each(work: Callable[..., Any], batches: list[Any], count: int, wait: Callable[[], Any]) -> float:
    """Call `work` on `count` batches in rotation, after some untimed calls (plans, caches, clocks)."""
    for x, labels in islice(cycle(batches), max(8, count // 10)):
        work(x, labels)
    wait()
    start = perf_counter()
    for x, labels in islice(cycle(batches), count):
        work(x, labels)
    wait()
    return (perf_counter() - start) / count


class StepTime(Metric):
    """One training step: forward, loss, backward, Adam. Every round starts again from the initial weights.

    So every round does the same work, and none runs on into a memorized data set, where gradients become denormal
    numbers and arithmetic several times slower.
    """

    name = "step"
    what = "one training step, loss read on the host"
    checked_steps = 20

    def measure(self, peer: Peer, count: int) -> float:
        peer.reset()
        return _seconds_each(peer.step, peer.batches, count, peer.wait)

    def check(self, peer: Peer) -> Facts:
        """The losses of the first steps, and the norms of the weights' gradients in the first one."""
        peer.reset()
        losses, facts = [], {}
        for index, (x, labels) in enumerate(peer.batches[: self.checked_steps]):
            losses.append(peer.step(x, labels))
            if index == 0 and (gradients := peer.gradients()) is not None:
                facts["gradient norms"] = _norms(gradients)
        return facts | ({"losses": losses} if peer.trains else {})

    def expected(self, problem: Problem) -> Facts:
        reference = Reference(problem.weights)
        losses, norms = [], []
        for index, (x, labels) in enumerate(problem.batches[: self.checked_steps]):
            losses.append(reference.step(x, labels))
            if index == 0:
                norms = _norms(reference.gradients)
        return {"losses": losses, "gradient norms": norms}


class FitTime(Metric):
    """A step in a fit: the batches made and shuffled, the step, the sums, and an epoch's share of all around it."""

    name = "fit"
    what = "one step of a fit, shuffled"

    def measure(self, peer: Peer, count: int) -> float:
        peer.reset()
        peer.fit(1, True)  # plans, caches, clocks
        epochs = max(1, round(count / len(peer.batches)))
        start = perf_counter()
        peer.fit(epochs, True)
        peer.wait()
        return (perf_counter() - start) / (epochs * len(peer.batches))

    def check(self, peer: Peer) -> Facts:
        """The mean loss of an epoch in the order in which the batches lie."""
        peer.reset()
        return {"epoch losses": peer.fit(1, False)}

    def expected(self, problem: Problem) -> Facts:
        reference = Reference(problem.weights)
        losses = [reference.step(x, labels) for x, labels in problem.batches]
        return {"epoch losses": [float(np.mean(losses))]}


class InferenceTime(Metric):
    """One batch through the network, the logits ready to be read on the host."""

    name = "inference"
    what = "the logits of one batch"

    def measure(self, peer: Peer, count: int) -> float:
        peer.reset()
        return _seconds_each(lambda x, labels: peer.infer(x), peer.batches, count, peer.wait)

    def check(self, peer: Peer) -> Facts:
        """The norm of the logits of each of the first batches."""
        peer.reset()
        return {"logit norms": _norms([peer.infer(x) for x, _ in peer.batches[:4]])} if peer.trains else {}

    def expected(self, problem: Problem) -> Facts:
        reference = Reference(problem.weights)
        return {"logit norms": _norms([reference.predict(x) for x, _ in problem.batches[:4]])}


class TrainTime(StepTime):
    """Steps as a training makes them: asked for one behind the other, the device waited for at the end of the round."""

    what = "one training step of many; no loss is read between them"

    def __init__(self, name: str, checked_steps: int) -> None:
        self.name = name  # type: ignore[misc]
        self.checked_steps = checked_steps

    def measure(self, peer: Peer, count: int) -> float:
        peer.reset()
        return _seconds_each(peer.queue, peer.batches, count, peer.wait)


class InputTime(Metric):
    """One batch from the host's memory to the device, one behind the other, each touched once there."""

    name = "input"
    what = "one batch of inputs brought to the device"

    def measure(self, peer: Peer, count: int) -> float:
        peer.reset()
        return peer.bring(list(islice(cycle(peer.host_inputs), count))) / count

    def check(self, peer: Peer) -> Facts:
        """The sums of the batches as they arrive."""
        peer.reset()
        return {"sums": [peer.arrived_sum(x) for x in peer.host_inputs[:2]]}

    def expected(self, problem: Problem) -> Facts:
        return {"sums": [float(x.sum(dtype=np.float64)) for x in problem.x[:2]]}


def _norms(arrays: list[Any]) -> list[float]:
    return [float(np.linalg.norm(np.asarray(array, np.float64))) for array in arrays]


TOLERANCE = {"float32": 1e-3, "tf32": 2e-2, "bf16": 1e-1}
"""By the precision of products."""


def disagreement(found: Facts, expected: Facts, tolerance: float = 1e-3) -> str:
    """Where a peer's numbers leave the reference's by more than `tolerance` (relative above 1), or ''."""
    for name, numbers in found.items():
        for index, (got, want) in enumerate(zip(numbers, expected[name], strict=True)):
            if not abs(got - want) <= tolerance * max(1.0, abs(want)):
                return f"{name}[{index}] is {got:.6g}, the reference has {want:.6g}"
    return ""


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        StepTime(),
        FitTime(),
        InferenceTime(),
        TrainTime("train", 20),
        TrainTime("train few", 2),
        InputTime(),
    )
}
