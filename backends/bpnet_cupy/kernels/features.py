"""What rows of features still need: slopes beside activations, gates, positions, products over leading axes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet.ops.sequences import angles
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.bfloat16 import rounding
from bpnet_cupy.kernels.common import BLOCK, FLOAT32, UINT16, Array, alike, blocks, halves, named, op, packs, real
from bpnet_cupy.kernels.convolution import plain_product, turned
from bpnet_cupy.kernels.linear import column_sum


def _stack(x: Array) -> Array:
    """Matrices over leading axes as a matrix, or along one axis."""
    return x if x.ndim < 3 else x.reshape(-1, *x.shape[-2:])


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""
    _register_gates(array_type, driver)
    _register_positions(array_type, driver)
    _register_products(array_type, driver)
    _register_terms(array_type, driver)


WITH_SLOPE = {"gelu_with_slope": "Gelu", "gelu_tanh_with_slope": "GeluTanh"}


def slope_of(driver: Driver, out: tuple[Array | None, ...], x: Array, struct: str) -> Call:
    """An activation and its slope. out : both, and the bits of the first in bfloat16, or None"""
    kernel = f"activation_with_slope<{named(x)}, {struct}>"
    return driver.launch(kernel, packs(driver, x.size, x.dtype), BLOCK, (*out, x, np.int64(x.size)))


def _register_gates(array_type: type, driver: Driver) -> None:
    def with_slope(name: str, struct: str) -> None:
        @op(name).register_bound(
            array_type, accepts=real, allocate=lambda x: tuple(driver.empty(x.shape, x.dtype) for _ in range(2))
        )
        def _(out: tuple[Array, Array], x: Array) -> list[Call]:
            return [slope_of(driver, (*out, None), x, struct)]

    for name, struct in WITH_SLOPE.items():
        with_slope(name, struct)

    def halves(x: Array) -> bool:
        return real(x) and x.ndim > 0 and x.shape[-1] % 2 == 0

    @ops.swiglu.register_bound(
        array_type,
        accepts=halves,
        allocate=lambda x: driver.empty((*x.shape[:-1], x.shape[-1] // 2), x.dtype),
    )
    def _(out: Array, x: Array) -> list[Call]:
        args = (out, x, np.int64(out.size), np.int64(out.shape[-1]))
        return [driver.launch(f"swiglu<{named(x)}>", packs(driver, out.size, out.dtype), BLOCK, args)]

    @ops.swiglu_backward.register_bound(
        array_type,
        accepts=lambda dy, x: real(dy, x) and halves(x) and x.size == 2 * dy.size,
        allocate=lambda dy, x: driver.empty(x.shape, x.dtype),
    )
    def _(out: Array, dy: Array, x: Array) -> list[Call]:
        args = (out, dy, x, np.int64(dy.size), np.int64(dy.shape[-1]))
        return [driver.launch(f"swiglu_backward<{named(x)}>", packs(driver, dy.size, dy.dtype), BLOCK, args)]


def _register_positions(array_type: type, driver: Driver) -> None:
    def first_like(x: Array, *_: Any) -> Array:
        return driver.empty(x.shape, x.dtype)

    def added(out: Array, x: Array, table: Array, begin: int) -> list[Call]:
        size = math.prod(x.shape[-2:])
        args = (out, x, table, np.int64(x.size), np.int64(size), np.int64(begin))
        return [driver.launch(f"add_table<{named(x)}>", packs(driver, x.size, x.dtype), BLOCK, args)]

    @ops.add_positions.register_bound(
        array_type,
        accepts=lambda x, table, start: real(x, table) and 0 <= start <= table.shape[0] - x.shape[-2],
        allocate=first_like,
    )
    def _(out: Array, x: Array, table: Array, start: int) -> list[Call]:
        return added(out, x, table, start * x.shape[-1])

    @ops.add_positions_backward.register_bound(
        array_type,
        accepts=lambda dy, n_positions: real(dy) and dy.ndim > 1,
        allocate=lambda dy, n_positions: driver.empty((n_positions, dy.shape[-1]), dy.dtype),
    )
    def _(out: Array, dy: Array, n_positions: int) -> list[Call]:
        length, width = dy.shape[-2:]
        calls = [column_sum(driver, out[:length], dy.reshape(-1, length * width))]
        if n_positions > length:
            rest = out[length:]
            args = (rest, np.int64(rest.size), dy.dtype.type(0))
            calls.append(driver.launch(f"fill<{named(dy)}>", blocks(driver, rest.size), BLOCK, args))
        return calls

    @ops.add_sinusoid.register_bound(
        array_type, accepts=lambda x, start: real(x) and x.ndim > 1 and x.shape[-1] % 2 == 0, allocate=first_like
    )
    def _(out: Array, x: Array, start: int) -> list[Call]:
        length, width = x.shape[-2:]
        found = angles(np, start, length, width // 2, 1e4, None)
        table = np.stack((np.sin(found), np.cos(found)), axis=-1).reshape(-1)
        return added(out, x, driver.constants(table, x.dtype), 0)

    @ops.rotate.register_bound(array_type, accepts=lambda x, *_: real(x) and x.ndim > 1, allocate=first_like)
    def _(
        out: Array, x: Array, head_size: int, n_columns: int, base: float, start: int, direction: float
    ) -> list[Call]:
        length, columns = x.shape[-2:]
        found = angles(np, start, length, head_size // 2, base, None).reshape(-1)
        tables = (driver.constants(each, x.dtype) for each in (np.cos(found), np.sin(found)))
        numbers = map(np.int64, (x.size // columns, columns, n_columns, head_size, length))
        args = (out, x, *tables, *numbers, x.dtype.type(direction))
        return [driver.launch(f"rotate<{named(x)}>", blocks(driver, x.size), BLOCK, args)]


def _register_products(array_type: type, driver: Driver) -> None:
    def rows(x: Array) -> Array:
        return x.reshape(-1, x.shape[-1])

    @ops.unembed.register_bound(
        array_type,
        accepts=lambda x, W: real(x, W) and x.ndim > 1,
        allocate=lambda x, W: driver.empty((*x.shape[:-1], W.shape[0]), x.dtype),
    )
    def _(out: Array, x: Array, W: Array) -> list[Call]:
        return [plain_product(driver, rows(out), rows(x), W.T)]

    @ops.unembed_backward.register_bound(
        array_type,
        accepts=lambda dy, x, W, *_: real(dy, x, W) and dy.ndim > 1,
        allocate=lambda dy, x, W, need_dx=True, need_dW=True: (
            driver.empty(x.shape, x.dtype) if need_dx else None,
            driver.empty(W.shape, W.dtype) if need_dW else None,
        ),
    )
    def _(out: Any, dy: Array, x: Array, W: Array, *_: bool) -> list[Call]:
        dx, dW = out
        calls = [] if dW is None else [plain_product(driver, dW, rows(dy).T, rows(x))]
        return calls if dx is None else [*calls, plain_product(driver, rows(dx), rows(dy), W)]

    @ops.unembed_bf16.register_bound(
        array_type,
        accepts=lambda x, W: halves(x, W) and x.ndim > 1,
        allocate=lambda x, W: driver.empty((*x.shape[:-1], W.shape[0]), FLOAT32),
    )
    def _(out: Array, x: Array, W: Array) -> list[Call]:
        return [plain_product(driver, rows(out), rows(x), W.T)]

    @ops.unembed_bf16_backward.register_bound(
        array_type,
        accepts=lambda dy, x, W, *_: real(dy) and dy.dtype == FLOAT32 and halves(x, W) and dy.ndim > 1,
        allocate=lambda dy, x, W, need_dx=True, need_dW=True: (
            driver.empty(x.shape, FLOAT32) if need_dx else None,
            driver.empty(W.shape, FLOAT32) if need_dW else None,
        ),
    )
    def _(out: Any, dy: Array, x: Array, W: Array, *_: bool) -> list[Call]:
        dx, dW = out
        bits = driver.empty(rows(dy).shape, UINT16)
        calls = [rounding(driver, bits, dy)]
        if dW is not None:
            calls.append(plain_product(driver, dW, bits.T, rows(x)))
        return calls if dx is None else [*calls, plain_product(driver, rows(dx), bits, W)]

    def stacked(*arrays: Array) -> bool:
        leading = {each.shape[:-2] for each in arrays}
        return real(*arrays) and len(leading) == 1 and arrays[0].ndim > 1

    @ops.matmul.register_bound(
        array_type,
        accepts=stacked,
        allocate=lambda x, y: driver.empty((*x.shape[:-1], y.shape[-1]), x.dtype),
    )
    def _(out: Array, x: Array, y: Array) -> list[Call]:
        return [plain_product(driver, *map(_stack, (out, x, y)))]

    @ops.matmul_backward.register_bound(
        array_type,
        accepts=stacked,
        allocate=lambda dz, x, y: (driver.empty(x.shape, x.dtype), driver.empty(y.shape, y.dtype)),
    )
    def _(out: Any, dz: Array, x: Array, y: Array) -> list[Call]:
        dx, dy, dz, x, y = map(_stack, (*out, dz, x, y))
        return [plain_product(driver, dx, dz, turned(y)), plain_product(driver, dy, turned(x), dz)]


def _register_terms(array_type: type, driver: Driver) -> None:
    """The chapter's atomic functions."""

    def combined(struct: str, out: Array, x: Array, y: Array) -> Call:
        args = (out, x, y, np.int64(x.size))
        return driver.launch(f"combine<{named(x)}, {struct}>", packs(driver, x.size, x.dtype), BLOCK, args)

    def copied(out: Array, x: Array) -> Call:
        return driver.launch(f"copy<{named(x)}>", packs(driver, x.size, x.dtype), BLOCK, (out, x, np.int64(x.size)))

    @ops.mul_backward.register_bound(
        array_type,
        accepts=alike,
        allocate=lambda dy, x, w: tuple(driver.empty(x.shape, x.dtype) for _ in range(2)),
    )
    def _(out: Any, dy: Array, x: Array, w: Array) -> list[Call]:
        return [combined("Product", out[0], dy, w), combined("Product", out[1], dy, x)]

    @ops.sum_terms.register_bound(
        array_type,
        accepts=lambda terms: len(terms) > 0 and alike(*terms),
        allocate=lambda terms: driver.empty(terms[0].shape, terms[0].dtype),
    )
    def _(out: Array, terms: tuple[Array, ...]) -> list[Call]:
        if len(terms) == 1:
            return [copied(out, terms[0])]
        first, second, *others = terms
        return [combined("Sum", out, first, second), *(combined("Sum", out, out, term) for term in others)]

    @ops.sum_backward.register_bound(
        array_type,
        accepts=lambda dy, n_terms: real(dy),
        allocate=lambda dy, n_terms: tuple(driver.empty(dy.shape, dy.dtype) for _ in range(n_terms)),
    )
    def _(out: tuple[Array, ...], dy: Array, n_terms: int) -> list[Call]:
        return [copied(each, dy) for each in out if each is not None]
