"""The same grid search with scikit-learn's MLPClassifier and with BPClassifier: `python -m benchmarks.grid_search`.

Same data (the digits of scikit-learn, a fifth held out), same folds, same grid, same epochs: no early end, so that both
make the same number of steps. Rounds are interleaved, in an order that changes; every fit runs in one process, with one
thread. A round's seed is the `random_state` of its networks and of its split.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

from benchmarks import machine

GRID = {
    "network__hidden_layer_sizes": [(32,), (64,), (64, 32)],
    "network__learning_rate_init": [1e-3, 1e-2],
    "network__alpha": [1e-4, 1.0],
}
NAMES = ("MLPClassifier", "BPClassifier", "BPClassifier in float32")


def make(name: str, seed: int, epochs: int) -> Any:
    """The estimator of that name; both never see a reason to end before `epochs`."""
    from sklearn.neural_network import MLPClassifier

    from bpnet.sklearn import BPClassifier

    common: dict[str, Any] = {"max_iter": epochs, "tol": 0.0, "n_iter_no_change": epochs, "random_state": seed}
    if name == "MLPClassifier":
        return MLPClassifier(**common)
    return BPClassifier(**common, dtype="float32" if name.endswith("float32") else "auto")


def search(name: str, seed: int, epochs: int) -> dict[str, Any]:
    """Search the grid on four fifths of the digits: seconds, and accuracy in the folds and on the fifth held out."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.2, stratify=y, random_state=seed)
    pipeline = Pipeline([("scale", StandardScaler()), ("network", make(name, seed, epochs))])
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the epochs are over is what was asked for
        found = GridSearchCV(pipeline, GRID, cv=folds, error_score="raise").fit(x_train, y_train)
    return {
        "seconds": time.perf_counter() - start,
        "folds": float(found.best_score_),
        "test": float(found.score(x_test, y_test)),
        "best": ", ".join(f"{key.partition('__')[2]}={value}" for key, value in found.best_params_.items()),
    }


def measure(seeds: Sequence[int], epochs: int) -> int:
    """Print every search and a summary; 1 where BPClassifier's accuracy is below MLPClassifier's, else 0."""
    import sklearn

    import bpnet as bp

    facts = machine.describe()
    load = ", ".join(f"{each:.1f}" for each in facts["load"] or ())
    print(f"bpnet {bp.__version__}, scikit-learn {sklearn.__version__}; {facts['cpu']}; load before: {load}")
    for pool in machine.thread_pools() or ():
        print("  " + ", ".join(f"{key} {value}" for key, value in pool.items()))
    print(f"{len(seeds)} rounds of {3 * 3 * 2 * 2 + 1} fits of {epochs} epochs each")
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
    for place, seed in enumerate(seeds):
        order = NAMES[place % len(NAMES) :] + NAMES[: place % len(NAMES)]
        for name in order:
            found = search(name, seed, epochs)
            results[name].append(found)
            print(
                f"  seed {seed}: {name:24} {found['seconds']:7.2f} s, accuracy {found['folds']:.4f} in the folds, "
                f"{found['test']:.4f} on the fifth held out ({found['best']})",
                flush=True,
            )
    means = {}
    for name, found in results.items():
        means[name] = statistics.mean(each["folds"] for each in found)
        print(
            f"{name:24} median {statistics.median(each['seconds'] for each in found):.2f} s, mean accuracy "
            f"{means[name]:.4f} in the folds, {statistics.mean(each['test'] for each in found):.4f} held out"
        )
    return int(means["BPClassifier"] < means["MLPClassifier"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.grid_search", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument(
        "--here", action="store_true", help=argparse.SUPPRESS
    )  # in the child, whose environment is clean
    options = parser.parse_args(arguments)
    if options.here:
        return measure(options.seeds, options.epochs)
    environment, removed = machine.clean_environment(1)
    print(f"removed from the environment: {', '.join(removed) or 'nothing'}", flush=True)
    command = [sys.executable, "-m", "benchmarks.grid_search", "--here", "--epochs", str(options.epochs), "--seeds"]
    child = subprocess.run([*command, *map(str, options.seeds)], env=environment, cwd=machine.ROOT, check=False)
    return child.returncode


if __name__ == "__main__":
    sys.exit(main())
