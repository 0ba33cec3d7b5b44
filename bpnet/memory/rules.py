"""Shapes and dtypes of what NumPy's functions give, where NumPy would have to compute to tell."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from bpnet.memory.ledger import OutlineError
from bpnet.memory.outline import FUNCTIONS, METHODS, Found, Outline, outline, reduced

Array = Any

# --- what a ufunc gives ---


def _kind(x: Any) -> Any:
    return x.dtype if isinstance(x, (np.ndarray, np.generic)) else type(x)


def _sample(kind: Any, shape: tuple[int, ...] = ()) -> Any:
    return np.ones(shape, kind) if isinstance(kind, np.dtype) else kind(1)


@cache
def _dtypes(ufunc: np.ufunc, kinds: tuple[Any, ...], dtype: Any) -> tuple[Any, ...]:
    with np.errstate(all="ignore"):
        found = ufunc(*(_sample(kind) for kind in kinds), **({} if dtype is None else {"dtype": dtype}))
    return tuple(np.asarray(each).dtype for each in (found if isinstance(found, tuple) else (found,)))


def _product_shape(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    rows, columns = a[-2:-1] if len(a) > 1 else (), b[-1:] if len(b) > 1 else ()
    if a[-1] != b[-2 if len(b) > 1 else -1]:
        raise ValueError(f"matmul: {a} and {b} do not fit")
    return (*np.broadcast_shapes(a[:-2], b[:-2]), *rows, *columns)


def _called(ufunc: np.ufunc, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Found:
    shapes = [np.shape(each) for each in inputs]
    if ufunc is np.matmul:
        return [_product_shape(*shapes)], (np.result_type(*map(_kind, inputs)),)
    if ufunc.signature is not None:
        if ufunc.__name__ != "vecdot":
            raise OutlineError(f"{ufunc.__name__} is not known of arrays without memory")
        axis = keywords.get("axis", -1)
        return [reduced(np.broadcast_shapes(*shapes), axis, False)], (np.result_type(*map(_kind, inputs)),)
    dtypes = _dtypes(ufunc, tuple(map(_kind, inputs)), keywords.get("dtype"))
    return [np.broadcast_shapes(*shapes)] * len(dtypes), dtypes


@cache
def _summed(ufunc: np.ufunc, kind: Any, dtype: Any) -> Any:
    return ufunc.reduce(np.ones(1, kind), dtype=dtype).dtype


def _folded(ufunc: np.ufunc, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Found:
    x = inputs[0]
    axis = keywords.get("axis", inputs[1] if len(inputs) > 1 else 0)
    dtype = keywords.get("dtype", inputs[2] if len(inputs) > 2 else None)
    shape = reduced(np.shape(x), axis, bool(keywords.get("keepdims", False)))
    return [shape], (_summed(ufunc, _kind(x), dtype),)


def _accumulated(ufunc: np.ufunc, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Found:
    return [np.shape(inputs[0])], (_summed(ufunc, _kind(inputs[0]), keywords.get("dtype")),)


def _outer(ufunc: np.ufunc, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Found:
    return [np.shape(inputs[0]) + np.shape(inputs[1])], _dtypes(ufunc, tuple(map(_kind, inputs)), None)


METHODS.update({"__call__": _called, "reduce": _folded, "accumulate": _accumulated, "outer": _outer})


# --- functions ---


def answers(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate what stands for functions of NumPy."""

    def decorate(handler: Callable[..., Any]) -> Callable[..., Any]:
        for each in functions:
            FUNCTIONS[each] = handler
        return handler

    return decorate


@answers(np.copyto, np.putmask, np.place, np.put)
def _nothing(*_: Any, **keywords: Any) -> None:
    """What writes into its first argument."""


@answers(np.empty_like, np.zeros_like, np.ones_like)
def _like(x: Any, dtype: Any = None, order: Any = "K", subok: Any = True, shape: Any = None, **_: Any) -> Any:
    return outline(np.shape(x) if shape is None else shape, x.dtype if dtype is None else dtype)


@answers(np.full_like)
def _full_like(x: Any, value: Any, dtype: Any = None, order: Any = "K", *_: Any, shape: Any = None, **k: Any) -> Any:
    return _like(x, dtype, shape=shape)


@answers(np.empty, np.zeros, np.ones)
def _new(shape: Any, dtype: Any = None, order: Any = "C", **_: Any) -> Any:
    return outline(shape, np.float64 if dtype is None else dtype)


@answers(np.full)
def _full(shape: Any, value: Any, dtype: Any = None, order: Any = "C", **_: Any) -> Any:
    return outline(shape, np.result_type(_kind(value)) if dtype is None else dtype)


@answers(np.arange)
def _arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None, **_: Any) -> Any:
    first, last = (0, start) if stop is None else (start, stop)
    kind = np.result_type(*(np.min_scalar_type(each) for each in (first, last, step))) if dtype is None else dtype
    if dtype is None:
        kind = np.float64 if np.dtype(kind).kind == "f" else np.int64
    return outline((max(0, math.ceil((last - first) / step)),), kind)


@answers(np.eye)
def _eye(n: int, m: int | None = None, k: int = 0, dtype: Any = None, **_: Any) -> Any:
    return outline((n, n if m is None else m), np.float64 if dtype is None else dtype)


@answers(np.linspace)
def _linspace(start: Any, stop: Any, num: int = 50, dtype: Any = None, **_: Any) -> Any:
    return outline((num,), np.float64 if dtype is None else dtype)


@answers(np.asarray, np.array, np.asanyarray, np.ascontiguousarray)
def _asarray(x: Any, dtype: Any = None, *_: Any, copy: Any = None, **keywords: Any) -> Any:
    if not isinstance(x, Outline):
        found = np.asarray(x)
        return outline(found.shape, found.dtype if dtype is None else dtype)
    same = dtype is None or x.dtype == dtype
    return x if same and not copy else outline(x.shape, x.dtype if dtype is None else dtype)


@answers(np.where)
def _where(condition: Any, x: Any, y: Any) -> Any:
    return outline(np.broadcast_shapes(*map(np.shape, (condition, x, y))), _common(x, y))


def _common(*arrays: Any) -> Any:
    """The dtype of what is made of arrays and Python's numbers."""
    return np.result_type(*(each.dtype if hasattr(each, "dtype") else each for each in arrays))


@answers(np.concatenate)
def _concatenate(arrays: Any, axis: int | None = 0, out: Any = None, **_: Any) -> Any:
    shapes = [np.shape(each) for each in arrays]
    if axis is None:
        return outline((sum(map(math.prod, shapes)),), _common(*arrays))
    at = axis % len(shapes[0])
    if len({(*shape[:at], *shape[at + 1 :]) for shape in shapes}) > 1:
        raise ValueError(f"concatenate: shapes {shapes} differ beside axis {axis}")
    return outline((*shapes[0][:at], sum(shape[at] for shape in shapes), *shapes[0][at + 1 :]), _common(*arrays))


@answers(np.broadcast_to)
def _broadcast_to(x: Any, shape: Any, subok: bool = False) -> Any:
    new = (shape,) if isinstance(shape, int) else tuple(shape)
    if np.broadcast_shapes(x.shape, new) != new:
        raise ValueError(f"cannot broadcast {x.shape} to {new}")
    gap = len(new) - x.ndim
    steps = [0 if k < gap or x.shape[k - gap] == 1 else x.strides[k - gap] for k in range(len(new))]
    return np.lib.stride_tricks.as_strided(x, new, steps, subok=True)


@answers(np.broadcast_arrays)
def _broadcast_arrays(*arrays: Any, subok: bool = False) -> Any:
    shape = np.broadcast_shapes(*map(np.shape, arrays))
    return tuple(_broadcast_to(each, shape) for each in arrays)


@answers(np.take)
def _take(x: Any, indices: Any, axis: Any = None, out: Any = None, mode: str = "raise") -> Any:
    if isinstance(x, Outline):
        return x.take(indices, axis, out)
    return outline(np.shape(indices), x.dtype) if axis is None else outline(x.shape, x.dtype).take(indices, axis, out)


@answers(np.take_along_axis)
def _take_along_axis(x: Any, indices: Any, axis: int = -1) -> Any:
    at = axis % x.ndim
    shape = [n if k == at else max(n, m) for k, (n, m) in enumerate(zip(indices.shape, x.shape, strict=True))]
    return outline(shape, x.dtype)


@answers(np.tril, np.triu, np.sort, np.flip, np.roll)
def _as_large(x: Any, *_: Any, **keywords: Any) -> Any:
    return outline(x.shape, x.dtype)


@answers(np.result_type)
def _result_type(*kinds: Any) -> Any:
    return _common(*kinds)


@answers(np.dot)
def _dot(x: Any, y: Any, out: Any = None) -> Any:
    if out is not None:
        return out
    a, b = np.shape(x), np.shape(y)
    if not a or not b:
        return outline(a + b, _common(x, y))
    if a[-1] != b[-2 if len(b) > 1 else -1]:
        raise ValueError(f"dot: {a} and {b} do not fit")
    return outline((*a[:-1], *b[:-2], *(b[-1:] if len(b) > 1 else ())), _common(x, y))


@answers("picked")
def _picked(x: Any, keys: tuple[Any, ...]) -> Any:
    """What integer arrays pick, where they stand first and side by side."""
    arrays = [np.shape(each) for each in keys if isinstance(each, (np.ndarray, list))]
    masks = any(getattr(each, "dtype", None) == np.bool_ for each in keys)
    if masks or not all(isinstance(each, (np.ndarray, list)) for each in keys[: len(arrays)]):
        raise OutlineError("an index that is an array of truth values, or stands behind a slice, depends on values")
    rest = x[0, ...] if x.shape[0] else x
    for _ in range(len(arrays) - 1):
        rest = rest[0, ...]
    rest = rest[keys[len(arrays) :]] if len(keys) > len(arrays) else rest
    return outline(np.broadcast_shapes(*arrays) + rest.shape, x.dtype)


class Namespace:
    """NumPy's functions, of which those that make arrays make outlines."""

    _MAKE = frozenset({"empty", "zeros", "ones", "full", "arange", "eye", "linspace", "asarray"})

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        return FUNCTIONS[found] if name in self._MAKE else found
