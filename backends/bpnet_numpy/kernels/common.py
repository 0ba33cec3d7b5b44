"""What the NumPy bodies share."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import numpy as np

from bpnet.dispatch import Call, Kernel

Array = Any

SIGNED = {np.dtype("float32"): np.dtype("int32"), np.dtype("float64"): np.dtype("int64")}
INDICES = (np.dtype("int32"), np.dtype("int64"))
"""Dtypes of labels, ids and lengths."""
TINY_TOTAL = 1e-26
"""A sum of exponentials above it has a largest one that is a normal float32, with room below."""
_ONES: dict[Hashable, Array] = {}


def kept_for(known: dict[Hashable, Array], like: Array, key: Hashable, make: Callable[[], Array]) -> Array:
    """What `make` made for `key`, read-only. What stands for an array keeps what is made for it by itself."""
    if type(like) is not np.ndarray and hasattr(like, "constants"):
        known = like.constants(id(known))
    found = known.get(key)
    if found is None:
        if len(known) >= 256:
            known.clear()
        found = known[key] = make()
        found.flags.writeable = False
    return found


def blocks(n: int, width: int, most: int) -> tuple[int, list[slice]]:
    """How many of n rows or samples of `width` numbers are treated at a time, and which: of about `most` numbers, so
    that what lies between two passes stays in the cache."""
    step = max(1, min(n, most // max(1, width)))
    return step, [slice(start, min(start + step, n)) for start in range(0, n, step)]


def ones(n: int, like: Array) -> Array:
    """A read-only vector of ones of the dtype of `like`, made once: `ones @ x` is the fastest column sum NumPy has."""
    return kept_for(_ONES, like, (n, like.dtype), lambda: np.ones(n, like.dtype, like=like))


def constant(value: float, dtype: np.dtype[Any]) -> Array:
    """A 0-d array: ufuncs take it several times faster than a Python number."""
    return np.asarray(value, dtype)


def floating(*arrays: Array) -> bool:
    """Whether all arrays are C-contiguous and of one dtype, float32 or float64."""
    dtype = arrays[0].dtype
    return dtype in SIGNED and all(a.dtype == dtype and a.flags.c_contiguous for a in arrays)


def first_like(x: Array, *_: Any) -> Array:
    """Allocate an array like the first argument."""
    return np.empty_like(x)


def nothing(*_: Any) -> None:
    """Allocate nothing: the op writes into its arguments."""


def bound(kernel: Kernel, out: Array, *args: Any) -> list[Call]:
    """The calls that write `kernel(*args)` to `out`."""
    variant = kernel.choose(args)
    if variant.bind is not None:
        return variant.bind(out, *args)
    return [partial(_copy_result, variant.body, out, args)]


def _copy_result(body: Any, out: Array, args: Any) -> None:
    out[...] = body(*args)
