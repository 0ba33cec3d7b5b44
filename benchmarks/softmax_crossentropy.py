"""What simplifying the derivative of softmax and cross-entropy saves: `python -m benchmarks.softmax_crossentropy`.

Three ways from probabilities p and labels to d loss / d logits, which must agree before any is timed:
  combined : (p - onehot) / N, one op
  separate : d loss / d p, then y (dy - sum dy y) for all rows at once, two ops
  Jacobian : d loss / d p, then for every sample its C x C matrix diag(p) - p p^T times dy, as the chapter writes it
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks import machine
from bpnet import ops

SIZES = ["3x3", "8x10", "32x10", "128x10", "512x10", "64x100", "512x100"]
SECONDS = 0.002  # that one method runs in one round, or one call where that takes longer

DISTORTING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # make OpenBLAS run kernels for another CPU than this one

Array = Any
Method = Callable[[Array, Array], Array]


def combined(p: Array, labels: Array) -> Array:
    return ops.softmax_cross_entropy_backward(p, labels, p.shape[0], 1.0)


def separate(p: Array, labels: Array) -> Array:
    dp = ops.categorical_cross_entropy_backward(p, labels, p.shape[0], 1.0)
    return ops.softmax_backward(dp, p)


def jacobian(p: Array, labels: Array) -> Array:
    dp = ops.categorical_cross_entropy_backward(p, labels, p.shape[0], 1.0)
    dlogits = np.empty_like(p)
    for sample, (y, dy) in enumerate(zip(p, dp, strict=True)):
        dlogits[sample] = (np.diag(y) - np.outer(y, y)) @ dy
    return dlogits


METHODS: list[Method] = [combined, separate, jacobian]


def batch(n: int, n_classes: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(n * n_classes)
    return ops.softmax(rng.standard_normal((n, n_classes))), rng.integers(0, n_classes, n)


def check_agreement(p: Array, labels: Array) -> None:
    """Raise ArithmeticError where a method is further from the combined one than rounding explains."""
    expected = combined(p, labels)
    bound = 16 * np.finfo(p.dtype).eps / p.shape[0]
    for method in METHODS:
        error = float(np.abs(method(p, labels) - expected).max())
        if not error <= bound:
            raise ArithmeticError(f"{method.__name__} differs by {error:.1e} at {p.shape}, more than {bound:.1e}")


def seconds(method: Method, p: Array, labels: Array, count: int) -> float:
    start = perf_counter()
    for _ in range(count):
        method(p, labels)
    return (perf_counter() - start) / count


def measure(p: Array, labels: Array, rounds: int) -> list[float]:
    """The median seconds of a call, by method; every round times all methods, beginning with another one."""
    counts = [max(1, int(SECONDS / seconds(method, p, labels, 3))) for method in METHODS]
    found: list[list[float]] = [[] for _ in METHODS]
    for number in range(rounds):
        for index in np.roll(range(len(METHODS)), number):
            found[index].append(seconds(METHODS[index], p, labels, counts[index]))
    return [median(each) for each in found]


def start_again_undistorted() -> None:
    """Replace this process by one without the DISTORTING variables: OpenBLAS has read them when it was loaded."""
    kept = {name: value for name, value in os.environ.items() if name not in DISTORTING}
    if len(kept) < len(os.environ):
        os.execve(sys.executable, sys.orig_argv, kept)


def heading() -> str:
    pools = machine.thread_pools()
    blas = "unknown (threadpoolctl is not installed)"
    if pools is not None:
        blas = ", ".join(str(pool.get("architecture", "?")) for pool in pools if pool["user_api"] == "blas") or "none"
    return f"{machine.describe()['cpu']}; NumPy {np.__version__}, BLAS architecture {blas}; float64"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.softmax_crossentropy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=25, help="of interleaved timings (default 25)")
    parser.add_argument("sizes", nargs="*", default=SIZES, help="samples x classes, such as 64x100")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    print(heading())
    print(f"medians of {arguments.rounds} interleaved rounds, in µs, and how many times the combined form's\n")
    print(f"{'batch':>8}{'combined':>12}{'separate':>12}{'Jacobian':>12}{'separate':>12}{'Jacobian':>12}")
    for size in arguments.sizes:
        p, labels = batch(*(int(n) for n in size.split("x")))
        check_agreement(p, labels)
        times = measure(p, labels, arguments.rounds)
        cells = [f"{1e6 * each:.1f}" for each in times] + [f"x {each / times[0]:.1f}" for each in times[1:]]
        print(f"{size:>8}" + "".join(f"{cell:>12}" for cell in cells), flush=True)
    return 0


if __name__ == "__main__":
    start_again_undistorted()
    sys.exit(main())
