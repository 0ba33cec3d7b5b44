"""The harness: one process a peer, one of them computing at a time, rounds in a new order each time."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

from benchmarks import machine
from benchmarks.metrics import METRICS, TOLERANCE, disagreement
from benchmarks.peers import PeerSpec
from benchmarks.roofline import least_seconds
from benchmarks.workloads import Workload

Row = dict[str, Any]
SPINNING = 0.05  # of a core while idle, from which on it is worth a remark


class ChildError(RuntimeError):
    """A peer's process failed; the text is its traceback, or the end of what it wrote."""


@dataclass(frozen=True)
class Settings:
    """How to run.

    rounds  : of every workload; scale : of each workload's count; count : in its place, for every peer
    seconds : a turn at most; a peer that would take longer does fewer units of work, at least 4
    threads : for every peer; pause : seconds after every turn, so that a pool that spins for a moment does so alone
    seed    : of the orders of peers; timeout : seconds for one answer of a child
    pythons : other interpreters, by the name of the peer that lives there; gpu : whether children may see GPUs
    """

    rounds: int = 7
    scale: float = 1.0
    count: int | None = None
    seconds: float = 0.15
    threads: int = 1
    pause: float = 0.05
    seed: int = 0
    timeout: float = 300.0
    pythons: dict[str, str] = field(default_factory=dict)
    gpu: bool = False

    def python_of(self, spec: PeerSpec) -> str:
        """The interpreter of a peer; "torch" stands for "torch-fused" too."""
        return self.pythons.get(spec.name) or self.pythons.get(spec.name.partition("-")[0]) or sys.executable


class Child:
    """A peer's process, in the interpreter that the settings give it; one that takes too long to answer is ended."""

    def __init__(self, spec: PeerSpec, settings: Settings, environment: dict[str, str]) -> None:
        self.spec = spec
        self.timeout = settings.timeout
        self.errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  (closed in __exit__)
        cpus = machine.usable_cpus()
        command = [settings.python_of(spec), "-m", "benchmarks.child", "--spec", json.dumps(asdict(spec))]
        command += ["--threads", str(settings.threads), "--cpus", json.dumps(cpus[: settings.threads])]
        if spec.folder:
            environment = environment | {"PYTHONPATH": machine.python_path(Path(spec.folder))}
        self.process = subprocess.Popen(
            command,
            cwd=spec.folder or machine.ROOT,
            env=environment | spec.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; ChildError when there is none."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        timer = threading.Timer(self.timeout, self.process.kill)
        timer.start()
        try:
            self.process.stdin.write(json.dumps({"do": do} | arguments) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        answer = json.loads(line) if line else {"error": self._last_words(do)}
        if "error" in answer:
            raise ChildError(answer["error"].strip())
        found: dict[str, Any] = answer
        return found

    def _last_words(self, do: str) -> str:
        code = self.process.wait()
        self.errors.seek(0)
        end = "\n".join(self.errors.read().splitlines()[-20:])
        return f"{end}\nthe process ended with code {code} during {do!r} (limit {self.timeout:g} s)"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.errors):
            assert pipe is not None
            with suppress(OSError):  # of what could not be flushed any more
                pipe.close()


class Harness:
    """Runs workloads on peers and gathers a report that JSON can hold."""

    def __init__(self, specs: Sequence[PeerSpec], settings: Settings) -> None:
        self.specs = list(specs)
        self.settings = settings
        self.order = random.Random(settings.seed)
        self.children: dict[str, Child] = {}
        self.facts: dict[str, Row] = {}

    def run(self, workloads: Sequence[Workload], show: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Measure every workload, `show` each one's results when they are there, and return the whole report."""
        environment, removed = machine.clean_environment(self.settings.threads, self.settings.gpu)
        report: dict[str, Any] = machine.report_head(self.settings.threads) | {
            "settings": asdict(self.settings),
            "removed_variables": removed,
            "peers": self.facts,
            "workloads": {},
        }
        with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
            for spec in self.specs:
                self._start(spec, environment, stack)
            for workload in workloads:
                results = self._run_workload(workload, Path(folder) / "problem.npz")
                report["workloads"][workload.name] = results
                show(results)
            for name, child in self.children.items():
                with suppress(ChildError):  # its rows say so
                    self.facts[name] |= child.ask("idle")
        report["load_after"] = machine.describe()["load"]
        return report

    def _start(self, spec: PeerSpec, environment: dict[str, str], stack: ExitStack) -> None:
        facts = self.facts[spec.name] = {"title": spec.title, "role": spec.role, "status": "ok", "error": ""}
        if missing := spec.missing(self.settings.python_of(spec)):
            facts |= {"status": "not installed", "error": f"needs {', '.join(missing)}"}
            return
        child = Child(spec, self.settings, environment)
        self.children[spec.name] = stack.enter_context(child)
        try:
            facts |= child.ask("describe")
        except ChildError as error:
            facts |= {"status": "failed", "error": str(error)}

    def _run_workload(self, workload: Workload, path: Path) -> dict[str, Any]:
        metric = METRICS[workload.metric]
        problem = workload.make()
        problem.save(path)
        expected = metric.expected(problem)
        rows: dict[str, Row] = {}
        for spec in self.specs:
            facts = self.facts[spec.name]
            row = rows[spec.name] = {"title": spec.title, "role": spec.role, "seconds": []}
            row |= {"status": facts["status"], "error": facts["error"]}
            if row["status"] == "ok":
                row |= self._prepare(self.children[spec.name], workload, path, expected)
        for _ in range(self.settings.rounds):
            ready = [name for name, row in rows.items() if row["status"] == "ok"]
            for name in self.order.sample(ready, len(ready)):
                self._turn(self.children[name], rows[name], workload.metric, rows[name]["count"])
        summarize(rows)
        bound = self._roofline(workload, rows)
        return {
            "name": workload.name,
            "title": workload.title,
            "sizes": list(workload.sizes),
            "batch": workload.batch,
            "batches": workload.n_batches,
            "metric": workload.metric,
            "compared": {name: len(numbers) for name, numbers in expected.items()},
            "what": metric.what,
            "rounds": self.settings.rounds,
            "rows": rows,
            "best_peer": best_peer(rows),
            "roofline": bound,
        }

    def _roofline(self, workload: Workload, rows: dict[str, Row]) -> Row | None:
        """The least time that the machine needs for the workload, measured in the process of a floor, if one runs."""
        floors = [name for name, row in rows.items() if row["role"] == "floor" and row["status"] == "ok"]
        if not floors:
            return None
        need = {"flops": workload.flops, "bytes": workload.bytes_moved}
        with suppress(ChildError):
            rates = self.children[floors[0]].ask("rates", working_set=need["bytes"], threads=self.settings.threads)
            return need | rates | {"seconds": least_seconds(**need, rates=rates)}
        return None

    def _prepare(self, child: Child, workload: Workload, path: Path, expected: dict[str, list[float]]) -> Row:
        """Give a child the workload, and hold its numbers against the reference's."""
        if workload.metric not in self.facts[child.spec.name]["metrics"]:
            return {"status": "not measured", "error": f"has no {workload.metric}"}
        try:
            child.ask("load", path=str(path))
            found = child.ask("check", metric=workload.metric)
            count = self._count(child, workload)
            child.ask("rest")
        except ChildError as error:
            return {"status": "failed", "error": str(error)}
        difference = disagreement(found, expected, max(child.spec.tolerance, TOLERANCE[workload.precision]))
        return {"status": "disagrees" if difference else "ok", "error": difference, "checked": found, "count": count}

    def _count(self, child: Child, workload: Workload) -> int:
        """How many units of work a turn has: the workload's own number, fewer where that would take too long."""
        if self.settings.count is not None:
            return self.settings.count
        wanted = max(4, round(workload.count * self.settings.scale))
        seconds = child.ask("measure", metric=workload.metric, count=min(wanted, 4))["seconds"]
        return max(4, min(wanted, int(self.settings.seconds / seconds)))

    def _turn(self, child: Child, row: Row, metric: str, count: int) -> None:
        try:
            row["seconds"].append(child.ask("measure", metric=metric, count=count)["seconds"])
            time.sleep(self.settings.pause)
            child.ask("rest")
        except ChildError as error:
            row |= {"status": "failed", "error": str(error)}


def summarize(rows: dict[str, Row]) -> None:
    """Add to every measured row its median and spread, and bpnet's time over its own, round by round."""
    ours = next((row for row in rows.values() if row["role"] == "ours"), {"status": ""})
    for row in rows.values():
        if row["status"] != "ok":
            continue
        row |= {"median": median(row["seconds"]), "min": min(row["seconds"]), "max": max(row["seconds"])}
        if ours["status"] == "ok":
            row["ratios"] = [a / b for a, b in zip(ours["seconds"], row["seconds"], strict=True)]
            row["ratio"] = median(row["ratios"])


def best_peer(rows: dict[str, Row]) -> dict[str, Any] | None:
    """The fastest row of role "peer" by its median, and bpnet's ratio to it; None when no peer was measured."""
    peers = {name: row for name, row in rows.items() if row["role"] == "peer" and row["status"] == "ok"}
    if not peers:
        return None
    name = min(peers, key=lambda name: peers[name]["median"])
    return {"name": name, "title": peers[name]["title"], "ratio": peers[name].get("ratio")}


def failures(report: dict[str, Any]) -> list[str]:
    """What went wrong, a line each: failed children and peers whose numbers disagree. Missing peers are neither."""
    bad = ("failed", "disagrees")
    found = [f"{name}: {facts['status']}" for name, facts in report["peers"].items() if facts["status"] in bad]
    for workload in report["workloads"].values():
        for name, row in workload["rows"].items():
            if row["status"] in bad and report["peers"].get(name, {"status": "ok"})["status"] == "ok":
                found.append(f"{name} on {workload['name']}: {row['status']}")
    return found
