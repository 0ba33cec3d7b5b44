"""The report as text, and the options that the benchmarks share."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.harness import SPINNING, Settings, failures
from benchmarks.peers import PEERS, PeerSpec

NAME, NUMBER = 26, 12


def table(results: dict[str, Any]) -> str:
    """One workload: microseconds (or milliseconds), spread, and bpnet's time over each peer's."""
    rows = results["rows"].values()
    unit, scale = ("ms", 1e3) if max((row.get("median", 0) for row in rows), default=0) > 0.5 else ("µs", 1e6)
    what = f"{results['title']}: {results['what']}; {results['rounds']} rounds"
    memory = any("memory_median" in row for row in rows)
    head = f"  {'':{NAME}}{unit:>{NUMBER}}{'min .. max':>{2 * NUMBER}}{'bpnet/it':>{NUMBER}}"
    lines = [what, head + (f"{'MiB above data':>{NUMBER + 4}}" if memory else "")]
    for row in rows:
        head = f"  {row['title']:{NAME}}"
        if row["status"] != "ok":
            lines.append(f"{head}  {row['status']}: {_last_line(row['error'])}")
            continue
        low, middle, high = (f"{scale * row[key]:.1f}" for key in ("min", "median", "max"))
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else "-"
        more = f"{row['memory_median'] / 2**20:>{NUMBER + 4}.0f}" if memory else ""
        lines.append(f"{head}{middle:>{NUMBER}}{f'{low} .. {high}':>{2 * NUMBER}}{ratio:>{NUMBER}}{more}")
    best, bound = results["best_peer"], results.get("roofline")
    if bound is not None:
        rates = f"{bound['flops_per_second'] / 1e9:.0f} GFLOP/s and {bound['bytes_per_second'] / 1e9:.0f} GB/s"
        lines.append(f"  {'least, at ' + rates:{NAME}}  {scale * bound['seconds']:.1f}")
    if best is not None and best["ratio"] is not None:
        lines.append(f"  bpnet takes {best['ratio']:.2f} of the time of the best peer, {best['title']}")
    return "\n".join(lines) + "\n"


def heading(report: dict[str, Any]) -> str:
    """The machine, the versions, the BLAS: without them no number means anything."""
    about = report["machine"]
    memory = f"{about['memory'] / 2**30:.0f} GiB" if about["memory"] else "memory unknown"
    lines = [
        f"{about['cpu']}, {about['cores']} cores, {memory}; {report['settings']['threads']} threads for every peer",
        f"Python {report['python']}, commit {report['commit']}, {report['date']}",
    ]
    for name, facts in report["peers"].items():
        if "versions" in facts:
            versions = ", ".join(f"{library} {version}" for library, version in facts["versions"].items())
            lines.append(f"{name}: {versions}; {facts['blas']}")
    if report["removed_variables"]:
        lines.append(f"removed from the children's environment: {', '.join(report['removed_variables'])}")
    return "\n".join(lines)


def remarks(report: dict[str, Any]) -> str:
    """What a reader must know before trusting the numbers: errors in full, a busy machine, spinning threads."""
    lines = []
    load = report["machine"]["load"]
    if load is not None and load[0] > 0.3:
        lines.append(f"the machine was not idle when this began: load {load[0]:.2f}")
    for name, facts in report["peers"].items():
        if facts.get("idle_cpu", 0) > SPINNING:
            lines.append(f"{name} used {facts['idle_cpu']:.2f} of a core while it was idle: other rows suffer from it")
    for name, error in _errors(report).items():
        lines.append(f"{name}:\n{error}")
    return "\n".join(lines)


def _errors(report: dict[str, Any]) -> dict[str, str]:
    found = {name: facts["error"] for name, facts in report["peers"].items() if facts["status"] == "failed"}
    for workload in report["workloads"].values():
        for name, row in workload["rows"].items():
            if row["status"] in ("failed", "disagrees") and name not in found:
                found[f"{name} on {workload['name']}"] = row["error"]
    return found


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else ""


def add_options(parser: argparse.ArgumentParser, peers: Iterable[str], known: Iterable[str] = PEERS) -> None:
    """The options of every benchmark that runs the harness. peers : by default, of those that are known."""
    parser.add_argument("--peers", type=_names, default=list(peers), help=f"of {', '.join(known)}; by commas")
    add_run_options(parser)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options of how to run."""
    parser.add_argument(
        "--python", type=_elsewhere, action="append", default=[], metavar="PEER=PATH",
        help="the interpreter in which a peer is installed, where that is not this one; may be repeated",
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=Settings.seconds, help="of a peer's turn in a round, at most")
    parser.add_argument("--rounds", type=_positive, help="at least 7 for numbers to be quoted (default 7)")
    parser.add_argument("--count", type=_positive, help="units of work in a round, in place of the workload's own")
    parser.add_argument("--threads", type=_positive, default=len(machine.usable_cpus()), help="for every peer")
    parser.add_argument("--seed", type=int, default=0, help="of the orders in which peers take turns")
    parser.add_argument("--quick", action="store_true", help="3 short rounds: shows that it runs, measures nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there too")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _elsewhere(text: str) -> tuple[str, str]:
    peer, separator, path = text.partition("=")
    if not separator or not shutil.which(path):
        raise argparse.ArgumentTypeError(f"must be PEER=PATH of an interpreter, got {text!r}")
    return peer, path


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def chosen(parser: argparse.ArgumentParser, what: str, names: list[str], known: dict[str, Any]) -> list[Any]:
    """The named values; a usage error that lists what is known for a name that is not."""
    for name in names:
        if name not in known:
            parser.error(f"unknown {what} {name!r}; known are {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)]


def chosen_peers(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, known: dict[str, PeerSpec] = PEERS
) -> list[PeerSpec]:
    return chosen(parser, "peer", arguments.peers, known)


def settings(parser: argparse.ArgumentParser, arguments: argparse.Namespace, gpu: bool = False) -> Settings:
    if arguments.json is not None and not arguments.json.parent.is_dir():
        parser.error(f"--json: there is no folder {arguments.json.parent}")
    rounds = arguments.rounds or (3 if arguments.quick else Settings.rounds)
    scale = 0.05 if arguments.quick else 1.0
    return Settings(
        rounds=rounds,
        scale=scale,
        count=arguments.count,
        seconds=arguments.seconds,
        threads=arguments.threads,
        seed=arguments.seed,
        pythons=dict(arguments.python),
        gpu=gpu,
    )


def without_paths(value: Any) -> Any:
    """A report whose absolute paths are cut to their last two parts: where a machine keeps its files is its own."""
    if isinstance(value, dict):
        return {name: without_paths(each) for name, each in value.items()}
    if isinstance(value, list):
        return [without_paths(each) for each in value]
    return (
        re.sub(r"(?<![\w.])/(?:[^/\s'\"]+/)+(?=[^/\s'\"]+/[^/\s'\"]+)", "", value) if isinstance(value, str) else value
    )


def finish(report: dict[str, Any], arguments: argparse.Namespace) -> int:
    """Print heading and remarks, write the JSON file, and return the exit code: 1 when something went wrong."""
    report["arguments"] = {name: str(value) for name, value in vars(arguments).items()}
    print(heading(report))
    if text := remarks(report):
        print(text)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(without_paths(report), indent=1) + "\n", encoding="utf-8")
    bad = failures(report)
    for line in bad:
        print(f"error: {line}", file=sys.stderr)
    return 1 if bad else 0
