"""Convolutions: layers whose weights slide over an image or a signal."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from bpnet import ops
from bpnet.checks import flag
from bpnet.dispatch import Array
from bpnet.errors import ConfigError, ShapeError
from bpnet.initializers import INITIALIZERS, Initializer, zeros
from bpnet.layers.images import Padding, Size, Windowed
from bpnet.layers.tree import as_size
from bpnet.ops.windows import Window
from bpnet.parameter import Parameter, penalty_of

# By whether the convolution is transposed.
_EXACT, _EXACT_BACKWARD = (ops.conv2d, ops.conv_transpose2d), (ops.conv2d_backward, ops.conv_transpose2d_backward)
_IN_BF16 = (ops.conv2d_bf16, ops.conv_transpose2d_bf16)
_IN_BF16_BACKWARD = (ops.conv2d_bf16_backward, ops.conv_transpose2d_bf16_backward)


class Convolution(Windowed):
    """What the convolutions share: their parameters and the order of a backward."""

    transposed: ClassVar[bool] = False
    n_in: int
    weight_l1, weight_l2 = penalty_of("weight", "l1"), penalty_of("weight", "l2")
    bias_l1, bias_l2 = penalty_of("bias", "l1"), penalty_of("bias", "l2")

    def _make(
        self,
        n_in: Any,
        n_out: Any,
        groups: Any,
        bias: bool,
        channels: str,
        weight_initializer: Initializer | str,
        penalties: tuple[float, float, float, float],
    ) -> None:
        name = type(self).__name__
        self.n_in, self.n_out, self.groups = as_size(n_in), as_size(n_out), as_size(groups)
        if not (self.n_in and self.n_out and self.groups):
            raise ConfigError(
                f"{name} needs at least 1 channel in, 1 out and 1 group, whole numbers: got {n_in!r}, {n_out!r} and "
                f"groups={groups!r}"
            )
        if self.n_in % self.groups or self.n_out % self.groups:
            common = [
                g for g in range(1, math.gcd(self.n_in, self.n_out) + 1) if math.gcd(self.n_in, self.n_out) % g == 0
            ]
            raise ConfigError(
                f"{name}: groups must divide the channels in and out, {self.n_in} and {self.n_out}, got {self.groups}; "
                f"{', '.join(map(str, common[:8]))} would do"
            )
        self._set_channels(channels)
        ends = (self.n_out, self.n_in) if self.transposed else (self.n_in, self.n_out)
        self.weight = Parameter((*self._size, ends[0] // self.groups, ends[1]), self._initializer(weight_initializer))
        self.bias = Parameter((self.n_out,), zeros, decay=False) if flag(f"{name}: bias", bias) else None
        self.weight_l1, self.weight_l2, self.bias_l1, self.bias_l2 = penalties

    def _initializer(self, given: Initializer | str) -> Initializer | str:
        return given

    def _check_image(self, x: Any) -> None:
        super()._check_image(x)
        self.check_input(x, x.shape[-1], self.weight.value)

    def _geometry(self, x: Array) -> tuple[Any, ...]:
        """What the kernels take behind x, W and b, for an image of x's size."""
        raise NotImplementedError

    @property
    def computes_in_bf16(self) -> bool:
        """Whether it is no depthwise convolution, whose groups of one channel are no matrix products."""
        return self.groups == 1 or self.groups != (self.n_out if self.transposed else self.n_in)

    def _weight(self, in_bf16: bool) -> Array:
        """The weight as the kernels take it, of four axes."""
        value = self.weight.factor(in_bf16)
        return value if self.axes == 2 else ops.reshape(value, (1, *self.weight.shape))

    def _infer(self, x: Array) -> Array:
        return self._applied(x)[0]

    def _applied(self, x: Array) -> tuple[Array, Array]:
        """The output, and the factor beside the weight, which the derivative needs."""
        in_bf16 = self.weight.compute is not None and self.computes_in_bf16
        kernel = (_IN_BF16 if in_bf16 else _EXACT)[self.transposed]
        b = self.bias.value if self.bias is not None else None
        x = ops.to_bf16(x) if in_bf16 else x
        return self._lowered(kernel(self._raised(x), self._weight(in_bf16), b, *self._geometry(x))), x

    def _forward(self, x: Array) -> Array:
        y, kept = self._applied(x)
        self.keep(kept, tuple(y.shape))
        return y

    def _backward(self, dy: Array, need_dx: bool) -> Array:
        """Return dx; accumulate dW and db."""
        x, shape = self.kept()
        W, b = self.weight, self.bias
        self.check_gradient(dy, shape, W.value.dtype, x, shape)
        need_db = b is not None and b.trainable
        if not (need_dx or need_db or W.trainable):
            return None
        in_bf16 = x.dtype != W.value.dtype  # as its forward was, whatever has been set since
        kernel = (_IN_BF16_BACKWARD if in_bf16 else _EXACT_BACKWARD)[self.transposed]
        factors, geometry = (self._raised(x), self._weight(in_bf16)), self._geometry(x)[:2]
        dx, dW, db = kernel(self._raised(dy), *factors, *geometry, need_dx, need_db, W.trainable)
        if W.trainable:
            W.accumulate(dW if self.axes == 2 else ops.reshape(dW, W.shape))
        if b is not None and need_db:
            b.accumulate(db)
        return self._lowered(dx) if need_dx else None


class Conv2d(Convolution):
    """y[n, p, q] = b + sum over i, j of x[n, p s + i d, q s + j d] W[i, j]: a small matrix for every place of a window.

    The derivative: dW[i, j] is the sum over samples and places of x[n, p s + i d, q s + j d]^T dy[n, p, q]; dx gets
    dy[n, p, q] W[i, j]^T added at every (p s + i d, q s + j d); db is the sum of dy.
    n_in, n_out : channels in and out; kernel_size : rows and columns of the window, a number or a pair
    stride, dilation : numbers or pairs
    padding  : of zeros: a number, (rows, columns), ((top, bottom), (left, right)), "valid" (none), or "same": as many
               places as there are pixels, or ceil(pixels / stride)
    groups   : channels in and out are so many groups that do not see each other; groups=n_in is a depthwise convolution
    channels : "last", or "first" for images (N, C, H, W)
    weight_initializer, weight_l1, weight_l2, bias_l1, bias_l2 : as of Dense
    x : (N, H, W, n_in); y : (N, OH, OW, n_out); weight : (KH, KW, n_in / groups, n_out); bias : (n_out,)

    A weight of PyTorch's (O, C, KH, KW) is `w.permute(2, 3, 1, 0)` here.

    >>> import bpnet as bp
    >>> bp.Conv2d(1, 16, 3, padding="same", stride=2).output_shape((28, 28, 1))
    (14, 14, 16)
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel_size: Size,
        *,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        channels: str = "last",
        weight_initializer: Initializer | str = "he_normal",
        weight_l1: float = 0.0,
        weight_l2: float = 0.0,
        bias_l1: float = 0.0,
        bias_l2: float = 0.0,
    ) -> None:
        self._set_window(kernel_size, stride, padding, dilation)
        penalties = (weight_l1, weight_l2, bias_l1, bias_l2)
        self._make(n_in, n_out, groups, bias, channels, weight_initializer, penalties)

    def _geometry(self, x: Array) -> tuple[Any, ...]:
        return self.window(*x.shape[1:-1]), self.groups

    def _shape_after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        window = self.window(*shape[:-1])
        places = window.places(*self._image((1, *shape))[1:3])
        return (*places[2 - self.axes :], self.n_out)


class Conv1d(Conv2d):
    """y[n, p] = b + sum over i of x[n, p s + i d] W[i]: Conv2d for signals, such as series and sequences.

    Arguments are Conv2d's, each a number; padding may be a pair ((before, after),). The kernels are those of images
    with one row, and so is the derivative.
    x : (N, L, n_in); y : (N, OL, n_out); weight : (K, n_in / groups, n_out); bias : (n_out,)

    A weight of PyTorch's (O, C, K) is `w.permute(2, 1, 0)` here.

    >>> import bpnet as bp
    >>> bp.Conv1d(3, 8, 5, padding="same").output_shape((100, 3))
    (100, 8)
    """

    axes = 1


class ConvTranspose2d(Convolution):
    """The transpose of a convolution: every pixel of x adds its W to a window of y, and windows are `stride` apart.

    It is the map that takes dy to dx in the Conv2d(n_out, n_in, ...) of the same arguments. So here dx is that
    convolution of dy, and dW is that convolution's with x and dy in each other's places; db is the sum of dy.
    output_padding : rows and columns that y has beyond those that the windows need, below the stride: a Conv2d with a
                     stride makes the same places of several sizes, and this says which is meant
    padding  : is cut off y; a number, (rows, columns) or ((top, bottom), (left, right))
    The other arguments are Conv2d's.
    x : (N, H, W, n_in); y : (N, (H - 1) stride - padding + dilation (KH - 1) + 1 + output_padding, ..., n_out)
    weight : (KH, KW, n_out / groups, n_in); bias : (n_out,)

    A weight of PyTorch's (C, O, KH, KW) is `w.permute(2, 3, 1, 0)` here.

    >>> import bpnet as bp
    >>> bp.ConvTranspose2d(8, 4, 2, stride=2).output_shape((7, 7, 8))
    (14, 14, 4)
    """

    transposed = True

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel_size: Size,
        *,
        stride: Size = 1,
        padding: Padding = 0,
        output_padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        channels: str = "last",
        weight_initializer: Initializer | str = "he_normal",
        weight_l1: float = 0.0,
        weight_l2: float = 0.0,
        bias_l1: float = 0.0,
        bias_l2: float = 0.0,
    ) -> None:
        self._set_window(kernel_size, stride, padding, dilation)
        if isinstance(self._padding, str):
            raise ConfigError(
                "ConvTranspose2d: padding must be numbers here, since several sizes would be the same; a stride of s "
                "doubles exactly with kernel_size=s, or with padding and output_padding"
            )
        more = output_padding if isinstance(output_padding, (tuple, list)) else (output_padding,) * 2
        if len(more) != 2 or any(
            isinstance(n, bool) or not isinstance(n, int) or not 0 <= n < s
            for n, s in zip(more, self._stride, strict=False)
        ):
            raise ConfigError(
                "ConvTranspose2d: output_padding must be a whole number, or two of them, of at least 0 and below the "
                f"stride, got {output_padding!r}"
            )
        self._more = tuple(more)
        penalties = (weight_l1, weight_l2, bias_l1, bias_l2)
        self._make(n_in, n_out, groups, bias, channels, weight_initializer, penalties)

    def _initializer(self, given: Initializer | str) -> Initializer | str:
        if isinstance(given, str) and given not in INITIALIZERS:
            return given  # Parameter says what is wrong
        self._drawn = INITIALIZERS[given] if isinstance(given, str) else given
        return self._draw

    def _draw(self, stream: Any, shape: tuple[int, ...]) -> Any:
        """A weight drawn as that of a Conv2d with these channels in and out, so that fan_in is what an output sees."""
        groups, n_out = self.groups, shape[2]
        drawn = self._drawn(stream, (*shape[:2], self.n_in // groups, self.n_out))
        split = drawn.reshape(*shape[:2], self.n_in // groups, groups, n_out).transpose(0, 1, 4, 3, 2)
        return split.reshape(shape)

    def _size_after(self, size: tuple[int, ...]) -> tuple[int, int]:
        window = Window(self._size, self._stride, self._dilation, self._padding)  # type: ignore[arg-type]
        found = [
            (n - 1) * s + reach + more - sum(pair)
            for n, s, reach, more, pair in zip(
                size, self._stride, window.reach, self._more, window.padding, strict=True
            )
        ]
        return found[0], found[1]

    def _check_size(self, size: tuple[int, ...]) -> None:
        found = self._size_after(size)
        if min(found) < 1:
            raise ShapeError(
                f"{self!r}: of an input of {size[0]} x {size[1]} the padding leaves {found[0]} x {found[1]}; use less "
                "padding"
            )

    def _geometry(self, x: Array) -> tuple[Any, ...]:
        size = self._size_after(tuple(x.shape[1:3]))
        return Window(self._size, self._stride, self._dilation, self._padding), self.groups, size  # type: ignore[arg-type]

    def _shape_after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*self._size_after(shape[:2]), self.n_out)
