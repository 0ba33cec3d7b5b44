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

PAUSE = 0.02
"""Seconds behind a turn."""

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


def table(workloads: dict[str, Any]) -> str:
    """A line for every op: microseconds of every peer, and bpnet's time over that of the fastest other library."""
    heads = {name: facts["title"] for each in workloads.values() for name, facts in each["rows"].items()}
    lines = [f"{'µs':40}" + "".join(f"{title:>24}" for title in heads.values()) + f"{'ratio':>8}"]
    for workload in workloads.values():
        rows = [workload["rows"][name] for name in heads]
        cells = [f"{1e6 * row['median']:24.1f}" if row["status"] == "ok" else f"{row['status']:>24}" for row in rows]
        best = workload["best_peer"]
        ratio = f"{best['ratio']:8.2f}" if best is not None and best["ratio"] is not None else ""
        lines.append(f"{workload['name']:40}{''.join(cells)}{ratio}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ops", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--op", action="append", metavar="NAME", help="such as 'prelu' or 'prelu, backward' (all)")
    add_options(parser, SPECS, SPECS)
    parser.set_defaults(seconds=0.05)
    arguments = parser.parse_args(argv)
    known = {name: Op(name) for name in op_cases.names()}
    workloads = chosen(parser, "op", arguments.op or list(known), known)
    options = replace(settings(parser, arguments), pause=PAUSE)
    report = Harness(chosen_peers(parser, arguments, SPECS), options).run(workloads, lambda results: None)
    print(table(report["workloads"]) + "\n")
    return finish(report, arguments)


if __name__ == "__main__":
    sys.exit(main())
