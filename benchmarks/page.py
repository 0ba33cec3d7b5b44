"""Writes the tables of docs/performance.md: `python -m benchmarks.page`.

Every number of the page comes from a report in `benchmarks/results`, and stands between two marks of the page. What is
not there yet is named with the command that makes it. A test holds that page and reports agree.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import goals
from benchmarks.goals import number
from benchmarks.machine import ROOT
from benchmarks.workloads import INFERENCES, STEPS

PAGE = ROOT / "docs" / "performance.md"
FIGURE = ROOT / "docs" / "growth.svg"
RESULTS = ROOT / "benchmarks" / "results"

COMMANDS = {
    "steps": f"python -m benchmarks.cpu {' '.join(f'--workload {name}' for name in STEPS)}",
    "inference": f"python -m benchmarks.cpu {' '.join(f'--workload {name}' for name in INFERENCES)}",
    "programs": "python -m benchmarks.cpu --workload job --workload import",
    "cnn": "python -m benchmarks.images",
    "gpt": "python -m benchmarks.gpt",
    "lstm": "python -m benchmarks.lstm",
    "growth": "python -m benchmarks.growth",
    "overhead": "python -m benchmarks.overhead",
    "threads": "python -m benchmarks.threads",
    "ops": "python -m benchmarks.ops",
}
"""By report what makes it, without `--json benchmarks/results/REPORT.json`."""

WHOLE = "cpu.json"  # of `python -m benchmarks.cpu` without a choice of workloads

Reports = dict[str, dict[str, Any]]


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def microseconds(seconds: float) -> str:
    return f"{1e6 * seconds:,.1f}" if seconds < 1e-3 else f"{1e6 * seconds:,.0f}"


def spread(row: dict[str, Any]) -> str:
    """The median, then the fastest and the slowest round."""
    return f"{microseconds(row['median'])} ({microseconds(row['min'])} to {microseconds(row['max'])})"


# --- the tables: each takes the reports that it names ---


def runs(reports: Reports) -> str:
    rows = []
    for report in {report["file"]: report for report in reports.values()}.values():
        about = report["machine"]
        threads = report.get("threads") or report["settings"]["threads"]
        load = f"{about['load'][0]:.1f}" if about["load"] else "-"
        cells = (report["date"][:16].replace("T", " "), (report["commit"] or "-")[:10], about["cpu"])
        rows.append((report["file"], *cells, str(about["cores"]), str(threads), load, report["python"]))
    head = ("report", "date, UTC", "commit", "processor", "cores", "threads", "load before", "Python")
    return grid(head, rows) + "\n\n" + _versions(reports)


def _versions(reports: Reports) -> str:
    found: dict[str, str] = {}
    for report in reports.values():
        for peer, facts in report.get("peers", {}).items():
            if "versions" in facts:
                libraries = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
                found[peer] = f"{libraries}; {facts['blas']}"
    return "\n".join(f"- `{peer}`: {text}" for peer, text in found.items())


def goal_table(reports: Reports) -> str:
    rows = []
    for each in goals.judge(list(reports.values())):
        name = each["workload"] + (", memory" if each["what"] == "memory" else "")
        first = (number(each["ratio"]), number(each["goal"]), number(each["least"]), each["reached"] or "-")
        plain = (number(each["plain_ratio"]), number(each["plain_least"]), each["plain_reached"] or "-")
        rows.append((name, each["against"] or "-", *first, *plain))
    return grid(("", "against", "ratio", "goal", "least", "reached", "NumPy alone", "least", "reached"), rows)


def timings(report: dict[str, Any], names: Sequence[str]) -> str:
    """Peers down, workloads across; below, the least time of the machine."""
    shown = [name for name in names if name in report["workloads"]]
    workloads = [report["workloads"][name] for name in shown]
    rows = []
    for peer, facts in report["peers"].items():
        found = [workload["rows"].get(peer) for workload in workloads]
        if any(row is not None and row["status"] == "ok" for row in found):
            cells = (spread(row) if row is not None and row["status"] == "ok" else "-" for row in found)
            rows.append((facts["title"], *cells))
    bounds = [workload.get("roofline") for workload in workloads]
    if any(bounds):
        rows.append(("least by the roofline", *(microseconds(each["seconds"]) if each else "-" for each in bounds)))
    return grid(("µs", *(workload["title"] for workload in workloads)), rows)


def network_table(*reports: dict[str, Any]) -> str:
    """Peers down, networks across, each from a report of its own."""
    peers = {peer: facts for report in reports for peer, facts in report["peers"].items()}
    workloads = {name: workload for report in reports for name, workload in report["workloads"].items()}
    return timings({"peers": peers, "workloads": workloads}, list(workloads))


def job_table(report: dict[str, Any]) -> str:
    job = report["workloads"]["job"]
    rows = []
    for row in job["rows"].values():
        if row["status"] == "ok":
            seconds = f"{row['median']:.2f} ({row['min']:.2f} to {row['max']:.2f})"
            accuracy = f"{100 * sum(row['accuracy']) / len(row['accuracy']):.1f} %"
            rows.append((row["title"], seconds, f"{row['memory_median'] / 2**20:.0f}", accuracy))
    return f"{job['title']}:\n\n" + grid(("", "seconds, start to end", "MiB above the data", "test images right"), rows)


def import_table(report: dict[str, Any]) -> str:
    found = report["workloads"]["import"]["rows"]
    numpy = found["numpy"]
    rows = []
    for row in found.values():
        if row["status"] == "ok":
            ratio = goals.ratio(row, numpy) if numpy["status"] == "ok" else None
            cells = (f"{1e3 * row['median']:.0f}", f"{1e3 * row['min']:.0f} to {1e3 * row['max']:.0f}", number(ratio))
            rows.append((f"`{row['title']}`", *cells))
    return grid(("", "ms", "spread", "times `import numpy`"), rows)


def growth_table(report: dict[str, Any]) -> str:
    parts = []
    for axis, each in report["growth"].items():
        rows = []
        for name, row in each["peers"].items():
            title = report["peers"][name]["title"]
            rows.append((f"{title}, µs", *(microseconds(s) if s is not None else "-" for s in row["seconds"])))
        for name, row in each["peers"].items():
            title = report["peers"][name]["title"]
            rows.append((f"{title}, MiB", *(f"{b / 2**20:.1f}" if b is not None else "-" for b in row["bytes"])))
        parts.append(grid((axis, *(f"{value:,}" for value in each["values"])), rows))
    if FIGURE.exists():
        parts.append(f"![Time of a step against batch, width and depth]({FIGURE.name})")
    return "\n\n".join(parts)


def parameter_table(report: dict[str, Any]) -> str:
    peers = report["growth"]["width"]["peers"]
    rows = [
        (report["peers"][name]["title"], f"{row['bytes_per_parameter']:.1f}")
        for name, row in peers.items()
        if "bytes_per_parameter" in row
    ]
    return grid(("", "bytes a parameter"), rows)


def overhead_table(report: dict[str, Any]) -> str:
    rows = []
    for metric, peers in report["overhead"].items():
        for name, row in peers.items():
            per_layer, fixed = (f"{1e6 * row[key]:.2f}" for key in ("per_layer", "fixed"))
            rows.append((metric, report["peers"][name]["title"], per_layer, fixed))
    return grid(("", "", "µs for a layer more", "µs without any"), rows)


def thread_table(report: dict[str, Any]) -> str:
    quiet, *others = sorted(report["tables"], key=int)
    head = ["product", "multiplications", "one thread, µs", "all threads, µs", "bpnet, µs", "bpnet / all"]
    head += [f"the same beside {n} other program{'s' * (n != '1')}" for n in others]
    rows = []
    for index, row in enumerate(report["tables"][quiet]):
        name = f"{row['kind']}, {row['batch']} x {row['n_in']} x {row['n_out']}"
        times = (microseconds(row[key]) for key in ("one", "all", "rule"))
        ratios = (
            f"{each[index]['rule'] / each[index]['all']:.2g}" for each in map(report["tables"].get, (quiet, *others))
        )
        rows.append((name, f"{row['multiplications']:,}", *times, *ratios))
    return grid(head, rows)


def op_table(report: dict[str, Any]) -> str:
    """Ops down, peers across, and bpnet's time over that of the fastest other library."""
    peers = {name: facts["title"] for name, facts in report["peers"].items() if facts["status"] == "ok"}
    rows = []
    for workload in report["workloads"].values():
        found = [workload["rows"].get(name) for name in peers]
        cells = [microseconds(row["median"]) if row is not None and row["status"] == "ok" else "-" for row in found]
        best = workload["best_peer"]
        rows.append((workload["title"], *cells, number(best["ratio"] if best is not None else None)))
    return grid(("µs", *peers.values(), "bpnet / fastest"), rows)


TABLES: dict[str, tuple[tuple[str, ...], Callable[..., str]]] = {
    "runs": ((), runs),
    "goals": ((), goal_table),
    "steps": (("steps",), lambda report: timings(report, list(STEPS))),
    "networks": (("cnn", "gpt", "lstm"), network_table),
    "inference": (("inference",), lambda report: timings(report, list(INFERENCES))),
    "job": (("programs",), job_table),
    "import": (("programs",), import_table),
    "growth": (("growth",), growth_table),
    "parameters": (("growth",), parameter_table),
    "overhead": (("overhead",), overhead_table),
    "threads": (("threads",), thread_table),
    "ops": (("ops",), op_table),
}
"""By mark, the reports that a table needs (none named: all that there are) and what makes it."""


def load(folder: Path = RESULTS) -> Reports:
    """The reports that are there, by name. One of the whole command, `cpu.json`, stands for those of its pieces."""
    pieces = dict.fromkeys(("steps", "inference", "programs"), folder / WHOLE)
    paths = {name: folder / f"{name}.json" for name in COMMANDS}
    paths = {name: path if path.exists() else pieces.get(name, path) for name, path in paths.items()}
    read = {path: json.loads(path.read_text(encoding="utf-8")) for path in {*paths.values()} if path.exists()}
    return {name: read[path] | {"file": path.name} for name, path in paths.items() if path in read}


def table(mark: str, reports: Reports) -> str:
    """What belongs between the marks of a table."""
    needs, make = TABLES[mark]
    shown = {"steps": STEPS, "inference": INFERENCES}.get(mark, (mark,) if mark in ("job", "import") else ())
    lacking = [
        name
        for name in needs
        if name not in reports or (shown and not any(each in reports[name]["workloads"] for each in shown))
    ]
    if lacking:
        command = f"{COMMANDS[lacking[0]]} --json benchmarks/results/{lacking[0]}.json"
        return f"Not measured yet: `{command}`"
    return make(*(reports[name] for name in needs)) if needs else make(reports)


def render(text: str, reports: Reports) -> str:
    """The page with its tables made anew. KeyError for a mark that names no table."""
    return re.sub(
        r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{table(match[2], reports)}\n{match[3]}",
        text,
        flags=re.DOTALL,
    )


def draw(report: dict[str, Any], path: Path) -> None:
    """The growth of a step's time, one field for each of batch, width and depth, both axes logarithmic."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "bpnet", "svg.fonttype": "none", "font.size": 9}
    from matplotlib import pyplot

    figure, fields = pyplot.subplots(1, len(report["growth"]), figsize=(9, 3.2), sharey=True, layout="constrained")
    for field, (axis, each) in zip(fields, report["growth"].items(), strict=True):
        for name, row in each["peers"].items():
            if None not in row["seconds"]:
                times = [1e6 * seconds for seconds in row["seconds"]]
                field.loglog(each["values"], times, marker="o", markersize=3, label=report["peers"][name]["title"])
        field.set_xlabel(axis)
        field.grid(alpha=0.3)
    fields[0].set_ylabel("µs a step")
    fields[0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where the page is not what it should be")
    arguments = parser.parse_args(argv)
    reports = load()
    before = PAGE.read_text(encoding="utf-8")
    if arguments.check:
        return int(render(before, reports) != before)
    if "growth" in reports:
        draw(reports["growth"], FIGURE)
    PAGE.write_text(render(before, reports), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
