"""The accuracy and the speed of the fashion-mnist recipe: `python -m benchmarks.fashion_mnist [--plot FILE.png]`.

784-256-128-10, ten epochs on 54,000 images, tested on the 10,000 test images, which no choice was made by. The data are
those of `bpnet data get fashion-mnist` or of the Debian package dataset-fashion-mnist.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np

from bpnet import recipes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, from 0 on")
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--backend", default=None)
    parser.add_argument("--plot", default=None, metavar="FILE.png", help="draw the course of seed 0")
    options = parser.parse_args()
    overrides = {} if options.epochs is None else {"training.epochs": options.epochs}
    accuracies = []
    for seed in range(options.seeds):
        run = recipes.find("fashion-mnist", overrides | {"training.seed": seed}).prepare(backend=options.backend)
        if not seed:
            about = run.model.backend.describe()
            print(f"{run.model.backend.name} {about['version']} on {about['device']}, NumPy {np.__version__}")
            print(f"{len(run.training)} images to train on, {len(run.test)} to test on")
        history = run.fit(progress=False)
        accuracies.append(run.trainer.evaluate(run.test)["accuracy"])
        each = statistics.median(history["seconds"])
        print(
            f"seed {seed}: test accuracy {accuracies[-1]:.4f}, validation accuracy {history['val_accuracy'][-1]:.4f}, "
            f"median {each:.3f} s an epoch, {sum(history['seconds']):.2f} s in all"
        )
        if options.plot and not seed:
            history.plot(options.plot)
            print(f"drew {options.plot}")
    print(f"mean test accuracy {statistics.mean(accuracies):.4f}, least {min(accuracies):.4f}")


if __name__ == "__main__":
    main()
