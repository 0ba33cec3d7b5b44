"""What `model.memory` says against what training takes: `python -m benchmarks.memory`.

Each network is trained in processes of its own, by `Trainer.fit` and by the explicit loop. `tracemalloc` is told by
NumPy of every array, so it knows the most that was held at a time. Resident memory is that of the process above what it
was before the network was made; it has pages that the allocator keeps, what a BLAS allocates, and what Python does, so
it is shown of large networks alone. A tiny training of the same layers comes before, so that what is imported
at a first step does not count; nor do the data.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks import machine

STEPS = 5
LARGE = 1 << 26  # bytes from which what a process holds besides, some megabytes, tells little


class Case(NamedTuple):
    """A network, what it is trained on, and whether a sample is ids."""

    layers: Callable[[], list[Any]]
    input_shape: tuple[int, ...]
    batch_size: int
    optimizer: str = "Adam"
    n_ids: int = 0
    n_classes: int = 10


def _mlp() -> list[Any]:
    import bpnet as bp

    return [bp.Dense(784, 512), bp.ReLU(), bp.Dense(512, 512), bp.ReLU(), bp.Dense(512, 10)]


def _cnn() -> list[Any]:
    import bpnet as bp

    first = [bp.Conv2d(1, 16, 3), bp.ReLU(), bp.MaxPool2d(2), bp.Conv2d(16, 32, 3), bp.ReLU(), bp.MaxPool2d(2)]
    return [*first, bp.Flatten(), bp.Dense(800, 128), bp.ReLU(), bp.Dense(128, 10)]


def _batch_norm() -> list[Any]:
    import bpnet as bp

    first = [bp.Conv2d(1, 16, 3, padding="same", bias=False), bp.BatchNorm(16), bp.ReLU(), bp.MaxPool2d(2)]
    rest = [bp.Flatten(), bp.Dropout(0.3), bp.Dense(14 * 14 * 16, 128), bp.BatchNorm(128), bp.GELU()]
    return [*first, *rest, bp.Dense(128, 10)]


def _gpt() -> list[Any]:
    import bpnet as bp

    blocks = [bp.TransformerBlock(128, 4, causal=True, activation="gelu_tanh") for _ in range(2)]
    return [bp.Embedding(96, 128), bp.LearnedPositions(64, 128), *blocks, bp.LayerNorm(128), bp.Unembedding(96, 128)]


def _lstm() -> list[Any]:
    import bpnet as bp

    return [bp.Embedding(96, 128), bp.LSTM(128, 128), bp.Unembedding(96, 128)]


def _block() -> Any:
    import bpnet as bp

    return bp.Residual(bp.LayerNorm(64), bp.Dense(64, 256), bp.GELU("tanh"), bp.Dense(256, 64))


def _stack() -> list[Any]:
    import bpnet as bp

    return [*(_block() for _ in range(6)), bp.Dense(64, 10)]


def _recomputed() -> list[Any]:
    import bpnet as bp

    return [*(bp.Recompute(_block()) for _ in range(6)), bp.Dense(64, 10)]


def _wide() -> list[Any]:
    import bpnet as bp

    return [bp.Dense(1024, 4096), bp.ReLU(), bp.Dense(4096, 1024), bp.ReLU(), bp.Dense(1024, 10)]


CASES = {
    "mlp": Case(_mlp, (784,), 128),
    "mlp, large batch": Case(_mlp, (784,), 4096),
    "wide": Case(_wide, (1024,), 2048),
    "cnn": Case(_cnn, (28, 28, 1), 64),
    "cnn, large batch": Case(_cnn, (28, 28, 1), 1024),
    "batch norm": Case(_batch_norm, (28, 28, 1), 64, "AdamW"),
    "char-gpt": Case(_gpt, (64,), 16, "AdamW", 96, 96),
    "char-lstm": Case(_lstm, (64,), 32, "Adam", 96, 96),
    "stack": Case(_stack, (64,), 1024, "SGD"),
    "stack, Recompute": Case(_recomputed, (64,), 1024, "SGD"),
}


def _data(case: Case, n: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    if case.n_ids:
        return rng.integers(0, case.n_ids, (n, *case.input_shape)), rng.integers(
            0, case.n_classes, (n, *case.input_shape)
        )
    return rng.standard_normal((n, *case.input_shape), dtype=np.float32), rng.integers(0, case.n_classes, n)


def train(case: Case, x: Any, y: Any, batch_size: int, planned: bool, ready: Callable[[], None]) -> None:
    """Make a network and train it on the data, batch by batch. ready : called when it is made"""
    import bpnet as bp

    model = bp.Sequential(*case.layers()).initialize()
    loss, optimizer = bp.SoftmaxCrossEntropy(), getattr(bp, case.optimizer)(1e-3)
    ready()
    if planned:
        bp.Trainer(model, loss, optimizer).fit(x, y, epochs=1, batch_size=batch_size, progress=False)
        return
    for start in range(0, len(x), batch_size):
        some = slice(start, start + batch_size)
        loss.forward(model.forward(x[some]), y[some])
        model.backward(loss.backward(), need_dx=False)
        optimizer.step(model)


def predicted(case: Case, planned: bool) -> int:
    """The peak that `model.memory` finds, without what a loop over views of given data does not allocate."""
    import bpnet as bp

    model = bp.Sequential(*case.layers())
    optimizer = getattr(bp, case.optimizer)(1e-3)
    found = model.memory(
        case.batch_size,
        input_shape=case.input_shape,
        loss=bp.SoftmaxCrossEntropy(),
        optimizer=optimizer,
        planned=planned,
    )
    return found.peak - (0 if planned else found.batch)


def traced(case: Case, planned: bool) -> int:
    """The most bytes that NumPy and Python hold at a time, as tracemalloc says."""
    train(case, *_data(case, 2 * STEPS), 2, planned, lambda: None)
    x, y = _data(case, STEPS * case.batch_size)
    gc.collect()
    tracemalloc.start()
    try:
        train(case, x, y, case.batch_size, planned, tracemalloc.reset_peak)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def resident(case: Case, planned: bool) -> int:
    """The most memory of this process, above what it has before the network is made. Linux."""
    train(case, *_data(case, 2 * STEPS), 2, planned, lambda: None)
    x, y = _data(case, STEPS * case.batch_size)
    gc.collect()
    before = machine.memory_now(reset_peak=True)
    train(case, x, y, case.batch_size, planned, lambda: None)
    return machine.memory_peak() - before


def _measured(name: str, planned: bool, ways: tuple[str, ...]) -> dict[str, int]:
    """Each measurement in a process of its own."""
    found = {}
    for how in ways:
        command = [sys.executable, "-m", "benchmarks.memory", "--measure", how, name, str(int(planned))]
        run = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
        found[how] = int(json.loads(run.stdout.splitlines()[-1]))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", action="append", choices=sorted(CASES), help="may be repeated; all by default")
    parser.add_argument("--json", help="a file for everything")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        how, name, planned = options.measure
        print({"traced": traced, "resident": resident}[how](CASES[name], planned == "1"))
        return 0
    rows = []
    titles = f"{'predicted':>13} {'tracemalloc':>13} {'/':>6} {'resident':>13} {'/':>6}"
    print(f"{'network':18} {'batch':>6}  {'trained by':10} {titles}")
    for name in options.case or CASES:
        for planned in (True, False):
            row = {"name": name, "planned": planned, "predicted": predicted(CASES[name], planned)}
            row |= _measured(name, planned, ("traced", "resident") if row["predicted"] >= LARGE else ("traced",))
            rows.append(row)
            by = "Trainer" if planned else "loop"
            line = f"{name:18} {CASES[name].batch_size:6}  {by:10} {row['predicted']:13,}"
            for how in ("traced", "resident"):
                line += f" {row[how]:13,} {row['predicted'] / row[how]:6.3f}" if how in row else f" {'-':>13} {'-':>6}"
            print(line, flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"rows": rows, "commit": machine.commit()}, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
