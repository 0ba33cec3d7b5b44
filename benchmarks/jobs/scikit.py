"""scikit-learn: MLPClassifier's fit."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from benchmarks.jobs import BATCH, LEARNING_RATE, SIZES


def main(folder: Path, epochs: int) -> None:
    x, y, test_x, test_y = (np.load(folder / f"{name}.npy") for name in ("x", "y", "test_x", "test_y"))
    model = MLPClassifier(
        SIZES[1:-1], alpha=0.0, batch_size=BATCH, learning_rate_init=LEARNING_RATE, max_iter=epochs, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # so few epochs are meant
        model.fit(x, y)
    print(model.score(test_x, test_y))


main(Path(sys.argv[1]), int(sys.argv[2]))
