"""Normalization by the statistics of the batch, or of every sample's groups of channels."""

from __future__ import annotations

import math
from typing import Any

from bpnet import ops
from bpnet.checks import at_least_0, flag, positive
from bpnet.dispatch import Array
from bpnet.errors import ConfigError, ShapeError
from bpnet.initializers import ones, zeros
from bpnet.layers.base import Layer
from bpnet.layers.tree import as_size
from bpnet.parameter import Parameter, Statistic


class Normalization(Layer):
    """What batch norm and group norm share: weight and bias, the layout, and the door."""

    n_features: int

    def _make(self, n_features: Any, epsilon: float, affine: bool, channels: str) -> None:
        name = type(self).__name__
        self.n_features = as_size(n_features)
        if not self.n_features:
            raise ConfigError(f"{name} needs the number of features, at least 1, got {n_features!r}")
        if channels not in ("last", "first"):
            raise ConfigError(f'{name}: channels must be "last" or "first", got {channels!r}')
        self.epsilon = positive(f"{name}: epsilon", epsilon)
        self.channels = channels
        affine = flag(f"{name}: affine", affine)
        self.weight = Parameter((self.n_features,), ones, decay=False) if affine else None
        self.bias = Parameter((self.n_features,), zeros, decay=False) if affine else None

    @property
    def _affine(self) -> tuple[Array | None, Array | None]:
        """The values of weight and bias, or (None, None)."""
        weight, bias = self.weight, self.bias
        return (None if weight is None else weight.value), (None if bias is None else bias.value)

    def _check(self, x: Any) -> None:
        """Raise unless `x` has the features where they belong, and is of the model's library and dtype."""
        shape = self.shape_of(x)
        n, last = self.n_features, self.channels == "last"
        if len(shape) < 2 or shape[-1 if last else 1] != n:
            axes = f"(N, ..., {n})" if last else f"(N, {n}, ...)"
            hint = ""
            if len(shape) > 2 and shape[1 if last else -1] == n:
                other = "first" if last else "last"
                hint = f'; its channels seem to come {other}: give {type(self).__name__}(..., channels="{other}")'
            elif len(shape) == 1 and shape[0] == n:
                hint = "; for one sample use x[None, :]"
            raise ShapeError(f"{self!r} needs x of shape {axes}, got {shape}{hint}")
        like = next((p.value for p in self.parameters().values()), None)
        if like is not None:
            self.check_input(x, shape[-1], like)

    def _enter(self, x: Array) -> Array:
        """`x` with its channels last."""
        if self.channels == "last" or x.ndim < 3:
            return x
        return ops.transpose(x, (0, *range(2, x.ndim), 1))

    def _leave(self, y: Array) -> Array:
        if self.channels == "last" or y.ndim < 3:
            return y
        return ops.transpose(y, (0, y.ndim - 1, *range(1, y.ndim - 1)))

    def _given_shape(self, x: Array) -> tuple[int, ...]:
        """The shape of what came in, of which `x` has its channels last."""
        shape = tuple(x.shape)
        return shape if self.channels == "last" or len(shape) < 3 else (shape[0], shape[-1], *shape[1:-1])

    def _accumulate(self, dweight: Array, dbias: Array) -> None:
        if self.weight is not None and self.weight.trainable:
            self.weight.accumulate(dweight)
        if self.bias is not None and self.bias.trainable:
            self.bias.accumulate(dbias)

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The input's."""
        at = -1 if self.channels == "last" else 0
        if not input_shape or input_shape[at] != self.n_features:
            raise ShapeError(f"{self!r} needs samples with {self.n_features} features on axis {at}, got {input_shape}")
        return input_shape

    def _repr(self, *more: str) -> str:
        config = self.config
        shown = [f"{name}={config[name]!r}" for name, usual in _USUAL.items() if config.get(name, usual) != usual]
        return f"{type(self).__name__}({', '.join([*more, *shown])})"


_USUAL: dict[str, Any] = {"momentum": 0.1, "epsilon": 1e-5, "affine": True, "fixed": False, "channels": "last"}


class BatchNorm(Normalization):
    """y = (x - mean) / sqrt(variance + epsilon) * weight + bias, by the batch's statistics of every feature.

    Training takes mean and variance over all axes but the last: over the samples of rows (N, C), over samples and
    places of images (N, H, W, C). Inference takes the running statistics instead, so that no sample's output depends
    on others. With n = (x - mean) / s, s = sqrt(variance + epsilon), g = dy weight, and means over those axes,

        dx = (g - mean(g) - n mean(g n)) / s,  dweight = sum(dy n),  dbias = sum(dy)

    because mean and variance are functions of x too. [Ioffe, Szegedy 2015]

    running_mean, running_variance : become (1 - momentum) old + momentum new, the variance times n / (n - 1) as in
               PyTorch: once for every micro-batch, when its backward is made, and for good when the step updates. A
               step whose loss is not finite leaves them. (In Keras, `momentum` is 1 minus this one.)
    epsilon  : above 0
    affine   : whether there are weight and bias
    fixed    : True: training too takes the running statistics, and leaves them as they are. So it does where weight and
               bias are frozen. May be set at any time.
    channels : "last", or "first" for (N, C, ...)
    x, y     : (N, ..., n_features), in training at least 2 values of every feature; the others : (n_features,)

    With micro-batches every part is normalized by itself, so training is not the same as with the whole batch.
    """

    def __init__(
        self,
        n_features: int,
        *,
        momentum: float = 0.1,
        epsilon: float = 1e-5,
        affine: bool = True,
        fixed: bool = False,
        channels: str = "last",
    ) -> None:
        self._make(n_features, epsilon, affine, channels)
        self.momentum = momentum
        self.fixed = flag("BatchNorm: fixed", fixed)
        self.running_mean = Statistic((self.n_features,), zeros)
        self.running_variance = Statistic((self.n_features,), ones)

    @property
    def momentum(self) -> float:
        """The weight of the new statistics in the running ones; may be set at any time."""
        return self._momentum

    @momentum.setter
    def momentum(self, value: float) -> None:
        value = at_least_0("BatchNorm: momentum", value)
        if value > 1:
            raise ConfigError(f"BatchNorm: momentum must be in [0, 1], got {value!r}")
        self._momentum = value

    @property
    def _running(self) -> tuple[Array, Array]:
        return self.running_mean.value, self.running_variance.value

    @property
    def _is_fixed(self) -> bool:
        weight, bias = self.weight, self.bias
        return self.fixed or (weight is not None and bias is not None and not (weight.trainable or bias.trainable))

    def __call__(self, x: Array) -> Array:
        """Return x normalized by the running statistics."""
        self._check(x)
        return self._leave(ops.scale_shift(self._enter(x), *self._running, *self._affine, self.epsilon))

    def forward(self, x: Array) -> Array:
        """Return x normalized by its own statistics; keep x and them.

        Raises ShapeError where a feature has fewer than 2 values.
        """
        if self._is_fixed:
            y = self(x)
            self.keep(self._enter(x), None, None)
            return y
        self._check(x)
        count = math.prod(x.shape) // self.n_features
        if count < 2:
            raise ShapeError(
                f"{self!r} needs at least 2 values of every feature to know how they spread, got x of shape "
                f"{tuple(x.shape)}; train with larger batches (a last batch of one sample can be avoided by another "
                "batch_size), or use GroupNorm, which looks at one sample at a time"
            )
        x = self._enter(x)
        y, mean, variance = ops.batch_norm(x, *self._affine, self.epsilon)
        self.keep(x, mean, variance)
        return self._leave(y)

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return dx; accumulate dweight and dbias, and let the running statistics follow the batch's."""
        x, mean, variance = self.kept()
        self.check_gradient(dy, self._given_shape(x), x.dtype, x, mean, variance)
        dy = self._enter(dy)
        weight = self._affine[0]
        if mean is None:
            dx, dweight, dbias = ops.scale_shift_backward(dy, x, *self._running, weight, self.epsilon, need_dx)
        else:
            dx, dweight, dbias = ops.batch_norm_backward(dy, x, mean, variance, weight, self.epsilon, need_dx)
            count = math.prod(x.shape[:-1])
            self.running_mean.blend(mean, self.momentum)
            self.running_variance.blend(variance, self.momentum, count / (count - 1))
        self._accumulate(dweight, dbias)
        return self._leave(dx) if need_dx else None

    def __repr__(self) -> str:
        return self._repr(str(self.n_features))


class GroupNorm(Normalization):
    """y = (x - mean) / sqrt(variance + epsilon) * weight + bias, by statistics of each sample's groups of channels.

    Samples do not meet, so training is as inference, and one sample is enough. n_groups=1 normalizes over a whole
    sample, n_groups=n_features every channel by itself (instance norm). The derivative is BatchNorm's, with means over
    the places and channels of a sample's group. [Wu, He 2018]
    n_groups, n_features : the first divides the second; channel k is in group k // (n_features / n_groups)
    epsilon, affine, channels : as of BatchNorm
    x, y : (N, ..., n_features); weight, bias : (n_features,)
    """

    def __init__(
        self,
        n_groups: int,
        n_features: int,
        *,
        epsilon: float = 1e-5,
        affine: bool = True,
        channels: str = "last",
    ) -> None:
        self._make(n_features, epsilon, affine, channels)
        self.n_groups = as_size(n_groups)
        if not self.n_groups or self.n_features % self.n_groups:
            fits = [g for g in range(1, self.n_features + 1) if self.n_features % g == 0]
            raise ConfigError(
                f"GroupNorm: n_groups must divide the {self.n_features} features, got {n_groups!r}; "
                f"{', '.join(map(str, fits[:8]))} would do"
            )

    def __call__(self, x: Array) -> Array:
        """Return x normalized by each sample's groups."""
        self._check(x)
        return self._leave(ops.group_norm(self._enter(x), *self._affine, self.n_groups, self.epsilon)[0])

    def forward(self, x: Array) -> Array:
        """Return x normalized by each sample's groups; keep x and the statistics."""
        self._check(x)
        x = self._enter(x)
        y, mean, variance = ops.group_norm(x, *self._affine, self.n_groups, self.epsilon)
        self.keep(x, mean, variance)
        return self._leave(y)

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return dx; accumulate dweight and dbias."""
        x, mean, variance = self.kept()
        self.check_gradient(dy, self._given_shape(x), x.dtype, x, mean, variance)
        weight = self._affine[0]
        dx, dweight, dbias = ops.group_norm_backward(
            self._enter(dy), x, mean, variance, weight, self.n_groups, self.epsilon, need_dx
        )
        self._accumulate(dweight, dbias)
        return self._leave(dx) if need_dx else None

    def __repr__(self) -> str:
        return self._repr(str(self.n_groups), str(self.n_features))
