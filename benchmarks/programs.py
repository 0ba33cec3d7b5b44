"""What is measured from the start of a process: the whole job, and what an import costs."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.harness import Row, Settings, best_peer, summarize
from benchmarks.jobs import BATCH, SIZES
from benchmarks.peers import PLAIN, PeerSpec

JOBS = {
    spec.name: spec
    for spec in (
        PeerSpec("bpnet", "bpnet", "ours", ("bpnet",), "ours"),
        PeerSpec("bpnet-plain", "bpnet, NumPy alone", "ours", ("bpnet",), "ours", environment=PLAIN),
        PeerSpec("torch", "PyTorch", "torch_loop", ("torch",)),
        PeerSpec("torch-loader", "PyTorch, DataLoader", "torch_loader", ("torch",)),
        PeerSpec("jax", "JAX jit", "jax_loop", ("jax",)),
        PeerSpec("sklearn", "scikit-learn", "scikit", ("sklearn",)),
    )
}
"""The programs of the folder `jobs`, by name."""

IMPORTS = {
    spec.name: spec
    for spec in (
        PeerSpec("bpnet", "import bpnet", "bpnet", ("bpnet",), "ours"),
        PeerSpec("numpy", "import numpy", "numpy", ("numpy",)),
        PeerSpec("torch", "import torch", "torch", ("torch",)),
        PeerSpec("jax", "import jax", "jax", ("jax",)),
        PeerSpec("sklearn", "import sklearn.neural_network", "sklearn.neural_network", ("sklearn",)),
    )
}

EPOCHS = 5
LEARNED = 0.8  # of the test images right after so many epochs: less would be another job


class ProgramError(RuntimeError):
    """A program ended with an error; the text is the end of what it wrote."""


def run_program(command: Sequence[str], environment: dict[str, str]) -> tuple[str, float, int]:
    """Run a program to its end; return what it printed, its seconds from start to end, and its most memory in bytes."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=machine.ROOT, env=environment, stdout=out, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        if process.returncode:
            words = errors.read().decode(errors="replace").splitlines()[-20:]
            raise ProgramError("\n".join(words) + f"\nthe program ended with code {process.returncode}")
        unit = 1 if sys.platform == "darwin" else 1024
        return out.read().decode(), seconds, usage.ru_maxrss * unit


@contextmanager
def pinned(cpus: list[int]) -> Iterator[None]:
    """Keep this process, and those that it starts, on `cpus` for a while."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    machine.pin(cpus)
    try:
        yield
    finally:
        if before:
            machine.pin(sorted(before))


def job_data(folder: Path, quick: bool) -> tuple[str, int]:
    """Write the four arrays; return what they are, and their bytes in memory. DataError where they are not here."""
    if quick:
        from benchmarks.workloads import large_digits

        x, y = large_digits(np.random.default_rng(0), 6000)
        arrays = x[:5000], y[:5000], x[5000:], y[5000:]
        what = "5,000 enlarged digits"
    else:
        from bpnet.data import load

        train, test = load("fashion-mnist")
        arrays = train.x, train.y, test.x, test.y
        what = "Fashion-MNIST, 60,000 images"
    total = 0
    for name, array in zip(("x", "y", "test_x", "test_y"), arrays, strict=True):
        array = np.ascontiguousarray(array, np.float32 if "x" in name else np.int64)
        np.save(folder / f"{name}.npy", array)
        total += array.nbytes
    return what, total


def run_job(specs: Sequence[PeerSpec], settings: Settings, quick: bool) -> dict[str, Any]:
    """Every program in turn, in a new order every round: wall time, and the memory that it took above the data."""
    from bpnet.errors import DataError

    epochs = 1 if quick else EPOCHS
    with tempfile.TemporaryDirectory() as folder:
        try:
            what, data = job_data(Path(folder), quick)
        except DataError as error:
            rows = {spec.name: _row(spec) | {"status": "not measured", "error": str(error)} for spec in specs}
            return _results("job", "the whole job", "its data are not here", settings.rounds, rows)

        def turn(spec: PeerSpec, row: Row, environment: dict[str, str]) -> None:
            command = [settings.python_of(spec), "-m", f"benchmarks.jobs.{spec.where}", folder, str(epochs)]
            printed, seconds, memory = run_program(command, environment)
            accuracy = float(printed.split()[-1])
            if not quick and not accuracy > LEARNED:
                row |= {"status": "disagrees", "error": f"{accuracy:.3f} of the test images, below {LEARNED}"}
            row["seconds"].append(seconds)
            row.setdefault("memory", []).append(memory - data)
            row.setdefault("accuracy", []).append(accuracy)

        rows = _rounds(specs, settings, turn)
    for row in rows.values():
        if row["status"] == "ok":
            row["memory_median"] = median(row["memory"])
    title = f"the whole job: {what}, {'-'.join(map(str, SIZES))}, batch {BATCH}, {epochs} epochs"
    what = "seconds from the start of the process to its end"
    return _results("job", title, what, settings.rounds, rows) | {"data_bytes": data}


def run_imports(specs: Sequence[PeerSpec], settings: Settings) -> dict[str, Any]:
    """Each import in a fresh interpreter, timed inside of it; one untimed turn first writes the byte code."""

    def turn(spec: PeerSpec, row: Row, environment: dict[str, str]) -> None:
        code = f"import time; t = time.perf_counter(); import {spec.where}; print(time.perf_counter() - t)"
        command = [settings.python_of(spec), "-c", code]
        if not row["seconds"]:
            run_program(command, environment)
        row["seconds"].append(float(run_program(command, environment)[0]))

    rows = _rounds(specs, settings, turn)
    return _results("import", "import", "inside a fresh interpreter", settings.rounds, rows) | {"best_peer": None}


def _rounds(
    specs: Sequence[PeerSpec], settings: Settings, turn: Callable[[PeerSpec, Row, dict[str, str]], None]
) -> dict[str, Row]:
    environment, _ = machine.clean_environment(settings.threads)
    order = random.Random(settings.seed)
    rows = {spec.name: _row(spec) for spec in specs}
    by_name = {spec.name: spec for spec in specs}
    for spec in specs:
        if missing := spec.missing(settings.python_of(spec)):
            rows[spec.name] |= {"status": "not installed", "error": f"needs {', '.join(missing)}"}
    with pinned(machine.usable_cpus()[: settings.threads]):
        for _ in range(settings.rounds):
            ready = [name for name, row in rows.items() if row["status"] == "ok"]
            for name in order.sample(ready, len(ready)):
                try:
                    turn(by_name[name], rows[name], environment | by_name[name].environment)
                except ProgramError as error:
                    rows[name] |= {"status": "failed", "error": str(error)}
    return rows


def _row(spec: PeerSpec) -> Row:
    return {"title": spec.title, "role": spec.role, "seconds": [], "status": "ok", "error": ""}


def _results(name: str, title: str, what: str, rounds: int, rows: dict[str, Row]) -> dict[str, Any]:
    summarize(rows)
    found = {"name": name, "title": title, "metric": name, "what": what, "rounds": rounds, "rows": rows}
    return found | {"best_peer": best_peer(rows)}
