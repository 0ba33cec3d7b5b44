"""The roofline: the rates that the machine reaches here, and the least time that a step needs at those rates.

[Williams, Waterman, Patterson 2009]
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

import numpy as np

SIDE = 1536  # of the square product whose rate is taken as the machine's
SMALLEST_SET = 1 << 18  # bytes; below, the call of a copy takes longer than the copy


def rates(working_set: int, threads: int) -> dict[str, Any]:
    """Floating point operations and bytes a second: the best of several tries, as a bound must be.

    working_set : bytes; the bandwidth is that of a copy which touches as many, so that of the cache they fit into
    """
    working_set = max(working_set, SMALLEST_SET)
    return {
        "flops_per_second": _product_rate(),
        "bytes_per_second": _copy_rate(working_set, threads),
        "working_set": working_set,
    }


def _product_rate() -> float:
    a, b = np.ones((SIDE, SIDE), np.float32), np.full((SIDE, SIDE), 0.5, np.float32)
    out = np.empty_like(a)
    return 2 * SIDE**3 / _least(lambda: np.dot(a, b, out), 6)


def _copy_rate(working_set: int, threads: int) -> float:
    """A copy reads one half and writes the other. On one thread and on all, whichever is faster."""
    source = np.ones(working_set // 8, np.float32)
    target = np.empty_like(source)
    best = _least(lambda: np.copyto(target, source), 30)
    if threads > 1 and working_set >= 1 << 20:
        with ThreadPoolExecutor(threads) as pool:
            pairs = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
            best = min(best, _least(lambda: list(pool.map(lambda pair: np.copyto(*pair), pairs)), 30))
    return 2 * source.nbytes / best


def _least(work: Any, tries: int) -> float:
    found = []
    for _ in range(tries):
        start = perf_counter()
        work()
        found.append(perf_counter() - start)
    return min(found)


def least_seconds(*, flops: int, bytes: int, rates: dict[str, Any]) -> float:
    """The larger of the two times: arithmetic and traffic may overlap, but neither can be left out."""
    return float(max(flops / rates["flops_per_second"], bytes / rates["bytes_per_second"]))
