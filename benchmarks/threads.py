"""What a second thread brings to a product, and what it costs where other programs run: `python -m benchmarks.threads`.

Products of the sizes that small networks have, on one thread, on all, and with the rule of `bpnet_numpy.threads`, in
turns. `--busy 2` starts that many programs which do nothing but compute, as on a machine that others use too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import machine

SHAPES = (
    (64, 64, 128), (128, 512, 10), (64, 128, 128), (64, 256, 128), (64, 256, 192), (128, 256, 256), (64, 784, 256),
    (128, 784, 512),
)  # fmt: skip
KINDS = ("y = x W", "dW = x' dy", "dx = dy W'")
WORK = 2e7  # multiplications in a turn, about
SPIN = "import sys\nwhile True:\n    for _ in range(100000):\n        pass"


def factors(batch: int, n_in: int, n_out: int) -> dict[str, tuple[Any, Any, Any]]:
    """By kind of product its two factors, laid out as a layer has them, and the place of the result."""
    rng = np.random.default_rng(0)
    x, W, dy = (rng.random(shape, np.float32) for shape in ((batch, n_in), (n_in, n_out), (batch, n_out)))
    pairs = dict(zip(KINDS, ((x, W), (x.T, dy), (dy, W.T)), strict=True))
    return {kind: (a, b, np.empty((a.shape[0], b.shape[1]), np.float32)) for kind, (a, b) in pairs.items()}


def measure(shapes: Sequence[tuple[int, int, int]], rounds: int, work: float) -> list[dict[str, Any]]:
    """Every product: the median microseconds on one thread, on all, and as bpnet calls it."""
    from bpnet_numpy.threads import openblas, product

    library = openblas()
    if library is None:
        raise SystemExit("NumPy's BLAS is not an OpenBLAS that shows its functions; there is nothing to compare")
    every = library.get()
    found = []
    for shape in shapes:
        for kind, (a, b, out) in factors(*shape).items():
            plain = partial(np.dot, a, b, out)
            calls: dict[str, tuple[int, Callable[[], Any]]] = {
                "one": (1, plain), "all": (every, plain), "rule": (every, product(a, b, out)),
            }  # fmt: skip
            multiplications = a.shape[0] * a.shape[1] * b.shape[1]
            count = max(2, round(work / (multiplications + 1e5)))
            times: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(rounds):
                for name, (threads, call) in calls.items():
                    library.set(threads)
                    start = time.perf_counter()
                    for _ in range(count):
                        call()
                    times[name].append((time.perf_counter() - start) / count)
            library.set(every)
            row = {"batch": shape[0], "n_in": shape[1], "n_out": shape[2], "kind": kind}
            medians = {name: median(each) for name, each in times.items()}
            least = {f"{name}_min": min(each) for name, each in times.items()}
            narrow = calls["rule"][1].func is not np.dot  # type: ignore[attr-defined]
            found.append(row | {"multiplications": multiplications, "narrow": narrow} | medians | least)
    return found


@contextmanager
def busy(n: int) -> Iterator[None]:
    """Let `n` other programs compute for a while."""
    others = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(n)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def table(rows: Sequence[dict[str, Any]]) -> str:
    heads = "".join(f"{each + ', µs':>10}" for each in ("one", "all", "rule"))
    lines = [f"{'':28}{'multiplications':>16}{heads}{'all/one':>9}{'rule/all':>9}"]
    for row in rows:
        name = f"{row['batch']}x{row['n_in']}x{row['n_out']} {row['kind']}"
        times = "".join(f"{1e6 * row[key]:10.1f}" for key in ("one", "all", "rule"))
        ratios = f"{row['all'] / row['one']:9.2f}{row['rule'] / row['all']:9.2f}"
        lines.append(f"{name:28}{row['multiplications']:>16,}{times}{ratios}{'  one thread' if row['narrow'] else ''}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threads", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1], help="other programs, one table for each number")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="2 short rounds of 3 shapes: shows that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    report: dict[str, Any] = machine.report_head(len(machine.usable_cpus())) | {
        "blas": machine.thread_pools(), "tables": {},
    }  # fmt: skip
    for others in arguments.busy:
        with busy(others):
            rows = measure(SHAPES[:3], 2, WORK / 20) if arguments.quick else measure(SHAPES, arguments.rounds, WORK)
        report["tables"][str(others)] = rows
        print(f"{others} other programs\n{table(rows)}\n", flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
