"""Convolutions by tiles in registers, which gather nothing; for processors that have the registers."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np

from bpnet.dispatch import Call
from bpnet.ops.windows import Window
from bpnet_numpy.fused.instruction import Program, instruction, machine, usable
from bpnet_numpy.fused.parts import MULTIPLICATIONS, PASS, pieces, split, sums_of_parts
from bpnet_numpy.fused.sizes import strip_height
from bpnet_numpy.kernels.common import Array, kept_for
from bpnet_numpy.scratch import borrow

BAND = 1 << 15
"""Numbers of an image that are copied with its padding at a time: they stay in the second-level cache."""
_TABLES: dict[Hashable, Array] = {}


def possible() -> bool:
    """Whether the processor has vectors that tiles are made for."""
    return usable() and bool(machine().VECTOR)


def window_words(x: Array, window: Window) -> tuple[int, ...]:
    """The words of a window over images like x."""
    (top, _), (left, _) = window.padding
    places = window.places(x.shape[1], x.shape[2])
    return (x.shape[1], x.shape[2], *places, *window.size, *window.stride, *window.dilation, top, left)


@dataclass(frozen=True)
class Band:
    """Rows of places of which windows are multiplied at a time, and what they see.

    each   : channels that are summed together, those of a group
    padded : whether that is a copy with zeros around the image; else it is the image
    wide   : columns of it
    """

    window: Window
    channels: int
    each: int
    rows: int
    columns: int
    padded: bool
    wide: int

    @classmethod
    def over(cls, x: Array, window: Window, groups: int = 1) -> Band:
        """For images like x."""
        rows, columns = window.places(x.shape[1], x.shape[2])
        (sh, sw), (tall, broad) = window.stride, window.reach
        high, wide = (rows - 1) * sh + tall, (columns - 1) * sw + broad
        (top, _), (left, _) = window.padding
        padded = top > 0 or left > 0 or high - top > x.shape[1] or wide - left > x.shape[2]
        most = max(1, (BAND // (wide * x.shape[3]) - tall) // sh + 1)
        bands = -(-rows // most)
        each = x.shape[3] // groups
        return cls(window, x.shape[3], each, -(-rows // bands), columns, padded, wide if padded else x.shape[2])

    @property
    def size(self) -> int:
        """Numbers of a copy."""
        return ((self.rows - 1) * self.window.stride[0] + self.window.reach[0]) * self.wide * self.channels

    def places(self, like: Array) -> Array:
        """Where each place begins."""
        rows, columns = np.arange(self.rows, like=like)[:, None], np.arange(self.columns, like=like)
        (sh, sw) = self.window.stride
        return ((rows * sh * self.wide + columns * sw) * self.channels).reshape(-1)

    def elements(self, like: Array) -> Array:
        """Where each element of a window is behind that."""
        (kh, kw), (dh, dw) = self.window.size, self.window.dilation
        rows, columns = np.arange(kh, like=like)[:, None, None] * dh, np.arange(kw, like=like)[:, None] * dw
        return ((rows * self.wide + columns) * self.channels + np.arange(self.each, like=like)).reshape(-1)


def _table(like: Array, key: Hashable, make: Callable[[], Array]) -> Array:
    """Whole numbers that programs point at, once for all that need them."""
    return kept_for(_TABLES, like, key, lambda: make().astype(np.int64, copy=False))


def _rows(like: Array, n: int, width: int) -> Array:
    """Where the rows of a matrix of that width begin."""
    return _table(like, (n, width), lambda: np.arange(n, like=like) * width)


def rows_and_steps(like: Array, n: int, k: int) -> Array:
    """Where the rows of a (height, k) and of a (height, n) matrix begin, and 0 ... k - 1."""

    def make() -> Array:
        height = np.arange(strip_height(machine().VECTOR), like=like)
        return np.concatenate((height * k, height * n, np.arange(k, like=like)))

    return _table(like, (n, k, "rows"), make)


@dataclass(frozen=True)
class Part:
    """The places of a result that are a convolution of what is given, by some elements of the weight.

    window   : whose places these are; its padding may be negative
    elements : of the weight's window, in the order in which this window has them
    first    : row and column of the first place in the result; apart : from one place to the next there
    """

    window: Window
    elements: tuple[int, ...]
    first: tuple[int, int] = (0, 0)
    apart: tuple[int, int] = (1, 1)


def whole(window: Window) -> list[Part]:
    """Of a convolution: all places, by all elements."""
    return [Part(window, tuple(range(window.n_elements)))]


def _lines(k: int, stride: int, dilation: int, before: int, n: int, places: int) -> list[tuple[int, list[int], Any]]:
    """Along an axis of n lines, of every one of the first `stride` lines: itself, the window's elements that looked at
    it and at every `stride`th line behind it, from the last to the first, and the dilation and the padding of what
    these make of the places that looked."""
    found: list[tuple[int, list[int], Any]] = []
    step = dilation // gcd(stride, dilation)
    for line in range(min(stride, n)):
        seen = [i for i in reversed(range(k)) if (line + before - i * dilation) % stride == 0]
        if seen:
            top = (seen[0] * dilation - line - before) // stride
            lines, reach = (n - 1 - line) // stride + 1, (len(seen) - 1) * step + 1
            found.append((line, seen, (step, (top, lines - 1 + reach - top - places))))
    return found


def backward(window: Window, size: tuple[int, int]) -> list[Part]:
    """Of the way back to images of `size`, what looks at every so many lines as one convolution: where windows are
    apart, each line is seen by some of a window's elements. Lines that nobody looks at are in none."""
    places, found = window.places(*size), []
    down, across = (
        _lines(window.size[k], window.stride[k], window.dilation[k], window.padding[k][0], size[k], places[k])
        for k in (0, 1)
    )
    for row, i, (dh, rows) in down:
        for column, j, (dw, columns) in across:
            elements = tuple(a * window.size[1] + b for a in i for b in j)
            own = Window((len(i), len(j)), (1, 1), (dh, dw), (rows, columns))
            found.append(Part(own, elements, (row, column), window.stride))
    return found


def covers(parts: list[Part], size: tuple[int, int]) -> bool:
    """Whether every place of a result of that size is in a part."""
    apart = parts[0].apart if parts else (1, 1)
    return len(parts) == min(apart[0], size[0]) * min(apart[1], size[1])


def depthwise(W: Array, groups: int) -> bool:
    """Whether every channel is convolved for itself."""
    return groups > 1 and W.shape[2] == 1 and W.shape[3] == groups


def panels(W: Array, elements: tuple[int, ...], groups: int, turned: bool) -> tuple[list[Call], Array]:
    """What lays out some elements of a weight in panels, or of the one by which its gradient goes back, and these."""
    c, n_out, n = W.shape[2], W.shape[3] // groups, len(elements)
    which = _table(W, ("elements", elements), lambda: np.array(elements, np.int64, like=W))
    if depthwise(W, groups):
        if elements == tuple(range(W.shape[0] * W.shape[1])):
            return [], W.reshape(n, groups)
        rows = borrow((n, groups), W.dtype, W)
        return [instruction("chosen_rows", W.dtype, rows, W, which, n, groups)], rows
    inner, columns = (n_out, c) if turned else (c, n_out)
    lanes = machine().VECTOR // W.itemsize
    padded = -(-columns // lanes) * lanes
    out = borrow((groups * n * inner * padded,), W.dtype, W)

    def make(some: slice) -> list[Program]:
        return [
            instruction("weight_panels", W.dtype, out, W, which, n, c, n_out, turned, groups, some.start, some.stop)
        ]

    return list(split(groups * -(-columns // (2 * lanes)), groups * n * c * n_out, make, least=PASS)), out


def _tables(x: Array, band: Band, part: Part, out: Array) -> tuple[Array, Array, Array]:
    """Where the places of a band begin, each element of a window behind that, and their results."""
    (down, across), width, n_out = part.apart, out.shape[2], out.shape[3]

    def results() -> Array:
        rows, columns = np.arange(band.rows, like=x)[:, None], np.arange(band.columns, like=x)
        return ((rows * down * width + columns * across) * n_out).reshape(-1)

    return (
        _table(x, (band, "places"), lambda: band.places(x)),
        _table(x, (band, "elements"), lambda: band.elements(x)),
        _table(x, (band, down, across, width, n_out), results),
    )


def convolution(
    out: Array, x: Array, W: Array, b: Array | None, parts: list[Part], groups: int = 1, *, turned: bool = False,
    rectified: bool = False,
) -> list[Call]:  # fmt: skip
    """The calls that convolve x with a weight (KH, KW, C / groups, O); or, turned, a gradient x with its transpose."""
    laid, calls = [], list[Call]()
    name = "depthwise_windows" if depthwise(W, groups) else "convolve_windows"
    for part in parts:
        more, weight = panels(W, part.elements, groups, turned)
        calls += more
        band = Band.over(x, part.window, groups)
        laid.append((part, band, weight, _tables(x, band, part, out)))
    row = out.shape[2] * out.shape[3]

    def make(some: slice) -> list[Program]:
        programs = []
        for part, band, weight, tables in laid:
            scratch = borrow(band.size, x.dtype, x) if band.padded else 0
            place = out[some, part.first[0] :, part.first[1] :]
            arrays = (place, x[some], weight, 0 if b is None else b, scratch, *tables)
            sizes = (len(x[some]), x.shape[3], out.shape[3], band.rows, x.itemsize, groups, out[0].size)
            words = (*arrays, rectified, *sizes, part.apart[0] * row, *window_words(x, part.window))
            programs.append(instruction(name, x.dtype, *words))
        return programs

    work = (x if turned else out).size * W.size // W.shape[3]
    return [*calls, *split(len(x), work, make, least=MULTIPLICATIONS)]


def weight_gradient(dW: Array, db: Array | None, dy: Array, x: Array, window: Window, groups: int = 1) -> list[Call]:
    """A thread sums over its samples; the sums are then added."""
    band, n_out = Band.over(x, window, groups), dy.shape[3]
    depth = dW.size // n_out
    name = "depthwise_weights" if depthwise(dW, groups) else "window_weights"
    tables = (
        _table(x, (band, "places"), lambda: band.places(x)),
        _table(x, (band, "elements"), lambda: band.elements(x)),
        _rows(x, depth, n_out),
    )

    def make(some: slice, places: list[Any]) -> Program:
        scratch = borrow(band.size, x.dtype, x) if band.padded else 0
        arrays = (*places, dy[some], x[some], scratch, *tables)
        sizes = (len(x[some]), x.shape[3], n_out, band.rows, x.itemsize, groups, 0, 0)
        return instruction(name, x.dtype, *arrays, *sizes, *window_words(x, window))

    return sums_of_parts([dW.reshape(-1), db], pieces(len(x), dy.size * depth, MULTIPLICATIONS), make, x)
