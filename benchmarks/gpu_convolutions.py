"""A training step on a GPU with cuDNN and without: `python -m benchmarks.gpu_convolutions`.

Two convolutional nets of float32 parameters, in every precision of products, and a GPT of long sequences in bfloat16.
Each is trained in a process of its own, in which cuDNN is asked (`BPNET_CUDNN=1`) or not (`BPNET_CUDNN=0`). Rounds
alternate between the two; a number is the best round's time of a step, with the device's work waited for.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
NO_GPU = 2
WAYS = {"cuDNN": "1", "kernels": "0"}
PRECISIONS = ("float32", "tf32", "bf16")
Made = tuple[Any, Any, Any, Any]  # model, loss, x, y


def small(quick: bool) -> Made:
    """The net of `benchmarks.images`: 28x28x1, conv 3x3 16, pool, conv 3x3 32, pool, 128, 10; batch 64."""
    import bpnet as bp

    rng = np.random.default_rng(0)
    model = bp.Sequential(
        bp.Conv2d(1, 16, 3, padding="same"), bp.ReLU(), bp.MaxPool2d(2),
        bp.Conv2d(16, 32, 3, padding="same"), bp.ReLU(), bp.MaxPool2d(2),
        bp.Flatten(), bp.Dense(1568, 128), bp.ReLU(), bp.Dense(128, 10),
    )  # fmt: skip
    n = 4 if quick else 64
    return model, bp.SoftmaxCrossEntropy(), rng.standard_normal((n, 28, 28, 1), np.float32), rng.integers(0, 10, n)


def wide(quick: bool) -> Made:
    """Six convolutions 3x3 of 64 to 256 channels on 32x32 pixels; batch 128."""
    import bpnet as bp

    rng = np.random.default_rng(0)
    layers: list[bp.Layer] = []
    channels = 3
    for outputs in (8, 8) if quick else (64, 64, 128, 128, 256, 256):
        layers += [bp.Conv2d(channels, outputs, 3, padding="same"), bp.ReLU()]
        if outputs == channels:
            layers.append(bp.MaxPool2d(2))
        channels = outputs
    model = bp.Sequential(*layers, bp.GlobalAveragePool2d(), bp.Dense(channels, 10))
    n = 2 if quick else 128
    return model, bp.SoftmaxCrossEntropy(), rng.standard_normal((n, 32, 32, 3), np.float32), rng.integers(0, 10, n)


def gpt(quick: bool) -> Made:
    """Four blocks of 512 features and 8 heads, 1024 tokens of 65; batch 8."""
    import bpnet as bp

    rng = np.random.default_rng(0)
    n, length, width, blocks = (1, 16, 16, 1) if quick else (8, 1024, 512, 4)
    model = bp.Sequential(
        bp.Embedding(65, width),
        bp.LearnedPositions(length, width),
        *(bp.TransformerBlock(width, max(1, width // 64), causal=True) for _ in range(blocks)),
        bp.LayerNorm(width),
        bp.Dense(width, 65),
    )
    ids = rng.integers(0, 65, (n, length + 1))
    return model, bp.SoftmaxCrossEntropy(), ids[:, :-1].copy(), ids[:, 1:].copy()


NETS: dict[str, tuple[Callable[[bool], Made], tuple[str, ...]]] = {
    "small": (small, PRECISIONS),
    "wide": (wide, PRECISIONS),
    "gpt": (gpt, ("bf16",)),
}


def child(name: str, precision: str, backend: str, quick: bool) -> None:
    """Train on what comes by stdin: a number of steps, answered with the seconds of one and the loss."""
    import bpnet as bp

    model, loss, x, y = NETS[name][0](quick)
    options = {} if backend == "numpy" else {"matmul_precision": precision}
    trainer = bp.Trainer(model, loss, bp.Adam(1e-3), backend=backend, seed=0, **options)
    found = bp.get_backend(backend)
    x, y = found.asarray(x), found.asarray(y)
    value = float(bp.to_numpy(trainer.step(x, y)))
    for _ in range(2 if quick else 20):
        trainer.step(x, y)
    found.synchronize()
    print(json.dumps({"loss": value, "convolutions": found.describe().get("convolutions", "NumPy's")}), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        for _ in range(int(line)):
            trainer.step(x, y)
        found.synchronize()
        print((time.perf_counter() - started) / int(line), flush=True)


class Process:
    """A child and what it has answered."""

    def __init__(self, name: str, precision: str, way: str, backend: str, quick: bool) -> None:
        arguments = ["--child", name, precision, "--backend", backend, *(["--quick"] if quick else [])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu_convolutions", *arguments],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "BPNET_CUDNN": WAYS[way]},
        )  # fmt: skip
        self.first = json.loads(self.answer())

    def answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process has ended with {self.process.wait()}")
        return line

    def seconds(self, steps: int) -> float:
        """Of a step, over so many."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return float(self.answer())

    def close(self) -> None:
        """End it, and its pipes."""
        self.process.communicate()


def measured(name: str, precision: str, backend: str, rounds: int, quick: bool) -> dict[str, Any]:
    """The best seconds of a step each way, and the loss of the first."""
    processes = {way: Process(name, precision, way, backend, quick) for way in WAYS}
    try:
        steps = 1 if quick else max(3, min(300, round(0.3 / processes["cuDNN"].seconds(3))))
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way, process in processes.items():
                times[way].append(process.seconds(steps))
    finally:
        for process in processes.values():
            process.close()
    return {way: {"seconds": times[way], **processes[way].first} for way in WAYS}


def shown(name: str, precision: str, found: dict[str, Any]) -> str:
    best = {way: min(each["seconds"]) for way, each in found.items()}
    losses = " and ".join(f"{found[way]['loss']:.6f}" for way in WAYS)
    times = ", ".join(f"{way} {1e3 * seconds:.3f} ms" for way, seconds in best.items())
    return f"{name} {precision}: {times}, ratio {best['cuDNN'] / best['kernels']:.2f}; first losses {losses}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_convolutions", description=__doc__)
    parser.add_argument("--net", action="append", choices=tuple(NETS), help="may be repeated (default all)")
    parser.add_argument(
        "--backend", default="cupy", help="numpy: the same code without a GPU; its numbers mean nothing"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="small nets, a step a round: shows that it runs")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        child(*arguments.child, arguments.backend, arguments.quick)
        return 0
    import bpnet as bp
    from benchmarks import machine

    try:
        backend = bp.get_backend(arguments.backend)
    except bp.BackendError as error:
        print(f"nothing was measured: {error}", file=sys.stderr)
        return NO_GPU
    report: dict[str, Any] = {"commit": machine.commit(), "backend": backend.describe(), "nets": {}}
    for name in arguments.net or NETS:
        for precision in NETS[name][1]:
            found = measured(name, precision, arguments.backend, arguments.rounds, arguments.quick)
            report["nets"][f"{name} {precision}"] = found
            print(shown(name, precision, found), flush=True)
            if arguments.json:  # each time: who has too little time for all has the first
                arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
