"""This tree against another revision of it: `python -m benchmarks.revision --against REV`.

The same steps in both, each tree in processes of its own that take turns in every round. This tree runs twice: how far
its second copy is from the first is what the machine's noise amounts to, and no smaller difference means anything.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks import machine
from benchmarks.harness import Harness, Settings, failures
from benchmarks.peers import PeerSpec
from benchmarks.report import NAME, NUMBER, add_run_options, chosen, finish, settings
from benchmarks.workloads import STEPS, Workload

THIS, OTHER, AGAIN = "bpnet", "revision", "again"
PARTS = ("bpnet", "backends")

# name: (workload, whether steps are planned)
CASES: dict[str, tuple[Workload, bool]] = {
    "step-tiny": (replace(STEPS["tiny"], name="step-tiny"), True),
    "step-digits": (replace(STEPS["digits"], name="step-digits"), True),
    "eager-tiny": (replace(STEPS["tiny"], name="eager-tiny", count=500), False),
    "eager-digits": (replace(STEPS["digits"], name="eager-digits", count=300), False),
    "fit-tiny": (replace(STEPS["tiny"], name="fit-tiny", metric="fit"), True),
    "fit-digits": (replace(STEPS["digits"], name="fit-digits", metric="fit"), True),
}


def resolve(revision: str) -> str:
    """The full name of a commit; ValueError where git knows none."""
    found = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"],
        cwd=machine.ROOT,
        capture_output=True,
        text=True,
    )
    if found.returncode:
        raise ValueError(f"git knows no revision {revision!r} in {machine.ROOT}")
    return found.stdout.strip()


@contextmanager
def trees(revision: str) -> Iterator[dict[str, Path]]:
    """Copies of this tree as it lies there and of a revision, each with these benchmarks, by the peer's name."""
    with tempfile.TemporaryDirectory() as folder:
        places = {THIS: Path(folder) / "this", OTHER: Path(folder) / "other"}
        archive = subprocess.run(
            ["git", "archive", "--format=tar", revision, *PARTS], cwd=machine.ROOT, capture_output=True, check=True
        )
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(places[OTHER], filter="data")
        for part in PARTS:
            _copy(part, places[THIS])
        for place in places.values():
            _copy("benchmarks", place)
        yield places | {AGAIN: places[THIS]}


def _copy(part: str, place: Path) -> None:
    shutil.copytree(machine.ROOT / part, place / part, ignore=shutil.ignore_patterns("__pycache__", "results"))


def peers(places: dict[str, Path], revision: str, plan: bool) -> list[PeerSpec]:
    titles = {THIS: "this tree", OTHER: f"revision {revision[:10]}", AGAIN: "this tree, again"}
    return [
        PeerSpec(name, titles[name], "ours:Bpnet", (), "ours", {"plan": plan}, folder=str(places[name]))
        for name in (THIS, OTHER, AGAIN)
    ]


def measure(places: dict[str, Path], revision: str, names: list[str], run: Settings, starts: int) -> dict[str, Any]:
    """A harness's report over all cases; its rounds are those of `starts` times new processes."""
    report: dict[str, Any] = {}
    for start in range(starts):
        for plan in (True, False):
            workloads = [CASES[name][0] for name in names if CASES[name][1] is plan]
            if not workloads:
                continue
            specs = peers(places, revision, plan)
            found = Harness(specs, replace(run, seed=run.seed + start)).run(workloads, lambda results: None)
            _check_sources(found, places)
            if not report:
                report = found
                continue
            for name, facts in found["peers"].items():
                if facts["status"] != "ok":
                    report["peers"][name] = facts
            for name, results in found["workloads"].items():
                _pool(report["workloads"], name, results)
            report["load_after"] = found["load_after"]
    return report


def _check_sources(report: dict[str, Any], places: dict[str, Path]) -> None:
    """Mark a peer as failed whose code came from elsewhere than from its tree, such as an installed package."""
    for name, facts in report["peers"].items():
        tree = places[name].resolve()
        foreign = [path for path in facts.get("sources", ()) if tree not in Path(path).resolve().parents]
        if facts["status"] == "ok" and foreign:
            facts |= {"status": "failed", "error": f"its code was read from {foreign[0]}, not from {tree}"}


def _pool(known: dict[str, Any], name: str, results: dict[str, Any]) -> None:
    """Add a start's rounds to those before."""
    if name not in known:
        known[name] = results
        return
    for peer, row in known[name]["rows"].items():
        more = results["rows"][peer]
        if more["status"] != "ok" or row["status"] != "ok":
            row |= {key: more[key] for key in ("status", "error")} if row["status"] == "ok" else {}
            continue
        row["seconds"] += more["seconds"]
        row["ratios"] += more["ratios"]
    known[name]["rounds"] += results["rounds"]


def compare(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By case: this tree's time over the revision's, its quartiles, and the same over this tree's second copy."""
    found: dict[str, dict[str, Any]] = {}
    for name, results in report["workloads"].items():
        rows = results["rows"]
        if any(rows[peer]["status"] != "ok" or report["peers"][peer]["status"] != "ok" for peer in rows):
            continue
        found[name] = {
            "microseconds": {peer: 1e6 * median(rows[peer]["seconds"]) for peer in (THIS, OTHER, AGAIN)},
            "fastest": {peer: 1e6 * min(rows[peer]["seconds"]) for peer in (THIS, OTHER, AGAIN)},
            "ratio": median(rows[OTHER]["ratios"]),
            "quartiles": _quartiles(rows[OTHER]["ratios"]),
            "noise": median(rows[AGAIN]["ratios"]),
            "noise_quartiles": _quartiles(rows[AGAIN]["ratios"]),
            "rounds": len(rows[OTHER]["ratios"]),
        }
    return found


def _quartiles(ratios: list[float]) -> list[float]:
    if len(ratios) < 2:
        return [ratios[0], ratios[0]]
    low, _, high = quantiles(ratios, n=4, method="inclusive")
    return [low, high]


def table(found: dict[str, dict[str, Any]], titles: dict[str, str]) -> str:
    pairs = (("this/revision", "ratio", "quartiles", OTHER), ("this/this", "noise", "noise_quartiles", AGAIN))
    heads = "".join(f"{head:>{NUMBER + 2}}{'quartiles':>16}{'fastest':>9}" for head, *_ in pairs)
    lines = [f"{'one step, ' + titles[OTHER]:{NAME}}{'µs':>8}{heads}"]
    for name, row in found.items():
        line = f"  {name:{NAME - 2}}{row['microseconds'][THIS]:>8.1f}"
        for _, ratio, spread, peer in pairs:
            quartiles = " .. ".join(f"{each:.3f}" for each in row[spread])
            fastest = row["fastest"][THIS] / row["fastest"][peer]
            line += f"{row[ratio]:>{NUMBER + 2}.3f}{quartiles:>16}{fastest:>9.3f}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def slower(found: dict[str, dict[str, Any]], limit: float) -> list[str]:
    """The cases in which this tree takes more than `limit` of the revision's time, a line each."""
    return [
        f"{name}: {row['ratio']:.3f} of the revision's time, more than {limit:g}"
        for name, row in found.items()
        if row["ratio"] > limit
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.revision", description=__doc__.splitlines()[0])
    parser.add_argument("--against", required=True, metavar="REV", help="a commit, tag or branch of this repository")
    parser.add_argument("--case", action="append", help=f"of {', '.join(CASES)}; may be repeated (default all)")
    parser.add_argument("--starts", type=int, default=3, help="how often all processes are started anew (default 3)")
    parser.add_argument("--limit", type=float, metavar="X", help="exit with 1 where this tree takes more than X times")
    add_run_options(parser)
    arguments = parser.parse_args(argv)
    names: list[str] = arguments.case or list(CASES)
    chosen(parser, "case", names, CASES)
    if arguments.starts < 1:
        parser.error(f"--starts must be at least 1, got {arguments.starts}")
    try:
        revision = resolve(arguments.against)
    except ValueError as error:
        parser.error(f"--against: {error}")
    with trees(revision) as places:
        starts = 1 if arguments.quick else arguments.starts
        report = measure(places, revision, names, settings(parser, arguments), starts)
    report["against"] = revision
    report["comparison"] = compare(report)
    print(table(report["comparison"], {name: facts["title"] for name, facts in report["peers"].items()}))
    code = finish(report, arguments)
    late = [] if arguments.limit is None else slower(report["comparison"], arguments.limit)
    for line in late:
        print(f"slower: {line}", file=sys.stderr)
    return code or (1 if late and not failures(report) else 0)


if __name__ == "__main__":
    sys.exit(main())
