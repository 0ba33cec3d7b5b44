"""Flatten, and its inverse."""

from __future__ import annotations

import math

from bpnet import ops
from bpnet.dispatch import Array
from bpnet.errors import ConfigError, ShapeError
from bpnet.layers.base import Layer
from bpnet.layers.tree import as_size


class Flatten(Layer):
    """(N, ...) to (N, product of the other axes), in C order."""

    def __call__(self, x: Array) -> Array:
        """Return `x` as (N, n)."""
        shape = self.shape_of(x)
        if not shape:
            raise ShapeError("Flatten needs x of shape (N, ...), got a 0-d array")
        return ops.reshape(x, (shape[0], math.prod(shape[1:])))

    def forward(self, x: Array) -> Array:
        """Return `x` as (N, n); keep the shape."""
        y = self(x)
        self.keep(tuple(x.shape), x.dtype)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return `dy` in the shape of x."""
        shape, dtype = self.kept()
        self.check_gradient(dy, (shape[0], math.prod(shape[1:])), dtype, shape, dtype)
        return ops.reshape(dy, shape) if need_dx else None


class Reshape(Layer):
    """(N, ...) to (N, *shape), in C order: rows of numbers become images.

    shape : of a sample, each axis at least 1; as many numbers as the samples have

    >>> import bpnet as bp
    >>> bp.Sequential(bp.Reshape((8, 8, 1)), bp.Conv2d(1, 4, 3), bp.Flatten()).summary(64).rows[-1][2]
    '(N, 144)'
    """

    def __init__(self, shape: tuple[int, ...] | list[int]) -> None:
        sizes = tuple(as_size(n) for n in shape) if isinstance(shape, (tuple, list)) else ()
        if not sizes or not all(sizes):
            raise ConfigError(f"Reshape needs the shape of a sample, as in Reshape((28, 28, 1)), got {shape!r}")
        self.shape = sizes

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape; ShapeError where the input has another number of elements."""
        self._check((1, *input_shape))
        return self.shape

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) < 2 or math.prod(shape[1:]) != math.prod(self.shape):
            hint = "; for one sample use x[None, ...]" if math.prod(shape) == math.prod(self.shape) else ""
            raise ShapeError(
                f"{self!r} needs x of shape (N, ...) with {math.prod(self.shape)} numbers a sample, got {shape}{hint}"
            )

    def __call__(self, x: Array) -> Array:
        """Return `x` as (N, *shape)."""
        self._check(self.shape_of(x))
        return ops.reshape(x, (x.shape[0], *self.shape))

    def forward(self, x: Array) -> Array:
        """Return `x` as (N, *shape); keep its shape."""
        y = self(x)
        self.keep(tuple(x.shape), x.dtype)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return `dy` in the shape of x."""
        shape, dtype = self.kept()
        self.check_gradient(dy, (shape[0], *self.shape), dtype, shape, dtype)
        return ops.reshape(dy, shape) if need_dx else None

    def __repr__(self) -> str:
        return f"Reshape({self.shape})"
