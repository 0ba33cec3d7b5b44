"""The goals, and whether they are met: `python -m benchmarks.goals REPORT.json ...` computes it from saved reports."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

Row = dict[str, Any]
BEST = "best peer"


@dataclass(frozen=True)
class Goal:
    """A ratio to stay below.

    workload : in the reports; key : the row's numbers that are compared, "seconds" or "memory"
    against  : the name of a row, or "best peer", the peer whose own median is least
    goal, least : with numba; plain : the least with NumPy alone, where something is asked of it
    """

    workload: str
    against: str
    goal: float
    least: float
    plain: float | None
    key: str = "seconds"


GOALS = (
    *(Goal(name, BEST, 0.40, 0.60, 1.20) for name in ("tiny", "spiral", "digits")),
    *(Goal(name, BEST, 0.75, 0.90, 1.30) for name in ("mnist", "wide")),
    *(Goal(name, "floor", 1.15, 1.30, None) for name in ("mnist", "wide")),
    Goal("cnn", BEST, 0.80, 1.20, None),
    Goal("gpt", BEST, 0.70, 1.00, None),
    Goal("lstm", BEST, 0.80, 1.10, None),
    Goal("one", BEST, 0.50, 0.80, 1.00),
    Goal("many", BEST, 0.80, 1.00, 1.10),
    Goal("job", BEST, 0.50, 0.80, 1.00),
    Goal("job", BEST, 0.50, 0.80, 1.00, "memory"),
    Goal("import", "numpy", 1.30, 1.50, 1.50),
)


def judge(reports: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For every goal the ratios, and "goal", "least" or "no" for what they reach; None where it was not measured.

    The ratio is the median over the rounds of bpnet's number over the other's in the same round.
    """
    found = []
    for goal in GOALS:
        report = next((each for each in reports if goal.workload in each.get("workloads", {})), None)
        rows = {} if report is None else _measured(report["workloads"][goal.workload]["rows"], goal.key)
        against = _against(goal, rows)
        result = {
            "workload": goal.workload, "what": goal.key, "against": None if against is None else rows[against]["title"],
            "goal": goal.goal, "least": goal.least, "plain_least": goal.plain,
            "ratio": None, "reached": None, "plain_ratio": None, "plain_reached": None,
        }  # fmt: skip
        if report is not None and against is not None:
            alike = goal.workload == "import"  # importing bpnet loads no kernels yet
            if "bpnet" in rows and (alike or with_numba(report)):
                result["ratio"] = ratio(rows["bpnet"], rows[against], goal.key)
                result["reached"] = _reached(result["ratio"], goal.goal, goal.least)
            plain = "bpnet" if alike else "bpnet-plain"
            if plain in rows and goal.plain is not None:
                result["plain_ratio"] = ratio(rows[plain], rows[against], goal.key)
                result["plain_reached"] = _reached(result["plain_ratio"], None, goal.plain)
        found.append(result)
    return found


def with_numba(report: dict[str, Any]) -> bool:
    """Whether the row "bpnet" ran with the kernels that numba compiles."""
    return "numba" in report["peers"].get("bpnet", {}).get("versions", {})


def ratio(ours: Row, other: Row, key: str = "seconds") -> float:
    """The median of the rounds' ratios."""
    return float(median(a / b for a, b in zip(ours[key], other[key], strict=True)))


def _measured(rows: dict[str, Row], key: str) -> dict[str, Row]:
    return {name: row for name, row in rows.items() if row["status"] == "ok" and row.get(key)}


def _against(goal: Goal, rows: dict[str, Row]) -> str | None:
    if goal.against != BEST:
        return goal.against if goal.against in rows else None
    peers = [name for name, row in rows.items() if row["role"] == "peer"]
    return min(peers, key=lambda name: median(rows[name][goal.key]), default=None)


def _reached(ratio: float, goal: float | None, least: float) -> str:
    return "goal" if goal is not None and ratio <= goal else "least" if ratio <= least else "no"


def table(results: Sequence[dict[str, Any]]) -> str:
    """The goals as lines of text."""
    head = ("", "against", "ratio", "goal", "least", "reached", "NumPy alone", "least", "reached")
    lines = [head]
    for each in results:
        name = each["workload"] + (", memory" if each["what"] == "memory" else "")
        numbers = (number(each[key]) for key in ("ratio", "goal", "least"))
        plain = (number(each[key]) for key in ("plain_ratio", "plain_least"))
        lines.append(
            (name, each["against"] or "-", *numbers, each["reached"] or "-", *plain, each["plain_reached"] or "-")
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.goals", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("reports", type=Path, nargs="+", metavar="REPORT.json", help="of benchmarks.cpu")
    arguments = parser.parse_args(argv)
    print(table(judge([json.loads(path.read_text(encoding="utf-8")) for path in arguments.reports])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
