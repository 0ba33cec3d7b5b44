"""Starting values of parameters. An initializer takes a stream and a shape and returns a float64 host array.

For a weight of shape (..., I, O), fan_in is the product of all but the last axis, fan_out that of all but the last but
one. Any function of this signature will do; a name in `INITIALIZERS` is what a saved architecture refers to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bpnet.errors import ConfigError
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


def lecun_normal(stream: HostStream, shape: tuple[int, ...]) -> Any:
    """Normal with variance 1 / fan_in. [LeCun et al. 1998]"""
    return stream.normal(shape) * math.sqrt(1 / fans(shape)[0])


def lecun_uniform(stream: HostStream, shape: tuple[int, ...]) -> Any:
    """Uniform with variance 1 / fan_in. [LeCun et al. 1998]"""
    return (2 * stream.uniform(shape) - 1) * math.sqrt(3 / fans(shape)[0])


def orthogonal(stream: HostStream, shape: tuple[int, ...]) -> Any:
    """Rows or columns of length 1 at right angles, whichever are fewer; columns lie along the last axis.

    By modified Gram-Schmidt in plain sums and products, twice, so that the numbers do not depend on a LAPACK.
    [Saxe et al. 2014]
    """
    if len(shape) < 2:
        raise ConfigError(f"orthogonal needs a shape of two or more axes, got {shape}")
    n_rows, n_columns = math.prod(shape[:-1]), shape[-1]
    vectors = stream.normal((min(n_rows, n_columns), max(n_rows, n_columns)))
    for index in range(len(vectors)):
        for _ in range(2):
            if index:
                overlaps = np.sum(vectors[:index] * vectors[index], axis=1, keepdims=True)
                vectors[index] -= np.sum(overlaps * vectors[:index], axis=0)
        vectors[index] /= math.sqrt(float(np.sum(vectors[index] * vectors[index])))
    return (vectors if n_rows <= n_columns else vectors.T).reshape(shape)


def unit_rows(stream: HostStream, shape: tuple[int, ...]) -> Any:
    """Normal with variance 1 / fan_out: the rows of a table, such as an Embedding's, have lengths of about 1."""
    return stream.normal(shape) * math.sqrt(1 / fans(shape)[1])


class constant:
    """Every element the same number: `constant(0.25)`."""

    def __init__(self, value: float) -> None:
        self.value = float(value)

    def __call__(self, stream: HostStream, shape: tuple[int, ...]) -> Any:
        """All `value`."""
        return np.full(shape, self.value)

    def __repr__(self) -> str:
        return f"constant({self.value})"


class side_by_side:
    """Equal blocks along the last axis, each by an initializer of its own, as the gates of an LSTM lie."""

    def __init__(self, *initializers: Initializer) -> None:
        self.initializers = initializers

    def __call__(self, stream: HostStream, shape: tuple[int, ...]) -> Any:
        """The blocks, drawn one after the other; their number divides the last axis."""
        width, rest = divmod(shape[-1], len(self.initializers))
        if rest:
            raise ConfigError(f"{len(self.initializers)} equal blocks do not fill a last axis of {shape[-1]}")
        return np.concatenate([draw(stream, (*shape[:-1], width)) for draw in self.initializers], axis=-1)

    def __repr__(self) -> str:
        return f"side_by_side({', '.join(getattr(each, '__name__', repr(each)) for each in self.initializers)})"


INITIALIZERS: dict[str, Initializer] = {
    each.__name__: each
    for each in (
        zeros,
        ones,
        he_normal,
        he_uniform,
        glorot_normal,
        glorot_uniform,
        lecun_normal,
        lecun_uniform,
        orthogonal,
        unit_rows,
    )
}
