"""Sample arguments for convolutions, pools, batch and group norm, and what goes with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from bpnet import ops
from bpnet.ops.windows import Window
from bpnet.testing.cases.common import KEY, Cases, counters, flags, normal, special

SHAPES = [(1, 1), (3, 4), (32, 10), (5, 1), (2, 3, 4), (3, 5, 4, 6), (130, 7)]

# (N, H, W, C, O, groups, window): one pixel; even sizes; strides above the size; gaps; one-sided padding; depthwise
# with one output a channel and with two; groups; one row; no samples; a block and a part of one; more channels than
# a vector has numbers, windows apart, gaps as wide as strides
GEOMETRY: list[tuple[int, int, int, int, int, int, Window]] = [
    (1, 1, 1, 1, 1, 1, Window((1, 1))),
    (2, 4, 3, 3, 2, 1, Window((1, 1))),
    (2, 5, 6, 2, 3, 1, Window((2, 2))),
    (1, 6, 7, 3, 2, 1, Window((3, 3), padding=((1, 1), (1, 1)))),
    (3, 7, 6, 4, 3, 1, Window((3, 2), (2, 1), (1, 2), ((0, 1), (2, 0)))),
    (2, 8, 8, 2, 2, 1, Window((2, 2), (3, 4))),
    (2, 5, 5, 2, 2, 1, Window((1, 1), (2, 2))),
    (2, 4, 4, 2, 3, 1, Window((2, 2), padding=((3, 2), (2, 3)))),
    (2, 6, 5, 4, 4, 4, Window((3, 3), padding=((1, 1), (1, 1)))),
    (2, 6, 5, 2, 4, 2, Window((3, 3), (2, 2), padding=((1, 0), (0, 1)))),
    (2, 5, 5, 4, 6, 2, Window((2, 3), padding=((0, 0), (1, 1)))),
    (2, 1, 9, 3, 2, 1, Window((1, 4), (1, 2), (1, 2), ((0, 0), (2, 2)))),
    (0, 5, 5, 2, 3, 1, Window((3, 3))),
    (11, 12, 12, 8, 3, 1, Window((3, 3), padding=((1, 1), (1, 1)))),
    (70, 12, 12, 4, 4, 4, Window((3, 3), padding=((1, 1), (1, 1)))),
    (2, 9, 11, 70, 70, 70, Window((3, 3), (2, 2), padding=((1, 1), (1, 1)))),
    (3, 11, 10, 4, 80, 2, Window((3, 2), (2, 3), (2, 2), ((2, 1), (0, 1)))),
    (9, 33, 20, 6, 5, 1, Window((5, 3), (2, 3), padding=((2, 2), (1, 1)))),
    (3, 8, 7, 3, 40, 1, Window((4, 5), (3, 2), (1, 3), ((0, 0), (6, 7)))),
]


def convolutions(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for n, height, width, c, o, groups, window in GEOMETRY:
        x = normal(rng, (n, height, width, c), dtype)
        W, b = normal(rng, (*window.size, c // groups, o), dtype), normal(rng, (o,), dtype)
        yield (x, W, b, window, groups)
        yield (x, W, None, window, groups)
        yield (x, W, b, window, groups, ops.relu)
        yield (x, W, None, window, groups, ops.leaky_relu, 0.1)


def convolutions_backward(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for n, height, width, c, o, groups, window in GEOMETRY:
        x, W = normal(rng, (n, height, width, c), dtype), normal(rng, (*window.size, c // groups, o), dtype)
        dy = normal(rng, (n, *window.places(height, width), o), dtype)
        for needs in ((True, True, True), (False, True, True), (True, False, False)):
            yield (dy, x, W, window, groups, *needs)


def transposed(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for n, height, width, c, o, groups, window in GEOMETRY:
        x = normal(rng, (n, *window.places(height, width), o), dtype)
        W, b = normal(rng, (*window.size, c // groups, o), dtype), normal(rng, (c,), dtype)
        yield (x, W, b, window, groups, (height, width))
        yield (x, W, None, window, groups, (height, width), ops.relu)


def transposed_backward(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for dy, x, W, *more in convolutions_backward(rng, dtype):
        yield (x, dy, W, *more)


POOLED = [
    (1, 1, 1, 1, Window((1, 1))),
    (3, 4, 6, 2, Window((2, 2), (2, 2))),
    (3, 5, 7, 2, Window((2, 2), (2, 2))),
    (2, 7, 6, 3, Window((3, 3), (2, 2), padding=((1, 1), (1, 1)))),
    (2, 6, 5, 1, Window((3, 2), (1, 1), padding=((0, 2), (1, 0)))),
    (2, 8, 8, 2, Window((2, 3), (3, 4))),
    (2, 6, 6, 2, Window((6, 6), (6, 6))),
    (0, 4, 4, 2, Window((2, 2), (2, 2))),
    (40, 16, 12, 9, Window((2, 2), (2, 2))),
]


def pooled(value: Callable[..., Any]) -> Callable[..., Iterator[tuple[Any, ...]]]:
    """Images with and without special numbers, and with many that are equal."""

    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        gaps = [(2, 7, 7, 2, Window((3, 2), (2, 1), (2, 3)))] if value is not mean else []
        for n, height, width, c, window in POOLED + gaps:
            shape = (n, height, width, c)
            for x in (normal(rng, shape, dtype), special(rng, shape, dtype), rng.integers(0, 2, shape).astype(dtype)):
                yield from value(rng, dtype, x, window)

    return cases


def largest(rng: Any, dtype: str, x: Any, window: Window) -> Iterator[tuple[Any, ...]]:
    yield (x, window)


def largest_backward(rng: Any, dtype: str, x: Any, window: Window) -> Iterator[tuple[Any, ...]]:
    yield (normal(rng, (x.shape[0], *window.places(*x.shape[1:3]), x.shape[3]), dtype), x, window)


def mean(rng: Any, dtype: str, x: Any, window: Window) -> Iterator[tuple[Any, ...]]:
    yield (x, window, True)
    yield (x, window, False)


def mean_backward(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for n, height, width, c, window in POOLED:
        dy = normal(rng, (n, *window.places(height, width), c), dtype)
        for padding in (True, False):
            yield (dy, window, (height, width), padding)


IMAGES = [(1, 1, 1, 1), (2, 3, 4, 5), (3, 1, 2, 1), (5, 7, 7, 3)]


def images(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in IMAGES:
        yield (normal(rng, shape, dtype),)
        yield (special(rng, shape, dtype),)


def images_backward(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in IMAGES:
        dy = normal(rng, (shape[0], shape[3]), dtype)
        yield (dy, normal(rng, shape, dtype))
        yield (dy, special(rng, shape, dtype))
        yield (dy, rng.integers(0, 2, shape).astype(dtype))


def affine(rng: Any, n: int, dtype: str) -> Iterator[tuple[Any, Any]]:
    yield normal(rng, (n,), dtype), normal(rng, (n,), dtype)
    yield None, None


def batch_norm(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in (*SHAPES[1:], (700, 130)):
        for weight, bias in affine(rng, shape[-1], dtype):
            yield (normal(rng, shape, dtype), weight, bias, 1e-5)
            yield (3 + 10 * normal(rng, shape, dtype), weight, bias, 0.1)


def known(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    """x and statistics of its features."""
    for shape in (*SHAPES, (700, 130)):
        statistics = normal(rng, shape[-1:], dtype), (normal(rng, shape[-1:], dtype) ** 2 + 0.1).astype(dtype)
        yield (normal(rng, shape, dtype), *statistics)


def scale_shift(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for x, mean, variance in known(rng, dtype):
        for weight, bias in affine(rng, x.shape[-1], dtype):
            yield (x, mean, variance, weight, bias, 1e-5)


def of_statistics(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for x, mean, variance in known(rng, dtype):
        for weight, _ in affine(rng, x.shape[-1], dtype):
            for need_dx in (True, False):
                yield (normal(rng, x.shape, dtype), x, mean, variance, weight, 1e-5, need_dx)


GROUPED = [((1, 1), 1), ((3, 4), 2), ((5, 6), 6), ((2, 3, 4), 1), ((3, 5, 4, 6), 3), ((0, 3, 4), 2)]


def group_norm(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape, groups in GROUPED:
        for weight, bias in affine(rng, shape[-1], dtype):
            yield (1 + normal(rng, shape, dtype), weight, bias, groups, 0.1)


def group_norm_backward(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape, groups in GROUPED:
        statistics = normal(rng, (shape[0], groups), dtype), normal(rng, (shape[0], groups), dtype) ** 2
        for weight, _ in affine(rng, shape[-1], dtype):
            for need_dx in (True, False):
                x, dy = normal(rng, shape, dtype), normal(rng, shape, dtype)
                yield (dy, x, *statistics, weight, groups, 0.1, need_dx)


def blends(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for n in (1, 7):
        target, source, new = (normal(rng, (n,), dtype) for _ in range(3))
        yield (target, source, new, 0.1, 1.25)
        yield (normal(rng, (n,), dtype), source, new, 1.0, 1.0)


def commits(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for ok in flags():
        yield (normal(rng, (5,), dtype), normal(rng, (5,), dtype), ok)


def axes(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape, order in (
        ((2, 3), (1, 0)),
        ((2, 3, 4, 5), (0, 3, 1, 2)),
        ((0, 2, 3), (0, 2, 1)),
        ((1, 1, 2), (2, 0, 1)),
    ):
        yield (normal(rng, shape, dtype), order)


def dropped(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape, axis in (((3, 4), 1), ((2, 3, 5), 2), ((2, 3, 4, 5), 3), ((2, 3, 4, 5), 1), ((0, 3), 1)):
        yield (special(rng, shape, dtype), counters(), 1, KEY, 0.4, axis)


CASES: dict[str, Cases] = {
    "conv2d": convolutions,
    "conv2d_backward": convolutions_backward,
    "conv_transpose2d": transposed,
    "conv_transpose2d_backward": transposed_backward,
    "max_pool2d": pooled(largest),
    "max_pool2d_backward": pooled(largest_backward),
    "avg_pool2d": pooled(mean),
    "avg_pool2d_backward": mean_backward,
    "global_avg_pool": images,
    "global_avg_pool_backward": lambda rng, dtype: (
        (normal(rng, (shape[0], shape[3]), dtype), shape[1:3]) for shape in IMAGES
    ),
    "global_max_pool": images,
    "global_max_pool_backward": images_backward,
    "batch_norm": batch_norm,
    "batch_norm_backward": of_statistics,
    "scale_shift": scale_shift,
    "scale_shift_backward": of_statistics,
    "group_norm": group_norm,
    "group_norm_backward": group_norm_backward,
    "blend_": blends,
    "commit_": commits,
    "transpose": axes,
    "dropout_channels": dropped,
}
