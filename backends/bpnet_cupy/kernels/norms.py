"""Normalization: by the batch, by groups of channels, by rows; and the running statistics."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.common import BLOCK, Array, alike, flag, lanes, named, nothing, op, packs, real, row_grid
from bpnet_cupy.kernels.linear import SLAB


def sums(driver: Driver, kernel: str, like: Array, before: tuple[Any, ...], after: tuple[Any, ...], m: int) -> Call:
    """Launch a kernel that sums m numbers over the rows of every column of `like`.

    kernel : with {} in the place of the type and of the columns of a block
    """
    columns = like.shape[-1]
    rows = like.size // columns
    width = 8 if columns <= 16 else 32
    tiles, slabs = -(-columns // width), max(1, min(-(-rows // SLAB), 64))
    partial, counter = None, None
    if slabs > 1:
        partial, counter = driver.empty(slabs * m * columns, like.dtype), driver.zeros(tiles, np.dtype("uint32"))
    args = (*before, partial, counter, np.int64(rows), np.int64(columns), *after)
    return driver.launch(kernel.format(named(like), width), (tiles, slabs), (width, 256 // width), args)


def _with(x: Array, *rest: Array | None) -> bool:
    return real(x, *(each for each in rest if each is not None))


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""
    _register_batch_norm(array_type, driver)
    _register_group_norm(array_type, driver)
    _register_row_norms(array_type, driver)

    @ops.blend_.register_bound(
        array_type, accepts=lambda target, source, new, *_: alike(target, source, new), allocate=nothing
    )
    def _(_: None, target: Array, source: Array, new: Array, momentum: float, factor: float) -> list[Call]:
        kind = target.dtype.type
        args = (target, source, new, np.int64(target.size), kind(1 - momentum), kind(momentum * factor))
        return [driver.launch(f"blend<{named(target)}>", packs(driver, target.size, target.dtype), BLOCK, args)]

    @ops.commit_.register_bound(
        array_type, accepts=lambda value, pending, ok: alike(value, pending) and flag(ok), allocate=nothing
    )
    def _(_: None, value: Array, pending: Array, ok: Array) -> list[Call]:
        args = (value, pending, ok, np.int64(value.size))
        return [driver.launch(f"commit<{named(value)}>", packs(driver, value.size, value.dtype), BLOCK, args)]


def _register_batch_norm(array_type: type, driver: Driver) -> None:
    def statistics(x: Array, *_: Any) -> Any:
        return tuple(driver.empty(shape, x.dtype) for shape in (x.shape, x.shape[-1:], x.shape[-1:]))

    def like(x: Array, *_: Any) -> Array:
        return driver.empty(x.shape, x.dtype)

    def normalized(y: Array, x: Array, mean: Array, variance: Array, *rest: Any) -> Call:
        *affine, epsilon = rest
        args = (y, x, mean, variance, *affine, np.int64(x.size), np.int64(x.shape[-1]), x.dtype.type(epsilon))
        return driver.launch(f"normalize<{named(x)}>", packs(driver, x.size, x.dtype), BLOCK, args)

    @ops.batch_norm.register_bound(
        array_type, accepts=lambda x, weight, bias, epsilon: _with(x, weight, bias), allocate=statistics
    )
    def _(out: Any, x: Array, weight: Array | None, bias: Array | None, epsilon: float) -> list[Call]:
        y, mean, variance = out
        return [
            sums(driver, "column_mean<{}, {}, false>", x, (mean, x, None), (), 1),
            sums(driver, "column_mean<{}, {}, true>", x, (variance, x, mean), (), 1),
            normalized(y, x, mean, variance, weight, bias, epsilon),
        ]

    @ops.scale_shift.register_bound(
        array_type,
        accepts=lambda x, mean, variance, weight, bias, epsilon: _with(x, mean, variance, weight, bias),
        allocate=like,
    )
    def _(out: Array, x: Array, *rest: Any) -> list[Call]:
        return [normalized(out, x, *rest)]

    def gradients(
        dy: Array, x: Array, mean: Array, variance: Array, weight: Any, epsilon: float, dx: bool = True
    ) -> Any:
        return driver.empty(x.shape, x.dtype) if dx else None, *(driver.empty(mean.shape, x.dtype) for _ in range(2))

    def backward(name: str, given: str) -> None:
        @op(name).register_bound(
            array_type,
            accepts=lambda dy, x, mean, variance, weight, *_: alike(dy, x) and _with(x, mean, variance, weight),
            allocate=gradients,
        )
        def _(
            out: Any, dy: Array, x: Array, mean: Array, variance: Array, weight: Array | None, epsilon: float, *_: bool
        ) -> list[Call]:
            dx, dweight, dbias = out
            columns, small = x.shape[-1], x.dtype.type(epsilon)
            after = (np.int64(x.size // columns), np.int64(columns), small)
            calls = [sums(driver, "norm_sums<{}, {}>", x, (dweight, dbias, dy, x, mean, variance), after, 2)]
            if dx is not None:
                args = (dx, dy, x, mean, variance, weight, dweight, dbias, np.int64(x.size), np.int64(columns), small)
                kernel = f"normalize_backward<{named(x)}, {given}>"
                calls.append(driver.launch(kernel, packs(driver, x.size, x.dtype), BLOCK, args))
            return calls

    backward("batch_norm_backward", "false")
    backward("scale_shift_backward", "true")


def _register_group_norm(array_type: type, driver: Driver) -> None:
    def sizes(x: Array, groups: int) -> tuple[Any, ...]:
        n, pixels, channels = x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1]
        return n, pixels, channels, groups

    def launch(kernel: str, x: Array, groups: int, arrays: tuple[Any, ...], epsilon: float) -> Call:
        n, pixels, channels, _ = numbers = sizes(x, groups)
        width = lanes(pixels * channels // groups)
        args = (*arrays, *map(np.int64, numbers), x.dtype.type(epsilon))
        return driver.launch(f"{kernel}<{named(x)}, {width}>", row_grid(driver, n * groups, width), BLOCK, args)

    @ops.group_norm.register_bound(
        array_type,
        accepts=lambda x, weight, bias, *_: _with(x, weight, bias),
        allocate=lambda x, weight, bias, groups, epsilon: tuple(
            driver.empty(shape, x.dtype) for shape in (x.shape, (x.shape[0], groups), (x.shape[0], groups))
        ),
    )
    def _(out: Any, x: Array, weight: Array | None, bias: Array | None, groups: int, epsilon: float) -> list[Call]:
        return [launch("group_norm", x, groups, (*out, x, weight, bias), epsilon)]

    @ops.group_norm_backward.register_bound(
        array_type,
        accepts=lambda dy, x, mean, variance, weight, *_: alike(dy, x) and _with(x, mean, variance, weight),
        allocate=lambda dy, x, mean, variance, weight, groups, epsilon, need_dx=True: (
            driver.empty(x.shape, x.dtype) if need_dx else None,
            driver.empty(x.shape[-1:], x.dtype),
            driver.empty(x.shape[-1:], x.dtype),
        ),
    )
    def _(
        out: Any, dy: Array, x: Array, mean: Array, variance: Array, weight: Array | None, groups: int, epsilon: float,
        *_: bool,
    ) -> list[Call]:  # fmt: skip
        dx, dweight, dbias = out
        pixels = sizes(x, groups)[1]
        after = (np.int64(pixels), np.int64(groups), x.dtype.type(epsilon))
        calls = [sums(driver, "norm_sums<{}, {}>", x, (dweight, dbias, dy, x, mean, variance), after, 2)]
        if dx is not None:
            arrays = (dx, dy, x, mean, variance, weight)
            calls.append(launch("group_norm_backward", x, groups, arrays, epsilon))
        return calls


def _row_norm(driver: Driver, kernel: str, like: Array, arrays: tuple[Any, ...], centred: str, *more: Any) -> Call:
    columns = like.shape[-1]
    width = lanes(columns)
    args = (*arrays, np.int64(like.size // columns), np.int64(columns), *more)
    grid = row_grid(driver, like.size // columns, width)
    return driver.launch(f"{kernel}<{named(like)}, {width}, {centred}>", grid, BLOCK, args)


def row_norm(driver: Driver, out: tuple[Array | None, ...], x: Array, gain: Array, *rest: Any) -> Call:
    """A norm of rows. out : its three results, and the bits of the first in bfloat16, or None

    rest : bias, or None, and epsilon of `layer_norm`; epsilon alone of `rms_norm`
    """
    *bias, epsilon = rest
    centred = "true" if bias else "false"
    return _row_norm(driver, "layer_norm", x, (*out, x, gain, *(bias or [None])), centred, x.dtype.type(epsilon))


def _register_row_norms(array_type: type, driver: Driver) -> None:
    rows = partial(_row_norm, driver)

    def normalized(x: Array, *_: Any) -> Any:
        return tuple(driver.empty(shape, x.dtype) for shape in (x.shape, x.shape, (*x.shape[:-1], 1)))

    @ops.layer_norm.register_bound(
        array_type, accepts=lambda x, gain, bias, epsilon: _with(x, gain, bias), allocate=normalized
    )
    def _(out: Any, x: Array, gain: Array, bias: Array | None, epsilon: float) -> list[Call]:
        return [row_norm(driver, (*out, None), x, gain, bias, epsilon)]

    @ops.rms_norm.register_bound(array_type, accepts=lambda x, gain, epsilon: real(x, gain), allocate=normalized)
    def _(out: Any, x: Array, gain: Array, epsilon: float) -> list[Call]:
        return [row_norm(driver, (*out, None), x, gain, epsilon)]

    def backward(out: Any, dy: Array, h: Array, r: Array, gain: Array, centred: str) -> list[Call]:
        dx, dgain, dbias = out
        calls = [] if dx is None else [rows("layer_norm_backward", dy, (dx, dy, h, r, gain), centred)]
        if dgain is None and dbias is None:
            return calls
        first = driver.empty(gain.shape, dy.dtype) if dgain is None else dgain
        return [*calls, sums(driver, "gain_sums<{}, {}>", dy, (first, dbias, dy, h), (), 2)]

    def allocate(dy: Array, h: Array, r: Array, gain: Array, *needs: bool) -> Any:
        wanted = [*needs, True, True, True][:3]
        shapes = (dy.shape, gain.shape, gain.shape)
        return tuple(
            driver.empty(shape, dy.dtype) if need else None for shape, need in zip(shapes, wanted, strict=True)
        )

    def accepts(dy: Array, h: Array, r: Array, gain: Array, *_: bool) -> bool:
        return alike(dy, h) and real(dy, r, gain)

    @ops.layer_norm_backward.register_bound(array_type, accepts=accepts, allocate=allocate)
    def _(out: Any, dy: Array, h: Array, r: Array, gain: Array, *_: bool) -> list[Call]:
        return backward(out, dy, h, r, gain, "true")

    @ops.rms_norm_backward.register_bound(array_type, accepts=accepts, allocate=lambda *args: allocate(*args)[:2])
    def _(out: Any, dy: Array, h: Array, r: Array, gain: Array, *_: bool) -> list[Call]:
        return backward((*out, None), dy, h, r, gain, "false")
