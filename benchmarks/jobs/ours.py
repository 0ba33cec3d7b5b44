"""bpnet: the Trainer's fit."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import bpnet as bp
from benchmarks.jobs import BATCH, LEARNING_RATE, SIZES


def main(folder: Path, epochs: int) -> None:
    x, y, test_x, test_y = (np.load(folder / f"{name}.npy") for name in ("x", "y", "test_x", "test_y"))
    n_in, first, second, n_out = SIZES
    model = bp.Sequential(bp.Dense(n_in, first), bp.ReLU(), bp.Dense(first, second), bp.ReLU(), bp.Dense(second, n_out))
    trainer = bp.Trainer(
        model, bp.SoftmaxCrossEntropy(), bp.Adam(LEARNING_RATE), metrics=[bp.Accuracy()], seed=0, backend="numpy"
    )
    trainer.fit(x, y, epochs=epochs, batch_size=BATCH, progress=False)
    print(trainer.evaluate(test_x, test_y)["accuracy"])


main(Path(sys.argv[1]), int(sys.argv[2]))
