"""The checks at the door: made once when data enter, with the place of the first offender."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bpnet.backend import to_numpy
from bpnet.dispatch import Array, namespace
from bpnet.errors import DataError, DTypeError, ShapeError

PART = 1 << 20
"""Elements that are looked at together."""


def check_finite(x: Array, name: str, offset: int = 0) -> None:
    """Raise DataError when the floating `x` holds NaN or infinities: which array, how many, where the first is.

    offset : added to the first index in the message, for parts of a longer array
    """
    if not namespace(x).isdtype(x.dtype, "real floating") or _all_finite(x):
        return
    host = to_numpy(x)
    bad = np.argwhere(~np.isfinite(host))
    first = tuple(int(i) for i in bad[0])
    n_nan = int(np.isnan(host).sum())
    raise DataError(
        f"{name} holds {n_nan} NaN and {len(bad) - n_nan} infinite values among {host.size}; the first is "
        f"{host[first]} at index {(first[0] + offset, *first[1:]) if first else ()}; remove or impute them"
    )


def _all_finite(x: Array) -> bool:
    """Whether all values are finite, some rows at a time: truth values of all of them would be the most memory that a
    training of a small model takes above its data."""
    xp = namespace(x)
    rows = x.shape[0] if x.ndim else 1
    step = max(1, rows * PART // max(1, math.prod(x.shape)))
    if rows <= step:
        return bool(xp.all(xp.isfinite(x)))
    return all(bool(xp.all(xp.isfinite(x[i : i + step, ...]))) for i in range(0, rows, step))


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


def check_labels(y: Array, n_classes: int, name: str = "y", offset: int = 0) -> None:
    """Raise DTypeError, ShapeError or DataError unless `y` is (N,) integers in 0 ... n_classes - 1."""
    check_label_form(y, n_classes, name)
    check_label_values(y, n_classes, name, offset)


def check_label_values(
    y: Array, n_classes: int, name: str = "y", offset: int = 0, ignore_index: int | None = None
) -> None:
    """Raise DataError unless every integer of `y`, of any shape, is in 0 ... n_classes - 1 or is `ignore_index`."""
    xp = namespace(y)
    wide = xp.astype(y, xp.int64)  # a narrow dtype may not hold the numbers it is compared with
    good = (wide >= 0) & (wide < n_classes)
    if ignore_index is not None:
        good = good | (wide == ignore_index)
    if bool(xp.all(good)):
        return
    bad = np.argwhere(~to_numpy(good))
    ignored = "" if ignore_index is None else f" and are not the ignored {ignore_index}"
    raise DataError(
        f"{name} holds {len(bad)} labels outside 0 ... {n_classes - 1}, which is all that the model's {n_classes} "
        f"outputs can name{ignored}; the first is {_place(to_numpy(y), bad[0], offset)}"
    )


def check_ids(x: Array, n_ids: int, name: str = "x", offset: int = 0) -> None:
    """Raise DTypeError or DataError unless `x`, of any shape, holds integers in 0 ... n_ids - 1."""
    xp = namespace(x)
    if not xp.isdtype(x.dtype, "integral"):
        raise DTypeError(
            f"{name} must hold ids, integers in 0 ... {n_ids - 1}, which the model begins with; got {x.dtype}"
        )
    wide = xp.astype(x, xp.int64)
    good = (wide >= 0) & (wide < n_ids)
    if bool(xp.all(good)):
        return
    bad = np.argwhere(~to_numpy(good))
    raise DataError(
        f"{name} holds {len(bad)} ids outside 0 ... {n_ids - 1}, which are all that the model's first layer knows; the "
        f"first is {_place(to_numpy(x), bad[0], offset)}"
    )


def check_distributions(t: Array, name: str = "y", offset: int = 0) -> None:
    """Raise DataError unless every row of `t` (N, ..., C) is of probabilities: none negative, their sum 1 to 1e-3."""
    xp = namespace(t)
    good = xp.all(t >= 0, axis=-1) & (xp.abs(xp.sum(t, axis=-1) - 1) <= 1e-3)  # NaN is not good
    if bool(xp.all(good)):
        return
    bad = np.argwhere(~to_numpy(good))
    host = to_numpy(t)
    first = tuple(int(i) for i in bad[0])
    why = f"a value of {host[first].min():.4g}" if not host[first].min() >= 0 else f"the sum {host[first].sum():.4g}"
    raise DataError(
        f"{name} holds {len(bad)} rows that are no probabilities: none may be negative, and each row must sum to 1; "
        f"the first, at index {_index(first, offset)}, has {why}"
    )


def check_each(y: Array, good: Array, name: str, words: str, offset: int = 0) -> None:
    """Raise DataError, which says that all of `y` must `words`, unless every element of `good` is true."""
    if not bool(namespace(good).all(good)):
        bad = np.argwhere(~to_numpy(good))
        raise DataError(
            f"{name} must {words}; {len(bad)} of {to_numpy(good).size} are not, the first is "
            f"{_place(to_numpy(y), bad[0], offset)}"
        )


def check_weights(weight: Array, name: str = "sample_weight", offset: int = 0) -> None:
    """Raise DTypeError, ShapeError or DataError unless `weight` is (N,) numbers, finite, none negative, not all 0."""
    xp = namespace(weight)
    if weight.ndim != 1:
        hint = f"; use {name}[:, 0]" if weight.ndim == 2 and weight.shape[1] == 1 else ""
        raise ShapeError(f"{name} must have shape (N,), one weight a sample, got {tuple(weight.shape)}{hint}")
    if not xp.isdtype(weight.dtype, ("real floating", "integral")):
        raise DTypeError(f"{name} must hold numbers, got {weight.dtype}")
    if xp.isdtype(weight.dtype, "real floating"):
        check_finite(weight, name, offset)
    check_each(weight, weight >= 0, name, "be at least 0", offset)
    if weight.shape[0] and not bool(xp.any(weight > 0)):
        raise DataError(f"{name} is 0 for all {weight.shape[0]} samples; there is nothing to learn from")


def _index(at: Any, offset: int) -> Any:
    """An index as messages show it: a number, or a tuple where there are more axes."""
    whole = tuple(int(i) for i in at)
    whole = (whole[0] + offset, *whole[1:]) if whole else ()
    return whole[0] if len(whole) == 1 else whole


def _place(host: Any, at: Any, offset: int) -> str:
    return f"{host[tuple(int(i) for i in at)]} at index {_index(at, offset)}"


def check_label_form(y: Array, n_classes: int, name: str = "y") -> None:
    """Raise ShapeError or DTypeError unless `y` is (N,) of an integer dtype; reads no values."""
    xp = namespace(y)
    if y.ndim != 1:
        hint = "; for one-hot rows pass y.argmax(axis=1)" if y.ndim == 2 and y.shape[1] == n_classes else ""
        hint = "; use y[:, 0]" if y.ndim == 2 and y.shape[1] == 1 else hint
        raise ShapeError(f"{name} must have shape (N,), one label a sample, got {tuple(y.shape)}{hint}")
    if not xp.isdtype(y.dtype, "integral"):
        kind = getattr(y.dtype, "kind", "")  # NumPy's; other libraries hold no text
        hint = "np.unique(y, return_inverse=True)[1] numbers them" if kind in "OSTU" and kind else ""
        raise DTypeError(
            f"{name} must hold integer class labels, got {y.dtype}; {hint or 'use y.astype(int) if they are whole'}"
        )


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
