"""Convolutions: what the windows see is gathered and multiplied with the weight, so many places at a time.

The method is a function of the shapes alone:
- a window of one pixel is a product of the images themselves;
- groups of one channel (depthwise) have a kernel of their own;
- else what `WORKSPACE` numbers hold is gathered at a time, and cublasLt multiplies it: a batch of one product a group.
The way back is the product of dy and the weight, of which every pixel then takes the terms that belong to it. What was
gathered is not kept for the backward: it is as many times larger than the images as a window has pixels. Both halves of
a backward share their workspace.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call, Kernel, namespace
from bpnet.ops.windows import Window
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.axes import swapped
from bpnet_cupy.kernels.common import BLOCK, Array, named, packs, real
from bpnet_cupy.kernels.linear import EPILOGUES, SLAB, bias_activation, column_sum

WORKSPACE = 1 << 23
"""Numbers that are gathered at a time: large enough for products that fill a GPU, few beside a batch's activations."""


GRID_Z = 65535
"""Blocks along the third axis of a grid at most."""


def window_args(window: Window) -> tuple[np.int32, ...]:
    """The arguments WINDOW of a kernel."""
    (top, _), (left, _) = window.padding
    return tuple(map(np.int32, (*window.size, *window.stride, *window.dilation, top, left)))


def geometry(images: tuple[int, ...], places: tuple[int, ...], window: Window) -> tuple[np.int32, ...]:
    """The arguments IMAGE, PLACES and WINDOW of a kernel. images : the shape (N, H, W, C)"""
    return (*map(np.int32, (*images[1:4], *places)), *window_args(window))


class After:
    """What follows the sums: a bias, an activation."""

    def __init__(self, bias: Array | None, activation: Kernel | None, settings: tuple[float, ...]) -> None:
        self.bias, self.name = bias, "" if activation is None else activation.name
        self.a = settings[0] if settings else 0.0
        self.plain = not settings
        self.struct = EPILOGUES[self.name]

    def calls(self, driver: Driver, y: Array) -> list[Call]:
        """As kernels of their own."""
        if self.bias is not None:
            return bias_activation(driver, y, self.bias, self.name, self.a)
        if not self.name:
            return []
        args = (y, y, np.int64(y.size), y.dtype.type(self.a))
        kernel = f"activation<{named(y)}, {self.struct}>"
        return [driver.launch(kernel, packs(driver, y.size, y.dtype), BLOCK, args)]


class _Windows:
    """The windows of a convolution, and what they see of images as the rows of a matrix, or of one for every group.

    images : the shape (N, H, W, C) of what they stand on; places : (rows, columns) of places
    The matrix is made a part of the places at a time, in memory that all calls on these windows share.
    """

    def __init__(
        self, driver: Driver, images: tuple[int, ...], places: tuple[int, int], window: Window, groups: int, dtype: Any
    ) -> None:
        self.driver, self.images, self.places = driver, images, places
        self.window, self.groups, self.dtype = window, groups, dtype
        self.depth = window.n_elements * images[3] // groups
        self.each = math.prod(places)
        most = max(1, WORKSPACE // (self.depth * groups))
        if most >= self.each:
            most = most // self.each * self.each  # whole samples, where one fits
        self.total = images[0] * self.each
        self.rows = min(most, self.total)
        self.depthwise = groups > 1 and groups == images[3]
        self.plain = groups == 1 and window.plain

    @cached_property
    def _buffer(self) -> Array:
        return self.driver.empty(self.rows * self.depth * self.groups, self.dtype)

    def parts(self) -> Iterator[tuple[int, int, Array]]:
        """The first place of every part, the one behind its last, and the matrix for it."""
        for first in range(0, self.total, self.rows):
            stop = min(first + self.rows, self.total)
            flat = self._buffer[: (stop - first) * self.depth * self.groups]
            shape = (stop - first, self.depth)
            yield first, stop, flat.reshape(*(shape if self.groups == 1 else (self.groups, *shape)))

    def _place(self, first: int, stop: int) -> tuple[slice, tuple[Any, ...]]:
        """The samples that these places are of, and the arguments of a kernel from `rows` on."""
        begin, end = first // self.each, -(-stop // self.each)
        numbers = map(np.int64, (stop - first, first - begin * self.each, end - begin))
        return slice(begin, end), (*numbers, np.int32(self.groups), *geometry(self.images, self.places, self.window))

    def gather(self, x: Array, first: int, stop: int, matrix: Array) -> Call:
        """Lay out in `matrix` what the windows see of x."""
        samples, args = self._place(first, stop)
        grid = packs(self.driver, matrix.size, matrix.dtype)
        return self.driver.launch(f"gather_windows<{named(x)}>", grid, BLOCK, (matrix, x[samples], *args))

    def add(self, out: Array, first: int, stop: int, terms: Array, after: After) -> Call:
        """Give the images `out` what the windows give back."""
        samples, args = self._place(first, stop)
        part = out[samples]
        kernel = f"add_windows<{named(out)}, {after.struct}>"
        args = (part, terms, after.bias, *args, out.dtype.type(after.a))
        return self.driver.launch(kernel, packs(self.driver, part.size, part.dtype), BLOCK, args)

    def by_channel(self, kernel: str, out: Array, source: Array, W: Array, after: After) -> Call:
        """The whole of a depthwise convolution, or of its way back."""
        numbers = (np.int64(self.images[0]), np.int32(W.shape[3]), *geometry(self.images, self.places, self.window))
        args = (out, source, W, after.bias, *numbers, out.dtype.type(after.a))
        name = f"{kernel}<{named(out)}, {after.struct}>"
        return self.driver.launch(name, packs(self.driver, out.size, out.dtype), BLOCK, args)

    def weight_by_channel(self, dW: Array, dy: Array, x: Array) -> Call:
        """The gradient of a depthwise weight."""
        n_out, driver = dW.shape[3], self.driver
        width = 8 if n_out <= 16 else 32
        tiles, slabs = -(-n_out // width), max(1, min(-(-self.total // SLAB), 64))
        partial, counter = None, None
        if slabs > 1:
            partial = driver.empty((self.window.n_elements, slabs, n_out), dW.dtype)
            counter = driver.zeros(self.window.n_elements * tiles, np.dtype("uint32"))
        numbers = (np.int64(self.images[0]), np.int32(n_out), *geometry(self.images, self.places, self.window))
        args = (dW, dy, x, partial, counter, *numbers)
        grid = (tiles, slabs, self.window.n_elements)
        return driver.launch(f"depthwise_weight<{named(x)}, {width}>", grid, (width, 256 // width), args)


class _Grouped:
    """Matrices (rows, groups * columns) as (groups, rows, columns), in memory of their own."""

    def __init__(self, driver: Driver, rows: int, groups: int, columns: int, dtype: Any) -> None:
        self.driver, self.groups, self.columns = driver, groups, columns
        self.buffer = driver.empty(rows * groups * columns, dtype)

    def part(self, rows: int) -> Array:
        """The place of so many rows."""
        return self.buffer[: rows * self.groups * self.columns].reshape(self.groups, rows, self.columns)

    def split(self, matrix: Array) -> tuple[Call, Array]:
        """The call that splits a matrix, and the place."""
        part = self.part(matrix.size // (self.groups * self.columns))
        return swapped(self.driver, part, matrix, 1, part.shape[1], self.groups, self.columns), part

    def join(self, matrix: Array, part: Array) -> Call:
        """Write the parts into a matrix."""
        return swapped(self.driver, matrix, part, 1, self.groups, part.shape[1], self.columns)


def plain_product(driver: Driver, out: Array, a: Array, b: Array, beta: float = 0.0) -> Call:
    """out = a b + beta out: the bound product that every driver has."""
    call = driver.matmul(out, a, b, beta=beta)
    assert call is not None
    return call


def turned(x: Array) -> Array:
    """The transposed view of a matrix, or of each of several."""
    return namespace(x).matrix_transpose(x)


def _affine(driver: Driver, y: Array, rows: Array, W: Array, after: After) -> list[Call]:
    """y = after(rows W), in one call where the driver has that."""
    if after.bias is not None and after.plain:
        whole = driver.matmul(y, rows, W, bias=after.bias, activation=after.name)
        if whole is not None:
            return [whole]
    return [plain_product(driver, y, rows, W), *after.calls(driver, y)]


def convolve(windows: _Windows, y: Array, x: Array, W: Array, after: After) -> list[Call]:
    """y = after(the convolution of x)."""
    driver, groups, n_out = windows.driver, windows.groups, y.shape[3]
    if windows.depthwise:
        return [windows.by_channel("depthwise", y, x, W, after)]
    rows, matrix_of_W = y.reshape(-1, n_out), W.reshape(-1, n_out)
    if windows.plain:
        return _affine(driver, rows, x.reshape(-1, x.shape[3]), matrix_of_W, after)
    calls: list[Call] = []
    if groups == 1:
        for first, stop, matrix in windows.parts():
            calls.append(windows.gather(x, first, stop, matrix))
            calls += _affine(driver, rows[first:stop], matrix, matrix_of_W, after)
        return calls
    outputs = _Grouped(driver, windows.rows, groups, n_out // groups, y.dtype)
    call, weights = _Grouped(driver, windows.depth, groups, n_out // groups, W.dtype).split(matrix_of_W)
    calls.append(call)
    for first, stop, matrix in windows.parts():
        part = outputs.part(stop - first)
        calls += [
            windows.gather(x, first, stop, matrix),
            plain_product(driver, part, matrix, weights),
            outputs.join(rows[first:stop], part),
        ]
    return calls + after.calls(driver, y)


def input_gradient(windows: _Windows, dx: Array, dy: Array, W: Array, after: After) -> list[Call]:
    """dx = after(every dy W^T, added up where its window looked)."""
    driver, groups, n_out = windows.driver, windows.groups, dy.shape[3]
    if windows.depthwise:
        return [windows.by_channel("depthwise_back", dx, dy, W, after)]
    rows, weights = dy.reshape(-1, n_out), W.reshape(-1, n_out)
    if windows.plain:
        return _affine(driver, dx.reshape(-1, dx.shape[3]), rows, weights.T, after)
    calls: list[Call] = []
    if groups > 1:
        call, weights = _Grouped(driver, windows.depth, groups, n_out // groups, W.dtype).split(weights)
        calls.append(call)
        outputs = _Grouped(driver, windows.rows, groups, n_out // groups, dy.dtype)
    for first, stop, terms in windows.parts():
        part = rows[first:stop]
        if groups > 1:
            call, part = outputs.split(part)
            calls.append(call)
        calls += [plain_product(driver, terms, part, turned(weights)), windows.add(dx, first, stop, terms, after)]
    return calls


def weight_gradient(windows: _Windows, dW: Array, db: Array | None, dy: Array, x: Array) -> list[Call]:
    """dW = what the windows saw, transposed, times dy; db, where it is wanted, the sum of dy."""
    driver, groups, n_out = windows.driver, windows.groups, dy.shape[3]
    sums = [] if db is None else [column_sum(driver, db, dy)]
    if windows.depthwise:
        return [windows.weight_by_channel(dW, dy, x), *sums]
    rows, target = dy.reshape(-1, n_out), dW.reshape(-1, n_out)
    if windows.plain:
        return _with_sums(driver, target, db, x.reshape(-1, x.shape[3]), rows, sums)
    calls: list[Call] = []
    if groups == 1:
        for first, stop, matrix in windows.parts():
            calls.append(windows.gather(x, first, stop, matrix))
            if stop - first == windows.total:
                return calls + _with_sums(driver, target, db, matrix, rows, sums)
            calls.append(plain_product(driver, target, matrix.T, rows[first:stop], 1.0 if first else 0.0))
        return calls + sums
    outputs = _Grouped(driver, windows.rows, groups, n_out // groups, dy.dtype)
    whole = _Grouped(driver, windows.depth, groups, n_out // groups, dW.dtype)
    weights = whole.part(windows.depth)
    for first, stop, matrix in windows.parts():
        call, part = outputs.split(rows[first:stop])
        calls += [windows.gather(x, first, stop, matrix), call]
        calls.append(plain_product(driver, weights, turned(matrix), part, 1.0 if first else 0.0))
    return [*calls, whole.join(target, weights), *sums]


def _with_sums(driver: Driver, dW: Array, db: Array | None, rows: Array, dy: Array, sums: list[Call]) -> list[Call]:
    """dW = rows^T dy, with the sums of dy in the same call where the driver has that."""
    both = None if db is None else driver.matmul(dW, rows.T, dy, column_sums=db)
    return [plain_product(driver, dW, rows.T, dy), *sums] if both is None else [both]


def _accepts(x: Array, W: Array, b: Array | None, activation: Kernel | None) -> bool:
    arrays = (x, W) if b is None else (x, W, b)
    return real(*arrays) and (activation is None or activation.name in EPILOGUES)


def _backward_accepts(dy: Array, x: Array, W: Array, window: Window, *_: Any) -> bool:
    return real(dy, x, W) and window.n_elements <= GRID_Z


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""

    def gradients(
        dy: Array, x: Array, W: Array, window: Window, groups: int, dx: bool = True, db: bool = True, dW: bool = True
    ) -> Any:
        return (
            driver.empty(x.shape, dy.dtype) if dx else None,
            driver.empty(W.shape, dy.dtype) if dW else None,
            driver.empty(dy.shape[3:], dy.dtype) if db else None,
        )

    nothing_after = After(None, None, ())

    @ops.conv2d.register_bound(
        array_type,
        accepts=lambda x, W, b, window, groups, activation=None, *_: (
            _accepts(x, W, b, activation) and all(window.places(x.shape[1], x.shape[2]))
        ),
        allocate=lambda x, W, b, window, *_: driver.empty(
            (x.shape[0], *window.places(x.shape[1], x.shape[2]), W.shape[3]), x.dtype
        ),
    )
    def _(
        out: Array, x: Array, W: Array, b: Array | None, window: Window, groups: int,
        activation: Kernel | None = None, *settings: float,
    ) -> list[Call]:  # fmt: skip
        windows = _Windows(driver, x.shape, out.shape[1:3], window, groups, x.dtype)
        return convolve(windows, out, x, W, After(b, activation, settings))

    @ops.conv_transpose2d.register_bound(
        array_type,
        accepts=lambda x, W, b, window, groups, size, activation=None, *_: (
            _accepts(x, W, b, activation) and math.prod(size) > 0
        ),
        allocate=lambda x, W, b, window, groups, size, *_: driver.empty(
            (x.shape[0], *size, W.shape[2] * groups), x.dtype
        ),
    )
    def _(
        out: Array, x: Array, W: Array, b: Array | None, window: Window, groups: int, size: tuple[int, int],
        activation: Kernel | None = None, *settings: float,
    ) -> list[Call]:  # fmt: skip
        windows = _Windows(driver, out.shape, x.shape[1:3], window, groups, x.dtype)
        return input_gradient(windows, out, x, W, After(b, activation, settings))

    @ops.conv2d_backward.register_bound(array_type, accepts=_backward_accepts, allocate=gradients)
    def _(out: Any, dy: Array, x: Array, W: Array, window: Window, groups: int, *_: bool) -> list[Call]:
        dx, dW, db = out
        windows = _Windows(driver, x.shape, dy.shape[1:3], window, groups, x.dtype)
        calls = [] if dW is not None or db is None else [column_sum(driver, db, dy)]
        calls += [] if dW is None else weight_gradient(windows, dW, db, dy, x)
        return calls if dx is None else calls + input_gradient(windows, dx, dy, W, nothing_after)

    @ops.conv_transpose2d_backward.register_bound(array_type, accepts=_backward_accepts, allocate=gradients)
    def _(out: Any, dy: Array, x: Array, W: Array, window: Window, groups: int, *_: bool) -> list[Call]:
        dx, dW, db = out
        windows = _Windows(driver, dy.shape, x.shape[1:3], window, groups, x.dtype)
        calls = [] if dW is None else weight_gradient(windows, dW, None, x, dy)
        calls += [] if db is None else [column_sum(driver, db, dy)]
        return calls if dx is None else calls + convolve(windows, dx, dy, W, nothing_after)
