"""Batch norm in blocks of rows that stay in the cache, and the running statistics that follow it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_numpy.kernels.common import Array, blocks, constant, first_like, floating, nothing, ones
from bpnet_numpy.scratch import borrow

BLOCK = 1 << 16  # numbers


def _blocks(*arrays: Array) -> list[tuple[Array, ...]]:
    """Ranges of rows, the same of all arrays (..., C)."""
    flat = [a.reshape(-1, a.shape[-1]) for a in arrays]
    _, parts = blocks(len(flat[0]), flat[0].shape[1], BLOCK)
    return [tuple(a[rows] for a in flat) for rows in parts]


def _scratch(x: Array) -> Array:
    n, _ = blocks(x.size // x.shape[-1], x.shape[-1], BLOCK)
    return borrow((n, x.shape[-1]), x.dtype, x)


def _sum_rows(part: Array, total: Array, more: Array, first: bool) -> list[Call]:
    """total = or += the sum of the rows of a block."""
    rows = ones(part.shape[0], part)
    if first:
        return [partial(np.dot, rows, part, total)]
    return [partial(np.dot, rows, part, more), partial(np.add, total, more, total)]


def _scale(out: Array, variance: Array, weight: Array | None, epsilon: float) -> list[Call]:
    """out = weight / sqrt(variance + epsilon)."""
    calls: list[Call] = [
        partial(np.add, variance, constant(epsilon, out.dtype), out),
        partial(np.sqrt, out, out),
        partial(np.divide, constant(1, out.dtype), out, out),
    ]
    return calls if weight is None else [*calls, partial(np.multiply, out, weight, out)]


def _accepts(x: Array, *rest: Any) -> bool:
    return floating(x, *(each for each in rest if isinstance(each, np.ndarray))) and x.size > 0


@ops.batch_norm.register_bound(
    np.ndarray,
    accepts=_accepts,
    allocate=lambda x, *_: (
        np.empty_like(x),
        np.empty(x.shape[-1:], x.dtype, like=x),
        np.empty(x.shape[-1:], x.dtype, like=x),
    ),
)
def _(out: Any, x: Array, weight: Array | None, bias: Array | None, epsilon: float) -> list[Call]:
    y, mean, variance = out
    share = constant(x.shape[-1] / x.size, x.dtype)
    scratch, more, scale = _scratch(x), np.empty_like(mean), np.empty_like(mean)
    calls: list[Call] = []
    for k, (a,) in enumerate(_blocks(x)):
        calls += _sum_rows(a, mean, more, not k)
    calls.append(partial(np.multiply, mean, share, mean))
    for k, (a, b) in enumerate(_blocks(x, y)):
        s = scratch[: len(a)]
        calls += [partial(np.subtract, a, mean, b), partial(np.multiply, b, b, s), *_sum_rows(s, variance, more, not k)]
    calls.append(partial(np.multiply, variance, share, variance))
    calls += _scale(scale, variance, weight, epsilon)
    for (b,) in _blocks(y):
        calls.append(partial(np.multiply, b, scale, b))
        if bias is not None:
            calls.append(partial(np.add, b, bias, b))
    return calls


@ops.batch_norm_backward.register_bound(
    np.ndarray,
    accepts=lambda dy, x, mean, variance, weight, *_: _accepts(dy, x, mean, variance, weight),
    allocate=lambda dy, x, mean, variance, weight, epsilon, need_dx=True: (
        np.empty_like(x) if need_dx else None,
        np.empty_like(mean),
        np.empty_like(mean),
    ),
)
def _(
    out: Any, dy: Array, x: Array, mean: Array, variance: Array, weight: Array | None, epsilon: float, *_: bool
) -> list[Call]:
    dx, dweight, dbias = out
    scratch, more, scale = _scratch(x), np.empty_like(mean), np.empty_like(mean)
    calls = _scale(scale, variance, None, epsilon)
    for k, (g, a) in enumerate(_blocks(dy, x)):
        s = scratch[: len(a)]
        calls += [partial(np.subtract, a, mean, s), partial(np.multiply, s, g, s), *_sum_rows(s, dweight, more, not k)]
        calls += _sum_rows(g, dbias, more, not k)
    calls.append(partial(np.multiply, dweight, scale, dweight))
    if dx is None:
        return calls
    share = constant(x.shape[-1] / x.size, x.dtype)
    slope, shift = np.empty_like(mean), np.empty_like(mean)
    calls += [
        partial(np.multiply, dweight, share, slope),
        partial(np.multiply, slope, scale, slope),  # of x - mean
        partial(np.multiply, dbias, share, shift),
    ]
    if weight is not None:
        calls.append(partial(np.multiply, scale, weight, scale))
    for g, a, d in _blocks(dy, x, dx):
        s = scratch[: len(a)]
        calls += [
            partial(np.subtract, a, mean, s),
            partial(np.multiply, s, slope, s),
            partial(np.subtract, g, s, d),
            partial(np.subtract, d, shift, d),
            partial(np.multiply, d, scale, d),
        ]
    return calls


@ops.scale_shift.register_bound(np.ndarray, accepts=_accepts, allocate=first_like)
def _(
    out: Array, x: Array, mean: Array, variance: Array, weight: Array | None, bias: Array | None, epsilon: float
) -> list[Call]:
    scale = np.empty_like(mean)
    calls = _scale(scale, variance, weight, epsilon)
    for a, b in _blocks(x, out):
        calls += [partial(np.subtract, a, mean, b), partial(np.multiply, b, scale, b)]
        if bias is not None:
            calls.append(partial(np.add, b, bias, b))
    return calls


@ops.blend_.register_bound(np.ndarray, accepts=lambda target, *rest: floating(target, *rest[:2]), allocate=nothing)
def _(_: None, target: Array, source: Array, new: Array, momentum: float, factor: float) -> list[Call]:
    part = np.empty_like(new)
    return [
        partial(np.multiply, new, constant(momentum * factor, new.dtype), part),
        partial(np.multiply, source, constant(1 - momentum, new.dtype), target),
        partial(np.add, target, part, target),
    ]


@ops.commit_.register_bound(np.ndarray, allocate=nothing)
def _(_: None, value: Array, pending: Array, ok: Array) -> list[Call]:
    def call() -> None:
        if ok:
            np.copyto(value, pending)

    return [call]


@ops.transpose.register_bound(
    np.ndarray, allocate=lambda x, axes: np.empty(tuple(x.shape[k] for k in axes), x.dtype, like=x)
)
def _(out: Array, x: Array, axes: tuple[int, ...]) -> list[Call]:
    return [partial(np.copyto, out, x.transpose(axes))]
