"""Activations as layers: each keeps its output or its input, from which its derivative follows."""

from __future__ import annotations

from typing import Any, ClassVar

from bpnet import ops
from bpnet.dispatch import Array, Kernel
from bpnet.errors import ConfigError, ShapeError
from bpnet.layers.base import Layer
from bpnet.layers.tree import is_number


class Activation(Layer):
    """A function of one array whose derivative is a function of dy and the output. A subclass names the two ops.

    from_input : whether the derivative is one of dy and the input instead
    settings   : what both ops take after their arrays
    """

    op: ClassVar[Kernel]
    op_backward: ClassVar[Kernel]
    from_input: ClassVar[bool] = False
    positionwise = True

    @property
    def settings(self) -> tuple[Any, ...]:
        """Nothing, unless a subclass says so."""
        return ()

    @property
    def pair(self) -> tuple[Kernel, Kernel]:
        """The two ops, unless a subclass chooses among several."""
        return type(self).op, type(self).op_backward

    def __call__(self, x: Array) -> Array:
        """Return the activation of `x`, of the same shape."""
        return self.pair[0](x, *self.settings)

    def forward(self, x: Array) -> Array:
        """Return the activation of `x`; keep it, or x."""
        y = self(x)
        self.keep(x if self.from_input else y)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return dx from dy and what was kept."""
        (kept,) = self.kept()
        self.check_gradient(dy, kept.shape, kept.dtype, kept)
        return self.pair[1](dy, kept, *self.settings) if need_dx else None


class ReLU(Activation):
    """max(x, 0); the derivative at 0 is taken as 0."""

    op = ops.relu
    op_backward = ops.relu_backward


class LeakyReLU(Activation):
    """Return x where x > 0, slope * x elsewhere; 0 < slope."""

    op = ops.leaky_relu
    op_backward = ops.leaky_relu_backward

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = slope

    @property
    def slope(self) -> float:
        """The slope below 0; may be set at any time."""
        return self._slope

    @slope.setter
    def slope(self, slope: float) -> None:
        if not is_number(slope) or not 0 < slope < float("inf"):
            raise ConfigError(f"LeakyReLU needs a slope above 0, got {slope!r}; a slope of 0 is ReLU")
        self._slope = float(slope)

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
        return super().__call__(_with_last_axis(self, x))


class LogSoftmax(Activation):
    """The logarithm of Softmax over the last axis, which does not round small probabilities to 0."""

    op = ops.log_softmax
    op_backward = ops.log_softmax_backward

    def __call__(self, x: Array) -> Array:
        """Return log-probabilities over the last axis."""
        return super().__call__(_with_last_axis(self, x))


def _with_last_axis(layer: Layer, x: Array) -> Array:
    shape = layer.shape_of(x)
    if not shape or shape[-1] < 1:
        raise ShapeError(f"{layer!r} needs a last axis of at least 1, got x of shape {shape}")
    return x


class ELU(Activation):
    """Return x where x > 0, alpha (exp(x) - 1) elsewhere; 0 < alpha."""

    op = ops.elu
    op_backward = ops.elu_backward

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    @property
    def alpha(self) -> float:
        """Minus the limit for small x; may be set at any time."""
        return self._alpha

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        if not is_number(alpha) or not 0 < alpha < float("inf"):
            raise ConfigError(f"ELU needs an alpha above 0, got {alpha!r}")
        self._alpha = float(alpha)

    @property
    def settings(self) -> tuple[float]:
        """Alpha."""
        return (self.alpha,)


class GELU(Activation):
    """Return x times the probability that a standard normal number is below x.

    approximate : "none" for that, "tanh" for the approximation with a tanh
    """

    from_input = True

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    @property
    def approximate(self) -> str:
        """Which form; may be set at any time."""
        return self._approximate

    @approximate.setter
    def approximate(self, approximate: str) -> None:
        if approximate not in ("none", "tanh"):
            raise ConfigError(f"GELU: approximate must be 'none' or 'tanh', got {approximate!r}")
        self._approximate = approximate

    @property
    def pair(self) -> tuple[Kernel, Kernel]:
        """The ops of the form asked for."""
        if self.approximate == "tanh":
            return ops.gelu_tanh, ops.gelu_tanh_backward
        return ops.gelu, ops.gelu_backward

    def forward(self, x: Array) -> Array:
        """Return the activation of `x`; keep its derivative, which shares most of the work."""
        y, slope = ops.gelu_tanh_with_slope(x) if self.approximate == "tanh" else ops.gelu_with_slope(x)
        self.keep(slope)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return dx = dy times the derivative that was kept."""
        (slope,) = self.kept()
        self.check_gradient(dy, slope.shape, slope.dtype, slope)
        return ops.mul(dy, slope) if need_dx else None


class SiLU(Activation):
    """Return x sigmoid(x), also called swish."""

    op = ops.silu
    op_backward = ops.silu_backward
    from_input = True


class Softplus(Activation):
    """log(1 + exp(x)), a smooth ReLU."""

    op = ops.softplus
    op_backward = ops.softplus_backward
    from_input = True


class Mish(Activation):
    """Return x tanh(softplus(x))."""

    op = ops.mish
    op_backward = ops.mish_backward
    from_input = True


class Hardswish(Activation):
    """Return x min(max(x + 3, 0), 6) / 6; the derivative is taken as 0 at -3 and as 1 at 3."""

    op = ops.hardswish
    op_backward = ops.hardswish_backward
    from_input = True
