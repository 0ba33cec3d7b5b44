"""How time and memory grow with batch, width and depth: `python -m benchmarks.growth`."""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.harness import Harness, Settings
from benchmarks.peers import PeerSpec
from benchmarks.programs import ProgramError, pinned, run_program
from benchmarks.report import NAME, add_options, chosen_peers, finish, settings
from benchmarks.workloads import STEPS, Workload, digits, near_identity

BATCHES = (1, 8, 64, 512, 4096)
WIDTHS = (16, 64, 256, 1024, 2048)
DEPTHS = (1, 2, 4, 8, 16, 32)
LARGE = 3  # of each sweep the largest, whose memory is measured: below, it is lost in what a library takes anyway
PEERS = ("bpnet", "bpnet-plain", "torch", "jax")


def sweeps(quick: bool = False) -> dict[str, list[tuple[int, Workload]]]:
    """By what grows, the values that it takes with a workload each. The others stay: batch 64, width 128, depth 1."""

    def workload(name: str, hidden: tuple[int, ...], batch: int) -> Workload:
        n_batches = max(2, min(64, 8192 // batch))
        weights = partial(near_identity, noise=0.05 / math.sqrt(len(hidden)))
        return Workload(name, (64, *hidden, 10), batch, digits, count=300, n_batches=n_batches, weights=weights)

    batches, widths, depths = (each[:2] if quick else each for each in (BATCHES, WIDTHS, DEPTHS))
    return {
        "batch": [(batch, workload(f"batch {batch}", (128,), batch)) for batch in batches],
        "width": [(width, workload(f"width {width}", (width, width), 64)) for width in widths],
        "depth": [(depth, workload(f"depth {depth}", (128,) * depth, 64)) for depth in depths],
    }


def memory(workload: Workload, specs: Sequence[PeerSpec], options: Settings) -> dict[str, dict[str, Any]]:
    """By peer the bytes that training takes above the batches, or why that is not known."""
    environment, _ = machine.clean_environment(options.threads)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, pinned(machine.usable_cpus()[: options.threads]):
        warm_up, problem = Path(folder, "tiny.npz"), Path(folder, "problem.npz")
        STEPS["tiny"].make().save(warm_up)
        replace(workload, n_batches=2).make().save(problem)
        for spec in specs:
            if spec.missing(options.python_of(spec)):
                continue
            command = [options.python_of(spec), "-m", "benchmarks.memory_child", "--spec", json.dumps(asdict(spec))]
            command += ["--threads", str(options.threads), str(warm_up), str(problem)]
            try:
                printed, _, _ = run_program(command, environment | spec.environment)
                found[spec.name] = {"bytes": int(printed), "error": ""}
            except ProgramError as error:
                found[spec.name] = {"bytes": None, "error": str(error)}
    return found


def summarize(report: dict[str, Any], points: dict[str, list[tuple[int, Workload]]]) -> dict[str, Any]:
    """By what grows and peer: the values, medians and bytes where they are known; and bytes a parameter by width.

    Bytes a parameter are the slope of the line of least squares through bytes over parameters: what does not grow with
    the network is not in it.
    """
    found: dict[str, Any] = {}
    for axis, pairs in points.items():
        found[axis] = {"values": [value for value, _ in pairs], "peers": {}}
        found[axis]["parameters"] = [workload.parameters for _, workload in pairs]
        for name in report["peers"]:
            rows = [report["workloads"][workload.name]["rows"][name] for _, workload in pairs]
            held = [report["memory"].get(workload.name, {}).get(name, {}).get("bytes") for _, workload in pairs]
            found[axis]["peers"][name] = {"seconds": [row.get("median") for row in rows], "bytes": held}
    if len(points["width"]) > 1:
        parameters = found["width"]["parameters"]
        for each in found["width"]["peers"].values():
            known = [(n, held) for n, held in zip(parameters, each["bytes"], strict=True) if held is not None]
            if len(known) > 1:
                each["bytes_per_parameter"] = float(np.polyfit(*zip(*known, strict=True), 1)[0])
    return found


def table(growth: dict[str, Any], peers: dict[str, Any]) -> str:
    lines = []
    for axis, each in growth.items():
        lines.append(f"{axis:{NAME + 2}}" + "".join(f"{value:>10}" for value in each["values"]))
        for name, row in each["peers"].items():
            times = (f"{1e6 * s:.1f}" if s is not None else "-" for s in row["seconds"])
            lines.append(f"  {peers[name]['title'] + ', µs':{NAME}}" + "".join(f"{text:>10}" for text in times))
        for name, row in each["peers"].items():
            held = (f"{b / 2**20:.1f}" if b is not None else "-" for b in row["bytes"])
            slope = f"  {row['bytes_per_parameter']:.1f} bytes a parameter" if "bytes_per_parameter" in row else ""
            lines.append(f"  {peers[name]['title'] + ', MiB':{NAME}}" + "".join(f"{text:>10}" for text in held) + slope)
        lines.append("")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    add_options(parser, PEERS)
    parser.set_defaults(seconds=0.1)
    arguments = parser.parse_args(argv)
    specs = chosen_peers(parser, arguments)
    options = settings(parser, arguments)
    points = sweeps(arguments.quick)
    workloads = [workload for pairs in points.values() for _, workload in pairs]
    report = Harness(specs, options).run(workloads, lambda results: print(results["title"], flush=True))
    large = [workload for pairs in points.values() for _, workload in pairs[-LARGE:]]
    report["memory"] = {workload.name: memory(workload, specs, options) for workload in large}
    report["growth"] = summarize(report, points)
    print(table(report["growth"], report["peers"]))
    return finish(report, arguments)


if __name__ == "__main__":
    sys.exit(main())
