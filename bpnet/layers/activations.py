"""Activations as layers: each keeps its output, from which its derivative follows."""

from __future__ import annotations

from typing import Any, ClassVar

from bpnet import ops
from bpnet.dispatch import Array, Kernel
from bpnet.errors import ConfigError, ShapeError
from bpnet.layers.base import Layer


class Activation(Layer):
    """A function of one array whose derivative is a function of dy and the output. A subclass names the two ops.

    settings : what both ops take after their arrays
    """

    op: ClassVar[Kernel]
    op_backward: ClassVar[Kernel]

    @property
    def settings(self) -> tuple[Any, ...]:
        """Nothing, unless a subclass says so."""
        return ()

    def __call__(self, x: Array) -> Array:
        """Return the activation of `x`, of the same shape."""
        return type(self).op(x, *self.settings)

    def forward(self, x: Array) -> Array:
        """Return the activation of `x`; keep it."""
        y = self(x)
        self.keep(y)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return dx from dy and the output."""
        (y,) = self.kept()
        self.check_gradient(dy, y.shape, y.dtype, y)
        return type(self).op_backward(dy, y, *self.settings) if need_dx else None


class ReLU(Activation):
    """max(x, 0); the derivative at 0 is taken as 0."""

    op = ops.relu
    op_backward = ops.relu_backward


class LeakyReLU(Activation):
    """Return x where x > 0, slope * x elsewhere; 0 < slope."""

    op = ops.leaky_relu
    op_backward = ops.leaky_relu_backward

    def __init__(self, slope: float = 0.01) -> None:
        if not 0 < slope < float("inf"):
            raise ConfigError(f"LeakyReLU needs a slope above 0, got {slope!r}; a slope of 0 is ReLU")
        self.slope = float(slope)

    @property
    def settings(self) -> tuple[float]:
        """The slope."""
        return (self.slope,)


class Sigmoid(Activation):
    """1 / (1 + exp(-x))."""

    op = ops.sigmoid
    op_backward = ops.sigmoid_backward


class Tanh(Activation):
    """The hyperbolic tangent."""

    op = ops.tanh
    op_backward = ops.tanh_backward


class Softmax(Activation):
    """exp(x) / sum(exp(x)) over the last axis.

    To train a classifier use SoftmaxCrossEntropy on the logits: the two derivatives simplify to p - onehot.
    """

    op = ops.softmax
    op_backward = ops.softmax_backward

    def __call__(self, x: Array) -> Array:
        """Return probabilities over the last axis."""
        if x.ndim < 1 or x.shape[-1] < 1:
            raise ShapeError(f"Softmax needs a last axis of at least 1, got x of shape {tuple(x.shape)}")
        return ops.softmax(x)
