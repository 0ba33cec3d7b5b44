"""The chapter's atomic form: one neuron as products, a sum, and an activation, each with its own derivative.

A neuron computes z = x_0 w_0 + x_1 w_1 + ... + b. As a graph of atomic functions that is one `mul` for every input and
one `sum_terms` over the products and the bias; the chain rule multiplies the derivatives along each path. `linear` and
`linear_backward` are the same thing simplified: the tests hold the two equal.
"""

from __future__ import annotations

from bpnet.dispatch import Array, kernel, namespace
from bpnet.ops.costs import size


@kernel(elementwise=True, flops=1)
def mul(x: Array, w: Array) -> Array:
    """x * w for two arrays of one shape: the product of every input with its weight."""
    return x * w


@kernel(flops=2)
def mul_backward(dy: Array, x: Array, w: Array) -> tuple[Array, Array]:
    """dx = dy * w and dw = dy * x: the derivative of a product by one factor is the other factor."""
    return dy * w, dy * x


@kernel(flops=lambda terms: size(terms[1:]))
def sum_terms(terms: tuple[Array, ...]) -> Array:
    """Add arrays of one shape, from left to right: xw_0 + xw_1 + ... + b."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


@kernel(flops=lambda dy, n_terms: n_terms * size(dy))
def sum_backward(dy: Array, n_terms: int) -> tuple[Array, ...]:
    """Return `dy` once for every term: the derivative of a sum by any of its terms is 1."""
    one = namespace(dy).ones_like(dy)
    return tuple(dy * one for _ in range(n_terms))
