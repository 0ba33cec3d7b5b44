"""Dropout."""

from __future__ import annotations

from bpnet import ops
from bpnet.dispatch import Array
from bpnet.errors import ConfigError
from bpnet.layers.base import Layer
from bpnet.layers.tree import is_number
from bpnet.parameter import Stream


class Dropout(Layer):
    """Zero each element with probability `rate` while training, and scale the others; inference is the identity.

    The mask is a function of (seed, path of the layer, step, micro-batch, element): the same on every backend, and the
    same again when a forward is repeated before its backward. [Srivastava et al. 2014]
    rate : in [0, 1), applied in steps of 1/65536
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.stream = Stream()

    @property
    def rate(self) -> float:
        """The probability of a zero; may be set at any time."""
        return self._rate

    @rate.setter
    def rate(self, rate: float) -> None:
        if not is_number(rate) or not 0 <= rate < 1:
            raise ConfigError(f"Dropout needs a rate in [0, 1), got {rate!r}")
        self._rate = min(float(rate), 65535 / 65536)

    def __call__(self, x: Array) -> Array:
        """Return `x` itself."""
        self.shape_of(x)
        return x

    def forward(self, x: Array) -> Array:
        """Return x * mask * scale; keep the mask."""
        self.shape_of(x)
        y, mask = ops.dropout(x, *self.stream.source, self.rate)
        self.keep(mask, x.dtype)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return dx = dy * mask * scale; the next forward draws a new mask."""
        mask, dtype = self.kept()
        self.check_gradient(dy, mask.shape, dtype, mask, dtype)
        self.stream.commit()
        return ops.dropout_backward(dy, mask, self.rate) if need_dx else None
