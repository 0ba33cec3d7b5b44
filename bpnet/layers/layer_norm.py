"""LayerNorm and RMSNorm: normalization over the features of every position."""

from __future__ import annotations

from bpnet import ops
from bpnet.checks import flag
from bpnet.dispatch import Array
from bpnet.errors import ConfigError
from bpnet.initializers import ones, zeros
from bpnet.layers.base import Layer
from bpnet.layers.tree import as_size, is_number, typed
from bpnet.parameter import Parameter


class _Norm(Layer):
    """What the two share: the number of features, epsilon, and the gain."""

    positionwise = True

    def __init__(self, n_features: int, epsilon: float) -> None:
        self.n_features = as_size(n_features)
        if not self.n_features:
            raise ConfigError(f"{type(self).__name__} needs a whole number of features, at least 1, got {n_features!r}")
        self.epsilon = epsilon
        self.gain = Parameter((self.n_features,), ones, decay=False)

    @property
    def epsilon(self) -> float:
        """What is added below the root; may be set at any time."""
        return self._epsilon

    @epsilon.setter
    def epsilon(self, epsilon: float) -> None:
        if not is_number(epsilon) or not 0 < epsilon < 1:
            raise ConfigError(f"{type(self).__name__}: epsilon must be a number above 0 and below 1, got {epsilon!r}")
        self._epsilon = float(epsilon)

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The input's."""
        self.check_input(self.blank(input_shape), self.n_features, self.gain.value)
        return input_shape

    def __repr__(self) -> str:
        return typed(self)


class LayerNorm(_Norm):
    """y = gain * (x - mean) / sqrt(variance + epsilon) + bias, both over the last axis. [Ba, Kiros, Hinton 2016]

    n_features : the length of the last axis; epsilon : above 0; bias : whether there is one
    x, y : (..., n_features); gain, bias : (n_features,), begin at 1 and 0. The variance divides by n_features.
    With h the normalized x, r = 1 / sqrt(variance + epsilon) and dh = dy gain:
    dx = r (dh - mean(dh) - h mean(dh h)), dgain = sum of dy h, dbias = sum of dy over all positions.

    >>> import numpy as np
    >>> import bpnet as bp
    >>> norm = bp.LayerNorm(4).initialize(dtype="float64")
    >>> norm(np.array([[1.0, 2.0, 3.0, 4.0]])).round(3)
    array([[-1.342, -0.447,  0.447,  1.342]])
    """

    def __init__(self, n_features: int, *, epsilon: float = 1e-5, bias: bool = True) -> None:
        super().__init__(n_features, epsilon)
        self.bias = Parameter((self.n_features,), zeros, decay=False) if flag("LayerNorm: bias", bias) else None

    def _evaluate(self, x: Array) -> tuple[Array, Array, Array]:
        gain = self.gain.value
        self.check_input(x, self.n_features, gain)
        found: tuple[Array, Array, Array] = ops.layer_norm(
            x, gain, None if self.bias is None else self.bias.value, self.epsilon
        )
        return found

    def __call__(self, x: Array) -> Array:
        """Return y, of the shape of `x`."""
        return self._evaluate(x)[0]

    def forward(self, x: Array) -> Array:
        """Return y; keep h and r."""
        y, h, r = self._evaluate(x)
        self.keep(h, r)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return dx; accumulate dgain and dbias."""
        h, r = self.kept()
        self.check_gradient(dy, h.shape, h.dtype, h, r)
        need_dgain = self.gain.trainable
        need_dbias = self.bias is not None and self.bias.trainable
        dx, dgain, dbias = ops.layer_norm_backward(dy, h, r, self.gain.value, need_dx, need_dgain, need_dbias)
        if need_dgain:
            self.gain.accumulate(dgain)
        if self.bias is not None and need_dbias:
            self.bias.accumulate(dbias)
        return dx


class RMSNorm(_Norm):
    """y = gain * x / sqrt(mean of x^2 + epsilon) over the last axis. [Zhang & Sennrich 2019]

    n_features : the length of the last axis; epsilon : above 0
    x, y : (..., n_features); gain : (n_features,), begins at 1
    With h = x r, r = 1 / sqrt(mean of x^2 + epsilon) and dh = dy gain: dx = r (dh - h mean(dh h)), dgain = sum of dy h.
    """

    def __init__(self, n_features: int, *, epsilon: float = 1e-6) -> None:
        super().__init__(n_features, epsilon)

    def _evaluate(self, x: Array) -> tuple[Array, Array, Array]:
        gain = self.gain.value
        self.check_input(x, self.n_features, gain)
        found: tuple[Array, Array, Array] = ops.rms_norm(x, gain, self.epsilon)
        return found

    def __call__(self, x: Array) -> Array:
        """Return y, of the shape of `x`."""
        return self._evaluate(x)[0]

    def forward(self, x: Array) -> Array:
        """Return y; keep h and r."""
        y, h, r = self._evaluate(x)
        self.keep(h, r)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return dx; accumulate dgain."""
        h, r = self.kept()
        self.check_gradient(dy, h.shape, h.dtype, h, r)
        dx, dgain = ops.rms_norm_backward(dy, h, r, self.gain.value, need_dx, self.gain.trainable)
        if self.gain.trainable:
            self.gain.accumulate(dgain)
        return dx
