"""JAX: the step in one jitted function with donated parameters, batches by NumPy's index."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np

from benchmarks.jobs import BATCH, LEARNING_RATE, SIZES
from benchmarks.peers.jax_jit import predict, train_step
from benchmarks.reference import LEARNING_RATE as STEP_RATE

assert LEARNING_RATE == STEP_RATE  # what `train_step` has


def main(folder: Path, epochs: int) -> None:
    x, y, test_x, test_y = (np.load(folder / f"{name}.npy") for name in ("x", "y", "test_x", "test_y"))
    rng = np.random.default_rng(0)
    parameters = [
        (
            jax.numpy.asarray(rng.standard_normal((n_in, n_out), np.float32) * (2 / n_in) ** 0.5),
            jax.numpy.zeros(n_out),
        )
        for n_in, n_out in pairwise(SIZES)
    ]
    m, v = (jax.tree.map(jax.numpy.zeros_like, parameters) for _ in range(2))
    slots = m, v, jax.numpy.zeros(())
    labels = y.astype(np.int32)
    for _ in range(epochs):
        order = rng.permutation(len(x))
        total = 0.0
        for start in range(0, len(x), BATCH):
            rows = order[start : start + BATCH]
            parameters, slots, loss = train_step(parameters, slots, x[rows], labels[rows])
            total += loss.item() * len(rows)
    print(float((jax.jit(predict)(parameters, test_x).argmax(axis=1) == test_y).mean()))


main(Path(sys.argv[1]), int(sys.argv[2]))
