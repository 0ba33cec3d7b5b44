"""What the benchmarks of a convolutional network, a GPT and an LSTM share: the workload, the peers, the run.

The modules `images`, `gpt` and `lstm` hold a network each, written for every library: `layers` for bpnet, `Ours`,
`Torch`, `Jax`, and `Floor`, the matrix products of a step alone. They run in the harness of all benchmarks.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from math import prod
from typing import Any

import numpy as np

from benchmarks import goals
from benchmarks.harness import Harness
from benchmarks.peers import COMPILERS, PLAIN, PeerSpec
from benchmarks.report import add_options, chosen_peers, finish, settings, table
from benchmarks.workloads import Problem

Array = Any
Shape = tuple[int, ...]

PAUSE = 0.25
"""Seconds behind a turn: threads of a pool that has just worked keep their processors busy for a while, up to 0.2 s."""

SEED = 0


@dataclass(frozen=True)
class Network:
    """The step of a network that a module of this folder holds.

    module : in this folder; count : steps in a round, fewer where they would take too long
    """

    module: str
    name: str
    what: str
    batch: int
    n_batches: int
    metric: str = "network"
    count: int = 30
    sizes: Shape = ()
    precision: str = "float32"

    @property
    def title(self) -> str:
        return f"{self.name}: {self.what}, batch {self.batch}"

    @property
    def flops(self) -> int:
        """Of the matrix products that a step cannot do without."""
        products = import_module(f"benchmarks.{self.module}").products()
        return sum(2 * prod(left) * right[-1] for left, right in products)

    @property
    def bytes_moved(self) -> int:
        """Every parameter and both of Adam's moments, read and written once."""
        return 24 * sum(int(weight.size) for weight in self.make().weights)

    def make(self) -> Problem:
        """bpnet's starting values in the order of its parameters, and the batches."""
        module = import_module(f"benchmarks.{self.module}")
        model = module.layers().initialize(seed=SEED, dtype="float32", backend="numpy")
        weights = {path: np.array(parameter.value) for path, parameter in model.parameters().items()}
        x, labels = (np.stack(each) for each in zip(*module.batches(self.n_batches, self.batch), strict=True))
        return Problem([*weights.values()], x, labels, names=(self.module, *weights))


def reference_trainer(problem: Problem) -> Any:
    """What all must agree with: bpnet in float64, call by call."""
    import bpnet as bp

    module = import_module(f"benchmarks.{problem.names[0]}")
    model = module.layers().initialize(dtype="float64", backend="numpy")
    for parameter, weight in zip(model.parameters().values(), problem.weights, strict=True):
        parameter.value = weight.astype(np.float64)
    return bp.Trainer(model, bp.SoftmaxCrossEntropy(), module.optimizer(), plan=False)


def specs_of(module: str) -> dict[str, PeerSpec]:
    """The peers of a network, by name."""

    def spec(name: str, title: str, kind: str, requires: tuple[str, ...], **more: Any) -> PeerSpec:
        options = {"module": module, "kind": kind} | more.pop("options", {})
        return PeerSpec(name, title, "network:NetworkPeer", requires, options=options, **more)

    found = (
        spec("bpnet", "bpnet", "Ours", ("bpnet",), role="ours"),
        spec("bpnet-plain", "bpnet, NumPy alone", "Ours", ("bpnet",), role="ours", environment=PLAIN),
        spec("torch", "PyTorch, Adam fused", "Torch", ("torch",)),
        spec(
            "torch-compile", "torch.compile, Adam fused", "Torch", ("torch",), options={"compiled": True},
            commands=COMPILERS,
        ),
        spec("jax", "JAX jit", "Jax", ("jax",)),
        spec("floor", "products alone", "Floor", ("numpy",), role="floor"),
    )  # fmt: skip
    return {each.name: each for each in found}


class Ours:
    """A step of bpnet's."""

    def __init__(self, weights: dict[str, Array], module: str) -> None:
        import bpnet as bp

        made = import_module(f"benchmarks.{module}")
        model = made.layers().initialize(dtype="float32", backend="numpy")
        for path, parameter in model.parameters().items():
            parameter.value = weights[path]
        self.trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), made.optimizer())

    def batch(self, x: Array, y: Array) -> Any:
        return x, y

    def step(self, x: Any, y: Any) -> float:
        return float(self.trainer.step(x, y))


class Floor:
    """The matrix products of a step and nothing else, by NumPy into arrays that are there."""

    def __init__(self, weights: dict[str, Array], module: str) -> None:
        rng = np.random.default_rng(0)
        self.products: list[tuple[Array, Array, Array]] = []
        for shapes in import_module(f"benchmarks.{module}").products():
            a, b = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
            self.products.append((a, b, np.empty(np.matmul(a, b).shape, np.float32)))

    def batch(self, x: Array, y: Array) -> Any:
        return x, y

    def step(self, x: Any, y: Any) -> float:
        for a, b, out in self.products:
            np.matmul(a, b, out)
        return 0.0


def both_ways(rows: int, n_in: int, n_out: int, need_dx: bool = True) -> list[tuple[Shape, Shape]]:
    """The shapes of the products of a layer: forward, dW and, where somebody needs it, dx."""
    found: list[tuple[Shape, Shape]] = [((rows, n_in), (n_in, n_out)), ((n_in, rows), (rows, n_out))]
    return [*found, ((rows, n_out), (n_out, n_in))] if need_dx else found


def options_of(module: str, text: str | None) -> argparse.ArgumentParser:
    """What a benchmark of a network may be told."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=(text or "").splitlines()[0])
    known = specs_of(module)
    add_options(parser, known, known)
    parser.set_defaults(seconds=0.3)  # enough for 30 steps of the smallest, so that pools are awake for most of a turn
    return parser


def measure(network: Network, parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    """Run a network's peers, print the table and the goal, and write the report where that is asked for."""
    specs = chosen_peers(parser, arguments, specs_of(network.module))
    options = replace(settings(parser, arguments), pause=PAUSE)
    report = Harness(specs, options).run([network], lambda results: print(table(results), flush=True))
    report["goals"] = [each for each in goals.judge([report]) if each["workload"] == network.name]
    print(goals.table(report["goals"]) + "\n")
    return finish(report, arguments)


def main(network: Network, text: str | None, argv: Sequence[str] | None) -> int:
    parser = options_of(network.module, text)
    return measure(network, parser, parser.parse_args(argv))
