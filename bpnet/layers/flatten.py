"""Flatten."""

from __future__ import annotations

import math

from bpnet import ops
from bpnet.dispatch import Array
from bpnet.errors import ShapeError
from bpnet.layers.base import Layer


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
