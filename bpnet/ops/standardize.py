"""Subtract a mean and divide by a standard deviation that are given, not learned."""

from __future__ import annotations

from bpnet.dispatch import Array, kernel


@kernel(elementwise=True, flops=2)
def standardize(x: Array, mean: Array, std: Array) -> Array:
    """(x - mean) / std. x : (N, ...); mean, std : one shape that broadcasts to that of a sample"""
    return (x - mean) / std


@kernel(elementwise=True, flops=1)
def standardize_backward(dy: Array, std: Array) -> Array:
    """dx = dy / std."""
    return dy / std
