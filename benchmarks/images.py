"""A training step of a convolutional network against PyTorch's: `python -m benchmarks.images`.

28x28x1, conv 3x3 16, ReLU, pool, conv 3x3 32, ReLU, pool, 128, 10; batch 64, Adam, float32. Every peer runs in
a process of its own, from the same weights on the same batches, and the losses of the first steps are compared. Rounds
alternate between the peers; a number is the best round's time of a step, beside it the median round's.
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

Array = Any
Step = Callable[[Array, Array], float]

BATCH, BATCHES, CHECKED = 64, 16, 8
RATE = 1e-3
ROOT = Path(__file__).resolve().parent.parent


def problem() -> tuple[list[Array], Array, Array]:
    """The weights in bpnet's layout, images (batches, N, 28, 28, 1) and labels: a function of nothing."""
    rng = np.random.default_rng(0)
    shapes = [(3, 3, 1, 16), (3, 3, 16, 32), (1568, 128), (128, 10)]
    weights = [rng.standard_normal(shape) * (2 / np.prod(shape[:-1])) ** 0.5 for shape in shapes]
    x = rng.standard_normal((BATCHES, BATCH, 28, 28, 1))
    labels = rng.integers(0, 10, (BATCHES, BATCH))
    return [w.astype(np.float32) for w in weights], x.astype(np.float32), labels


def bpnet_trainer(weights: list[Array]) -> Any:
    import bpnet as bp

    model = bp.Sequential(
        bp.Conv2d(1, 16, 3, padding="same"),
        bp.ReLU(),
        bp.MaxPool2d(2),
        bp.Conv2d(16, 32, 3, padding="same"),
        bp.ReLU(),
        bp.MaxPool2d(2),
        bp.Flatten(),
        bp.Dense(1568, 128),
        bp.ReLU(),
        bp.Dense(128, 10),
    ).initialize(backend="numpy")
    for index, w in zip((0, 3, 7, 9), weights, strict=True):
        model[index].weight.value = w  # type: ignore[attr-defined]
    return bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(RATE))


def bpnet_step(weights: list[Array], threads: int | None) -> Step:
    trainer = bpnet_trainer(weights)
    return lambda x, labels: float(trainer.step(x, labels))


def torch_step(weights: list[Array], threads: int | None) -> Step:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    nn = torch.nn
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1568, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    first = weights[2].reshape(7, 7, 32, 128).transpose(3, 2, 0, 1).reshape(128, 1568)
    arranged = [weights[0].transpose(3, 2, 0, 1), weights[1].transpose(3, 2, 0, 1), first, weights[3].T]
    with torch.no_grad():
        for index, w in zip((0, 3, 7, 9), arranged, strict=True):
            model[index].weight.copy_(torch.tensor(np.ascontiguousarray(w)))
            model[index].bias.zero_()
    optimizer = torch.optim.Adam(model.parameters(), RATE, fused=True)
    loss = nn.CrossEntropyLoss()

    def step(x: Array, labels: Array) -> float:
        optimizer.zero_grad()
        value = loss(model(torch.from_numpy(x).permute(0, 3, 1, 2)), torch.from_numpy(labels))
        value.backward()
        optimizer.step()
        return value.item()  # type: ignore[no-any-return]

    return step


PEERS = {"bpnet": bpnet_step, "torch": torch_step}


def child(name: str, threads: int | None) -> None:
    """Answer every number of steps on stdin with the seconds a step took; first the losses of the first steps."""
    weights, x, labels = problem()
    step = PEERS[name](weights, threads)
    batches = [(x[i].copy(), labels[i].copy()) for i in range(BATCHES)]
    print(json.dumps([step(*batches[i]) for i in range(CHECKED)]), flush=True)
    for _ in range(8):
        step(*batches[0])
    for line in sys.stdin:
        n = int(line)
        start = time.perf_counter()
        for i in range(n):
            step(*batches[i % BATCHES])
        print(json.dumps((time.perf_counter() - start) / n), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.images", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=40, help="in a round")
    parser.add_argument("--threads", type=int, help="of every peer; by default what each takes itself")
    parser.add_argument("--child", choices=list(PEERS), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        child(arguments.child, arguments.threads)
        return 0
    variables = dict(os.environ)
    if arguments.threads is not None:
        variables |= {name: str(arguments.threads) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
    command = [sys.executable, "-m", "benchmarks.images"]
    more = [] if arguments.threads is None else ["--threads", str(arguments.threads)]
    running = {
        name: subprocess.Popen([*command, "--child", name, *more], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               text=True, cwd=ROOT, env=variables)
        for name in PEERS
    }  # fmt: skip

    def answer(name: str) -> Any:
        out = running[name].stdout
        assert out is not None
        return json.loads(out.readline())

    losses = {name: answer(name) for name in PEERS}
    agree = np.allclose(losses["bpnet"], losses["torch"], rtol=1e-3)
    times: dict[str, list[float]] = {name: [] for name in PEERS}
    for _ in range(arguments.rounds):
        for name, process in running.items():
            assert process.stdin is not None
            process.stdin.write(f"{arguments.steps}\n")
            process.stdin.flush()
            times[name].append(answer(name))
    for process in running.values():
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
    print(f"a step, batch {BATCH}; the first {CHECKED} losses {'agree' if agree else 'DIFFER'}")
    for name, seconds in times.items():
        print(f"{name:6} best {1e3 * min(seconds):6.2f} ms, median {1e3 * float(np.median(seconds)):6.2f} ms")
    print(f"bpnet / torch, best rounds: {min(times['bpnet']) / min(times['torch']):.2f}")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
