"""GELU in both forms, SiLU and SwiGLU, in pieces that stay in the cache between one pass and the next."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet.ops.smooth import CUBE, ERFC, IN_FLOAT32, SLOPE
from bpnet_numpy.kernels.common import Array, blocks, constant, first_like, floating
from bpnet_numpy.scratch import borrow

CHUNK = 1 << 15


def _pieces(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """The same pieces of flat views of contiguous arrays."""
    flat = [each.reshape(-1) for each in arrays]
    return (tuple(each[start : start + CHUNK] for each in flat) for start in range(0, flat[0].size, CHUNK))


def _scratch(like: Array, n: int) -> list[Array]:
    return [borrow(min(CHUNK, like.size), like.dtype, like) for _ in range(n)]


class _Tanh:
    """GELU by tanh: y = x p, p = (1 + tanh(u)) / 2, u = x (a + a b x^2).

    The derivative is p + x dp/dx = p + y (1 - p) 2 (a + 3 a b x^2), since dp/du = 2 p (1 - p).
    """

    def __init__(self, dtype: Any) -> None:
        self.one, self.half = constant(1, dtype), constant(0.5, dtype)
        self.slope, self.cube = constant(SLOPE, dtype), constant(SLOPE * CUBE, dtype)
        self.two, self.six = constant(2 * SLOPE, dtype), constant(6 * SLOPE * CUBE, dtype)

    def value(self, x: Array, square: Array, p: Array, y: Array) -> list[Call]:
        """Calls that set square to x^2, p, and y, which may be x."""
        return [
            partial(np.multiply, x, x, square),
            partial(np.multiply, square, self.cube, p),
            partial(np.add, p, self.slope, p),
            partial(np.multiply, p, x, p),
            partial(np.tanh, p, p),
            partial(np.multiply, p, self.half, p),
            partial(np.add, p, self.half, p),
            partial(np.multiply, x, p, y),
        ]

    def derivative(self, square: Array, p: Array, y: Array, scratch: Array) -> list[Call]:
        """Calls that set square, which is x^2, to the slope."""
        return [
            partial(np.multiply, square, self.six, square),
            partial(np.add, square, self.two, square),
            partial(np.subtract, self.one, p, scratch),
            partial(np.multiply, square, scratch, square),
            partial(np.multiply, square, y, square),
            partial(np.add, square, p, square),
        ]


def _some(*arrays: Array) -> bool:
    return floating(*arrays) and arrays[0].size > 0


@ops.gelu_tanh.register_bound(np.ndarray, accepts=lambda x: _some(x), allocate=first_like)
def _(out: Array, x: Array) -> list[Call]:
    tanh = _Tanh(x.dtype)
    square, p = _scratch(x, 2)
    calls: list[Call] = []
    for xs, ys in _pieces(x, out):
        calls += tanh.value(xs, square[: xs.size], p[: xs.size], ys)
    return calls


@ops.gelu_tanh_backward.register_bound(np.ndarray, accepts=lambda dy, x: _some(dy, x), allocate=first_like)
def _(out: Array, dy: Array, x: Array) -> list[Call]:
    tanh = _Tanh(x.dtype)
    scratch = _scratch(x, 4)
    calls: list[Call] = []
    for dys, xs, dxs in _pieces(dy, x, out):
        s, p, y, t = (each[: xs.size] for each in scratch)
        calls += [*tanh.value(xs, s, p, y), *tanh.derivative(s, p, y, t), partial(np.multiply, dys, s, dxs)]
    return calls


@ops.gelu_tanh_with_slope.register_bound(
    np.ndarray, accepts=lambda x: _some(x), allocate=lambda x: (np.empty_like(x), np.empty_like(x))
)
def _(out: Any, x: Array) -> list[Call]:
    tanh = _Tanh(x.dtype)
    scratch = _scratch(x, 2)
    calls: list[Call] = []
    for xs, ys, slopes in _pieces(x, *out):
        p, t = (each[: xs.size] for each in scratch)
        calls += [*tanh.value(xs, slopes, p, ys), *tanh.derivative(slopes, p, ys, t)]
    return calls


class _Normal:
    """Calls for the normal distribution function, by the reference's series: of it what tells in the dtype."""

    def __init__(self, dtype: Any) -> None:
        known = ERFC[:IN_FLOAT32] if dtype == np.float32 else ERFC
        self.series = [constant(c, dtype) for c in known]
        numbers = (0.5, 1, 2, 4, math.sqrt(0.5), 1 / math.sqrt(2 * math.pi), -0.5)
        self.half, self.one, self.two, self.four, self.root, self.peak, self.minus = (
            constant(number, dtype) for number in numbers
        )

    def value(self, x: Array, cdf: Array, scratch: list[Array], negative: Array) -> list[Call]:
        """Calls that set cdf; scratch is five arrays, and `negative` one of truth values."""
        size, t, u, later, last = scratch
        calls: list[Call] = [
            partial(np.abs, x, size),
            partial(np.multiply, size, self.root, size),
            partial(np.add, size, self.two, t),
            partial(np.divide, self.two, t, t),
            partial(np.multiply, t, self.four, u),
            partial(np.subtract, u, self.two, u),
            partial(later.fill, self.series[-1]),
            partial(last.fill, 0),
        ]
        for c in self.series[-2:0:-1]:  # Clenshaw's recurrence: the new one goes where the last but one was
            calls += [
                partial(np.multiply, u, later, cdf),
                partial(np.subtract, cdf, last, last),
                partial(np.add, last, c, last),
            ]
            later, last = last, later
        return [
            *calls,
            partial(np.multiply, u, later, u),
            partial(np.add, u, self.series[0], u),
            partial(np.multiply, u, self.half, u),
            partial(np.subtract, u, last, u),
            partial(np.multiply, size, size, size),
            partial(np.subtract, u, size, u),
            partial(np.exp, u, u),
            partial(np.multiply, t, self.half, t),
            partial(np.multiply, t, u, u),
            partial(np.subtract, self.one, u, cdf),
            partial(np.less, x, constant(0, x.dtype), negative),
            partial(np.copyto, cdf, u, where=negative),
        ]

    def derivative(self, x: Array, cdf: Array, scratch: Array) -> list[Call]:
        """Calls that set scratch to cdf + x pdf, the slope of GELU."""
        return [
            partial(np.multiply, x, x, scratch),
            partial(np.multiply, scratch, self.minus, scratch),
            partial(np.exp, scratch, scratch),
            partial(np.multiply, scratch, self.peak, scratch),
            partial(np.multiply, scratch, x, scratch),
            partial(np.add, scratch, cdf, scratch),
        ]


def _normal_scratch(like: Array) -> tuple[list[Array], Array]:
    return _scratch(like, 6), borrow(min(CHUNK, like.size), np.bool_, like)


@ops.normal_cdf.register_bound(np.ndarray, accepts=lambda x: _some(x), allocate=first_like)
def _(out: Array, x: Array) -> list[Call]:
    normal = _Normal(x.dtype)
    scratch, negative = _normal_scratch(x)
    calls: list[Call] = []
    for xs, ys in _pieces(x, out):
        *five, cdf = (each[: xs.size] for each in scratch)
        calls += [*normal.value(xs, cdf, five, negative[: xs.size]), partial(np.copyto, ys, cdf)]
    return calls


@ops.gelu.register_bound(np.ndarray, accepts=lambda x: _some(x), allocate=first_like)
def _(out: Array, x: Array) -> list[Call]:
    normal = _Normal(x.dtype)
    scratch, negative = _normal_scratch(x)
    calls: list[Call] = []
    for xs, ys in _pieces(x, out):
        *five, cdf = (each[: xs.size] for each in scratch)
        calls += [*normal.value(xs, cdf, five, negative[: xs.size]), partial(np.multiply, xs, cdf, ys)]
    return calls


@ops.gelu_backward.register_bound(np.ndarray, accepts=lambda dy, x: _some(dy, x), allocate=first_like)
def _(out: Array, dy: Array, x: Array) -> list[Call]:
    normal = _Normal(x.dtype)
    scratch, negative = _normal_scratch(x)
    calls: list[Call] = []
    for dys, xs, dxs in _pieces(dy, x, out):
        *five, cdf = (each[: xs.size] for each in scratch)
        calls += [
            *normal.value(xs, cdf, five, negative[: xs.size]),
            *normal.derivative(xs, cdf, five[0]),
            partial(np.multiply, dys, five[0], dxs),
        ]
    return calls


@ops.gelu_with_slope.register_bound(
    np.ndarray, accepts=lambda x: _some(x), allocate=lambda x: (np.empty_like(x), np.empty_like(x))
)
def _(out: Any, x: Array) -> list[Call]:
    normal = _Normal(x.dtype)
    scratch, negative = _normal_scratch(x)
    calls: list[Call] = []
    for xs, ys, slopes in _pieces(x, *out):
        *five, cdf = (each[: xs.size] for each in scratch)
        calls += [
            *normal.value(xs, cdf, five, negative[: xs.size]),
            *normal.derivative(xs, cdf, slopes),
            partial(np.multiply, xs, cdf, ys),
        ]
    return calls


@ops.mul.register_bound(np.ndarray, accepts=lambda x, w: floating(x, w) and x.shape == w.shape, allocate=first_like)
def _(out: Array, x: Array, w: Array) -> list[Call]:
    return [partial(np.multiply, x, w, out)]


def _exp(x: Array, out: Array) -> None:
    """exp(x), which may be an infinity without a warning: what is made of it is 0."""
    with np.errstate(over="ignore"):
        np.exp(x, out)


class _Sigmoid:
    """Calls for sigmoid(x) = 1 / (1 + exp(-x)) and the slope of SiLU."""

    def __init__(self, dtype: Any) -> None:
        self.one = constant(1, dtype)

    def value(self, x: Array, s: Array) -> list[Call]:
        """Calls that set s."""
        return [
            partial(np.negative, x, s),
            partial(_exp, s, s),
            partial(np.add, s, self.one, s),
            partial(np.divide, self.one, s, s),
        ]

    def derivative(self, x: Array, s: Array, out: Array) -> list[Call]:
        """Calls that set out to s (1 + x (1 - s)), the slope of SiLU."""
        return [
            partial(np.subtract, self.one, s, out),
            partial(np.multiply, out, x, out),
            partial(np.add, out, self.one, out),
            partial(np.multiply, out, s, out),
        ]


@ops.silu.register_bound(np.ndarray, accepts=lambda x: _some(x), allocate=first_like)
def _(out: Array, x: Array) -> list[Call]:
    sigmoid = _Sigmoid(x.dtype)
    (scratch,) = _scratch(x, 1)
    calls: list[Call] = []
    for xs, ys in _pieces(x, out):
        s = scratch[: xs.size]
        calls += [*sigmoid.value(xs, s), partial(np.multiply, xs, s, ys)]
    return calls


@ops.silu_backward.register_bound(np.ndarray, accepts=lambda dy, x: _some(dy, x), allocate=first_like)
def _(out: Array, dy: Array, x: Array) -> list[Call]:
    sigmoid = _Sigmoid(x.dtype)
    first, second = _scratch(x, 2)
    calls: list[Call] = []
    for dys, xs, dxs in _pieces(dy, x, out):
        s, t = first[: xs.size], second[: xs.size]
        calls += [*sigmoid.value(xs, s), *sigmoid.derivative(xs, s, t), partial(np.multiply, dys, t, dxs)]
    return calls


def _row_pieces(width: int, *arrays: Array) -> Iterator[tuple[Array, ...]]:
    """The same pieces of whole rows of contiguous arrays; `width` is that of the narrowest."""
    flat = [each.reshape(-1, each.shape[-1]) for each in arrays]
    return (tuple(each[rows] for each in flat) for rows in blocks(len(flat[0]), width, CHUNK)[1])


def _row_scratch(like: Array, width: int, n: int) -> list[Array]:
    rows, _ = blocks(like.size // like.shape[-1], width, CHUNK)
    return [borrow((rows, width), like.dtype, like) for _ in range(n)]


@ops.swiglu.register_bound(
    np.ndarray,
    accepts=lambda x: _some(x) and x.shape[-1] % 2 == 0,
    allocate=lambda x: np.empty((*x.shape[:-1], x.shape[-1] // 2), x.dtype, like=x),
)
def _(out: Array, x: Array) -> list[Call]:
    half = out.shape[-1]
    sigmoid = _Sigmoid(x.dtype)
    (scratch,) = _row_scratch(x, half, 1)
    calls: list[Call] = []
    for xs, ys in _row_pieces(half, x, out):
        a, b, s = xs[:, :half], xs[:, half:], scratch[: len(xs)]
        calls += [*sigmoid.value(a, s), partial(np.multiply, a, s, s), partial(np.multiply, s, b, ys)]
    return calls


@ops.swiglu_backward.register_bound(
    np.ndarray,
    accepts=lambda dy, x: _some(dy, x) and x.shape[-1] == 2 * dy.shape[-1],
    allocate=lambda dy, x: np.empty_like(x),
)
def _(out: Array, dy: Array, x: Array) -> list[Call]:
    half = dy.shape[-1]
    sigmoid = _Sigmoid(x.dtype)
    first, second = _row_scratch(x, half, 2)
    calls: list[Call] = []
    for dys, xs, dxs in _row_pieces(half, dy, x, out):
        a, b, s, t = xs[:, :half], xs[:, half:], first[: len(xs)], second[: len(xs)]
        calls += [
            *sigmoid.value(a, s),
            *sigmoid.derivative(a, s, t),
            partial(np.multiply, t, b, t),
            partial(np.multiply, t, dys, dxs[:, :half]),
            partial(np.multiply, a, s, s),
            partial(np.multiply, s, dys, dxs[:, half:]),
        ]
    return calls
