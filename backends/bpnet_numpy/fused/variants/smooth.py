"""Smooth activations, those that gate one half of a row with the other, and their derivatives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call, Kernel
from bpnet_numpy.fused.instruction import Program, instruction
from bpnet_numpy.fused.parts import PASS, split
from bpnet_numpy.fused.variants.common import COSTLY, alike, check_place, fused, one_pass
from bpnet_numpy.kernels.common import Array, first_like, floating


def _some(*arrays: Array) -> bool:
    return floating(*arrays) and arrays[0].size > 0


def _forward(kernel: Kernel) -> None:
    @fused(kernel, accepts=lambda x, *_: _some(x), allocate=first_like)
    def _(out: Array, x: Array, *settings: float) -> list[Call]:
        check_place(out, x.shape, x.dtype)
        return one_pass(kernel.name, (out, x), *settings, least=COSTLY)


def _backward(kernel: Kernel) -> None:
    @fused(kernel, accepts=lambda dy, x, *_: _some(dy, x) and alike(dy, x), allocate=first_like)
    def _(out: Array, dy: Array, x: Array, *settings: float) -> list[Call]:
        check_place(out, x.shape, x.dtype)
        return one_pass(kernel.name, (out, dy, x), *settings, least=COSTLY)


def _with_slope(kernel: Kernel) -> None:
    @fused(kernel, accepts=lambda x: _some(x), allocate=lambda x: (np.empty_like(x), np.empty_like(x)))
    def _(out: Any, x: Array) -> list[Call]:
        for each in out:
            check_place(each, x.shape, x.dtype)
        return one_pass(kernel.name, (*out, x), least=COSTLY)


for each in (ops.gelu, ops.gelu_tanh, ops.normal_cdf, ops.silu, ops.elu, ops.softplus, ops.mish, ops.hardswish):
    _forward(each)
for each in (
    ops.gelu_backward,
    ops.gelu_tanh_backward,
    ops.silu_backward,
    ops.elu_backward,
    ops.softplus_backward,
    ops.mish_backward,
    ops.hardswish_backward,
):
    _backward(each)
for each in (ops.gelu_with_slope, ops.gelu_tanh_with_slope):
    _with_slope(each)


def _by_rows(name: str, half: int, *arrays: Array) -> list[Call]:
    """A pass over rows of which `half` numbers gate as many others."""
    rows = math.prod(arrays[0].shape[:-1])
    flat = [each.reshape(rows, each.shape[-1]) for each in arrays]

    def make(some: slice) -> list[Program]:
        mine = [each[some] for each in flat]
        return [instruction(name, mine[0].dtype, *mine, len(mine[0]), half)]

    return split(rows, rows * half, make, least=PASS)


def _gated(forward: Kernel, backward: Kernel) -> None:
    @fused(
        forward,
        accepts=lambda x: x.ndim > 0 and x.shape[-1] % 2 == 0 and _some(x),
        allocate=lambda x: np.empty((*x.shape[:-1], x.shape[-1] // 2), x.dtype, like=x),
    )
    def _(out: Array, x: Array) -> list[Call]:
        check_place(out, (*x.shape[:-1], x.shape[-1] // 2), x.dtype)
        return _by_rows(forward.name, out.shape[-1], out, x)

    @fused(
        backward,
        accepts=lambda dy, x: (
            x.ndim > 0 and _some(dy, x) and x.shape == (*dy.shape[:-1], 2 * dy.shape[-1]) and dy.ndim == x.ndim
        ),
        allocate=lambda dy, x: np.empty_like(x),
    )
    def _(out: Array, dy: Array, x: Array) -> list[Call]:
        check_place(out, x.shape, x.dtype)
        return _by_rows(backward.name, dy.shape[-1], out, dy, x)


_gated(ops.swiglu, ops.swiglu_backward)
_gated(ops.glu, ops.glu_backward)
