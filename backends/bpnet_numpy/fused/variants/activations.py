"""Activations, sums and products by element, copies."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call, Kernel
from bpnet_numpy.fused.instruction import FLOAT32, Program, instruction
from bpnet_numpy.fused.parts import PASS, split
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


def _by_rows(name: str, *arrays: Array) -> list[Call]:
    """A body on rows, divided among the threads."""
    rows = [each.reshape(-1, each.shape[-1]) for each in arrays]

    def make(some: slice) -> list[Program]:
        mine = [each[some] for each in rows]
        return [instruction(name, mine[0].dtype, *mine, *mine[0].shape)]

    return list(split(len(rows[0]), rows[0].size, make, least=PASS))


@fused(ops.softmax, accepts=lambda x: _rows(x), allocate=first_like)
def _(out: Array, x: Array) -> list[Call]:
    check_place(out, x.shape, x.dtype)
    return _by_rows("softmax", out, x)


@fused(ops.softmax_backward, accepts=lambda dy, y: _rows(dy, y) and dy.shape == y.shape, allocate=first_like)
def _(out: Array, dy: Array, y: Array) -> list[Call]:
    check_place(out, y.shape, y.dtype)
    return _by_rows("softmax_backward", out, dy, y)


@fused(ops.log_softmax, accepts=lambda x: _rows(x), allocate=first_like)
def _(out: Array, x: Array) -> list[Call]:
    check_place(out, x.shape, x.dtype)
    return _by_rows("log_softmax", out, x)


@fused(ops.log_softmax_backward, accepts=lambda dy, y: _rows(dy, y) and dy.shape == y.shape, allocate=first_like)
def _(out: Array, dy: Array, y: Array) -> list[Call]:
    check_place(out, y.shape, y.dtype)
    return _by_rows("log_softmax_backward", out, dy, y)


def copyable(target: Any, source: Any) -> bool:
    """Whether the bytes of one array can be copied to another."""
    same = target.dtype == source.dtype and target.shape == source.shape
    tame = target.flags.c_contiguous and source.flags.c_contiguous and not target.dtype.hasobject
    return same and tame and writable(target)


@fused(ops.copy_, accepts=copyable, allocate=nothing)
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
