"""Activations and their derivatives, each written in terms of the output where that suffices."""

from __future__ import annotations

from bpnet.dispatch import Array, kernel, namespace


@kernel(elementwise=True, flops=1)
def relu(x: Array) -> Array:
    """max(x, 0), elementwise, for any shape; NaN stays NaN."""
    return namespace(x).maximum(x, 0)


@kernel(elementwise=True, flops=0)
def relu_backward(dy: Array, y: Array) -> Array:
    """Pass `dy` where y > 0, which is exactly where x > 0; at x = 0 the derivative is taken as 0."""
    return namespace(y).where(y > 0, dy, 0)


@kernel(elementwise=True, flops=1)
def leaky_relu(x: Array, slope: float) -> Array:
    """Return x where x > 0, slope * x elsewhere, 0 < slope. [Maas, Hannun, Ng 2013]"""
    return namespace(x).where(x > 0, x, slope * x)


@kernel(elementwise=True, flops=1)
def leaky_relu_backward(dy: Array, y: Array, slope: float) -> Array:
    """Pass dy where y > 0, slope * dy elsewhere; y has the sign of x because slope > 0."""
    return namespace(y).where(y > 0, dy, slope * dy)


@kernel(elementwise=True, flops=3)
def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), computed from exp(-|x|), which cannot overflow."""
    xp = namespace(x)
    e = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, 1, e) / (1 + e)


@kernel(elementwise=True, flops=3)
def sigmoid_backward(dy: Array, y: Array) -> Array:
    """dx = dy * y (1 - y)."""
    return dy * (y * (1 - y))


@kernel(elementwise=True, flops=1)
def tanh(x: Array) -> Array:
    """The hyperbolic tangent, elementwise."""
    return namespace(x).tanh(x)


@kernel(elementwise=True, flops=3)
def tanh_backward(dy: Array, y: Array) -> Array:
    """dx = dy * (1 - y^2)."""
    return dy * (1 - y * y)


@kernel(flops=5)
def softmax(x: Array) -> Array:
    """exp(x) / sum(exp(x)) over the last axis, computed after subtracting the maximum, so that exp cannot overflow.

    x : (..., C) floating, C >= 1
    """
    xp = namespace(x)
    e = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
    return e / xp.sum(e, axis=-1, keepdims=True)


@kernel(flops=4)
def softmax_backward(dy: Array, y: Array) -> Array:
    """dx_i = sum_j dy_j dy_j/dx_i = y_i (dy_i - sum_j dy_j y_j), from the Jacobian diag(y) - y y^T.

    dy, y : (..., C)
    """
    return y * (dy - namespace(y).sum(dy * y, axis=-1, keepdims=True))
