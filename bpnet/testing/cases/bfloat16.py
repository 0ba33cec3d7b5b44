"""Sample arguments for what computes in bfloat16. All are float32 and bits, whatever dtype is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.testing.cases import arrays, images, recurrent, sequences, updates
from bpnet.testing.cases.common import SHAPES, Cases, normal, special

SINGLE = "float32"


def bits(rng: Any, shape: Any, exact: bool) -> Any:
    """Bits of bfloat16 numbers; of small whole ones where sums must be exact in any order."""
    x = rng.integers(-8, 9, shape).astype(SINGLE) if exact else normal(rng, shape, SINGLE)
    return halved(x)


def halved(x: Any) -> Any:
    """The upper halves of float32 numbers."""
    return (x.view(np.uint32) >> 16).astype(np.uint16)


def slope(rng: Any, shape: Any, exact: bool) -> Any:
    return rng.integers(-8, 9, shape).astype(SINGLE) if exact else normal(rng, shape, SINGLE)


def numbers(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    """Of every magnitude: ties, neighbours of powers of 2, subnormal ones, those that round to infinity; and NaN."""
    for shape in SHAPES:
        yield (normal(rng, shape, SINGLE),)
        yield (special(rng, shape, SINGLE),)
    words = rng.integers(0, 2**32, 4000, dtype=np.uint32)
    words[::3] &= np.uint32(0xFFFF8000)  # halfway, or exact
    yield (words.view(SINGLE),)
    top = np.arange(0, 0x7F81, 37, dtype=np.uint32) << 16
    payloads = np.asarray([0x7F80_0001, 0x7FBF_FFFF, 0x7FFF_FFFF], np.uint32)  # NaNs that infinity and zero are next to
    around = np.concatenate([*(top + each for each in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)), payloads])
    yield (np.concatenate([around, around | 0x80000000]).astype(np.uint32).view(SINGLE),)


def every_number(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    yield (np.arange(2**16, dtype=np.uint16),)
    for shape in SHAPES:
        yield (bits(rng, shape, False),)


def into(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for (x,) in numbers(rng, dtype):
        yield (rng.integers(0, 2**16, x.shape).astype(np.uint16), x)


def linear(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    exact = dtype != SINGLE
    for leading in ((1,), (4,), (0,), (2, 3), (130,)):
        for n_in, n_out in ((1, 1), (5, 3), (64, 33)):
            x, W = bits(rng, (*leading, n_in), exact), bits(rng, (n_in, n_out), exact)
            b = slope(rng, (n_out,), exact)
            yield (x, W, b)
            yield (x, W, None)
            yield (x, W, b, ops.relu)
            yield (x, W, None, ops.relu)
            if not exact:
                yield (x, W, b, ops.tanh)
                yield (x, W, b, ops.leaky_relu, 0.1)


def linear_backward(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    exact = dtype != SINGLE
    for leading in ((1,), (4,), (0,), (2, 3), (130,)):
        for n_in, n_out in ((1, 1), (5, 3), (64, 33)):
            x, W = bits(rng, (*leading, n_in), exact), bits(rng, (n_in, n_out), exact)
            dy = slope(rng, (*leading, n_out), exact)
            for flags in ((True, True), (False, True), (True, False), (True, True, False), (False, True, False)):
                yield (dy, x, W, *flags)


def of_bits(cases: Cases, *places: int) -> Cases:
    """The cases of an op of float32 with bits at these places; of small whole numbers where sums must be exact."""

    def found(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for args in cases(rng, SINGLE):
            own = list(args)
            for place, each in enumerate(own):
                if isinstance(each, np.ndarray) and each.dtype == np.float32:
                    number = each if dtype == SINGLE else np.clip(np.round(3 * each), -8, 8)
                    own[place] = halved(number) if place in places else number
            yield tuple(own)

    return found


def with_softmax(cases: Cases, *places: int) -> Cases:
    """The same without the whole numbers, and with fewer of the largest."""

    def found(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for args in of_bits(cases, *places)(rng, SINGLE):
            *_, mask, _, _, causal, _ = args
            if max(each.shape[1] for each in args if isinstance(each, np.ndarray)) < 1000 or (
                causal and mask is not None
            ):
                yield args

    return found


def with_states(cases: Cases, *places: int) -> Cases:
    """The same without the whole numbers, of which gates would be 0 and 1."""
    return lambda rng, dtype: of_bits(cases, *places)(rng, SINGLE)


EXACT = ((ops.relu,), (ops.leaky_relu, 0.5))
OTHERS = ((ops.sigmoid,), (ops.tanh,), (ops.gelu,), (ops.gelu_tanh,), (ops.elu, 0.5), (ops.silu,), (ops.softplus,),
          (ops.mish,), (ops.hardswish,), (ops.gelu_with_slope,), (ops.gelu_tanh_with_slope,))  # fmt: skip


def also(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    """Few numbers where a last bit may differ, of which one of many rounds otherwise."""
    for shape in SHAPES:
        for op, *more in EXACT:
            yield (special(rng, shape, SINGLE), op, *more)
    if dtype != SINGLE:
        return
    for shape in ((1,), (2, 4)):
        for op, *more in OTHERS:
            yield (normal(rng, shape, SINGLE), op, *more)
    for shape in ((1, 1), (3, 4), (2, 1, 5)):
        gain, bias = normal(rng, shape[-1:], SINGLE), normal(rng, shape[-1:], SINGLE)
        for given in ((ops.layer_norm, gain, bias), (ops.layer_norm, gain, None), (ops.rms_norm, gain)):
            yield (2 + normal(rng, shape, SINGLE), *given, 0.1)
    for x, *rest in arrays.dropout(rng, SINGLE):
        yield (x, ops.dropout, *rest)
    for heads, size in ((1, 1), (2, 4), (3, 8)):
        q, k, v = (halved(normal(rng, (2, length, heads * size), SINGLE)) for length in (3, 1, 1))
        yield (q, ops.attention_bf16, k, v, None, None, heads, False, 0.0)  # of one key: y is v
        qkv = halved(normal(rng, (2, 1, 3 * heads * size), SINGLE))
        yield (qkv, ops.self_attention_bf16, None, None, heads, True, 0.0)


def update(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    alike = (ops.sgd_, ops.sgd_momentum_, ops.rmsprop_)  # all bodies give the same bits
    others = (ops.adam_, ops.amsgrad_, ops.adagrad_, ops.lion_)
    for op in (*alike, *(others if dtype == SINGLE else ())):
        for value, *rest in updates.CASES[op.name](rng, SINGLE):
            # Where a value's last bit may differ, one of many rounds otherwise.
            if value.size <= 5 or (value.size == 16385 and op in alike):
                yield (value, ops.to_bf16(value), op, *rest)


CASES: dict[str, Cases] = {
    "to_bf16": numbers,
    "from_bf16": every_number,
    "round_bf16_": into,
    "linear_bf16": linear,
    "linear_bf16_backward": linear_backward,
    "also_bf16": also,
    "update_bf16_": update,
    "unembed_bf16": of_bits(sequences.scores, 0, 1),
    "unembed_bf16_backward": of_bits(sequences.scores_backward, 1, 2),
    "conv2d_bf16": of_bits(images.convolutions, 0, 1),
    "conv2d_bf16_backward": of_bits(images.convolutions_backward, 1, 2),
    "conv_transpose2d_bf16": of_bits(images.transposed, 0, 1),
    "conv_transpose2d_bf16_backward": of_bits(images.transposed_backward, 1, 2),
    "attention_bf16": with_softmax(sequences.attention, 0, 1, 2),
    "attention_bf16_backward": with_softmax(sequences.attention_backward, 2, 3, 4),
    "self_attention_bf16": with_softmax(sequences.self_attention, 0),
    "self_attention_bf16_backward": with_softmax(sequences.self_attention_backward, 2),
    "rnn_bf16": with_states(recurrent.CASES["rnn"], 0, 1, 2),
    "rnn_bf16_backward": with_states(recurrent.CASES["rnn_backward"], 2, 3, 4),
    "lstm_bf16": with_states(recurrent.CASES["lstm"], 0, 1, 2),
    "lstm_bf16_backward": with_states(recurrent.CASES["lstm_backward"], 2, 3, 4),
    "gru_bf16": with_states(recurrent.CASES["gru"], 0, 1, 2),
    "gru_bf16_backward": with_states(recurrent.CASES["gru_backward"], 2, 3, 4),
}

ROUNDED_WITHIN = frozenset(
    name for name in CASES if name.startswith(("attention", "self_attention", "rnn", "lstm", "gru"))
)
"""Ops that round numbers which they have made: a last bit of float32 decides now and then which way."""
