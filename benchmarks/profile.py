"""Where a planned step or inference spends its time, call by call: `python -m benchmarks.profile --workload mnist`.

A plan joins its compiled bodies into one call. Here they stay apart, so that each can be timed while the plan is
replayed on rotating batches; that adds about 0.3 µs to each. A row is a median over the replays, with the rate at which
a product is computed, or else at which the bytes of a call's arrays come and go, each counted once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from time import perf_counter
from typing import Any
from unittest.mock import patch

from benchmarks import machine
from benchmarks.peers.ours import Bpnet
from benchmarks.workloads import WORKLOADS, Workload
from bpnet.plan import Plan
from bpnet_numpy.fused.instruction import absorbed


@dataclass(frozen=True)
class Row:
    """One call: what it is, its median seconds, and its operations or, where it is no product, its bytes."""

    name: str
    seconds: float
    flops: int = 0
    bytes: int = 0

    @property
    def rate(self) -> str:
        """GFLOP/s of a product, GB/s of anything else that touches more than a page."""
        if self.flops:
            return f"{self.flops / self.seconds / 1e9:.0f} GFLOP/s"
        return f"{self.bytes / self.seconds / 1e9:.0f} GB/s" if self.bytes > 4096 else ""


def describe(call: Any) -> tuple[str, int, int]:
    """(name, operations, bytes) of a prepared call: a compiled body or a call of NumPy or its BLAS."""
    if hasattr(call, "words"):
        from bpnet_numpy.fused.machine import named

        name, (m, n, k) = named(call.words)
        return (name, 2 * m * n * k, 0) if m else (name, 0, sum(each.nbytes for each in call.arrays))
    if hasattr(call, "operations"):  # the BLAS's own
        return call.name, call.operations, 0
    function = getattr(call, "func", call)
    name = getattr(function, "__name__", type(function).__name__).lstrip("_")
    arrays = [each for each in getattr(call, "args", ()) if hasattr(each, "nbytes")]
    if name in ("dot", "matmul", "on_one_thread") and len(arrays) == 3 and arrays[0].ndim == arrays[1].ndim == 2:
        (m, k), n = arrays[0].shape, arrays[1].shape[1]
        return f"dot {m}x{k}x{n}", 2 * m * n * k, 0
    return name, 0, sum(each.nbytes for each in arrays)


def apart(calls: list[Any]) -> list[Any]:
    """The calls, each by itself; what one of them does for the next stays with it."""
    found: list[Any] = []
    for cls, group in groupby(calls, type):
        neighbours = list(group)
        found += absorbed(neighbours) if hasattr(cls, "join") else neighbours
    return found


def planned(workload: Workload, threads: int) -> tuple[Plan, list[tuple[Any, ...]]]:
    """The workload's plan with its calls apart, and batches of inputs for it."""
    with patch("bpnet.plan.joined", apart):
        peer = Bpnet(threads)
        problem = workload.make()
        peer.weights = problem.weights
        peer.reset()
        peer.load(problem)
        for i in range(4):
            x, labels = peer.batches[i % len(peer.batches)]
            if workload.metric == "inference":
                peer.infer(x)
            else:
                peer.step(x, labels)
    if workload.metric == "inference":
        free = [plan for shape in peer.model._inference.shapes.values() for plan in shape.free]
        if not free:
            raise ValueError(f"the inference of {workload.title} is not planned")
        plan = max(free, key=lambda each: len(each._inputs[0]))  # many samples go through in blocks
        return plan, [(x[: len(plan._inputs[0])],) for x, _ in peer.batches]
    (plan,) = peer.trainer._planner.plans().values()
    return plan, list(peer.batches)


def profile(plan: Plan, batches: Sequence[tuple[Any, ...]], replays: int) -> list[Row]:
    """One row for copying the inputs, one for each call, one for copying the result."""
    calls: list[Callable[[], Any]] = [lambda: None, *plan._calls, plan._copy_result]
    times: list[list[float]] = [[] for _ in calls]
    for replay in range(replays):
        batch = batches[replay % len(batches)]
        calls[0] = lambda batch=batch: plan.bring(*batch)  # type: ignore[misc]
        for each, call in zip(times, calls, strict=True):
            start = perf_counter()
            call()
            each.append(perf_counter() - start)
    own = [("inputs", 0, sum(x.nbytes for x in batches[0])), *map(describe, plan._calls), ("result", 0, 0)]
    return [Row(name, median(each), *work) for (name, *work), each in zip(own, times, strict=True)]


def table(title: str, rows: Sequence[Row]) -> str:
    """The rows in the order of the calls, and their sum."""
    total = sum(row.seconds for row in rows)
    lines = [f"{title}: {1e6 * total:.1f} µs"]
    lines += [f"  {row.name:34}{1e6 * row.seconds:10.1f} µs{row.seconds / total:7.1%}  {row.rate}" for row in rows]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__.splitlines()[0])
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS), help="may be repeated (default all)")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each, about")
    arguments = parser.parse_args(argv)
    for name in arguments.workload or WORKLOADS:
        plan, batches = planned(WORKLOADS[name], len(machine.usable_cpus()))
        start = perf_counter()
        profile(plan, batches, 2)
        once = (perf_counter() - start) / 2
        print(table(WORKLOADS[name].title, profile(plan, batches, max(5, min(2000, round(arguments.seconds / once))))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
