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
        if x.ndim < 1:
            raise ShapeError("Flatten needs x of shape (N, ...), got a 0-d array")
        return ops.reshape(x, (x.shape[0], math.prod(x.shape[1:])))

    def forward(self, x: Array) -> Array:
        """Return `x` as (N, n); keep the shape."""
        y = self(x)
        self.keep(tuple(x.shape))
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return `dy` in the shape of x."""
        (shape,) = self.kept()
        self.check_gradient(dy, (shape[0], math.prod(shape[1:])), None, shape)
        return ops.reshape(dy, shape) if need_dx else None
