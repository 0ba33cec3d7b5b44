"""Numbers in bfloat16: rounded and widened by their bits, and multiplied in float32."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call, Kernel
from bpnet.ops.bfloat16 import NAN
from bpnet_numpy.kernels.common import Array, bound, nothing, ones
from bpnet_numpy.threads import product

SINGLE, BITS, WORDS = np.dtype("float32"), np.dtype("uint16"), np.dtype("uint32")
CHUNK = 16384  # numbers whose words stay in the second-level cache


def single(*arrays: Array) -> bool:
    """Whether all are C-contiguous float32."""
    return all(a.dtype == SINGLE and a.flags.c_contiguous for a in arrays)


def halves(*arrays: Array) -> bool:
    """Whether all are C-contiguous bits."""
    return all(a.dtype == BITS and a.flags.c_contiguous for a in arrays)


def rounding(out: Array, x: Array) -> list[Call]:
    """The call that writes the bits of the rounded `x` to `out`."""
    flat, target = x.reshape(-1).view(WORDS), out.reshape(-1)
    words, odd = np.empty((2, min(CHUNK, max(1, flat.size))), WORDS, like=x)
    nan = np.empty(words.shape, bool, like=x)

    def call() -> None:
        for start in range(0, flat.size, CHUNK):
            given, to = flat[start : start + CHUNK], target[start : start + CHUNK]
            n = given.size
            w, o, m = words[:n], odd[:n], nan[:n]
            # To even: 0x7FFF below a half, and one more where the last bit that stays is odd.
            np.right_shift(given, 16, o)
            np.bitwise_and(o, 1, o)
            np.add(o, 0x7FFF, o)
            np.bitwise_and(given, 0x7FFFFFFF, w)
            np.greater(w, 0x7F800000, m)
            np.add(given, o, w)
            np.right_shift(w, 16, w)
            np.copyto(to, w, casting="unsafe")
            if m.any():
                to[m] = NAN

    return [call]


def widening(out: Array, bits: Array) -> list[Call]:
    """The calls that write the numbers of `bits` to `out`."""
    words = out.view(WORDS)
    return [partial(np.copyto, words, bits), partial(np.left_shift, words, 16, words)]


def widened(bits: Array) -> tuple[Array, list[Call]]:
    """An array, and the calls that write the numbers of `bits` to it."""
    wide = np.empty(bits.shape, SINGLE, like=bits)
    return wide, widening(wide, bits)


@ops.to_bf16.register_bound(np.ndarray, accepts=single, allocate=lambda x: np.empty(x.shape, BITS, like=x))
def _(out: Array, x: Array) -> list[Call]:
    return rounding(out, x)


@ops.from_bf16.register_bound(np.ndarray, accepts=halves, allocate=lambda bits: np.empty(bits.shape, SINGLE, like=bits))
def _(out: Array, bits: Array) -> list[Call]:
    return widening(out, bits)


@ops.round_bf16_.register_bound(
    np.ndarray, accepts=lambda target, source: halves(target) and single(source), allocate=nothing
)
def _(_: None, target: Array, source: Array) -> list[Call]:
    return rounding(target, source)


@ops.linear_bf16.register_bound(
    np.ndarray,
    accepts=lambda x, W, b, *_: halves(x, W) and (b is None or single(b)) and x.ndim > 1 and x.size > 0 and W.size > 0,
    allocate=lambda x, W, *_: np.empty((*x.shape[:-1], W.shape[1]), SINGLE, like=x),
)
def _(out: Array, x: Array, W: Array, b: Array | None, activation: Kernel | None = None, *settings: Any) -> list[Call]:
    (wide_x, first), (wide_W, second) = widened(x.reshape(-1, W.shape[0])), widened(W)
    y = out.reshape(-1, W.shape[1])
    calls = [*first, *second, product(wide_x, wide_W, y)]
    if b is not None:
        calls.append(partial(np.add, y, b, y))
    if activation is not None:
        calls += bound(activation, out, out, *settings)
    return calls


def gradients(
    dy: Array, x: Array, W: Array, need_dx: bool = True, need_db: bool = True, need_dW: bool = True
) -> tuple[Array | None, Array | None, Array | None]:
    """Where dx, dW and db go; None for what is not needed."""
    return (
        np.empty(x.shape, SINGLE, like=x) if need_dx else None,
        np.empty(W.shape, SINGLE, like=W) if need_dW else None,
        np.empty(W.shape[1:], SINGLE, like=W) if need_db else None,
    )


@ops.linear_bf16_backward.register_bound(
    np.ndarray,
    accepts=lambda dy, x, W, *_: single(dy) and halves(x, W) and dy.ndim > 1 and dy.size > 0 and x.size > 0,
    allocate=gradients,
)
def _(out: Any, dy: Array, x: Array, W: Array, *_: bool) -> list[Call]:
    dx, dW, db = out
    dy = dy.reshape(-1, W.shape[1])
    calls: list[Call] = []
    rounded = np.empty(dy.shape, SINGLE, like=dy)
    if dx is not None or dW is not None:
        half = np.empty(dy.shape, BITS, like=dy)
        calls += rounding(half, dy) + widening(rounded, half)
    if dW is not None:
        wide, made = widened(x.reshape(-1, W.shape[0]))
        calls += [*made, product(wide.T, rounded, dW)]
    if db is not None:
        calls.append(partial(np.dot, ones(dy.shape[0], dy), dy, db))
    if dx is not None:
        wide, made = widened(W)
        calls += [*made, product(rounded, wide.T, dx.reshape(-1, W.shape[0]))]
    return calls
