"""Convolutions by cuDNN, where the extra is installed: bodies that are asked before those of the kernels.

A rule of the shapes and the precision says what cuDNN is asked for. Where it has no plan, the body that was registered
before does it. cuDNN wants the filters of images with channels last as (K, R, S, C), so they are transposed on the way,
and numbers are rounded or widened, by kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from bpnet import ops
from bpnet.dispatch import Call, Kernel
from bpnet.ops.windows import Window
from bpnet_cupy.cudnn import Cudnn
from bpnet_cupy.cudnn_graphs import FILTERS, IMAGES, PLACES, Convolution
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.axes import swapped
from bpnet_cupy.kernels.bfloat16 import rounding, widening
from bpnet_cupy.kernels.common import FLOAT32, REAL, UINT16, Array
from bpnet_cupy.kernels.convolution import After
from bpnet_cupy.problem import current_precision

MODES = {"float32": ("float32",), "tf32": ("tf32",), "bf16": ("bf16", "tf32")}
"""How cuDNN may compute products, by what is asked for. It cannot sum all products of bfloat16 into float32, least on
other GPUs than Hopper. Then it makes those of TF32: of float32 numbers more exact ones, and of bits of bfloat16, which
are numbers of TF32 too, the same."""

Library = Callable[[], Cudnn | None]


class Conversions:
    """Arrays in another kind of number, each made once."""

    def __init__(self, driver: Driver, calls: list[Call]) -> None:
        self.driver, self.calls = driver, calls
        self._found: list[tuple[Array, Array]] = []

    def bits(self, x: Array) -> Array:
        """The bits of bfloat16 of x, once the calls have been made: x itself where it is bits."""
        return x if x.dtype == UINT16 else self._made(x, UINT16, rounding)

    def numbers(self, x: Array) -> Array:
        """The float32 numbers of x: x itself where it is numbers."""
        return self._made(x, FLOAT32, widening) if x.dtype == UINT16 else x

    def _made(self, x: Array, dtype: Any, convert: Callable[[Driver, Array, Array], Call]) -> Array:
        for known, found in self._found:
            if known is x:
                return found
        found = self.driver.empty(x.shape, dtype)
        self.calls.append(convert(self.driver, found, x))
        self._found.append((x, found))
        return found


class _Convolutions:
    """The three operations of one convolution, of float32 arrays or of bits of bfloat16; results are float32.

    images, places : shapes
    """

    def __init__(self, driver: Driver, library: Cudnn, images: Any, places: Any, W: Array, window: Window) -> None:
        self.driver, self.library = driver, library
        self.in_bits = bool(W.dtype == UINT16)
        self.modes = MODES["bf16" if self.in_bits else current_precision()]
        self._description = partial(
            Convolution,
            images=tuple(images),
            filters=tuple(W.shape),
            places=tuple(places),
            stride=window.stride,
            dilation=window.dilation,
            padding=window.padding,
        )
        self.W = W
        self.calls: list[Call] = []
        self._converted = Conversions(driver, self.calls)

    def _described(self, kind: str) -> Convolution:
        """What is asked for: the last of the modes, or one before that cuDNN has a plan for."""
        *first, last = (self._description(kind, mode=mode) for mode in self.modes)
        return next((each for each in first if self.library.plan(each) is not None), last)

    def has(self, kind: str, *arrays: Array) -> bool:
        """Whether cuDNN does that."""
        return self.library.has(self._described(kind), *arrays)

    def _call(self, kind: str, factors: dict[int, Array], made: dict[int, Array]) -> None:
        description = self._described(kind)
        if description.mode == "bf16" or self.in_bits:
            factors = {number: self._converted.bits(x) for number, x in factors.items()}
        if description.mode != "bf16":
            factors = {number: self._converted.numbers(x) for number, x in factors.items()}
        self.calls.append(self.library.call(description, factors | made))

    def _turned(self, dtype: Any) -> tuple[Array, int, int]:
        """A place for filters as cuDNN has them, and the rows and columns of W's matrix."""
        *window, outputs = self.W.shape
        depth = math.prod(window)
        return self.driver.empty((outputs, depth), dtype), depth, outputs

    def filtered(self, kind: str, out: Array, source: Array) -> None:
        """`fprop`: out = what the windows see of the images. `dgrad`: out = images of what the places give back."""
        turned, rows, columns = self._turned(self.W.dtype)
        self.calls.append(swapped(self.driver, turned, self.W, 1, rows, columns, 1))
        to, of = (PLACES, IMAGES) if kind == "fprop" else (IMAGES, PLACES)
        self._call(kind, {of: source, FILTERS: turned}, {to: out})

    def weight_gradient(self, dW: Array, images: Array, places: Array) -> None:
        """dW = what the windows saw of the images, times the places."""
        turned, rows, columns = self._turned(FLOAT32)
        self._call("wgrad", {IMAGES: images, PLACES: places}, {FILTERS: turned})
        self.calls.append(swapped(self.driver, dW, turned, 1, columns, rows, 1))


def suited(window: Window, groups: int, channels: int, W: Array) -> bool:
    """Whether cuDNN is asked at all: a window of one pixel is a product, and depthwise ones have a kernel."""
    return W.dtype != REAL[1] and not (window.plain and groups == 1) and not 1 < groups == channels


class Before:
    """The body that was asked until now: it does what cuDNN does not."""

    def __init__(self, op: Kernel, array_type: type) -> None:
        found = next(variant for cls, variant in op.variants() if cls is array_type)
        self.accepts: Callable[..., bool] = found.accepts or (lambda *_: True)
        self.allocate: Callable[..., Any] = found.allocate or (lambda *_: None)
        self._bind = found.bind

    def bind(self, out: Any, *args: Any) -> list[Call]:
        """Its calls."""
        assert self._bind is not None
        return self._bind(out, *args)


def register(array_type: type, driver: Driver, library: Library) -> None:
    """Register the bodies for arrays of `array_type`. library : returns cuDNN, or None where it is not to be asked"""
    for op, kind in (
        (ops.conv2d, "fprop"),
        (ops.conv2d_bf16, "fprop"),
        (ops.conv_transpose2d, "dgrad"),
        (ops.conv_transpose2d_bf16, "dgrad"),
    ):
        _register_forward(op, kind, array_type, driver, library)
    for op, kind in (
        (ops.conv2d_backward, "dgrad"),
        (ops.conv2d_bf16_backward, "dgrad"),
        (ops.conv_transpose2d_backward, "fprop"),
        (ops.conv_transpose2d_bf16_backward, "fprop"),
    ):
        _register_backward(op, kind, array_type, driver, library)


def _register_forward(op: Kernel, kind: str, array_type: type, driver: Driver, library: Library) -> None:
    """kind : what the op is to cuDNN: `fprop` makes places of images, `dgrad`, the transposed one, images of places"""
    before = Before(op, array_type)
    settled = 5 if kind == "fprop" else 6  # arguments before the activation

    def asked(out_shape: Any, x: Array, W: Array, window: Window) -> _Convolutions | None:
        found = library()
        if found is None:
            return None
        images, places = (x.shape, out_shape) if kind == "fprop" else (out_shape, x.shape)
        return _Convolutions(driver, found, images, places, W, window)

    def made(x: Array, W: Array, window: Window, groups: int, *size: Any) -> tuple[int, ...]:
        if kind == "fprop":
            return (x.shape[0], *window.places(x.shape[1], x.shape[2]), W.shape[3])
        return (x.shape[0], *size[0], W.shape[2] * groups)

    def accepts(x: Array, W: Array, b: Array | None, window: Window, groups: int, *rest: Any) -> bool:
        if library() is None or not before.accepts(x, W, b, window, groups, *rest):
            return False
        shape = made(x, W, window, groups, *rest[: settled - 5])
        if not suited(window, groups, (x.shape if kind == "fprop" else shape)[3], W):
            return False
        found = asked(shape, x, W, window)
        return found is not None and found.has(kind, x)

    @op.register_bound(array_type, accepts=accepts, allocate=before.allocate, name="cudnn")
    def _(out: Array, x: Array, W: Array, b: Array | None, window: Window, groups: int, *rest: Any) -> list[Call]:
        found = asked(out.shape, x, W, window)
        if found is None or not found.has(kind, x, out):
            return before.bind(out, x, W, b, window, groups, *rest)
        found.filtered(kind, out, x)
        activation, *settings = rest[settled - 5 :] or (None,)
        return found.calls + After(b, activation, tuple(settings)).calls(driver, out)


def _register_backward(op: Kernel, kind: str, array_type: type, driver: Driver, library: Library) -> None:
    """kind : what dx is to cuDNN"""
    before = Before(op, array_type)

    def asked(dy: Array, x: Array, W: Array, window: Window) -> _Convolutions | None:
        found = library()
        if found is None:
            return None
        images, places = (x, dy) if kind == "dgrad" else (dy, x)
        return _Convolutions(driver, found, images.shape, places.shape, W, window)

    def accepts(
        dy: Array, x: Array, W: Array, window: Window, groups: int, dx: bool = True, db: bool = True, dW: bool = True
    ) -> bool:
        if library() is None or not before.accepts(dy, x, W, window, groups):
            return False
        if not suited(window, groups, (x if kind == "dgrad" else dy).shape[3], W):
            return False
        found = asked(dy, x, W, window)
        return found is not None and ((dx and found.has(kind, dy)) or (dW and found.has("wgrad", x, dy)))

    @op.register_bound(array_type, accepts=accepts, allocate=before.allocate, name="cudnn")
    def _(out: Any, dy: Array, x: Array, W: Array, window: Window, groups: int, *_: bool) -> list[Call]:
        dx, dW, db = out
        found = asked(dy, x, W, window)
        calls: list[Call] = []
        if found is not None:
            if dW is not None and found.has("wgrad", x, dy):
                found.weight_gradient(dW, *((x, dy) if kind == "dgrad" else (dy, x)))
                dW = None
            if dx is not None and found.has(kind, dy, dx):
                found.filtered(kind, dx, dy)
                dx = None
            calls = found.calls
        return calls + before.bind((dx, dW, db), dy, x, W, window, groups)
