"""Products of numbers in bfloat16, whose sums are float32; and the parameters in float32 that they are copies of.

A bfloat16 is the upper half of a float32: 8 bits of exponent, 8 of significand. The array API standard lacks it, so its
16 bits lie in arrays of uint16. A product of two such numbers is exact in float32. So two bodies differ by the
order of their sums alone, and numbers that are rounded once and multiplied in float32 are what tensor cores compute:
that is the emulation on backends without them, and the reference of the others.
"""

from __future__ import annotations

import math
from typing import Any

from bpnet.dispatch import Array, Kernel, kernel, namespace
from bpnet.ops.costs import kernel_flops, size
from bpnet.ops.linear import linear, linear_backward

NAN, INFINITY, SIGN = 0x7FC0, 0x7F80, 0x8000
_POWERS = [2.0**e for e in range(-126, 128)]  # of the normal numbers, which are those of float32 too
_PER_UNIT = [2.0 ** (133 - max(e - 1, 0)) for e in range(255)]  # by the biased exponent: 1 over the last bit's value
_UNIT = [2.0 ** (max(e - 1, 0) - 133) for e in range(255)] + [0.0]


@kernel(flops=2)
def to_bf16(x: Array) -> Array:
    """The nearest bfloat16 of every number, its bits as uint16; of two that are as near, the even one.

    x : float32. What is beyond 3.39e38 becomes infinite; a NaN the one NaN 0x7FC0.
    """
    xp, device = namespace(x), x.device
    flat = xp.reshape(x, (math.prod(x.shape),))
    finite = xp.isfinite(flat)
    magnitude = xp.astype(xp.where(finite, xp.abs(flat), xp.zeros_like(flat)), xp.float64)
    powers = xp.asarray(_POWERS, dtype=xp.float64, device=device)
    exponent = xp.astype(xp.searchsorted(powers, magnitude, side="right"), xp.int32)  # biased; 0 below the normal ones
    units = xp.round(magnitude * xp.take(xp.asarray(_PER_UNIT, dtype=xp.float64, device=device), exponent))
    # The unit is that of exponent 1 where it is 0, and a normal number has 128 units more than its bits say. Rounding
    # up to the next power of 2, or to infinity, carries into the exponent by itself.
    base = xp.where(exponent > 0, (exponent - 1) * 128, xp.zeros_like(exponent))
    bits = base + xp.astype(units, xp.int32)
    bits = xp.where(finite, bits, xp.full_like(bits, INFINITY))
    bits = xp.where(xp.signbit(flat), bits + SIGN, bits)
    bits = xp.where(xp.isnan(flat), xp.full_like(bits, NAN), bits)
    return xp.reshape(xp.astype(bits, xp.uint16), x.shape)


@kernel(flops=1)
def from_bf16(bits: Array) -> Array:
    """The numbers that uint16 hold the bits of, as float32: exact."""
    xp = namespace(bits)
    flat = xp.astype(xp.reshape(bits, (math.prod(bits.shape),)), xp.int32)
    exponent, fraction = (flat >> 7) & 255, flat & 127
    units = xp.where(exponent > 0, fraction + 128, fraction)
    unit = xp.take(xp.asarray(_UNIT, dtype=xp.float32, device=bits.device), exponent)
    x = xp.astype(units, xp.float32) * unit
    special = xp.where(fraction > 0, xp.full_like(x, math.nan), xp.full_like(x, math.inf))
    x = xp.where(exponent == 255, special, x)
    return xp.reshape(xp.where(flat >= SIGN, -x, x), bits.shape)


@kernel(flops=lambda target, source: 2 * size(source), unread=(0,))
def round_bf16_(target: Array, source: Array) -> None:
    """target = the bits of the nearest bfloat16 of every number of `source`."""
    target[...] = to_bf16.reference.body(source)


def rounded(x: Array) -> Array:
    """The nearest bfloat16 of every number, as float32."""
    return from_bf16(to_bf16(x))


ROUNDED = 3
"""Operations for a number that is rounded so."""


def three(x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
    """The numbers that these hold the bits of."""
    return from_bf16(x), from_bf16(y), from_bf16(z)


def _linear_bf16_flops(x: Array, W: Array, b: Array | None, activation: Kernel | None = None, *settings: Any) -> int:
    return kernel_flops(linear, (x, W, b, activation, *settings)) + size(x) + size(W)


@kernel(flops=_linear_bf16_flops, activation_at=3)
def linear_bf16(x: Array, W: Array, b: Array | None, activation: Kernel | None = None, *settings: Any) -> Array:
    """y = activation(x W + b) in float32, of x and W in bfloat16.

    x : (..., I) and W : (I, O), bits as uint16; b : (O,) float32 or None; activation : as in `linear`
    Returns (..., O), float32.
    """
    return linear.reference.body(from_bf16.reference.body(x), from_bf16.reference.body(W), b, activation, *settings)


def _linear_bf16_backward_flops(
    dy: Array, x: Array, W: Array, need_dx: bool = True, need_db: bool = True, need_dW: bool = True
) -> int:
    narrowed = ROUNDED * size(dy) if need_dx or need_dW else 0
    widened = (size(x) if need_dW else 0) + (size(W) if need_dx else 0)
    return kernel_flops(linear_backward, (dy, x, W, need_dx, need_db, need_dW)) + narrowed + widened


def _linear_bf16_backward_unread(
    dy: Array, x: Array, W: Array, need_dx: bool = True, need_db: bool = True, need_dW: bool = True
) -> tuple[int, ...]:
    return (*(() if need_dW else (1,)), *(() if need_dx else (2,)))


@kernel(flops=_linear_bf16_backward_flops, unread=_linear_bf16_backward_unread)
def linear_bf16_backward(
    dy: Array, x: Array, W: Array, need_dx: bool = True, need_db: bool = True, need_dW: bool = True
) -> tuple[Array | None, Array | None, Array | None]:
    """dx = r(dy) W^T, dW = x^T r(dy), where r rounds to bfloat16; db = sum of dy itself. None where not needed.

    dy : (..., O) float32; x : (..., I) and W : (I, O), bits as uint16. All results are float32.
    """
    xp = namespace(dy)
    O = W.shape[1]  # noqa: E741
    db = xp.sum(xp.reshape(dy, (math.prod(dy.shape[:-1]), O)), axis=0) if need_db else None
    if not (need_dx or need_dW):
        return None, None, db
    wide = from_bf16.reference.body
    rows = xp.reshape(wide(to_bf16.reference.body(dy)), (math.prod(dy.shape[:-1]), O))
    dx = xp.reshape(rows @ wide(W).T, x.shape) if need_dx else None
    dW = xp.reshape(wide(x), (math.prod(x.shape[:-1]), x.shape[-1])).T @ rows if need_dW else None
    return dx, dW, db


def _update_flops(value: Array, copy: Array, update: Kernel, *rest: Any) -> int:
    return kernel_flops(update, (value, *rest)) + 2 * size(value)


@kernel(flops=_update_flops, unread=(1,), writes=(0, 1, 4, 5, 6))
def update_bf16_(value: Array, copy: Array, update: Kernel, *rest: Any) -> None:
    """An optimizer's pass, `update(value, *rest)`, and then copy = the bits of the nearest bfloat16 of every value.

    copy : uint16, as long as value; that of the values before, so that nothing has to be written where nothing changes
    A plan puts it in the place of the two, where a backend can do both in one pass.
    """
    update(value, *rest)
    copy[...] = to_bf16.reference.body(value)
