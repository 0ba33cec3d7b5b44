"""Pooling of images: the largest or the mean of what windows see, or of all places."""

from __future__ import annotations

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet.ops.windows import Window
from bpnet_numpy.fused.instruction import Program, instruction
from bpnet_numpy.fused.parts import PASS, split
from bpnet_numpy.fused.variants.common import check_place, fused
from bpnet_numpy.fused.variants.windows import window_words
from bpnet_numpy.kernels.common import Array, floating

COUNTABLE = 1 << 24
"""Whole numbers that float32 tells apart: by them a place or an element is known."""


def _places(x: Array, window: Window) -> tuple[int, ...]:
    return (x.shape[0], *window.places(x.shape[1], x.shape[2]))


@fused(
    ops.max_pool2d,
    accepts=lambda x, window: x.ndim == 4 and floating(x) and x.size > 0,
    allocate=lambda x, window: np.empty((*_places(x, window), x.shape[3]), x.dtype, like=x),
)
def _(out: Array, x: Array, window: Window) -> list[Call]:
    check_place(out, (*_places(x, window), x.shape[3]), x.dtype)

    def make(some: slice) -> list[Program]:
        return [
            instruction("max_pool2d", x.dtype, out[some], x[some], len(x[some]), x.shape[3], *window_words(x, window))
        ]

    return list(split(len(x), x.size, make, least=PASS))


@fused(
    ops.max_pool2d_backward,
    accepts=lambda dy, x, window: (
        x.ndim == 4
        and floating(dy, x)
        and dy.size > 0
        and window.n_elements < COUNTABLE
        and dy.shape == (*_places(x, window), x.shape[3])
    ),
    allocate=lambda dy, x, window: np.empty(x.shape, dy.dtype, like=dy),
)
def _(out: Array, dy: Array, x: Array, window: Window) -> list[Call]:
    check_place(out, x.shape, x.dtype)

    def make(some: slice) -> list[Program]:
        arrays = (out[some], dy[some], x[some])
        return [
            instruction("max_pool2d_backward", x.dtype, *arrays, len(x[some]), x.shape[3], *window_words(x, window))
        ]

    return list(split(len(x), x.size, make, least=PASS))


def _averages(window: Window) -> bool:
    return window.dilation == (1, 1) or window.size == (1, 1)


@fused(
    ops.avg_pool2d,
    accepts=lambda x, window, padding: x.ndim == 4 and floating(x) and x.size > 0 and _averages(window),
    allocate=lambda x, window, padding: np.empty((*_places(x, window), x.shape[3]), x.dtype, like=x),
)
def _(out: Array, x: Array, window: Window, padding: bool) -> list[Call]:
    check_place(out, (*_places(x, window), x.shape[3]), x.dtype)

    def make(some: slice) -> list[Program]:
        sizes = (len(x[some]), x.shape[3], bool(padding))
        return [instruction("avg_pool2d", x.dtype, out[some], x[some], *sizes, *window_words(x, window))]

    return list(split(len(x), x.size, make, least=PASS))


@fused(
    ops.avg_pool2d_backward,
    accepts=lambda dy, window, size, padding: (
        dy.ndim == 4 and floating(dy) and dy.size > 0 and _averages(window) and dy.shape[1:3] == window.places(*size)
    ),
    allocate=lambda dy, window, size, padding: np.empty((len(dy), *size, dy.shape[3]), dy.dtype, like=dy),
)
def _(out: Array, dy: Array, window: Window, size: tuple[int, int], padding: bool) -> list[Call]:
    check_place(out, (len(dy), *size, dy.shape[3]), dy.dtype)

    def make(some: slice) -> list[Program]:
        sizes = (len(dy[some]), dy.shape[3], bool(padding))
        return [instruction("avg_pool2d_backward", dy.dtype, out[some], dy[some], *sizes, *window_words(out, window))]

    return list(split(len(dy), out.size, make, least=PASS))


def _whole(name: str, places: int, channels: int, *arrays: Array) -> list[Call]:
    """A body over all places of images, by samples."""
    largest = max(each.size for each in arrays)

    def make(some: slice) -> list[Program]:
        mine = [each[some] for each in arrays]
        return [instruction(name, mine[0].dtype, *mine, len(mine[0]), places, channels)]

    return list(split(len(arrays[0]), largest, make, least=PASS))


def _images(x: Array) -> bool:
    return x.ndim == 4 and floating(x) and x.size > 0


def _pooled(x: Array) -> Array:
    return np.empty((x.shape[0], x.shape[3]), x.dtype, like=x)


@fused(ops.global_avg_pool, accepts=_images, allocate=_pooled)
def _(out: Array, x: Array) -> list[Call]:
    check_place(out, (x.shape[0], x.shape[3]), x.dtype)
    return _whole("global_avg_pool", x.shape[1] * x.shape[2], x.shape[3], out, x)


@fused(ops.global_max_pool, accepts=_images, allocate=_pooled)
def _(out: Array, x: Array) -> list[Call]:
    check_place(out, (x.shape[0], x.shape[3]), x.dtype)
    return _whole("global_max_pool", x.shape[1] * x.shape[2], x.shape[3], out, x)


@fused(
    ops.global_avg_pool_backward,
    accepts=lambda dy, size: dy.ndim == 2 and floating(dy) and dy.size > 0 and min(size) > 0,
    allocate=lambda dy, size: np.empty((dy.shape[0], *size, dy.shape[1]), dy.dtype, like=dy),
)
def _(out: Array, dy: Array, size: tuple[int, int]) -> list[Call]:
    check_place(out, (dy.shape[0], *size, dy.shape[1]), dy.dtype)
    return _whole("global_avg_pool_backward", size[0] * size[1], dy.shape[1], out, dy)


@fused(
    ops.global_max_pool_backward,
    accepts=lambda dy, x: (
        _images(x)
        and dy.ndim == 2
        and floating(dy, x)
        and dy.shape == (x.shape[0], x.shape[3])
        and x.shape[1] * x.shape[2] < COUNTABLE
    ),
    allocate=lambda dy, x: np.empty_like(x),
)
def _(out: Array, dy: Array, x: Array) -> list[Call]:
    check_place(out, x.shape, x.dtype)
    return _whole("global_max_pool_backward", x.shape[1] * x.shape[2], x.shape[3], out, dy, x)
