"""What the sample arguments of kernels have in common: shapes, numbers, labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Cases = Callable[[Any, str], Iterator[tuple[Any, ...]]]
"""Called with a random generator and a floating dtype; gives tuples of arguments."""

SHAPES = [(1, 1), (3, 4), (32, 10), (0, 3), (5, 1), (2, 3, 4), (257, 33)]
ROWS = [(1, 1), (3, 4), (32, 10), (5, 1), (129, 7)]
SIZES = [1, 5, 16384, 16385, 40000]
KEY = (7, 0xFFFFFFFFFFFFFFFF)


def normal(rng: Any, shape: Any, dtype: str) -> Any:
    return rng.normal(size=shape).astype(dtype)


def special(rng: Any, shape: Any, dtype: str) -> Any:
    """Numbers with zeros, infinities and NaN among them."""
    x = normal(rng, shape, dtype)
    flat = x.reshape(-1)
    for value in (0.0, -0.0, np.inf, -np.inf, np.nan):
        if flat.size:
            flat[rng.integers(flat.size)] = value
    return x


def one_array(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in SHAPES:
        yield (normal(rng, shape, dtype),)
        yield (special(rng, shape, dtype),)
        yield (1e3 * normal(rng, shape, dtype),)


def two_arrays(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in SHAPES:
        yield (normal(rng, shape, dtype), normal(rng, shape, dtype))
        yield (special(rng, shape, dtype), normal(rng, shape, dtype))


def extended(cases: Any, *more: Any) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def extended(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for case in cases(rng, dtype):
            yield (*case, *more)

    return extended


def some_labels(rng: Any, n: int, c: int) -> Iterator[Any]:
    yield rng.integers(0, c, n)
    yield rng.integers(0, c, n).astype(np.int32)
    outside = rng.integers(0, c, n)
    outside[0] = -1
    outside[-1] = c
    yield outside


def counters() -> Any:
    return np.array([5, 0, 2], dtype=np.int64)


def flags() -> Iterator[Any]:
    yield np.array(True)
    yield np.array(False)
