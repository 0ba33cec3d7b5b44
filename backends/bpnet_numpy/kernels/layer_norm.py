"""LayerNorm and RMSNorm: some rows at a time, so that what lies between two passes stays in the cache."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_numpy.kernels.common import Array, blocks, constant, floating, ones
from bpnet_numpy.scratch import borrow

CHUNK = 1 << 15  # elements of a chunk of rows


def _rows(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


def allocate(x: Array, *_: Any) -> Any:
    """Where y, h and r go."""
    return np.empty_like(x), np.empty_like(x), np.empty((*x.shape[:-1], 1), x.dtype, like=x)


def _normalize(out: Any, x: Array, gain: Array, bias: Array | None, epsilon: float, centre: bool) -> list[Call]:
    width = x.shape[-1]
    y2, h2, r2, x2 = (_rows(each) for each in (*out, x))
    share = ones(width, x) * constant(1 / width, x.dtype)
    one, small = constant(1, x.dtype), constant(epsilon, x.dtype)
    calls: list[Call] = []
    n, parts = blocks(len(x2), width, CHUNK)
    scratch = borrow((n, width), x.dtype, x)
    for rows in parts:
        xs, ys, hs, r = x2[rows], y2[rows], h2[rows], r2[rows]
        s, flat_r = scratch[: len(xs)], r[:, 0]
        if centre:
            calls += [partial(np.dot, xs, share, flat_r), partial(np.subtract, xs, r, hs)]
        source = hs if centre else xs
        calls += [
            partial(np.multiply, source, source, s),
            partial(np.dot, s, share, flat_r),
            partial(np.add, r, small, r),
            partial(np.sqrt, r, r),
            partial(np.divide, one, r, r),
            partial(np.multiply, source, r, hs),
            partial(np.multiply, hs, gain, ys),
        ]
        if bias is not None:
            calls.append(partial(np.add, ys, bias, ys))
    return calls


@ops.layer_norm.register_bound(
    np.ndarray,
    accepts=lambda x, gain, bias, epsilon: floating(x, gain) and (bias is None or bias.dtype == x.dtype) and x.size > 0,
    allocate=allocate,
)
def _(out: Any, x: Array, gain: Array, bias: Array | None, epsilon: float) -> list[Call]:
    return _normalize(out, x, gain, bias, epsilon, True)


@ops.rms_norm.register_bound(
    np.ndarray, accepts=lambda x, gain, epsilon: floating(x, gain) and x.size > 0, allocate=allocate
)
def _(out: Any, x: Array, gain: Array, epsilon: float) -> list[Call]:
    return _normalize(out, x, gain, None, epsilon, False)


def allocate_backward(dy: Array, h: Array, r: Array, gain: Array, *needs: bool) -> Any:
    """Where dx, dgain and dbias go; None for what is not needed."""
    needs = needs + (True,) * (3 - len(needs))
    shapes = (dy.shape, gain.shape, gain.shape)
    return tuple(
        np.empty(shape, dy.dtype, like=dy) if need else None for shape, need in zip(shapes, needs, strict=True)
    )


def _backward(out: Any, dy: Array, h: Array, r: Array, gain: Array, centre: bool) -> list[Call]:
    """With g = gain / D: mean(dh) = dy g and mean(dh h) = (dy h) g, so that dh itself is made but once, as dx."""
    dx, dgain, dbias = out
    width = dy.shape[-1]
    dy2, h2, r2 = (_rows(each) for each in (dy, h, r))
    dtype = dy.dtype
    n, parts = blocks(len(dy2), width, CHUNK)
    scratch, part = borrow((n, width), dtype, dy), np.empty(width, dtype, like=dy)
    means, shared, share = np.empty((n, 1), dtype, like=dy), np.empty(width, dtype, like=dy), constant(1 / width, dtype)
    calls: list[Call] = []
    if dx is not None:
        calls.append(partial(np.multiply, gain, share, shared))
    for index, rows in enumerate(parts):
        dys, hs, s = dy2[rows], h2[rows], scratch[: len(dy2[rows])]
        mean = means[: len(dys)]
        calls.append(partial(np.multiply, dys, hs, s))
        for total, source in ((dgain, s), (dbias, dys)):
            if total is not None:
                calls.append(partial(np.dot, ones(len(dys), dys), source, part if index else total))
                if index:
                    calls.append(partial(np.add, total, part, total))
        if dx is not None:
            dxs = _rows(dx)[rows]
            calls += [
                partial(np.dot, s, shared, mean[:, 0]),
                partial(np.multiply, hs, mean, s),
                partial(np.multiply, dys, gain, dxs),
                partial(np.subtract, dxs, s, dxs),
            ]
            if centre:
                calls += [partial(np.dot, dys, shared, mean[:, 0]), partial(np.subtract, dxs, mean, dxs)]
            calls.append(partial(np.multiply, dxs, r2[rows], dxs))
    return calls


def _backward_accepts(dy: Array, h: Array, r: Array, gain: Array, *_: bool) -> bool:
    return floating(dy, h, r, gain) and dy.size > 0


@ops.layer_norm_backward.register_bound(np.ndarray, accepts=_backward_accepts, allocate=allocate_backward)
def _(out: Any, dy: Array, h: Array, r: Array, gain: Array, *_: bool) -> list[Call]:
    return _backward(out, dy, h, r, gain, True)


@ops.rms_norm_backward.register_bound(
    np.ndarray, accepts=_backward_accepts, allocate=lambda *args: allocate_backward(*args)[:2]
)
def _(out: Any, dy: Array, h: Array, r: Array, gain: Array, *_: bool) -> list[Call]:
    return _backward((*out, None), dy, h, r, gain, False)
