"""Positions that are added to the vectors of a sequence; rotary ones are an argument of MultiHeadAttention."""

from __future__ import annotations

from typing import Any

from bpnet import ops
from bpnet.dispatch import Array
from bpnet.errors import ConfigError, ShapeError
from bpnet.initializers import Initializer
from bpnet.layers.base import Layer
from bpnet.layers.tree import as_size, typed
from bpnet.parameter import Parameter


def check_sequence(layer: Layer, x: Array, width: int | str) -> None:
    """Raise ShapeError unless `x` is (N, T, D) with at least one position."""
    shape = tuple(getattr(x, "shape", ()))
    if len(shape) != 3 or shape[2] != (width if isinstance(width, int) else shape[2]):
        hint = "; for one sequence use x[None, ...]" if len(shape) == 2 else ""
        raise ShapeError(f"{layer!r} needs x of shape (N, T, {width}), got {shape}{hint}")
    if not shape[1]:
        raise ShapeError(f"{layer!r} needs sequences of at least one position, got x of shape {shape}")


class _Positions(Layer):
    """What is added at position p, for every sample alike."""

    def _add(self, x: Array, start: int) -> Array:
        raise NotImplementedError

    @property
    def can_step(self) -> bool:
        """Yes: the cache is the number of positions before."""
        return True

    def __call__(self, x: Array) -> Array:
        """Return x with the positions added."""
        return self._add(x, 0)

    def forward(self, x: Array) -> Array:
        """Return x with the positions added; keep its shape."""
        y = self._add(x, 0)
        self.keep(tuple(y.shape), y.dtype)
        return y

    def step(self, x: Array, cache: Any = None) -> tuple[Array, Any]:
        """See `Layer.step`; the cache is the number of positions before."""
        start = cache or 0
        return self._add(x, start), start + x.shape[1]


class LearnedPositions(_Positions):
    """y = x + weight[p] at position p: one learned vector a position.

    n_positions, n_features : the longest sequence and the length of its vectors, each at least 1
    x, y : (N, T, n_features), T at most n_positions; weight : (n_positions, n_features)
    dx = dy, dweight[p] = sum of dy[:, p] over the samples.
    """

    def __init__(
        self, n_positions: int, n_features: int, *, weight_initializer: Initializer | str = "unit_rows"
    ) -> None:
        self.n_positions, self.n_features = as_size(n_positions), as_size(n_features)
        if not (self.n_positions and self.n_features):
            raise ConfigError(
                "LearnedPositions needs at least 1 position and 1 feature, whole numbers: got "
                f"LearnedPositions({n_positions!r}, {n_features!r})"
            )
        self.weight = Parameter((self.n_positions, self.n_features), weight_initializer)

    @property
    def max_positions(self) -> int:
        """The number of positions that have a vector."""
        return self.n_positions

    def _add(self, x: Array, start: int) -> Array:
        W = self.weight.value
        check_sequence(self, x, self.n_features)
        self.check_input(x, self.n_features, W)
        if start + x.shape[1] > self.n_positions:
            before = f" behind {start} others" if start else ""
            raise ShapeError(
                f"{self!r} has vectors for {self.n_positions} positions, got sequences of {x.shape[1]}{before}; cut "
                "them, or make it with more"
            )
        return ops.add_positions(x, W, start)

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return dx = dy; accumulate dweight."""
        shape, dtype = self.kept()
        self.check_gradient(dy, shape, dtype, shape, dtype)
        if self.weight.trainable:
            self.weight.accumulate(ops.add_positions_backward(dy, self.n_positions))
        return dy if need_dx else None

    def __repr__(self) -> str:
        return typed(self)


class SinusoidalPositions(_Positions):
    """y = x + sines and cosines of the position, of wavelengths from 2 pi to 20000 pi. [Vaswani et al. 2017, sec. 3.5]

    At position p, sin(p / 10000^(2 i / D)) is added to feature 2 i and the cosine of that to 2 i + 1.
    x, y : (N, T, D), D even. Nothing is learned, and dx = dy.
    """

    def _add(self, x: Array, start: int) -> Array:
        check_sequence(self, x, "D")
        if x.shape[2] % 2 or not x.shape[2]:
            raise ShapeError(f"{self!r} needs an even number of features, got x of shape {tuple(x.shape)}")
        return ops.add_sinusoid(x, start)

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return dx = dy."""
        shape, dtype = self.kept()
        self.check_gradient(dy, shape, dtype, shape, dtype)
        return dy if need_dx else None

    def __repr__(self) -> str:
        return typed(self)
