"""More sample arguments for the kernels of images, norms and tables: all activations, wide rows, several blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.ops.windows import Window
from bpnet_cupy.names import ACTIVATIONS

SIDES = ((1, 1), (1, 1))

# (N, H, W, C, O, groups, window): packs of channels, groups of packs, several outputs a channel, many rows
WIDE: list[tuple[int, int, int, int, int, int, Window]] = [
    (2, 5, 6, 8, 12, 1, Window((3, 3), (2, 1), (1, 2), ((1, 1), (2, 2)))),
    (2, 5, 4, 8, 16, 2, Window((2, 3), padding=SIDES)),
    (3, 5, 5, 8, 8, 8, Window((3, 2), (2, 2), (1, 2), SIDES)),
    (2, 4, 5, 3, 6, 3, Window((3, 3), padding=SIDES)),
    (2, 9, 9, 20, 20, 20, Window((3, 3), padding=SIDES)),
    (1, 3, 3, 6, 6, 6, Window((1, 1))),
    (2, 4, 3, 6, 4, 2, Window((1, 1))),
]


def _arrays(rng: Any, dtype: str, *shapes: tuple[int, ...]) -> tuple[Any, ...]:
    return tuple(rng.normal(size=shape).astype(dtype) for shape in shapes)


def _activations() -> Iterator[tuple[Any, ...]]:
    for name in (*ACTIVATIONS, "normal_cdf"):
        yield (getattr(ops, name), *((0.3,) if name in ("leaky_relu", "elu") else ()))


def convolutions(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for n, height, width, c, o, groups, window in WIDE:
        x, W, b = _arrays(rng, dtype, (n, height, width, c), (*window.size, c // groups, o), (o,))
        yield (x, W, b, window, groups)
        if groups > 1:
            for activation in _activations():
                yield (x, W, b, window, groups, *activation)
                yield (x, W, None, window, groups, *activation)


def transposed(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for n, height, width, c, o, groups, window in WIDE:
        x, W, b = _arrays(rng, dtype, (n, *window.places(height, width), o), (*window.size, c // groups, o), (c,))
        yield (x, W, b, window, groups, (height, width))
        for activation in _activations():
            yield (x, W, b, window, groups, (height, width), *activation)


def convolutions_backward(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for n, height, width, c, o, groups, window in WIDE:
        yield (
            *_arrays(
                rng, dtype, (n, *window.places(height, width), o), (n, height, width, c), (*window.size, c // groups, o)
            ),
            window,
            groups,
        )


def transposed_backward(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for dy, x, *rest in convolutions_backward(rng, dtype):
        yield (x, dy, *rest)


POOLED = (2, 7, 6, 8, Window((3, 2), (2, 1), padding=((1, 1), (0, 1))))


def pooled(backward: bool, *more: Any) -> Any:
    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        n, height, width, c, window = POOLED
        (x,) = _arrays(rng, dtype, (n, height, width, c))
        (dy,) = _arrays(rng, dtype, (n, *window.places(height, width), c))
        if more:
            yield (dy, window, (height, width), *more) if backward else (x, window, *more)
        else:
            yield (dy, x, window) if backward else (x, window)

    return cases


def many_channels(backward: str = "") -> Any:
    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for shape in ((2, 5, 7, 40), (3, 9, 4, 17)):
            x, dy = _arrays(rng, dtype, shape, (shape[0], shape[3]))
            yield {"": (x,), "dy": (dy, shape[1:3]), "dy, x": (dy, x)}[backward]

    return cases


ROWS = ((3, 17), (9, 40), (2, 1024), (3, 1025), (2, 2, 1500), (300, 12), (1, 8))


def rows(backward: bool, centred: bool) -> Any:
    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for shape in ROWS:
            x, h, gain, bias = _arrays(rng, dtype, shape, shape, shape[-1:], shape[-1:])
            r = np.abs(rng.normal(size=(*shape[:-1], 1))).astype(dtype)
            if backward:
                yield (x, h, r, gain)
                yield (x, h, r, gain, False, False, True)[: 7 if centred else 6]
            else:
                yield (2 + x, gain, bias, 1e-5) if centred else (2 + x, gain, 1e-5)

    return cases


def columns(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape in ((1000, 3), (300, 40), (65, 1), (3, 10, 8, 20)):
        x, weight, bias = _arrays(rng, dtype, shape, shape[-1:], shape[-1:])
        yield (5 + x, weight, bias, 1e-5)


def groups(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape, n in (((2, 5, 5, 16), 2), ((3, 16, 16, 12), 2), ((2, 9, 8, 64), 1), ((70, 8), 4), ((90, 3, 20), 5)):
        yield (1 + _arrays(rng, dtype, shape)[0], *_arrays(rng, dtype, shape[-1:], shape[-1:]), n, 1e-3)


def groups_backward(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for x, weight, _, n, epsilon in groups(rng, dtype):
        dy, mean, variance = _arrays(rng, dtype, x.shape, (x.shape[0], n), (x.shape[0], n))
        yield (dy, x, mean, variance**2, weight, n, epsilon)


def tokens(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for n, n_tokens, width in ((40, 7, 3), (3, 5, 8), (1300, 20, 3), (3000, 20, 6), (1025, 3, 130)):
        for kind in (np.int32, np.int64):
            ids = rng.integers(-2, n_tokens + 1, n).astype(kind)
            ids[: n // 3] = 2  # one that is named often
            yield ids, *_arrays(rng, dtype, (n_tokens, width), (n, width))


def gates(backward: bool) -> Any:
    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for shape, half in (((5,), 8), ((2, 3), 12), ((300,), 4), ((1,), 6)):
            x, dy = _arrays(rng, dtype, (*shape, 2 * half), (*shape, half))
            yield (dy, x) if backward else (x,)

    return cases


def positions(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape, length, start in (((2, 3, 8), 9, 2), ((5, 12), 5, 0), ((3, 2, 4, 16), 4, 0), ((70, 2, 4), 3, 1)):
        yield (*_arrays(rng, dtype, shape, (length, shape[-1])), start)


def axes(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape, order in (
        ((3, 40, 35), (0, 2, 1)),
        ((2, 5, 7, 9), (0, 3, 1, 2)),
        ((2, 3, 1, 8), (1, 2, 0, 3)),
        ((4, 3), (0, 1)),
        ((2, 3, 4), (2, 1, 0)),
    ):
        yield (*_arrays(rng, dtype, shape), order)


EXTRA: dict[str, tuple[Any, ...]] = {
    "conv2d": (convolutions,),
    "conv_transpose2d": (transposed,),
    "conv2d_backward": (convolutions_backward,),
    "conv_transpose2d_backward": (transposed_backward,),
    "max_pool2d": (pooled(False),),
    "max_pool2d_backward": (pooled(True),),
    "avg_pool2d": (pooled(False, True), pooled(False, False)),
    "avg_pool2d_backward": (pooled(True, True), pooled(True, False)),
    "global_avg_pool": (many_channels(),),
    "global_avg_pool_backward": (many_channels("dy"),),
    "global_max_pool": (many_channels(),),
    "global_max_pool_backward": (many_channels("dy, x"),),
    "layer_norm": (rows(False, True),),
    "layer_norm_backward": (rows(True, True),),
    "rms_norm": (rows(False, False),),
    "rms_norm_backward": (rows(True, False),),
    "batch_norm": (columns,),
    "group_norm": (groups,),
    "group_norm_backward": (groups_backward,),
    "embedding": (lambda rng, dtype: ((ids, W) for ids, W, _ in tokens(rng, dtype)),),
    "embedding_backward": (lambda rng, dtype: ((dy, ids, len(W)) for ids, W, dy in tokens(rng, dtype)),),
    "transpose": (axes,),
    "swiglu": (gates(False),),
    "swiglu_backward": (gates(True),),
    "gelu_with_slope": (gates(False),),
    "add_positions": (positions,),
    "add_positions_backward": (lambda rng, dtype: ((x, len(table)) for x, table, _ in positions(rng, dtype)),),
}
