"""Penalties, clipping, and rates."""

from __future__ import annotations

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_numpy.fused.instruction import FLOAT32, instruction
from bpnet_numpy.fused.variants.common import alike, fused, single, writable
from bpnet_numpy.fused.variants.update import FLAG, RATE
from bpnet_numpy.kernels.common import Array, floating, nothing


@fused(
    ops.clip_norm_,
    accepts=lambda grads, ok, _: floating(grads) and grads.ndim == 1 and single(ok, FLAG) and writable(grads, ok),
    allocate=nothing,
)
def _(_: None, grads: Array, ok: Array, limit: float) -> list[Call]:
    return [instruction("clip_norm", grads.dtype, ok, grads, grads.size, float(limit))]


@fused(ops.clip_value_, accepts=lambda grads, limit: floating(grads) and writable(grads), allocate=nothing)
def _(_: None, grads: Array, limit: float) -> list[Call]:
    return [instruction("clip_value", grads.dtype, grads, grads.size, float(limit))]


@fused(
    ops.penalty_gradient_,
    accepts=lambda grad, value, *_: floating(grad, value) and alike(grad, value) and writable(grad),
    allocate=nothing,
)
def _(_: None, grad: Array, value: Array, l1: float, l2: float) -> list[Call]:
    return [instruction("penalty_gradient", grad.dtype, grad, value, grad.size, float(l1), float(2 * l2))]


@fused(
    ops.scale_rate_,
    accepts=lambda target, rate, _: single(target, RATE) and single(rate, RATE) and writable(target),
    allocate=nothing,
)
def _(_: None, target: Array, rate: Array, scale: float) -> list[Call]:
    return [instruction("scale_rate", FLOAT32, target, rate, float(scale))]
