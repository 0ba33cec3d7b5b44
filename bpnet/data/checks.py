"""The checks at the door: made once when data enter, with the place of the first offender."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet.backend import to_numpy
from bpnet.dispatch import Array, namespace
from bpnet.errors import DataError, DTypeError, ShapeError


def check_finite(x: Array, name: str, offset: int = 0) -> None:
    """Raise DataError when the floating `x` holds NaN or infinities: which array, how many, where the first is.

    offset : added to the first index in the message, for parts of a longer array
    """
    xp = namespace(x)
    if not xp.isdtype(x.dtype, "real floating") or bool(xp.all(xp.isfinite(x))):
        return
    host = to_numpy(x)
    bad = np.argwhere(~np.isfinite(host))
    first = tuple(int(i) for i in bad[0])
    n_nan = int(np.isnan(host).sum())
    raise DataError(
        f"{name} holds {n_nan} NaN and {len(bad) - n_nan} infinite values among {host.size}; the first is "
        f"{host[first]} at index {(first[0] + offset, *first[1:]) if first else ()}; remove or impute them"
    )


def check_range(x: Array, name: str, dtype: str) -> None:
    """Raise DataError when a finite value of `x` is beyond the largest number of the floating `dtype`."""
    xp = namespace(x)
    limit = float(np.finfo(dtype).max)
    if not xp.isdtype(x.dtype, "real floating") or float(xp.finfo(x.dtype).max) <= limit:
        return
    if bool(xp.any(xp.abs(x) > limit)):
        raise DataError(
            f"{name} holds values beyond {limit:.4g}, the largest {dtype}; scale them, or use a float64 model"
        )


def check_labels(
    y: Array, n_classes: int, name: str = "y", offset: int = 0, *, ignored: int | None = None, axes: int = 1
) -> None:
    """Raise DTypeError, ShapeError or DataError unless `y` holds integers in 0 ... n_classes - 1, or `ignored` ones.

    axes : the number of axes that y must have
    """
    check_label_form(y, n_classes, name, axes)
    good = (y >= 0) & (y < n_classes)
    if ignored is not None:
        good = good | (y == ignored)
    if bool(namespace(y).all(good)):
        return
    host, bad = to_numpy(y), np.argwhere(~to_numpy(good))
    first = tuple(int(i) for i in bad[0])
    place = first[0] + offset if len(first) == 1 else (first[0] + offset, *first[1:])
    beside = "" if ignored is None else f" (or be {ignored}, which the loss ignores)"
    raise DataError(
        f"{name} holds {len(bad)} labels outside 0 ... {n_classes - 1}, which is all that the model's {n_classes} "
        f"outputs can name{beside}; the first is {host[first]} at index {place}"
    )


def check_weights(weight: Array, name: str = "sample_weight") -> None:
    """Raise ShapeError, DTypeError or DataError unless `weight` is (N,) finite numbers, none below 0, not all 0."""
    xp = namespace(weight)
    if weight.ndim != 1:
        raise ShapeError(f"{name} must have shape (N,), one weight a sample, got {tuple(weight.shape)}")
    if not xp.isdtype(weight.dtype, ("real floating", "integral", "bool")):
        raise DTypeError(f"{name} must hold numbers, got dtype {weight.dtype}")
    check_finite(weight, name)
    host = to_numpy(weight)
    if (host < 0).any():
        first = int(np.flatnonzero(host < 0)[0])
        raise DataError(f"{name} must not be negative; {host[first]} stands at index {first}")
    if not host.any():
        raise DataError(f"{name} holds zeros alone; nothing would be learned")


def check_label_form(y: Array, n_classes: int, name: str = "y", axes: int = 1) -> None:
    """Raise ShapeError or DTypeError unless `y` is (N,), or has `axes` axes, of an integer dtype; reads no values."""
    xp = namespace(y)
    if y.ndim != axes:
        hint = "; for one-hot rows pass y.argmax(axis=1)" if y.ndim == 2 and y.shape[1] == n_classes else ""
        hint = "; use y[:, 0]" if y.ndim == 2 and y.shape[1] == 1 else hint
        raise ShapeError(f"{name} must have shape (N,), one label a sample, got {tuple(y.shape)}{hint}")
    if not xp.isdtype(y.dtype, "integral"):
        raise DTypeError(f"{name} must hold integer class labels, got {y.dtype}; use y.astype(int) if they are whole")


def check_lengths(x: Any, y: Any, name_x: str = "x", name_y: str = "y") -> int:
    """Return the number of samples; ShapeError when the two differ, DataError when there are none."""
    n_x, n_y = _length(x, name_x), _length(y, name_y)
    if n_x != n_y:
        raise ShapeError(f"{name_x} holds {n_x} samples and {name_y} {n_y}; they must be as many")
    if n_x == 0:
        raise DataError(f"{name_x} is empty; there is nothing to do with 0 samples")
    return n_x


def _length(x: Any, name: str) -> int:
    if len(x.shape) == 0:
        raise ShapeError(f"{name} must have a first axis of samples, got a 0-d array")
    return int(x.shape[0])
