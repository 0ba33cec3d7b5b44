"""Activations, sums and products by element, copies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call, Kernel
from bpnet_numpy.fused.instruction import FLOAT32, instruction
from bpnet_numpy.fused.variants.common import alike, check_place, fused, one_pass, writable
from bpnet_numpy.kernels.common import Array, first_like, floating, nothing


def _forward(kernel: Kernel) -> None:
    @fused(kernel, accepts=lambda x, *_: floating(x), allocate=first_like)
    def _(out: Array, x: Array, *settings: float) -> list[Call]:
        check_place(out, x.shape, x.dtype)
        return one_pass(kernel.name, (out, x), *settings)


def _pair(kernel: Kernel) -> None:
    @fused(kernel, accepts=lambda x, y, *_: floating(x, y) and alike(x, y), allocate=first_like)
    def variant(out: Array, x: Array, y: Array, *settings: float) -> list[Call]:
        check_place(out, x.shape, x.dtype)
        return one_pass(kernel.name, (out, x, y), *settings)

    variant.overwrites = True


for each in (ops.relu, ops.leaky_relu, ops.sigmoid, ops.tanh):
    _forward(each)
for each in (ops.relu_backward, ops.leaky_relu_backward, ops.sigmoid_backward, ops.tanh_backward, ops.add, ops.mul):
    _pair(each)


def _rows(*arrays: Array) -> bool:
    return floating(*arrays) and arrays[0].ndim > 0 and arrays[0].size > 0


@fused(ops.softmax, accepts=lambda x: _rows(x), allocate=first_like)
def _(out: Array, x: Array) -> list[Call]:
    check_place(out, x.shape, x.dtype)
    return [instruction("softmax", x.dtype, out, x, math.prod(x.shape[:-1]), x.shape[-1])]


@fused(ops.softmax_backward, accepts=lambda dy, y: _rows(dy, y) and dy.shape == y.shape, allocate=first_like)
def _(out: Array, dy: Array, y: Array) -> list[Call]:
    check_place(out, y.shape, y.dtype)
    return [instruction("softmax_backward", y.dtype, out, dy, y, math.prod(y.shape[:-1]), y.shape[-1])]


def _alike(target: Any, source: Any) -> bool:
    same = target.dtype == source.dtype and target.shape == source.shape
    tame = target.flags.c_contiguous and source.flags.c_contiguous and not target.dtype.hasobject
    return same and tame and writable(target)


@fused(ops.copy_, accepts=_alike, allocate=nothing)
def _(_: None, target: Array, source: Array) -> list[Call]:
    return [instruction("copy_bytes", FLOAT32, target, source, target.nbytes)]


@fused(ops.add_, accepts=lambda x, y: floating(x, y) and alike(x, y) and writable(x), allocate=nothing)
def _(_: None, target: Array, source: Array) -> list[Call]:
    return one_pass("add", (target, target, source))


def _fillable(target: Array, value: Any) -> bool:
    whole = target.flags.c_contiguous and isinstance(value, (bool, int, float))
    return whole and writable(target) and (target.dtype == np.bool_ or floating(target))


@fused(ops.fill_, accepts=_fillable, allocate=nothing)
def _(_: None, target: Array, value: float) -> list[Call]:
    if target.dtype == np.bool_:
        return [instruction("fill_bytes", FLOAT32, target, target.size, bool(value))]
    return [instruction("fill", target.dtype, target, target.size, float(value))]
