"""The accuracy of the digits recipe on the held-out fifth: `python -m benchmarks.digits_accuracy`.

Seeds 0 to 4 on the split that `bpnet train digits` holds out (its seed is 0), then each seed on a split of its own.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

import bpnet as bp
from bpnet import recipes

SEEDS = range(5)


def measure(seed: int, split_seed: int) -> tuple[float, float]:
    """Return the accuracy on the held-out fifth and the seconds that training took."""
    run = recipes.find("digits", {"training.seed": seed, "data.split_seed": split_seed}).prepare()
    start = time.perf_counter()
    run.fit(progress=False)
    seconds = time.perf_counter() - start
    return run.trainer.evaluate(run.test)["accuracy"], seconds


def report(title: str, splits: list[int]) -> float:
    """Print a line a seed and the mean, and return the mean."""
    print(title)
    results = [measure(seed, split) for seed, split in zip(SEEDS, splits, strict=True)]
    for seed, split, (accuracy, seconds) in zip(SEEDS, splits, results, strict=True):
        print(f"  seed {seed}, split {split}: accuracy {accuracy:.4f}, trained in {seconds:.2f} s")
    mean = statistics.mean(accuracy for accuracy, _ in results)
    print(f"  mean accuracy {mean:.4f}, least {min(results)[0]:.4f}, {sum(s for _, s in results):.2f} s in all")
    return mean


def main() -> None:
    backend = bp.get_backend()
    print(f"digits recipe on {backend.name}, {backend.describe()['device']}, NumPy {np.__version__}")
    report("the split of `bpnet train digits`:", [0] * len(SEEDS))
    report("a split for every seed:", list(SEEDS))


if __name__ == "__main__":
    main()
