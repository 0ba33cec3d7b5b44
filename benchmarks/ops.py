"""Single ops against PyTorch's, forward and backward: `python -m benchmarks.ops`.

Every op has typical sizes of a small network. What is timed is the call that a plan makes, so that what bpnet computes
is compared and not how it is called; PyTorch is measured with images as its users have them and with channels last,
which is how bpnet's lie. All results must agree with the reference bodies in float64.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks import op_cases
from benchmarks.harness import Harness
from benchmarks.peers import PLAIN, PeerSpec
from benchmarks.report import add_options, chosen, chosen_peers, finish, settings
from benchmarks.workloads import Problem

PAUSE = 0.1
"""Seconds behind a turn: threads of a pool that has just worked keep their processors busy for a while."""

SPECS = {
    spec.name: spec
    for spec in (
        PeerSpec("bpnet", "bpnet", "op_calls:OpsOfBpnet", ("bpnet",), "ours"),
        PeerSpec("bpnet-plain", "bpnet, NumPy alone", "op_calls:OpsOfBpnet", ("bpnet",), "ours", environment=PLAIN),
        PeerSpec("torch", "PyTorch", "op_calls:OpsOfTorch", ("torch",), options={"channels_last": False}),
        PeerSpec(
            "torch-last", "PyTorch, channels last", "op_calls:OpsOfTorch", ("torch",), options={"channels_last": True}
        ),
    )
}


@dataclass(frozen=True)
class Op:
    """A workload of one op. count : calls in a round, fewer where they would take too long"""

    name: str
    count: int = 200
    metric: str = "call"
    batch: int = 0
    n_batches: int = 0
    sizes: tuple[int, ...] = ()
    precision: str = "float32"
    flops: int = 0
    bytes_moved: int = 0

    @property
    def title(self) -> str:
        return f"{self.name}: {op_cases.of(self.name)[0].what}"

    def make(self) -> Problem:
        return Problem([], np.zeros(0, np.float32), np.zeros(0, np.int64), names=(self.name,))


def heading(specs: Sequence[PeerSpec]) -> str:
    return f"{'µs':38}" + "".join(f"{spec.title:>24}" for spec in specs) + f"{'bpnet/best':>12}"


def line(workload: dict[str, Any]) -> str:
    """An op: microseconds of every peer, and bpnet's time over that of the fastest other library."""
    rows = workload["rows"].values()
    cells = [f"{1e6 * row['median']:24.1f}" if row["status"] == "ok" else f"{row['status']:>24}" for row in rows]
    best = workload["best_peer"]
    ratio = f"{best['ratio']:12.2f}" if best is not None and best["ratio"] is not None else ""
    return f"{workload['name']:38}{''.join(cells)}{ratio}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ops", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--op", action="append", metavar="NAME", help="such as 'prelu' or 'prelu, backward' (all)")
    add_options(parser, SPECS, SPECS)
    parser.set_defaults(seconds=0.03)
    arguments = parser.parse_args(argv)
    known = {name: Op(name) for name in op_cases.names()}
    workloads = chosen(parser, "op", arguments.op or list(known), known)
    options = replace(settings(parser, arguments), pause=0.0 if arguments.quick else PAUSE)
    specs = chosen_peers(parser, arguments, SPECS)
    print(heading(specs), flush=True)
    report = Harness(specs, options).run(workloads, lambda results: print(line(results), flush=True))
    return finish(report, arguments)


if __name__ == "__main__":
    sys.exit(main())
