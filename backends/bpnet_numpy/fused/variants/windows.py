"""Convolutions by tiles in registers, which gather nothing; for processors that have the registers."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpnet.dispatch import Call
from bpnet.ops.windows import Window
from bpnet_numpy.fused.instruction import Program, instruction, machine
from bpnet_numpy.fused.parts import MULTIPLICATIONS, PASS, pieces, split, sums_of_parts
from bpnet_numpy.fused.sizes import strip_height
from bpnet_numpy.kernels.common import Array, kept_for
from bpnet_numpy.scratch import borrow

BAND = 1 << 15
"""Numbers of an image that are copied with its padding at a time: they stay in the second-level cache."""
_TABLES: dict[Hashable, Array] = {}


def possible() -> bool:
    """Whether the processor has vectors that tiles are made for."""
    return bool(machine().VECTOR)


def window_words(x: Array, window: Window) -> tuple[int, ...]:
    """The words of a window over images like x."""
    (top, _), (left, _) = window.padding
    places = window.places(x.shape[1], x.shape[2])
    return (x.shape[1], x.shape[2], *places, *window.size, *window.stride, *window.dilation, top, left)


@dataclass(frozen=True)
class Band:
    """Rows of places of which windows are multiplied at a time, and what they see.

    padded : whether that is a copy with zeros around the image; else it is the image
    wide   : columns of it
    """

    window: Window
    channels: int
    rows: int
    columns: int
    padded: bool
    wide: int

    @classmethod
    def over(cls, x: Array, window: Window) -> Band:
        """For images like x."""
        rows, columns = window.places(x.shape[1], x.shape[2])
        (sh, sw), (tall, broad) = window.stride, window.reach
        high, wide = (rows - 1) * sh + tall, (columns - 1) * sw + broad
        (top, _), (left, _) = window.padding
        padded = top > 0 or left > 0 or high > x.shape[1] or wide > x.shape[2]
        most = max(1, (BAND // (wide * x.shape[3]) - tall) // sh + 1)
        bands = -(-rows // most)
        return cls(window, x.shape[3], -(-rows // bands), columns, padded, wide if padded else x.shape[2])

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
        return ((rows * self.wide + columns) * self.channels + np.arange(self.channels, like=like)).reshape(-1)


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


def panels(W: Array, turned: bool) -> tuple[list[Call], Array]:
    """The calls that lay out a weight in panels, or the one by which its gradient goes back, and these."""
    kh, kw, c, n_out = W.shape
    inner, columns = (n_out, c) if turned else (c, n_out)
    lanes = machine().VECTOR // W.itemsize
    padded = -(-columns // lanes) * lanes
    out = borrow((kh * kw * inner * padded,), W.dtype, W)

    def make(some: slice) -> list[Program]:
        return [instruction("weight_panels", W.dtype, out, W, kh * kw, c, n_out, turned, some.start, some.stop)]

    return split(-(-padded // (2 * lanes)), W.size, make, least=PASS), out


def convolution(
    out: Array, x: Array, W: Array, b: Array | None, window: Window, *, turned: bool = False, rectified: bool = False
) -> list[Call]:
    """The calls of a convolution of x with a weight (KH, KW, C, O); or, turned, of a gradient x with that weight's
    transpose, where `window` is turned around already."""
    band = Band.over(x, window)
    calls, weight = panels(W, turned)
    tables = (
        _table(x, (band, "places"), lambda: band.places(x)),
        _table(x, (band, "elements"), lambda: band.elements(x)),
        _rows(x, band.rows * band.columns, out.shape[3]),
    )

    def make(some: slice) -> list[Program]:
        scratch = borrow(band.size, x.dtype, x) if band.padded else 0
        arrays = (out[some], x[some], weight, 0 if b is None else b, scratch, *tables)
        sizes = (len(x[some]), x.shape[3], out.shape[3], band.rows, x.itemsize)
        return [instruction("convolve_windows", x.dtype, *arrays, rectified, *sizes, *window_words(x, window))]

    return [*calls, *split(len(x), out.size * W.size // out.shape[3], make, least=MULTIPLICATIONS)]


def weight_gradient(dW: Array, db: Array | None, dy: Array, x: Array, window: Window) -> list[Call]:
    """A thread sums over its samples; the sums are then added."""
    band, n_out = Band.over(x, window), dy.shape[3]
    depth = dW.size // n_out
    tables = (
        _table(x, (band, "places"), lambda: band.places(x)),
        _table(x, (band, "elements"), lambda: band.elements(x)),
        _rows(x, depth, n_out),
    )

    def make(some: slice, places: list[Any]) -> Program:
        scratch = borrow(band.size, x.dtype, x) if band.padded else 0
        arrays = (*places, dy[some], x[some], scratch, *tables)
        sizes = (len(x[some]), x.shape[3], n_out, band.rows, x.itemsize)
        return instruction("window_weights", x.dtype, *arrays, *sizes, *window_words(x, window))

    return sums_of_parts([dW.reshape(-1), db], pieces(len(x), dy.size * depth, MULTIPLICATIONS), make, x)
