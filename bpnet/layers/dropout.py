"""Dropout."""

from __future__ import annotations

from bpnet import ops
from bpnet.dispatch import Array
from bpnet.errors import ConfigError, ShapeError
from bpnet.layers.base import Layer
from bpnet.layers.tree import is_number
from bpnet.parameter import Stream


class Dropout(Layer):
    """Zero each element with probability `rate` while training, and scale the others; inference is the identity.

    The mask is a function of (seed, path of the layer, step, micro-batch, element): the same on every backend, and the
    same again when a forward is repeated before its backward. [Srivastava et al. 2014]
    rate : in [0, 1), applied in steps of 1/65536
    """

    positionwise = True

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


class Dropout2d(Dropout):
    """Zero whole channels of each sample with probability `rate` while training, and scale the others.

    Neighbouring pixels tell much the same, so that dropping single ones would hide little. Everything else is
    Dropout's; of rows (N, C) it is the same. [Tompson et al. 2015]
    rate     : in [0, 1), applied in steps of 1/65536
    channels : "last", or "first" for x (N, C, ...)
    """

    def __init__(self, rate: float, *, channels: str = "last") -> None:
        super().__init__(rate)
        if channels not in ("last", "first"):
            raise ConfigError(f'Dropout2d: channels must be "last" or "first", got {channels!r}')
        self.channels = channels

    def _check(self, x: Array) -> int:
        """The axis of the channels; ShapeError where there is none."""
        shape = self.shape_of(x)
        if len(shape) < 2:
            raise ShapeError(f"{self!r} needs x of shape (N, ..., C), got {shape}; for one sample use x[None]")
        return 1 if self.channels == "first" else len(shape) - 1

    def __call__(self, x: Array) -> Array:
        """Return `x` itself."""
        self._check(x)
        return x

    def forward(self, x: Array) -> Array:
        """Return x * mask * scale, the mask one number a sample and channel; keep it."""
        y, mask = ops.dropout_channels(x, *self.stream.source, self.rate, self._check(x))
        self.keep(mask, tuple(x.shape), x.dtype)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return dx = dy * mask * scale; the next forward draws a new mask."""
        mask, shape, dtype = self.kept()
        self.check_gradient(dy, shape, dtype, mask, shape, dtype)
        self.stream.commit()
        return ops.dropout_backward(dy, mask, self.rate) if need_dx else None
