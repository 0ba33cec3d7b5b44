"""Mean and standard deviation of data of any size, in one pass over pieces of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bpnet.backend import to_numpy
from bpnet.data.checks import check_finite
from bpnet.data.dataset import Dataset, as_array
from bpnet.errors import DataError, ShapeError

PIECE = 1 << 22  # bytes of float64 that are looked at together
_FLOAT32 = np.finfo(np.float32)


def mean_and_std(x: Any, shape: tuple[int, ...] | None = None) -> tuple[Any, Any]:
    """Return (mean, standard deviation) of `x` over its samples, each float64 of `shape`.

    x     : (..., *S) array of any library, a memory map, nested lists, or a Dataset (its x); S is `shape`, where an
            axis of 1 may stand for an axis of any length, which is then pooled. None: the shape of one sample
    Where all values are equal, and the standard deviation 0, it is given as 1.
    Raises ShapeError when `x` has another shape, DataError when it is empty, or holds NaN or infinities.

    Each piece's mean and sum of squared deviations are merged into those before, d being the difference of the means:
    mean += d n_b / n, M2 += M2_b + d^2 n_a n_b / n. [Chan, Golub, LeVeque 1983]
    """
    x = as_array(x.x if isinstance(x, Dataset) else x, "x")
    shape = tuple(x.shape[1:]) if shape is None else shape
    own = tuple(x.shape[len(x.shape) - len(shape) :])
    if len(x.shape) <= len(shape) or any(wanted not in (1, n) for wanted, n in zip(shape, own, strict=True)):
        raise ShapeError(f"x must be samples of shape {shape}, so of shape (N, ...), got {tuple(x.shape)}")
    if math.prod(x.shape) == 0:
        raise DataError(f"x is empty, shape {tuple(x.shape)}; there is nothing to take a mean of")
    lead = len(x.shape) - len(shape)
    pooled = (*range(lead), *(lead + i for i, wanted in enumerate(shape) if wanted == 1))
    count, mean, squares = 0, np.zeros(shape), np.zeros(shape)
    rows = max(1, PIECE // (8 * math.prod(x.shape[1:])))
    for start in range(0, x.shape[0], rows):
        raw = x[start : min(start + rows, x.shape[0]), ...]
        check_finite(raw, "x", offset=start)
        piece = np.asarray(to_numpy(raw), dtype=np.float64)
        centre = np.mean(piece, axis=pooled, keepdims=True)
        centre = centre + np.mean(piece - centre, axis=pooled, keepdims=True)  # so that a constant is met exactly
        deviations = np.sum((piece - centre) ** 2, axis=pooled).reshape(shape)
        n = piece.size // math.prod(shape)
        difference = centre.reshape(shape) - mean
        count += n
        mean = mean + difference * (n / count)
        squares = squares + deviations + difference**2 * (n * (count - n) / count)
    std = np.sqrt(squares / count)
    return mean, np.where(std == 0, 1.0, std)


def check_statistics(mean: Any, std: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Return both as float64 NumPy arrays; ShapeError or DataError unless they are of `shape`, finite, and std > 0."""
    found = []
    for name, given in (("mean", mean), ("std", std)):
        host = np.asarray(to_numpy(as_array(given, name)), dtype=np.float64)
        if host.shape != shape:
            raise ShapeError(f"{name} must have shape {shape}, got {host.shape}")
        check_finite(host, name)
        if np.max(np.abs(host)) > _FLOAT32.max:
            raise DataError(f"{name} holds {np.max(np.abs(host)):g}, beyond the largest float32; scale the data")
        found.append(host)
    smallest = float(found[1].min())
    if smallest < _FLOAT32.tiny:
        raise DataError(f"std must be above 0, at least {_FLOAT32.tiny:.2g} in float32; it holds {smallest:g}")
    return found[0], found[1]
