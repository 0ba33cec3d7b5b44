"""Where the time of a planned step goes: `python -m benchmarks.profile_networks --workload gpt`.

The plan of a training step is bound once more, call by call, and its calls are made in order with a clock between them;
of every call the median over the rounds counts. Beside it stand the arithmetic that its kernel declares, and the bytes
that it must move at least, as rates. The sum is what the parts take; `step` is the whole step as the trainer makes it,
where neighbouring calls are one. Which parts a kernel consists of, `--parts` shows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from statistics import median
from time import perf_counter_ns
from typing import Any

import numpy as np

import bpnet as bp
from bpnet.ops.costs import Cost, kernel_cost
from bpnet.plan import Plan
from bpnet.trace import Value, flat, mapped

Array = Any
Made = tuple[bp.Trainer, Array, Array]


def made(module: str) -> Made:
    """The trainer and a batch of the benchmark that `module` is."""
    benchmark = import_module(f"benchmarks.{module}")
    model = benchmark.layers().initialize(seed=0, dtype="float32")
    trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), benchmark.optimizer())
    return trainer, *benchmark.batches(1, benchmark.BATCH)[0]


WORKLOADS = {"gpt": "gpt", "cnn": "images", "lstm": "lstm"}


class Part:
    """One recorded kernel call, bound on the plan's buffers once more."""

    def __init__(self, plan: Plan, index: int) -> None:
        step = plan.steps[index]
        args = mapped(lambda arg: plan._array(arg) if isinstance(arg, Value) else arg, step.args)
        out = mapped(lambda each: None if each is None else plan._array(each), step.out)
        variant = step.kernel.choose(args)
        self.name, self.variant = step.kernel.name, variant.name
        self.cost: Cost = kernel_cost(step.kernel, args, out)
        self.shapes = " ".join("x".join(map(str, each.shape)) for each in flat(step.args) if isinstance(each, Value))
        whole = [partial(_write, variant.body, out, args)]
        self.calls = list(variant.bind(out, *args)) if variant.bind is not None else whole
        self.times: list[list[int]] = [[] for _ in self.calls]

    def run(self) -> None:
        """Make the calls, and note what each takes."""
        for call, times in zip(self.calls, self.times, strict=True):
            start = perf_counter_ns()
            call()
            times.append(perf_counter_ns() - start)

    @property
    def seconds(self) -> float:
        """The sum of its calls' medians."""
        return sum(median(times) for times in self.times) * 1e-9


def _write(body: Callable[..., Any], out: Any, args: tuple[Any, ...]) -> None:
    for target, each in zip(flat(out), flat(body(*args)), strict=True):
        if target is not None:
            target[...] = each


def parts_of(trainer: bp.Trainer, x: Array, y: Array) -> list[Part]:
    """The parts of the plan that the trainer makes of its steps on batches like this one."""
    for _ in range(4):
        trainer.step(x, y)
    planner = trainer._planner
    plans = [] if planner is None else [each.plan for each in planner._kinds.values() if each.plan is not None]
    if not plans:
        raise RuntimeError("the step has no plan")
    plan = plans[0]
    return [Part(plan, k) for k, step in enumerate(plan.steps) if not _is_view(plan, step)]


def _is_view(plan: Plan, step: Any) -> bool:
    """Whether a view was made once and for all."""
    if not (step.kernel.view and isinstance(step.out, Value) and isinstance(step.args[0], Value)):
        return False
    return bool(np.shares_memory(plan._array(step.out), plan._array(step.args[0])))


def described(call: Any) -> str:
    """What a prepared call is: the function that it calls, or the body of a compiled program."""
    if hasattr(call, "words"):
        from bpnet_numpy.fused.machine import _addresses

        return next(name for (name, _), address in _addresses.items() if address == call.words[0])
    return str(getattr(getattr(call, "func", call), "__name__", type(call).__name__))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile_networks", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--workload", choices=list(WORKLOADS), default="gpt")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--parts", action="store_true", help="every call, and not kernels alike as one")
    arguments = parser.parse_args(argv)
    trainer, x, y = made(WORKLOADS[arguments.workload])
    parts = parts_of(trainer, x, y)
    whole = []
    for _ in range(max(1, arguments.rounds)):
        for part in parts:
            part.run()
        start = perf_counter_ns()
        float(trainer.step(x, y))
        whole.append(perf_counter_ns() - start)
    total = sum(part.seconds for part in parts)
    groups: dict[Any, list[Part]] = {}
    for index, part in enumerate(parts):
        groups.setdefault(index if arguments.parts else (part.name, part.shapes), []).append(part)
    print(f"step {median(whole) * 1e-6:.3f} ms; its {len(parts)} kernel calls one by one {total * 1e3:.3f} ms")
    print(
        f"{'µs':>9}{'%':>6}{'times':>6}{'GFLOP/s':>9}{'GB/s':>7}  kernel, its variant and the shapes of its arguments"
    )
    for group in sorted(groups.values(), key=lambda each: -sum(part.seconds for part in each)):
        seconds, first = sum(part.seconds for part in group), group[0]
        flops, moved = (sum(getattr(part.cost, kind) for part in group) for kind in ("flops", "bytes"))
        rates = f"{flops / seconds * 1e-9:9.1f}{moved / seconds * 1e-9:7.1f}"
        share = f"{seconds * 1e6:9.1f}{100 * seconds / total:6.1f}{len(group):6}"
        print(f"{share}{rates}  {first.name} ({first.variant}) {first.shapes}")
        if arguments.parts:
            calls = zip(first.calls, first.times, strict=True)
            print("".join(f"{median(times) * 1e-3:24.1f} {described(call)}\n" for call, times in calls), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
