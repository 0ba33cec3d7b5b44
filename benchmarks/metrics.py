"""Metrics: what is measured on a workload, and what must agree between peers before it is."""

from __future__ import annotations

from itertools import cycle, islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benchmarks import op_cases
from benchmarks.reference import Reference, softmax
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


def _warm_up(count: int, least: int) -> int:
    """How many untimed units come first (plans, caches, clocks): few where one takes long, as a small count says."""
    return max(least, min(8, count // 2), count // 10)


class StepTime(Metric):
    """One training step: forward, loss, backward, Adam. Every round starts again from the initial weights.

    So every round does the same work, and none runs on into a memorized data set, where gradients become denormal
    numbers and arithmetic several times slower.
    """

    name = "step"
    what = "one training step, loss read on the host"
    checked_steps = 20
    large = 2**21  # weights, from which on fewer steps are checked: each takes the reference a second

    def steps_of(self, weights: list[Any]) -> int:
        """How many steps are compared with the reference."""
        total = sum(weight.size for weight in weights)
        return self.checked_steps if total < self.large else min(self.checked_steps, 6)

    def measure(self, peer: Peer, count: int) -> float:
        peer.reset()
        peer.train(_warm_up(count, least=4))  # bpnet records two steps and proves the third
        peer.wait()
        start = perf_counter()
        peer.train(count)
        peer.wait()
        return (perf_counter() - start) / count

    def check(self, peer: Peer) -> Facts:
        """The losses of the first steps, and the norms of the weights' gradients in the first one."""
        peer.reset()
        losses, facts = [], {}
        for index, (x, labels) in enumerate(peer.batches[: self.steps_of(peer.weights)]):
            losses.append(peer.step(x, labels))
            if index == 0 and (gradients := peer.gradients()) is not None:
                facts["gradient norms"] = _norms(gradients)
        return facts | ({"losses": losses} if peer.trains else {})

    def expected(self, problem: Problem) -> Facts:
        """The reference's numbers; losses as far as float32 determines them.

        Training multiplies differences of rounding, through a deep stack within a few steps, whoever computes. The same
        reference in float32 shows from which step on that matters: there the comparison ends. Raises ValueError where
        so few steps are left that agreement would say nothing.
        """
        reference, rounded = Reference(problem.weights), Reference(problem.weights, "float32")
        batches = problem.batches[: self.steps_of(problem.weights)]
        losses: list[float] = []
        norms: list[float] = []
        for x, labels in batches:
            loss = reference.step(x, labels)
            if abs(rounded.step(x, labels) - loss) > ROUNDING * max(1.0, abs(loss)):
                break
            losses.append(loss)
            norms = norms or _norms(reference.gradients)
        if len(losses) < min(LEAST_STEPS, len(batches)):
            raise ValueError(f"float32 determines only {len(losses)} losses of this network, so nobody can be checked")
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
        _infer(peer, _warm_up(count, least=1))
        start = perf_counter()
        _infer(peer, count)
        return (perf_counter() - start) / count

    def check(self, peer: Peer) -> Facts:
        """The norm of the logits, or of the probabilities, of each of the first batches."""
        peer.reset()
        if not peer.trains:
            return {}
        return {f"{peer.infers} norms": _norms([peer.infer(x) for x, _ in peer.batches[:4]])}

    def expected(self, problem: Problem) -> Facts:
        reference = Reference(problem.weights)
        logits = [reference.predict(x) for x, _ in problem.batches[:4]]
        return {"logits norms": _norms(logits), "probabilities norms": _norms([softmax(each) for each in logits])}


def _infer(peer: Peer, count: int) -> None:
    for x, _ in islice(cycle(peer.batches), count):
        peer.infer(x)
    peer.wait()


class TrainTime(StepTime):
    """Steps as a training makes them: asked for one behind the other, the device waited for at the end of the round."""

    what = "one training step of many; no loss is read between them"

    def __init__(self, name: str, checked_steps: int) -> None:
        self.name = name  # type: ignore[misc]
        self.checked_steps = checked_steps

    def measure(self, peer: Peer, count: int) -> float:
        peer.reset()
        _queue(peer, _warm_up(count, least=4))
        start = perf_counter()
        _queue(peer, count)
        return (perf_counter() - start) / count


def _queue(peer: Peer, count: int) -> None:
    for x, labels in islice(cycle(peer.batches), count):
        peer.queue(x, labels)
    peer.wait()


class NetworkTime(StepTime):
    """A step of a network. Its peers train on from round to round: there are too many batches to memorize."""

    def __init__(self, name: str, checked_steps: int) -> None:
        self.name = name  # type: ignore[misc]
        self.checked_steps = checked_steps

    def steps_of(self, weights: list[Any]) -> int:
        return self.checked_steps

    def expected(self, problem: Problem) -> Facts:
        """bpnet's losses in float64, call by call."""
        from benchmarks.networks import reference_trainer

        trainer = reference_trainer(problem)
        steps = problem.batches[: self.checked_steps]
        return {"losses": [float(trainer.step(x.astype("float64") if x.dtype.kind == "f" else x, y)) for x, y in steps]}


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


class CallTime(Metric):
    """One call of an op, whose results are there when it returns."""

    name = "call"
    what = "one call"

    def measure(self, peer: Peer, count: int) -> float:
        call = peer.call  # type: ignore[attr-defined]
        for _ in range(_warm_up(count, least=2)):
            call()
        start = perf_counter()
        for _ in range(count):
            call()
        return (perf_counter() - start) / count

    def check(self, peer: Peer) -> Facts:
        """Two numbers of every result."""
        return {"fingerprints": op_cases.fingerprints(peer.results())}  # type: ignore[attr-defined]

    def expected(self, problem: Problem) -> Facts:
        """Those of the reference bodies in float64."""
        return {"fingerprints": op_cases.fingerprints(op_cases.reference(problem.names[0]))}


def _norms(arrays: list[Any]) -> list[float]:
    return [float(np.linalg.norm(np.asarray(array, np.float64))) for array in arrays]


TOLERANCE = {"float32": 1e-3, "tf32": 2e-2, "bf16": 1e-1}
"""By the precision of products."""

ROUNDING = TOLERANCE["float32"] / 100
"""How far a loss in float32 may be from that in float64 (relative above 1) to be compared: others round otherwise."""

LEAST_STEPS = 6
"""How many losses must be left to compare."""


def disagreement(found: Facts, expected: Facts, tolerance: float) -> str:
    """Where a peer's numbers leave the reference's by more than `tolerance` (relative above 1), or ''.

    A peer may have more numbers than there are to compare, but not fewer.
    """
    for name, numbers in found.items():
        if len(numbers) < len(expected[name]):
            return f"{len(numbers)} {name}, the reference has {len(expected[name])}"
        for index, (got, want) in enumerate(zip(numbers, expected[name], strict=False)):
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
        NetworkTime("network", 8),
        NetworkTime("curve", 200),
        InputTime(),
        CallTime(),
    )
}
