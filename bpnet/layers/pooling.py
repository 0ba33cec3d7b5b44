"""Pooling of images and of signals: layers that keep the largest, or the mean, of what a window sees."""

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
        places = self.window(*shape[:-1]).places(*self._image((1, *shape))[1:3])
        return (*places[2 - self.axes :], shape[-1])


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
        return self._lowered(ops.max_pool2d(self._raised(x), self.window(*x.shape[1:-1])))

    def _forward(self, x: Array) -> Array:
        y = self._infer(x)
        self.keep(x, tuple(y.shape))
        return y

    def _backward(self, dy: Array, need_dx: bool) -> Array:
        x, shape = self.kept()
        self.check_gradient(dy, shape, x.dtype, x, shape)
        if not need_dx:
            return None
        window = self.window(*x.shape[1:-1])
        return self._lowered(ops.max_pool2d_backward(self._raised(dy), self._raised(x), window))


class MaxPool1d(MaxPool2d):
    """The largest of what the window sees of a signal, in every channel: MaxPool2d for series and sequences.

    Arguments are MaxPool2d's, each a number; padding may be a pair ((before, after),). The kernels are those of images
    with one row, and so is the derivative.
    x : (N, L, C); y : (N, OL, C)

    >>> import bpnet as bp
    >>> bp.MaxPool1d(2).output_shape((100, 8))
    (50, 8)
    """

    axes = 1


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
        self.count_padding = flag(f"{type(self).__name__}: count_padding", count_padding)

    def _infer(self, x: Array) -> Array:
        return self._lowered(ops.avg_pool2d(self._raised(x), self.window(*x.shape[1:-1]), self.count_padding))

    def _forward(self, x: Array) -> Array:
        y = self._infer(x)
        self.keep(tuple(x.shape[1:-1]), x.dtype, tuple(y.shape))
        return y

    def _backward(self, dy: Array, need_dx: bool) -> Array:
        size, dtype, shape = self.kept()
        self.check_gradient(dy, shape, dtype, size, dtype, shape)
        if not need_dx:
            return None
        image = (1,) * (2 - self.axes) + size
        return self._lowered(ops.avg_pool2d_backward(self._raised(dy), self.window(*size), image, self.count_padding))


class AvgPool1d(AvgPool2d):
    """The mean of what the window sees of a signal, in every channel: AvgPool2d for series and sequences.

    Arguments are AvgPool2d's, each a number; padding may be a pair ((before, after),). The kernels are those of images
    with one row, and so is the derivative.
    x : (N, L, C); y : (N, OL, C)
    """

    axes = 1


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
        return ops.global_avg_pool(self._raised(x))

    def _forward(self, x: Array) -> Array:
        self.keep(tuple(x.shape), x.dtype)
        return self._infer(x)

    def _backward(self, dy: Array, need_dx: bool) -> Array:
        shape, dtype = self.kept()
        self.check_gradient(dy, (shape[0], shape[-1]), dtype, shape, dtype)
        if not need_dx:
            return None
        return self._lowered(ops.global_avg_pool_backward(dy, self._image(shape)[1:3]))


class GlobalAveragePool1d(GlobalAveragePool2d):
    """The mean over all positions, in every channel. Every position gets dy / L.

    x : (N, L, C), or (N, C, L) with channels="first"; y : (N, C). Padding counts as any other position: for sequences
    of several lengths take the last state of a recurrent layer.
    """

    axes = 1


class GlobalMaxPool2d(GlobalPool):
    """The largest over all places, in every channel. dy goes to that place; of equal ones to the first, row by row.

    x : (N, H, W, C), or (N, C, H, W) with channels="first"; y : (N, C)
    """

    def _infer(self, x: Array) -> Array:
        return ops.global_max_pool(self._raised(x))

    def _forward(self, x: Array) -> Array:
        self.keep(x)
        return self._infer(x)

    def _backward(self, dy: Array, need_dx: bool) -> Array:
        (x,) = self.kept()
        self.check_gradient(dy, (x.shape[0], x.shape[-1]), x.dtype, x)
        return self._lowered(ops.global_max_pool_backward(dy, self._raised(x))) if need_dx else None


class GlobalMaxPool1d(GlobalMaxPool2d):
    """The largest over all positions, in every channel. dy goes to that position; of equal ones to the first.

    x : (N, L, C), or (N, C, L) with channels="first"; y : (N, C)
    """

    axes = 1
