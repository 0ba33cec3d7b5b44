"""Moving values around: the ops that containers, gradients and counters are made of."""

from __future__ import annotations

import math

from bpnet.dispatch import Array, kernel, namespace


@kernel(elementwise=True, flops=1)
def add(x: Array, y: Array) -> Array:
    """x + y for two arrays of one shape. Its derivative passes dy to both."""
    return x + y


@kernel(flops=0)
def copy(x: Array) -> Array:
    """Return a new array with the values of `x`."""
    return namespace(x).asarray(x, copy=True)


@kernel(view=True, flops=0)
def reshape(x: Array, shape: tuple[int, ...]) -> Array:
    """Return `x` in C order with another shape of the same size, sharing memory where that is possible."""
    return namespace(x).reshape(x, shape)


@kernel(flops=0)
def transpose(x: Array, axes: tuple[int, ...]) -> Array:
    """A new array, in C order, whose axis k is axis axes[k] of `x`."""
    xp, shape = namespace(x), tuple(x.shape[axis] for axis in axes)
    flat = xp.reshape(xp.permute_dims(x, axes), (math.prod(shape),))  # in C order, whatever a copy would keep
    return xp.asarray(xp.reshape(flat, shape), copy=True)


@kernel(view=True, flops=0)
def rows(x: Array, start: int, stop: int) -> Array:
    """Rows start ... stop - 1 of `x`, sharing memory where that is possible."""
    return x[start:stop, ...]


@kernel(flops=0)
def concatenate(arrays: tuple[Array, ...], axis: int) -> Array:
    """Join arrays along one axis; all other axes agree."""
    return namespace(arrays[0]).concat(arrays, axis=axis)


@kernel(flops=0)
def split(x: Array, sizes: tuple[int, ...], axis: int) -> tuple[Array, ...]:
    """Cut `x` along `axis` into new arrays of the given sizes, which sum to its length: the inverse of concatenate."""
    xp = namespace(x)
    before = (slice(None),) * (axis % x.ndim)
    parts, start = [], 0
    for size in sizes:
        parts.append(xp.asarray(x[(*before, slice(start, start + size), ...)], copy=True))
        start += size
    return tuple(parts)


@kernel(flops=0, unread=(0,))
def copy_(target: Array, source: Array) -> None:
    """target[...] = source."""
    target[...] = source


@kernel(flops=1)
def add_(target: Array, source: Array) -> None:
    """target[...] += source."""
    target[...] = target + source


@kernel(flops=0, unread=(0,))
def fill_(target: Array, value: float) -> None:
    """Set every element of `target` to `value`."""
    target[...] = value


@kernel(flops=0)
def increment_(counters: Array, index: int) -> None:
    """counters[index] += 1."""
    counters[index] = counters[index] + 1
