"""More sample arguments for the CUDA kernels: wide rows, tall columns, every activation behind a product."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cuda_image_cases
import numpy as np

from bpnet import ops
from bpnet.dispatch import Kernel
from bpnet.ops.windows import Window
from bpnet.testing.cases import CASES
from bpnet.testing.cases.bfloat16 import of_bits
from bpnet_cupy.names import ACTIVATIONS


def wide_rows(arrays: int) -> Any:
    """Rows that a warp shares, and rows that a block does."""

    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for shape in ((3, 17), (9, 40), (2, 1024), (3, 1025), (2, 3000)):
            yield tuple(rng.normal(size=shape).astype(dtype) for _ in range(arrays))

    return cases


def wide_labels(*more: Any) -> Any:
    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for (x,) in wide_rows(1)(rng, dtype):
            for kind in (np.int32, np.int64):
                labels = rng.integers(0, x.shape[1], x.shape[0]).astype(kind)
                labels[0] = -1
                yield (x, labels, *more)

    return cases


def wide_targets(*more: Any) -> Any:
    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for x, Q in wide_rows(2)(rng, dtype):
            Q = np.abs(Q)
            Q[0] = 0
            yield (x, Q, *more)

    return cases


def with_activation(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for shape, columns in (((5, 3), 8), ((7, 4), 3), ((2, 3, 4), 5)):
        x = rng.normal(size=shape).astype(dtype)
        W, b = rng.normal(size=(shape[-1], columns)).astype(dtype), rng.normal(size=columns).astype(dtype)
        for name in (*ACTIVATIONS, "normal_cdf"):
            settings = (0.3,) if name in ("leaky_relu", "elu") else ()
            yield (x, W, b, getattr(ops, name), *settings)
            yield (x, W, None, getattr(ops, name), *settings)


def tall(arrays: int, more: Any = None) -> Any:
    """So many rows that several blocks sum them."""

    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for shape in ((1000, 3), (300, 40), (65, 1), (4097, 2)):
            x = tuple(rng.normal(size=shape).astype(dtype) for _ in range(arrays))
            yield (*x, rng.normal(size=shape[1]).astype(dtype)) if more is None else (*x, *more)
            if more is None:
                yield (*x, np.array([0.3], dtype))

    return cases


def tall_labels(*more: Any) -> Any:
    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for n, c in ((3000, 3), (700, 20)):
            labels = rng.integers(-1, c + 1, n)
            yield (rng.normal(size=(n, c)).astype(dtype), labels, *more)

    return cases


def tall_probabilities(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for x, *more in tall_labels(7.0)(rng, dtype):
        yield (np.exp(x), *more)


def tall_backward(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for n, n_in, n_out in ((1000, 3, 5), (300, 2, 40), (5000, 1, 1)):
        yield tuple(rng.normal(size=s).astype(dtype) for s in ((n, n_out), (n, n_in), (n_in, n_out)))


def uncentered(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    value, grad, velocity = (rng.normal(size=1000).astype(dtype) for _ in range(3))
    state = (np.array(True), np.array(0.01), np.array([3, 0]))
    yield (value, grad, value**2, None, velocity, *state, 0.9, 1e-8, 0.9, 0.0)


def wide_single_rows(name: str) -> Any:
    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for x, Q in wide_targets()(rng, dtype):
            rows = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
            first = {"p": rows, "log": np.log(rows)}.get(name.partition("_")[0], x).astype(dtype)
            own = (rng.normal(size=len(x)).astype(dtype),) if name.endswith("backward") else ()
            yield (*own, first, Q, *((2.0,) if "focal" in name else ()))

    return cases


EXTRA: dict[str, tuple[Any, ...]] = {
    "soft_cross_entropy_rows": (wide_single_rows("logits"),),
    "soft_cross_entropy_rows_backward": (wide_single_rows("logits_backward"),),
    "focal_rows": (wide_single_rows("focal"),),
    "focal_rows_backward": (wide_single_rows("focal_backward"),),
    "probability_cross_entropy_rows": (wide_single_rows("p"),),
    "negative_log_likelihood_rows": (wide_single_rows("log"),),
    "kl_divergence_rows": (wide_single_rows("log"),),
    "softmax": (wide_rows(1),),
    "softmax_backward": (wide_rows(2),),
    "log_softmax": (wide_rows(1),),
    "log_softmax_backward": (wide_rows(2),),
    "softmax_cross_entropy": (wide_labels(2.5), tall_labels(7.0)),
    "softmax_cross_entropy_gradient": (wide_labels(2.5, 3.0), tall_labels(7.0, 0.5)),
    "soft_cross_entropy": (wide_targets(2.5), wide_targets(np.array(0.0))),
    "soft_cross_entropy_gradient": (wide_targets(2.5, 3.0), wide_targets(np.array(4.0), 3.0)),
    "soft_cross_entropy_backward": (wide_targets(2.5, 3.0),),
    "categorical_cross_entropy": (
        lambda rng, dtype: ((np.exp(x), *rest) for x, *rest in tall_labels(7.0)(rng, dtype)),
    ),
    "count_correct": (wide_labels(None), wide_labels(-1), tall_labels(0)),
    "count_correct_binary": (tall(2, (0.5,)),),
    "mean_squared_error": (tall(2, (3.0,)), tall(2, (np.array(0.0),))),
    "weighted_sum": (tall(1, (None, 3.0)),),
    "linear": (with_activation,),
    "linear_backward": (tall_backward,),
    "prelu_backward": (tall(2),),
    "rmsprop_": (uncentered,),
    "copy": (lambda rng, dtype: iter([(np.arange(37),), (rng.uniform(size=77) > 0.5,)]),),
    "fill_": (lambda rng, dtype: iter([(np.zeros((3, 5), np.bool_), True), (np.array(False), True)]),),
    "label_weight": (lambda rng, dtype: iter([(rng.integers(-1, 4, 5000), 3, (1.0, 2.0, 3.0), 0, None)]),),
    "accumulate_": (lambda rng, dtype: iter([(np.zeros(2), np.array(2.5, dtype), np.array(3, np.float32))]),),
    "penalty": (lambda rng, dtype: iter([((rng.normal(size=9000).astype(dtype),), (0.1,), (0.2,))]),),
    **cuda_image_cases.EXTRA,
}


def heads_of(*shapes: tuple[int, int, int, int, int]) -> Any:
    """q, k, v and what stands behind them, of (samples, queries, keys, heads, features of a head)."""

    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for n, n_queries, n_keys, heads, size in shapes:
            q, k, v = (
                rng.normal(size=(n, length, heads * size)).astype(dtype) for length in (n_queries, n_keys, n_keys)
            )
            mask = np.arange(n_keys) < rng.integers(1, n_keys + 1, size=(n, 1))
            keep = rng.uniform(size=(n, heads, n_queries, n_keys)) > 0.25
            yield q, k, v, mask, keep, heads, n_queries == n_keys, 0.25

    return cases


def side_by_side(cases: Any) -> Any:
    def more(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for q, k, v, *settings in cases(rng, dtype):
            if q.shape == k.shape:
                yield np.concatenate((q, k, v), axis=-1), *settings

    return more


def of_attention(name: str, cases: Any) -> Any:
    """The cases of `attention` as those of an op of its family."""

    def more(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        forward = name.removesuffix("_backward")
        for args in (side_by_side(cases) if forward == "self_attention" else cases)(rng, dtype):
            if forward == name:
                yield args
            else:
                given = 3 if forward == "attention" else 1
                y, kept = getattr(ops, forward).reference.body(*args)
                dy = rng.normal(size=y.shape).astype(dtype)
                yield dy, y, *args[:given], kept, *args[given:]

    return more


def many_rows(columns: int, *more: Any) -> Any:
    """So many rows that several blocks sum them, with labels."""

    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for kind in (np.int32, np.int64):
            x = rng.normal(size=(700, columns)).astype(dtype)
            yield (x, rng.integers(-1, columns + 1, len(x)).astype(kind), *more)

    return cases


def answers(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for kind in (np.int32, np.int64):
        yield rng.integers(-1, 6, 300), rng.integers(-1, 6, 300).astype(kind), 5, None
        yield rng.integers(0, 5, 7), rng.integers(0, 5, 7).astype(kind), 5, 2


def margins(*, backward: bool) -> Any:
    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for (x,) in wide_rows(1)(rng, dtype):
            Q = np.zeros_like(x)
            Q[np.arange(len(x)), rng.integers(0, x.shape[1], len(x))] = rng.uniform(0.5, 2, len(x))
            yield (*((rng.normal(size=len(x)).astype(dtype),) if backward else ()), x, Q, 1.0)

    return cases


EXTRA |= {
    "largest": (wide_rows(1),),
    "count_top_k": (wide_labels(2, None), many_rows(5, 2, 0), many_rows(40, 7, None)),
    "sum_log_loss": (wide_labels(True, -1), many_rows(5, True, None), many_rows(40, False, 0)),
    "confusion": (answers,),
    "class_counts": (answers,),
    "sum_errors": (tall(2, (1,)), tall(2, (2,))),
    "sum_deviations": (tall(2, (0.5,)),),
    "sum_weights": (lambda rng, dtype: iter([(rng.uniform(size=9000).astype(dtype), 2.0)]),),
    "soft_weight": (lambda rng, dtype: iter([(rng.uniform(size=(3000, 3)).astype(dtype), (1.0, 2.0, 0.5), None)]),),
    "multiclass_hinge_rows": (margins(backward=False),),
    "multiclass_hinge_rows_backward": (margins(backward=True),),
}

# Every size of heads that is compiled, with ends of tiles that are not full; and so many heads that tiles are large.
EXACT_ATTENTION = ("attention", "attention_backward", "self_attention", "self_attention_backward")
SIZES = heads_of((1, 35, 35, 1, 20), (1, 33, 40, 2, 33), (2, 3, 3, 1, 100), (1, 5, 5, 2, 64))
MANY_HEADS = heads_of((6, 1, 1, 44, 20), (6, 1, 1, 44, 50), (6, 1, 1, 44, 100))
EXTRA |= {name: (of_attention(name, SIZES),) for name in EXACT_ATTENTION}
COSTLY = {name: (of_attention(name, MANY_HEADS),) for name in EXACT_ATTENTION}

# By products of whole matrices: heads that no tile holds, and rows that a thread group, a warp and a block share.
WIDE_HEADS = heads_of((2, 3, 3, 1, 130), (1, 4, 40, 2, 129), (1, 2, 1030, 1, 132))
WIDE_ROWS = heads_of((2, 3, 5, 2, 8), (1, 4, 40, 3, 5), (1, 2, 1030, 2, 4))
OF_BITS = {
    "attention": (0, 1, 2),
    "attention_backward": (2, 3, 4),
    "self_attention": (0,),
    "self_attention_backward": (2,),
    "conv2d": (0, 1),
    "conv2d_backward": (1, 2),
    "conv_transpose2d": (0, 1),
    "conv_transpose2d_backward": (1, 2),
}
"""Where the ops of the same name in bfloat16 take bits."""


def in_bf16(name: str) -> str:
    return name.replace("_backward", "") + "_bf16" + ("_backward" if name.endswith("_backward") else "")


ATTENTION = (*EXACT_ATTENTION, *map(in_bf16, EXACT_ATTENTION))
for name in EXACT_ATTENTION:
    EXTRA[name] += (of_attention(name, WIDE_HEADS),)
    EXTRA[in_bf16(name)] = (of_bits(of_attention(name, WIDE_ROWS), *OF_BITS[name]),)


def groups_of_one_output(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    x, W = (rng.normal(size=shape).astype(dtype) for shape in ((2, 5, 5, 4), (2, 3, 2, 2)))
    yield x, W, None, Window((2, 3)), 2


def exact(cases: Any, *places: int) -> Any:
    """The cases with bits at these places; where sums must be exact, without functions whose values are not."""

    def found(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for args in of_bits(cases, *places)(rng, dtype):
            behind = {each for each in args if isinstance(each, Kernel)}
            if dtype == "float32" or behind <= {ops.relu, ops.leaky_relu}:
                yield args

    return found


EXTRA |= {in_bf16(name): tuple(exact(e, *OF_BITS[name]) for e in EXTRA[name]) for name in OF_BITS if "conv" in name}
EXTRA["conv2d_bf16"] += (exact(groups_of_one_output, 0, 1),)


def cases_of(name: str, dtype: str, *, costly: bool = False) -> Iterator[tuple[Any, ...]]:
    """The cases of an op and more; those that take a host seconds only where asked for."""
    rng = np.random.default_rng(0)
    for cases in (CASES[name], *EXTRA.get(name, ())):
        for args in cases(rng, dtype):
            if costly or name not in ATTENTION or not too_many(args):
                yield args
    if costly:
        for cases in COSTLY.get(name, ()):
            yield from cases(rng, dtype)


def too_many(args: tuple[Any, ...]) -> bool:
    """Whether there are so many probabilities that threads that take turns need seconds for them."""
    shapes = [arg.shape for arg in args if isinstance(arg, np.ndarray) and arg.ndim == 3 and arg.dtype.kind in "fu"]
    return max(n * length for n, length, _ in shapes) > 1500
