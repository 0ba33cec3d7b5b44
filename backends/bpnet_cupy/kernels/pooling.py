"""Pools of images: of windows, and of all places."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet.ops.windows import Window
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.common import BLOCK, Array, blocks, named, packs, real
from bpnet_cupy.kernels.convolution import geometry


def _places(x: Array, window: Window) -> tuple[int, int]:
    return window.places(x.shape[1], x.shape[2])


def _columns(driver: Driver, kernel: str, images: Array, arrays: tuple[Array, ...]) -> list[Call]:
    """Launch a kernel whose blocks take a sample's columns of channels."""
    n, height, width, channels = images.shape
    lanes = 8 if channels <= 16 else 32
    args = (*arrays, *map(np.int64, (n, height * width, channels)))
    grid = n * -(-channels // lanes)
    return [driver.launch(f"{kernel}<{named(images)}, {lanes}>", grid, (lanes, 256 // lanes), args)]


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""

    def windowed(kernel: str, out: Array, *args: Any) -> Call:
        return driver.launch(f"{kernel}<{named(args[0])}>", packs(driver, out.size, out.dtype), BLOCK, (out, *args))

    def sized(images: tuple[int, ...], places: tuple[int, ...], window: Window) -> tuple[Any, ...]:
        return np.int64(images[0]), *geometry(images, places, window)

    def at_places(x: Array, window: Window, *_: Any) -> Array:
        return driver.empty((x.shape[0], *_places(x, window), x.shape[3]), x.dtype)

    def seen(x: Array, window: Window, *_: Any) -> bool:
        return real(x) and all(_places(x, window))

    @ops.max_pool2d.register_bound(array_type, accepts=seen, allocate=at_places)
    def _(out: Array, x: Array, window: Window) -> list[Call]:
        return [windowed("max_pool", out, x, *sized(x.shape, _places(x, window), window))]

    @ops.max_pool2d_backward.register_bound(
        array_type,
        accepts=lambda dy, x, window: real(dy, x),
        allocate=lambda dy, x, window: driver.empty(x.shape, x.dtype),
    )
    def _(out: Array, dy: Array, x: Array, window: Window) -> list[Call]:
        winners = driver.empty(dy.shape, np.dtype("int32"))
        numbers = sized(x.shape, _places(x, window), window)
        return [
            driver.launch(f"max_pool_winners<{named(x)}>", blocks(driver, winners.size), BLOCK, (winners, x, *numbers)),
            driver.launch(
                f"max_pool_backward<{named(x)}>", blocks(driver, out.size), BLOCK, (out, dy, winners, *numbers)
            ),
        ]

    @ops.avg_pool2d.register_bound(array_type, accepts=seen, allocate=at_places)
    def _(out: Array, x: Array, window: Window, padding: bool) -> list[Call]:
        return [windowed("avg_pool", out, x, *sized(x.shape, _places(x, window), window), np.bool_(padding))]

    @ops.avg_pool2d_backward.register_bound(
        array_type,
        accepts=lambda dy, window, size, padding: real(dy) and math.prod(size) > 0,
        allocate=lambda dy, window, size, padding: driver.empty((dy.shape[0], *size, dy.shape[3]), dy.dtype),
    )
    def _(out: Array, dy: Array, window: Window, size: tuple[int, int], padding: bool) -> list[Call]:
        numbers = sized(out.shape, dy.shape[1:3], window)
        return [windowed("avg_pool_backward", out, dy, *numbers, np.bool_(padding))]

    def of_channels(x: Array) -> Array:
        return driver.empty((x.shape[0], x.shape[3]), x.dtype)

    @ops.global_avg_pool.register_bound(array_type, accepts=real, allocate=of_channels)
    def _(out: Array, x: Array) -> list[Call]:
        return _columns(driver, "global_avg_pool", x, (out, x))

    @ops.global_avg_pool_backward.register_bound(
        array_type,
        accepts=lambda dy, size: real(dy) and math.prod(size) > 0,
        allocate=lambda dy, size: driver.empty((dy.shape[0], *size, dy.shape[1]), dy.dtype),
    )
    def _(out: Array, dy: Array, size: tuple[int, int]) -> list[Call]:
        args = map(np.int64, (dy.shape[0], math.prod(size), dy.shape[1]))
        return [windowed("global_avg_pool_backward", out, dy, *args)]

    @ops.global_max_pool.register_bound(array_type, accepts=real, allocate=of_channels)
    def _(out: Array, x: Array) -> list[Call]:
        return _columns(driver, "global_max_pool", x, (out, x))

    @ops.global_max_pool_backward.register_bound(
        array_type, accepts=real, allocate=lambda dy, x: driver.empty(x.shape, x.dtype)
    )
    def _(out: Array, dy: Array, x: Array) -> list[Call]:
        return _columns(driver, "global_max_pool_backward", x, (out, dy, x))
