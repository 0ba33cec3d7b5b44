"""Normalization by the mean and the standard deviation of the training data."""

from __future__ import annotations

from typing import Any, Self

from bpnet import ops
from bpnet.data.statistics import check_statistics, mean_and_std
from bpnet.dispatch import Array
from bpnet.errors import ConfigError, ShapeError, StateError
from bpnet.initializers import ones, zeros
from bpnet.layers.base import Layer
from bpnet.layers.tree import as_size
from bpnet.parameter import Parameter
from bpnet.random import HostStream


class Normalize(Layer):
    """y = (x - mean) / std, with the statistics of the training data: call `fit(x)` once before training.

    They are parameters that training leaves alone: saved with the model, moved with it, kept by `initialize`. So what
    the model is used on later is scaled as what it was trained on was. Until they are known the layer refuses to run.
    shape  : of a sample's statistics: a number of features n, or several axes. An axis of 1 is pooled: (1,) is one mean
             for all features, (3, 1, 1) one for each of three channels of images (N, 3, H, W)
    fitted : whether mean and std are known; set by `fit` and `set`
    x      : (N, ..., *S), S being `shape` or what it broadcasts to; mean, std : `shape`
    """

    def __init__(self, shape: int | tuple[int, ...] | list[int], *, fitted: bool = False) -> None:
        axes = shape if isinstance(shape, (tuple, list)) else (shape,)
        sizes = tuple(as_size(n) for n in axes)
        if not sizes or not all(sizes):
            raise ConfigError(f"Normalize needs a number of features, or several axes, each at least 1, got {shape!r}")
        if not isinstance(fitted, bool):
            raise ConfigError(f"Normalize: fitted must be True or False, got {fitted!r}")
        self.shape = sizes if isinstance(shape, (tuple, list)) else sizes[0]
        self.fitted = fitted
        self.mean = Parameter(sizes, self._known_mean, decay=False, trainable=False)
        self.std = Parameter(sizes, self._known_std, decay=False, trainable=False)

    def fit(self, x: Any) -> Self:
        """Take mean and standard deviation over the samples `x`, and return the layer.

        x : (N, ..., *S) array of any library, a memory map, or a Dataset. It is read once, in pieces, in float64. Where
            all values are equal the standard deviation is taken as 1.
        Raises ShapeError, DTypeError, or DataError where x is empty or holds NaN or infinities.
        """
        return self.set(*mean_and_std(x, self.mean.shape))

    def set(self, mean: Any, std: Any) -> Self:
        """Take these statistics, each of the layer's `shape`, and return the layer.

        Raises ShapeError, DTypeError, or DataError where a value is not finite or a std not above 0.
        """
        mean, std = check_statistics(mean, std, self.mean.shape)
        self.mean.preset(mean)
        self.std.preset(std)
        self.fitted = True
        return self

    def _known_mean(self, stream: HostStream, shape: tuple[int, ...]) -> Any:
        known = self.mean.host_value() if self.fitted else None
        return zeros(stream, shape) if known is None else known

    def _known_std(self, stream: HostStream, shape: tuple[int, ...]) -> Any:
        known = self.std.host_value() if self.fitted else None
        return ones(stream, shape) if known is None else known

    def _check(self, x: Any) -> None:
        if not self.fitted:
            raise StateError(
                f"{self!r} does not know mean and standard deviation yet; call its fit(x) with the training data"
            )
        sizes, shape = self.mean.shape, tuple(getattr(x, "shape", ()))
        own = shape[max(1, len(shape) - len(sizes)) :]
        if shape and (len(own) < len(sizes) or any(size not in (1, n) for size, n in zip(sizes, own, strict=True))):
            hint = "; for one sample use x[None, ...]" if shape == sizes else ""
            raise ShapeError(f"{self!r} needs x of shape (N, {', '.join(map(str, sizes))}), got {shape}{hint}")
        self.check_input(x, shape[-1] if shape else 0, self.mean.value)

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The input's."""
        return input_shape

    def __call__(self, x: Array) -> Array:
        """Return (x - mean) / std; StateError before `fit`."""
        self._check(x)
        return ops.standardize(x, self.mean.value, self.std.value)

    def forward(self, x: Array) -> Array:
        """Return (x - mean) / std; keep the shape and the dtype of x."""
        y = self(x)
        self.keep(tuple(x.shape), x.dtype)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return dx = dy / std."""
        shape, dtype = self.kept()
        self.check_gradient(dy, shape, dtype, shape, dtype)
        return ops.standardize_backward(dy, self.std.value) if need_dx else None

    def __repr__(self) -> str:
        return f"Normalize({self.shape})"
