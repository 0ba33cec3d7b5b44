"""Activations and the sum of two arrays."""

from __future__ import annotations

from functools import partial

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_numpy.kernels.common import SIGNED, Array, constant, first_like, floating
from bpnet_numpy.scratch import borrow, borrow_like


@ops.relu.register_bound(np.ndarray, accepts=lambda x: floating(x), allocate=first_like)
def _(out: Array, x: Array) -> list[Call]:
    return [partial(np.maximum, x, constant(0, x.dtype), out=out)]


@ops.relu_backward.register_bound(np.ndarray, accepts=lambda dy, y: floating(dy, y), allocate=first_like)
def _(out: Array, dy: Array, y: Array) -> list[Call]:
    signed = SIGNED[dy.dtype]
    keep = borrow(dy.shape, np.bool_, dy)
    return [
        partial(np.greater, y, constant(0, y.dtype), keep),
        partial(np.multiply, dy.view(signed), keep.view(np.int8), out.view(signed)),  # the bits, times 1 or 0
    ]


@ops.sigmoid.register_bound(np.ndarray, accepts=lambda x: floating(x), allocate=first_like)
def _(out: Array, x: Array) -> list[Call]:
    one, zero = constant(1, x.dtype), constant(0, x.dtype)
    e, top = borrow_like(x), borrow_like(x)
    return [
        partial(np.abs, x, e),
        partial(np.negative, e, e),
        partial(np.exp, e, e),
        partial(np.minimum, x, zero, out=top),
        partial(np.exp, top, top),  # 1 where x >= 0, exp(x) elsewhere
        partial(np.add, e, one, e),
        partial(np.divide, top, e, out),
    ]


@ops.sigmoid_backward.register_bound(np.ndarray, accepts=lambda dy, y: floating(dy, y), allocate=first_like)
def _(out: Array, dy: Array, y: Array) -> list[Call]:
    slope = borrow_like(y)
    return [
        partial(np.subtract, constant(1, y.dtype), y, slope),
        partial(np.multiply, slope, y, slope),
        partial(np.multiply, dy, slope, out),
    ]


@ops.tanh.register_bound(np.ndarray, accepts=lambda x: floating(x), allocate=first_like)
def _(out: Array, x: Array) -> list[Call]:
    return [partial(np.tanh, x, out)]


@ops.tanh_backward.register_bound(np.ndarray, accepts=lambda dy, y: floating(dy, y), allocate=first_like)
def _(out: Array, dy: Array, y: Array) -> list[Call]:
    slope = borrow_like(y)
    return [
        partial(np.multiply, y, y, slope),
        partial(np.subtract, constant(1, y.dtype), slope, slope),
        partial(np.multiply, dy, slope, out),
    ]


@ops.add.register_bound(np.ndarray, accepts=lambda x, y: floating(x, y) and x.shape == y.shape, allocate=first_like)
def _(out: Array, x: Array, y: Array) -> list[Call]:
    return [partial(np.add, x, y, out)]
