"""What happens to gradients before an update, and to values after it: penalties, clipping, averages."""

from __future__ import annotations

from bpnet.dispatch import Array, kernel, namespace
from bpnet.ops.costs import size


def _penalty_flops(values: tuple[Array, ...], l1: tuple[float, ...], l2: tuple[float, ...]) -> int:
    return sum(size(w) * (bool(a) + 2 * bool(b)) for w, a, b in zip(values, l1, l2, strict=True))


@kernel(flops=_penalty_flops)
def penalty(values: tuple[Array, ...], l1: tuple[float, ...], l2: tuple[float, ...]) -> Array:
    """The sum over all arrays of l1 sum |w| + l2 sum w^2, one l1 and one l2 an array; 0-d."""
    xp = namespace(values[0])
    total = xp.zeros((), dtype=values[0].dtype, device=values[0].device)
    for w, a, b in zip(values, l1, l2, strict=True):
        if a:
            total = total + a * xp.sum(xp.abs(w))
        if b:
            total = total + b * xp.sum(w * w)
    return xp.asarray(total)


@kernel(flops=lambda grad, value, l1, l2: size(value) * (2 * bool(l1) + 2 * bool(l2)))
def penalty_gradient_(grad: Array, value: Array, l1: float, l2: float) -> None:
    """grad += l1 sign(value) + 2 l2 value; at 0 the derivative of |w| is taken as 0."""
    if l1:
        grad[...] = grad + l1 * namespace(grad).sign(value)
    if l2:
        grad[...] = grad + 2 * l2 * value


@kernel(flops=2)
def clip_value_(grads: Array, limit: float) -> None:
    """Bring every element of `grads` into [-limit, limit]; NaN stays NaN."""
    grads[...] = namespace(grads).clip(grads, -limit, limit)


@kernel(flops=5, writes=(0, 1))
def clip_norm_(grads: Array, ok: Array, limit: float) -> None:
    """grads *= limit / norm where the Euclidean norm of `grads`, (n,), is above `limit`. [Pascanu et al. 2013]

    Where the norm is not finite, `ok` becomes False and the gradients stay. The squares are of numbers divided by the
    largest, so that gradients have a norm wherever it can be told in their dtype.
    """
    if grads.shape[0] == 0:
        return
    xp = namespace(grads)
    norm = _norm(grads)
    finite = xp.isfinite(norm)
    above = xp.logical_and(finite, norm > limit)
    scale = xp.where(above, limit / xp.where(above, norm, xp.ones_like(norm)), xp.ones_like(norm))
    grads[...] = grads * xp.astype(scale, grads.dtype)
    ok[...] = xp.logical_and(ok, xp.reshape(finite, ()))


@kernel(flops=lambda ok, grads: 4 * size(grads), writes=(0,))
def check_norm_(ok: Array, grads: Array) -> None:
    """Make `ok` False where the Euclidean norm of `grads`, (n,), is NaN or infinite; it stays False once it is."""
    if grads.shape[0]:
        xp = namespace(grads)
        ok[...] = xp.logical_and(ok, xp.reshape(xp.isfinite(_norm(grads)), ()))


def _norm(grads: Array) -> Array:
    """The Euclidean norm, (1,) float64, of an array that is not empty; NaN or infinite where an element is."""
    xp = namespace(grads)
    peak = xp.max(xp.abs(grads), keepdims=True)
    some = xp.logical_and(peak > 0, xp.isfinite(peak))
    parts = grads / xp.where(some, peak, xp.ones_like(peak))
    total = xp.sum(parts * parts, dtype=xp.float64, keepdims=True)
    wide = xp.astype(peak, xp.float64)
    return xp.where(xp.isfinite(peak), wide * xp.sqrt(total), wide)


@kernel(flops=3)
def average_(average: Array, value: Array, ok: Array, counters: Array, decay: float) -> None:
    """average += (1 - decay) (value - average); in the first step of all, average = value. [Polyak & Juditsky 1992]"""
    xp = namespace(value)
    new = xp.where(counters[0:1] == 0, value, average + (1 - decay) * (value - average))
    average[...] = xp.where(ok, new, average)
