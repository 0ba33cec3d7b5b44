"""Pooling: layers that keep the largest, or the mean, of what a window sees."""

from __future__ import annotations

from bpnet import ops
from bpnet.checks import flag
from bpnet.dispatch import Array
from bpnet.errors import ConfigError
from bpnet.layers.images import Padding, Size, Spatial, Windowed


class Pool(Windowed):
    """What the pools share."""

    def _set_pool(
        self, kernel_size: Size, stride: Size | None, padding: Padding, dilation: Size, channels: str
    ) -> None:
        self._set_window(kernel_size, kernel_size if stride is None else stride, padding, dilation)
        if not isinstance(self._padding, str):
            for pair, reach in zip(self._padding, self._size, strict=True):
                if max(pair) >= reach:
                    raise ConfigError(
                        f"{type(self).__name__}: padding must be smaller than the kernel, or some windows would see "
                        f"nothing else: got padding {padding!r} for a kernel of {kernel_size!r}"
                    )
        self._set_channels(channels)

    def _shape_after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*self.window(*shape[:-1]).places(shape[0], shape[1]), shape[-1])


class MaxPool2d(Pool):
    """The largest of what the window sees, in every channel.

    dy goes to the element that was the largest; of equal ones to the first, row by row. Windows that overlap add.
    kernel_size, padding, dilation, channels : as of Conv2d; padding is never the largest
    stride : by default the kernel's size, so that windows lie side by side; what is left over at the end is not seen
    x : (N, H, W, C); y : (N, OH, OW, C)

    >>> import bpnet as bp
    >>> bp.MaxPool2d(2).output_shape((28, 28, 16))
    (14, 14, 16)
    """

    def __init__(
        self,
        kernel_size: Size,
        *,
        stride: Size | None = None,
        padding: Padding = 0,
        dilation: Size = 1,
        channels: str = "last",
    ) -> None:
        self._set_pool(kernel_size, stride, padding, dilation, channels)

    def _infer(self, x: Array) -> Array:
        return ops.max_pool2d(x, self.window(*x.shape[1:3]))

    def _forward(self, x: Array) -> Array:
        y = self._infer(x)
        self.keep(x, tuple(y.shape))
        return y

    def _backward(self, dy: Array, need_dx: bool) -> Array:
        x, shape = self.kept()
        self.check_gradient(dy, shape, x.dtype, x, shape)
        return ops.max_pool2d_backward(dy, x, self.window(*x.shape[1:3])) if need_dx else None


class AvgPool2d(Pool):
    """The mean of what the window sees, in every channel.

    Every element that was averaged gets dy / (how many there were).
    kernel_size, stride, padding, channels : as of MaxPool2d
    count_padding : whether the zeros around the image count, as in PyTorch; False: the mean of the pixels alone
    x : (N, H, W, C); y : (N, OH, OW, C)
    """

    def __init__(
        self,
        kernel_size: Size,
        *,
        stride: Size | None = None,
        padding: Padding = 0,
        count_padding: bool = True,
        channels: str = "last",
    ) -> None:
        self._set_pool(kernel_size, stride, padding, 1, channels)
        self.count_padding = flag("AvgPool2d: count_padding", count_padding)

    def _infer(self, x: Array) -> Array:
        return ops.avg_pool2d(x, self.window(*x.shape[1:3]), self.count_padding)

    def _forward(self, x: Array) -> Array:
        y = self._infer(x)
        self.keep(tuple(x.shape[1:3]), x.dtype, tuple(y.shape))
        return y

    def _backward(self, dy: Array, need_dx: bool) -> Array:
        size, dtype, shape = self.kept()
        self.check_gradient(dy, shape, dtype, size, dtype, shape)
        return ops.avg_pool2d_backward(dy, self.window(*size), size, self.count_padding) if need_dx else None


class GlobalPool(Spatial):
    """What the pools over all places share."""

    def __init__(self, *, channels: str = "last") -> None:
        self._set_channels(channels)

    def _shape_after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[-1],)


class GlobalAveragePool2d(GlobalPool):
    """The mean over all places, in every channel. Every place gets dy / (H W).

    x : (N, H, W, C), or (N, C, H, W) with channels="first"; y : (N, C)
    """

    def _infer(self, x: Array) -> Array:
        return ops.global_avg_pool(x)

    def _forward(self, x: Array) -> Array:
        self.keep(tuple(x.shape), x.dtype)
        return self._infer(x)

    def _backward(self, dy: Array, need_dx: bool) -> Array:
        shape, dtype = self.kept()
        self.check_gradient(dy, (shape[0], shape[-1]), dtype, shape, dtype)
        return ops.global_avg_pool_backward(dy, shape[1:3]) if need_dx else None


class GlobalMaxPool2d(GlobalPool):
    """The largest over all places, in every channel. dy goes to that place; of equal ones to the first, row by row.

    x : (N, H, W, C), or (N, C, H, W) with channels="first"; y : (N, C)
    """

    def _infer(self, x: Array) -> Array:
        return ops.global_max_pool(x)

    def _forward(self, x: Array) -> Array:
        self.keep(x)
        return self._infer(x)

    def _backward(self, dy: Array, need_dx: bool) -> Array:
        (x,) = self.kept()
        self.check_gradient(dy, (x.shape[0], x.shape[-1]), x.dtype, x)
        return ops.global_max_pool_backward(dy, x) if need_dx else None
