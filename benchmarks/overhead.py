"""What a layer costs beside its arithmetic: `python -m benchmarks.overhead`.

Stacks of 1 to 32 Dense layers of width 4 with ReLU between them, batch 4: nothing to compute, so the time is the
framework's. The slope over the depth is the cost of one layer more, its share of the update included.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.harness import Harness
from benchmarks.report import NAME, NUMBER, add_options, chosen_peers, finish, settings
from benchmarks.workloads import Workload, flowers, near_identity

DEPTHS = (1, 2, 4, 8, 16, 32)


def stack(depth: int, metric: str) -> Workload:
    sizes = (4,) * (depth + 1)
    return Workload(f"{metric}-{depth}", sizes, 4, flowers, metric, count=1000, weights=near_identity)


def slope(depths: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """(seconds per layer, seconds at no layer) of the line of least squares."""
    per_layer, fixed = np.polyfit(depths, seconds, 1)
    return float(per_layer), float(fixed)


def summarize(report: dict[str, Any], depths: Sequence[int]) -> dict[str, dict[str, Any]]:
    """By metric and peer: seconds at every depth, the slope and the intercept, where every depth was measured."""
    found: dict[str, dict[str, Any]] = {}
    for metric in ("step", "inference"):
        found[metric] = {}
        for name in report["peers"]:
            rows = [report["workloads"][f"{metric}-{depth}"]["rows"][name] for depth in depths]
            if any(row["status"] != "ok" for row in rows):
                continue
            seconds = [row["median"] for row in rows]
            per_layer, fixed = slope(depths, seconds) if len(depths) > 1 else (None, None)
            found[metric][name] = {"seconds": seconds, "per_layer": per_layer, "fixed": fixed}
    return found


def table(overhead: dict[str, dict[str, Any]], depths: Sequence[int], peers: dict[str, Any]) -> str:
    lines = []
    for metric, rows in overhead.items():
        heads = "".join(f"{depth:>8}" for depth in depths)
        lines.append(f"{metric}, µs by depth{'':{NAME - len(metric) - 13}}{heads}{'per layer':>{NUMBER}}")
        for name, row in rows.items():
            times = "".join(f"{1e6 * each:8.1f}" for each in row["seconds"])
            per_layer = f"{1e6 * row['per_layer']:.2f}" if row["per_layer"] is not None else "-"
            lines.append(f"  {peers[name]['title']:{NAME - 2}}{times}{per_layer:>{NUMBER}}")
        lines.append("")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__.splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="+", default=list(DEPTHS))
    add_options(parser, ("bpnet", "bpnet-eager"))
    arguments = parser.parse_args(argv)
    depths = sorted(set(arguments.depths))
    if depths[0] < 1:
        parser.error(f"a depth must be at least 1, got {depths[0]}")
    workloads = [stack(depth, metric) for metric in ("step", "inference") for depth in depths]
    harness = Harness(chosen_peers(parser, arguments), settings(parser, arguments))
    report = harness.run(workloads, lambda results: None)
    report["overhead"] = summarize(report, depths)
    print(table(report["overhead"], depths, report["peers"]))
    return finish(report, arguments)


if __name__ == "__main__":
    sys.exit(main())
