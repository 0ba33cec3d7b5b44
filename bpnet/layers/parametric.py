"""Activations that learn, or that halve their input."""

from __future__ import annotations

from typing import Any, ClassVar

from bpnet import ops
from bpnet.dispatch import Array, Kernel
from bpnet.errors import ConfigError, ShapeError
from bpnet.initializers import constant
from bpnet.layers.base import Layer
from bpnet.layers.tree import as_size
from bpnet.parameter import Parameter


class PReLU(Layer):
    """Return x where x > 0, a x elsewhere, with a learned. [He et al. 2015]

    n : the number of slopes: 1 for one that all features share, or the length of the last axis
    a : where every slope starts; weight decay spares them
    x : (..., C); slope : (n,)
    """

    positionwise = True

    def __init__(self, n: int = 1, *, a: float = 0.25) -> None:
        self.n = as_size(n)
        if not self.n:
            raise ConfigError(f"PReLU needs a whole number of slopes, at least 1, got {n!r}")
        self.a = float(a)
        self.slope = Parameter((self.n,), constant(self.a), decay=False)

    def __call__(self, x: Array) -> Array:
        """Return the activation of `x`, of the same shape."""
        if self.n != 1 and self.shape_of(x)[-1:] != (self.n,):
            raise ShapeError(f"{self!r} needs x of shape (..., {self.n}), got {tuple(x.shape)}")
        return ops.prelu(x, self.slope.value)

    def forward(self, x: Array) -> Array:
        """Return the activation of `x`; keep x."""
        y = self(x)
        self.keep(x)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return dx; accumulate the gradient of the slopes."""
        (x,) = self.kept()
        self.check_gradient(dy, x.shape, x.dtype, x)
        dx, da = ops.prelu_backward(dy, x, self.slope.value)
        self.slope.accumulate(da)
        return dx if need_dx else None


class GLU(Layer):
    """The first half of the last axis times the sigmoid of the second: (..., 2 C) -> (..., C)."""

    positionwise = True
    op: ClassVar[Kernel] = ops.glu
    op_backward: ClassVar[Kernel] = ops.glu_backward

    def __call__(self, x: Array) -> Array:
        """Return the gated half."""
        shape = self.shape_of(x)
        if not shape or shape[-1] < 2 or shape[-1] % 2:
            raise ShapeError(f"{self!r} halves the last axis, which must be even and at least 2, got {shape}")
        return type(self).op(x)

    def forward(self, x: Array) -> Array:
        """Return the gated half; keep x."""
        y = self(x)
        self.keep(x)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return dx for both halves."""
        (x,) = self.kept()
        shape: tuple[Any, ...] = (*x.shape[:-1], x.shape[-1] // 2)
        self.check_gradient(dy, shape, x.dtype, x)
        return type(self).op_backward(dy, x) if need_dx else None


class SwiGLU(GLU):
    """`SiLU` of the first half of the last axis times the second: (..., 2 C) -> (..., C). [Shazeer 2020]"""

    op = ops.swiglu
    op_backward = ops.swiglu_backward
