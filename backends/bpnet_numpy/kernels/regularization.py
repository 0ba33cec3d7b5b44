"""Rates, penalties, clipping and averages."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet.ops.rates import Floats, Formula
from bpnet_numpy.kernels.common import Array, constant, floating, nothing
from bpnet_numpy.kernels.update import CHUNK, FLUSH_EVERY, chunks, flush_tiny, guarded, one_dimensional


@ops.set_rate_.register_bound(np.ndarray, allocate=nothing)
def _(_: None, learning_rate: Array, counters: Array, schedule: Formula) -> list[Call]:
    def call() -> None:
        learning_rate.fill(schedule.rate(float(counters[0]), Floats))

    return [call]


@ops.scale_rate_.register_bound(np.ndarray, allocate=nothing)
def _(_: None, target: Array, learning_rate: Array, scale: float) -> list[Call]:
    return [partial(np.multiply, learning_rate, constant(scale, learning_rate.dtype), target)]


@ops.penalty.register_bound(
    np.ndarray,
    accepts=lambda values, *_: floating(*values),
    allocate=lambda values, *_: np.empty((), values[0].dtype, like=values[0]),
)
def _(out: Array, values: tuple[Array, ...], l1: tuple[float, ...], l2: tuple[float, ...]) -> list[Call]:
    scratch = np.empty(min(CHUNK, max(w.size for w in values)), out.dtype, like=out)
    terms: list[tuple[float, Any]] = []
    for value, a, b in zip(values, l1, l2, strict=True):
        for (w,) in chunks(value.reshape(-1)):
            if a:
                terms.append((a, partial(_sum_of_sizes, w, scratch[: w.size])))
            if b:
                terms.append((b, partial(np.dot, w, w)))

    def call() -> None:
        total = 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            for factor, term in terms:
                total += factor * float(term())
            out.fill(total)

    return [call]


def _sum_of_sizes(w: Array, scratch: Array) -> Any:
    return np.add.reduce(np.absolute(w, scratch))


@ops.penalty_gradient_.register_bound(
    np.ndarray, accepts=lambda grad, value, *_: floating(grad, value), allocate=nothing
)
def _(_: None, grad: Array, value: Array, l1: float, l2: float) -> list[Call]:
    flat_grad, flat_value = grad.reshape(-1), value.reshape(-1)
    scratch = np.empty(min(CHUNK, grad.size), grad.dtype, like=grad)
    one, two = constant(l1, grad.dtype), constant(2 * l2, grad.dtype)
    calls: list[Call] = []
    for g, w in chunks(flat_grad, flat_value):
        s = scratch[: g.size]
        if l1:
            calls += [partial(np.sign, w, s), partial(np.multiply, s, one, s), partial(np.add, g, s, g)]
        if l2:
            calls += [partial(np.multiply, w, two, s), partial(np.add, g, s, g)]
    return calls


@ops.clip_value_.register_bound(np.ndarray, accepts=lambda grads, limit: floating(grads), allocate=nothing)
def _(_: None, grads: Array, limit: float) -> list[Call]:
    low, high = constant(-limit, grads.dtype), constant(limit, grads.dtype)
    calls: list[Call] = []
    for (g,) in chunks(grads.reshape(-1)):
        calls += [partial(np.maximum, g, low, out=g), partial(np.minimum, g, high, out=g)]
    return calls


@ops.clip_norm_.register_bound(np.ndarray, accepts=lambda grads, *_: one_dimensional(grads, grads), allocate=nothing)
def _(_: None, grads: Array, ok: Array, limit: float) -> list[Call]:
    parts: list[Any] = [g for (g,) in chunks(grads)]
    scale = constant(0, grads.dtype)
    square_of = _squares(parts)
    lossy = float(np.finfo(grads.dtype).smallest_normal) * 1e16  # below, squares have lost digits
    if limit * limit > 4 * lossy:  # and so small a norm is not clipped
        lossy = -1.0

    def call() -> None:
        square = square_of()
        norm = math.sqrt(square) if lossy < square < math.inf else _exact_norm(parts)
        if norm - norm != 0.0:  # NaN for NaN and for an infinity
            ok[...] = False
        elif norm > limit:
            scale[...] = limit / norm
            for g in parts:
                np.multiply(g, scale, g)

    return [call]


@ops.check_norm_.register_bound(np.ndarray, accepts=lambda ok, grads: one_dimensional(grads, grads), allocate=nothing)
def _(_: None, ok: Array, grads: Array) -> list[Call]:
    parts: list[Any] = [g for (g,) in chunks(grads)]
    square_of = _squares(parts)

    def call() -> None:
        norm = square_of()
        if norm - norm != 0.0:  # perhaps the squares alone overflow
            norm = _exact_norm(parts)
        if norm - norm != 0.0:
            ok[...] = False

    return [call]


def _squares(parts: list[Array]) -> Callable[[], float]:
    """What adds up the plain squares of all parts."""
    products = [partial(np.dot, g, g) for g in parts]

    def square() -> float:
        total = 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            for product in products:
                total += float(product())
        return total

    return square


def _exact_norm(parts: list[Array]) -> float:
    """The norm where the plain squares overflow or underflow."""
    peak = float(max(np.abs(g).max(initial=0.0) for g in parts)) if parts else 0.0
    if peak == 0.0 or peak - peak != 0.0:
        return peak
    return peak * math.sqrt(sum(float(np.sum((g.astype(np.float64) / peak) ** 2)) for g in parts))


@ops.average_.register_bound(
    np.ndarray, accepts=lambda average, value, *_: one_dimensional(average, value), allocate=nothing
)
def _(_: None, average: Array, value: Array, ok: Array, counters: Array, decay: float) -> list[Call]:
    rest = constant(1 - decay, value.dtype)
    scratch = np.empty(min(CHUNK, value.size), value.dtype, like=value)
    calls: list[Call] = []
    for a, w in chunks(average, value):
        s = scratch[: w.size]
        calls += [partial(np.subtract, w, a, s), partial(np.multiply, s, rest, s), partial(np.add, a, s, a)]

    def prepare() -> None:
        t = int(counters[0])
        if t == 0:
            np.copyto(average, value)
        elif (t + 1) % FLUSH_EVERY == 0:
            flush_tiny(average, decay)

    return guarded(ok, prepare, calls)
