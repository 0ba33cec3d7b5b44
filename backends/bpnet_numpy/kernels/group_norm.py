"""GroupNorm: some samples at a time, sums over places by a product with ones, and all else by channel."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_numpy.kernels.common import Array, blocks, constant, floating, ones
from bpnet_numpy.scratch import borrow, borrow_like

CACHED = 1 << 15
"""Numbers of a block of samples, so that what lies between two passes stays in the cache."""


class _Block:
    """Some samples (m, places, C), and scratch for sums by channel and by group."""

    def __init__(self, x: Array, groups: int, scratch: list[Array]) -> None:
        self.m, self.places, self.channels = x.shape
        self.groups, self.dtype = groups, x.dtype
        self.whole, *rest = (each[: self.m] for each in scratch)
        self.by_channel = rest
        self.share = constant(groups / (self.places * self.channels), x.dtype)
        self.one = ones(self.places, x)[None, :]

    @staticmethod
    def scratch(x: Array, n: int, count: int) -> list[Array]:
        """Places for `n` samples: one like them, and `count` of a number for each channel."""
        return [
            borrow((n, *x.shape[1:]), x.dtype, x),
            *(borrow((n, 1, x.shape[2]), x.dtype, x) for _ in range(count)),
        ]

    def sums(self, x: Array, out: Array) -> Call:
        """out (m, 1, C) = the sums over places."""
        return partial(np.matmul, self.one, x, out)

    def grouped(self, x: Array) -> Array:
        """(m, 1, C) as (m, groups, C / groups)."""
        return x.reshape(self.m, self.groups, self.channels // self.groups)

    def means(self, sums: Array, out: Array) -> list[Call]:
        """out (m, groups) = the means over places and a group's channels, of sums over places."""
        return [partial(np.add.reduce, self.grouped(sums), 2, None, out), partial(np.multiply, out, self.share, out)]

    def spread(self, x: Array, out: Array) -> Call:
        """out (m, 1, C) = x (m, groups), for every channel that of its group."""
        return partial(np.copyto, self.grouped(out), x[:, :, None])

    def scale(self, variance: Array, epsilon: float, out: Array) -> list[Call]:
        """out (m, 1, C) = 1 / sqrt(variance + epsilon)."""
        return [
            self.spread(variance, out),
            partial(np.add, out, constant(epsilon, self.dtype), out),
            partial(np.sqrt, out, out),
            partial(np.divide, constant(1, self.dtype), out, out),
        ]


def _places(x: Array) -> Array:
    """(N, ..., C) as (N, places, C)."""
    return x.reshape(x.shape[0], -1, x.shape[-1])


def _accepts(x: Array, *rest: Any) -> bool:
    return floating(x, *(each for each in rest if isinstance(each, np.ndarray))) and x.size > 0


@ops.group_norm.register_bound(
    np.ndarray,
    accepts=_accepts,
    allocate=lambda x, weight, bias, groups, epsilon: (
        np.empty_like(x),
        np.empty((x.shape[0], groups), x.dtype, like=x),
        np.empty((x.shape[0], groups), x.dtype, like=x),
    ),
)
def _(out: Any, x: Array, weight: Array | None, bias: Array | None, groups: int, epsilon: float) -> list[Call]:
    y, mean, variance = out
    xs, ys = _places(x), _places(y)
    n, parts = blocks(len(xs), xs[0].size, CACHED)
    scratch = _Block.scratch(xs, n, 1)
    calls: list[Call] = []
    for some in parts:
        block = _Block(xs[some], groups, scratch)
        a, b, squares, (channel,) = xs[some], ys[some], block.whole, block.by_channel
        calls += [
            block.sums(a, channel),
            *block.means(channel, mean[some]),
            block.spread(mean[some], channel),
            partial(np.subtract, a, channel, b),
            partial(np.multiply, b, b, squares),
            block.sums(squares, channel),
            *block.means(channel, variance[some]),
            *block.scale(variance[some], epsilon, channel),
        ]
        if weight is not None:
            calls.append(partial(np.multiply, channel, weight, channel))
        calls.append(partial(np.multiply, b, channel, b))
        if bias is not None:
            calls.append(partial(np.add, b, bias, b))
    return calls


@ops.group_norm_backward.register_bound(
    np.ndarray,
    accepts=lambda dy, x, mean, variance, weight, *_: _accepts(dy, x, mean, variance, weight),
    allocate=lambda dy, x, mean, variance, weight, groups, epsilon, need_dx=True: (
        np.empty_like(x) if need_dx else None,
        np.empty(x.shape[-1:], x.dtype, like=x),
        np.empty(x.shape[-1:], x.dtype, like=x),
    ),
)
def _(
    out: Any, dy: Array, x: Array, mean: Array, variance: Array, weight: Array | None, groups: int, epsilon: float,
    *_: bool,
) -> list[Call]:  # fmt: skip
    """With c = x - mean and s = 1 / sqrt(variance + epsilon): dx = dy w s - c s^2 mean(dy w c s) - s mean(dy w)."""
    dx, dweight, dbias = out
    gs, xs = _places(dy), _places(x)
    n, parts = blocks(len(xs), xs[0].size, CACHED)
    scratch = _Block.scratch(xs, n, 4)
    more, part = np.empty((len(scratch[0]), groups), x.dtype, like=x), np.empty_like(dbias)
    calls: list[Call] = []
    for index, some in enumerate(parts):
        block = _Block(xs[some], groups, scratch)
        g, centred, (along, total, scale, channel) = gs[some], block.whole, block.by_channel
        own = more[: block.m]
        calls += [
            *block.scale(variance[some], epsilon, scale),
            block.spread(mean[some], channel),
            partial(np.subtract, xs[some], channel, centred),
        ]
        product = borrow_like(centred) if dx is None else _places(dx)[some]  # dx is written last
        calls += [
            partial(np.multiply, g, centred, product),
            block.sums(product, along),
            partial(np.multiply, along, scale, along),
            block.sums(g, total),
        ]
        for target, source in ((dweight, along), (dbias, total)):
            calls.append(partial(np.add.reduce, source, (0, 1), None, part if index else target))
            if index:
                calls.append(partial(np.add, target, part, target))
        if dx is None:
            continue
        if weight is not None:
            calls += [partial(np.multiply, along, weight, along), partial(np.multiply, total, weight, total)]
        calls += [
            *block.means(along, own),
            block.spread(own, along),
            partial(np.multiply, along, scale, along),
            partial(np.multiply, along, scale, along),
            *block.means(total, own),
            block.spread(own, total),
            partial(np.multiply, total, scale, total),
            partial(np.multiply, centred, along, centred),
            partial(np.copyto, channel, scale) if weight is None else partial(np.multiply, scale, weight, channel),
            partial(np.multiply, g, channel, product),
            partial(np.subtract, product, centred, product),
            partial(np.subtract, product, total, product),
        ]
    return calls
