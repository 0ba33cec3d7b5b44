"""What layers of images and of signals share: their layout, what they refuse, and arguments that are pairs.

bpnet's layout is channels last: images (N, H, W, C), signals (N, L, C). What a window sees of an image is then one row
of a matrix product, and features are on the last axis as everywhere. `channels="first"` takes and gives (N, C, H, W):
two kernels turn the axes around, in forward and in backward.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from bpnet import ops
from bpnet.dispatch import Array
from bpnet.errors import ConfigError, ShapeError, did_you_mean
from bpnet.layers.base import Layer
from bpnet.layers.tree import as_size
from bpnet.ops.windows import Window

Size = int | tuple[int, ...] | list[int]
Padding = int | str | tuple[Any, ...] | list[Any]
LETTERS = {1: "L", 2: "HW"}


def sizes(owner: str, name: str, value: Any, n: int) -> tuple[int, ...]:
    """A number, or one for each of `n` axes, as a tuple; ConfigError unless each is a whole number of at least 1."""
    given = tuple(value) if isinstance(value, (tuple, list)) else (value,) * n
    found = tuple(as_size(each) for each in given)
    if len(found) != n or not all(found):
        what = "a whole number" if n == 1 else f"a whole number, or {n} of them (rows, columns),"
        raise ConfigError(f"{owner}: {name} must be {what} of at least 1, got {value!r}")
    return found


def as_padding(owner: str, value: Any, n: int) -> tuple[tuple[int, int], ...] | str:
    """((before, after), ...) for each of `n` axes, or "same"; ConfigError for what is neither."""
    if isinstance(value, str):
        if value == "valid":
            return ((0, 0),) * n
        if value != "same":
            raise ConfigError(
                f'{owner}: padding must be "same", "valid" or numbers, got {value!r}'
                f"{did_you_mean(value, ['same', 'valid'])}"
            )
        return value
    each = tuple(value) if isinstance(value, (tuple, list)) else (value,) * n
    pairs = [tuple(one) if isinstance(one, (tuple, list)) else (one, one) for one in each]
    fine = len(pairs) == n and all(len(pair) == 2 for pair in pairs)
    if not fine or any(as_size(one) == 0 and (one != 0 or isinstance(one, bool)) for pair in pairs for one in pair):
        axes = "a number" if n == 1 else "(rows, columns)"
        raise ConfigError(
            f'{owner}: padding must be "same", "valid", a whole number of at least 0, or {axes}, each a number or a '
            f"pair (before, after), got {value!r}"
        )
    return tuple((int(before), int(after)) for before, after in pairs)


class Spatial(Layer):
    """Base of layers whose x is (N, H, W, C) or (N, L, C). A subclass defines `_infer`, `_forward` and `_backward`.

    channels : "last", or "first" for x (N, C, H, W) and (N, C, L)
    """

    axes: ClassVar[int] = 2
    n_in: int | None = None  # channels of x, where they are fixed

    def _set_channels(self, channels: str) -> None:
        if channels not in ("last", "first"):
            raise ConfigError(f'{type(self).__name__}: channels must be "last" or "first", got {channels!r}')
        self.channels = channels

    # --- what a subclass does, channels last ---

    def _infer(self, x: Array) -> Array:
        raise NotImplementedError

    def _forward(self, x: Array) -> Array:
        """Return the output and keep what `_backward` takes."""
        raise NotImplementedError

    def _backward(self, dy: Array, need_dx: bool) -> Array:
        raise NotImplementedError

    # --- what follows ---

    def __call__(self, x: Array) -> Array:
        """Inference: return the output for `x`; save nothing."""
        self._check_image(x)
        return self._leave(self._infer(self._enter(x)))

    def forward(self, x: Array) -> Array:
        """Return the output for `x` and keep what the derivative needs."""
        self._check_image(x)
        return self._leave(self._forward(self._enter(x)))

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return dx; accumulate the gradients of the parameters."""
        first = self.channels == "first"
        if first and self._kept is not None and getattr(dy, "ndim", 0) > 2:
            dy = self._enter(dy)
        dx = self._backward(dy, need_dx)
        return self._leave(dx) if first and dx is not None else dx

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one sample's output; ShapeError where the input's does not fit."""
        self._check_shape((1, *input_shape))
        last = input_shape if self.channels == "last" else (*input_shape[1:], input_shape[0])
        found = self._shape_after(last)
        return found if self.channels == "last" or len(found) == 1 else (found[-1], *found[:-1])

    def _shape_after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a sample's output for that of its input, channels last."""
        raise NotImplementedError

    def _enter(self, x: Array) -> Array:
        """`x` with its channels last."""
        if self.channels == "last":
            return x
        return ops.transpose(x, (0, *range(2, x.ndim), 1))

    def _leave(self, y: Array) -> Array:
        """`y` in the layer's layout."""
        if self.channels == "last" or y.ndim < 3:
            return y
        return ops.transpose(y, (0, y.ndim - 1, *range(1, y.ndim - 1)))

    def _raised(self, x: Array) -> Array:
        """A signal as an image of one row, which the kernels take."""
        return x if self.axes == 2 else ops.reshape(x, (x.shape[0], 1, *x.shape[1:]))

    def _lowered(self, y: Array) -> Array:
        return y if self.axes == 2 else ops.reshape(y, (y.shape[0], *y.shape[2:]))

    def _image(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(N, L, C) as (N, 1, L, C)."""
        return shape if self.axes == 2 else (shape[0], 1, *shape[1:])

    # --- the door ---

    def _axes(self) -> str:
        """The shape that x must have, as text."""
        spatial = ", ".join(LETTERS[self.axes])
        n = "C" if self.n_in is None else str(self.n_in)
        return f"(N, {spatial}, {n})" if self.channels == "last" else f"(N, {n}, {spatial})"

    def _check_image(self, x: Any) -> None:
        self._check_shape(self.shape_of(x))

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ShapeError unless a batch of this shape is one of images with the right number of channels."""
        n, own = self.n_in, self.channels == "last"
        if len(shape) == self.axes + 2 and (n is None or shape[-1 if own else 1] == n):
            self._check_size(shape[1:-1] if own else shape[2:])
            return
        hint = ""
        if len(shape) == self.axes + 2:
            if shape[1 if own else -1] == n:
                other = "first" if own else "last"
                hint = f'; its channels seem to come {other}: give {type(self).__name__}(..., channels="{other}")'
            else:
                hint = f"; it has {shape[-1 if own else 1]} channels"
        elif len(shape) == self.axes + 1:
            if n == 1:
                hint = f"; x[{'..., None' if own else ':, None'}] gives it the axis of its one channel"
            elif n is None or shape[-1 if own else 0] == n:
                hint = "; for one sample use x[None, ...]"
        elif len(shape) == 2:
            last = ", ".join([*LETTERS[self.axes], "C"])
            hint = f"; put a Reshape(({last})) before it"
        raise ShapeError(f"{self!r} needs x of shape {self._axes()}, got {shape}{hint}")

    def _check_size(self, size: tuple[int, ...]) -> None:
        """Raise ShapeError unless the layer takes images of this size."""

    def __repr__(self) -> str:
        config, shown = self.config, []
        for name, parameter in list(inspect.signature(type(self).__init__).parameters.items())[1:]:
            value = config.get(name)
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is parameter.empty:
                shown.append(f"{tuple(value) if isinstance(value, list) else value!r}")
            elif value != parameter.default and not callable(value):
                shown.append(f"{name}={tuple(value) if isinstance(value, list) else repr(value)}")
        return f"{type(self).__name__}({', '.join(shown)})"


class Windowed(Spatial):
    """Base of layers in which a window slides over the image."""

    kernel_size: Any
    stride: Any
    dilation: Any
    padding: Any

    def _set_window(self, kernel_size: Any, stride: Any, padding: Any, dilation: Any) -> None:
        name, n = type(self).__name__, self.axes
        self._size = sizes(name, "kernel_size", kernel_size, n)
        self._stride = sizes(name, "stride", stride, n)
        self._dilation = sizes(name, "dilation", dilation, n)
        self._padding = as_padding(name, padding, n)

    def window(self, *size: int) -> Window:
        """The window over an image of this size (H, W), or a signal (L,), with its padding in numbers.

        "same" gives ceil(size / stride) places: with a stride of 1 as many as there were; where the padding is odd, the
        greater part comes after.
        """
        pairs = self._padding
        if isinstance(pairs, str):
            found = []
            for n, k, s, d in zip(size, self._size, self._stride, self._dilation, strict=True):
                total = max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
                found.append((total // 2, total - total // 2))
            pairs = tuple(found)
        one = (1,) * (2 - self.axes)
        none = ((0, 0),) * (2 - self.axes)
        return Window((*one, *self._size), (*one, *self._stride), (*one, *self._dilation), (*none, *pairs))  # type: ignore[arg-type]

    def _check_size(self, size: tuple[int, ...]) -> None:
        window = self.window(*size)
        if min(window.places(*self._image((1, *size, 1))[1:3])) > 0:
            return
        padded = window.padded(*self._image((1, *size, 1))[1:3])[2 - self.axes :]
        reach = window.reach[2 - self.axes :]
        raise ShapeError(
            f"{self!r}: the kernel spans {_by(reach)}, more than the {_by(padded)} of the padded input {_by(size)}; "
            'use a smaller kernel or dilation, more padding (padding="same"), or fewer poolings before it'
        )


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
