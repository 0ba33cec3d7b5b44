"""Starting values of parameters. An initializer takes a stream and a shape and returns a float64 host array.

For a weight of shape (..., I, O), fan_in is the product of all but the last axis, fan_out that of all but the last but
one. Any function of this signature will do; a name in `INITIALIZERS` is what a saved architecture refers to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bpnet.random import HostStream

Initializer = Callable[[HostStream, tuple[int, ...]], Any]


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight of `shape`, each at least 1."""
    if len(shape) < 2:
        return max(1, math.prod(shape)), max(1, math.prod(shape))
    field = math.prod(shape[:-2])
    return max(1, field * shape[-2]), max(1, field * shape[-1])


def zeros(stream: HostStream, shape: tuple[int, ...]) -> Any:
    """All 0."""
    return np.zeros(shape)


def ones(stream: HostStream, shape: tuple[int, ...]) -> Any:
    """All 1."""
    return np.ones(shape)


def he_normal(stream: HostStream, shape: tuple[int, ...]) -> Any:
    """Normal with variance 2 / fan_in, which keeps the scale through ReLU. [He et al. 2015]"""
    return stream.normal(shape) * math.sqrt(2 / fans(shape)[0])


def he_uniform(stream: HostStream, shape: tuple[int, ...]) -> Any:
    """Uniform with variance 2 / fan_in. [He et al. 2015]"""
    return (2 * stream.uniform(shape) - 1) * math.sqrt(6 / fans(shape)[0])


def glorot_normal(stream: HostStream, shape: tuple[int, ...]) -> Any:
    """Normal with variance 2 / (fan_in + fan_out). [Glorot & Bengio 2010]"""
    return stream.normal(shape) * math.sqrt(2 / sum(fans(shape)))


def glorot_uniform(stream: HostStream, shape: tuple[int, ...]) -> Any:
    """Uniform with variance 2 / (fan_in + fan_out). [Glorot & Bengio 2010]"""
    return (2 * stream.uniform(shape) - 1) * math.sqrt(6 / sum(fans(shape)))


INITIALIZERS: dict[str, Initializer] = {
    each.__name__: each for each in (zeros, ones, he_normal, he_uniform, glorot_normal, glorot_uniform)
}
