"""The entries of the layers of sequences."""

from __future__ import annotations

from typing import Any

import numpy as np

import bpnet as bp
from bpnet.errors import DTypeError
from bpnet.testing.cases.entries import BadArguments, BadInputs, Entry, LayerCase
from bpnet.testing.inputs import SampleInputs


def zeros(*shape: int, dtype: str = "float32") -> Any:
    return np.zeros(shape, dtype)


def mask(length: int) -> Any:
    """Makes masks of sequences of at least one token, the rest being padding."""

    def draw(rng: Any, n: int) -> Any:
        return np.arange(length) < rng.integers(1, length + 1, size=(n, 1))

    return draw


def sequence(length: int, width: int, **more: Any) -> tuple[SampleInputs, ...]:
    return (SampleInputs((length, width), **more),)


def ids(below: int, *shapes: tuple[int, ...]) -> tuple[SampleInputs, ...]:
    return tuple(SampleInputs(shape, below=below) for shape in shapes)


NO_SEQUENCE = r"needs x of shape \(N, T, {}\), got \(5, {}\); for one sequence use x\[None, ...\]"
NO_POSITION = r"needs sequences of at least one position, got x of shape \(5, 0, {}\)"
NOT_TWO = "at least 1 {} and 1 feature, whole numbers: got"


SEQUENCE_LAYERS: dict[str, Entry[LayerCase]] = {
    "LayerNorm": Entry(
        {"": LayerCase(lambda: bp.LayerNorm(4)), "without bias": LayerCase(lambda: bp.LayerNorm(4, bias=False))},
        (
            BadArguments(lambda: bp.LayerNorm(0), "whole number of features, at least 1, got 0"),
            BadArguments(lambda: bp.LayerNorm(4, epsilon=0), "epsilon must be a number above 0 and below 1, got 0"),
            BadArguments(lambda: bp.LayerNorm(4, bias=1), "bias must be True or False"),  # type: ignore[arg-type]
        ),
        (
            BadInputs((zeros(5, 3),), r"LayerNorm\(4\) needs x of shape \(N, 4\), got \(5, 3\)"),
            BadInputs((zeros(5, 4, dtype="float64"),), "computes in float32, got x of float64", DTypeError),
        ),
    ),
    "RMSNorm": Entry(
        {"": LayerCase(lambda: bp.RMSNorm(4))},
        (
            BadArguments(lambda: bp.RMSNorm(2.5), "whole number of features"),  # type: ignore[arg-type]
            BadArguments(lambda: bp.RMSNorm(4, epsilon=True), "epsilon must be a number"),
        ),
        (BadInputs((zeros(5, 3),), r"RMSNorm\(4\) needs x of shape \(N, 4\), got \(5, 3\)"),),
    ),
    "SwiGLU": Entry(
        {"": LayerCase(lambda: bp.SwiGLU())},
        (),
        (BadInputs((zeros(8, 3),), r"SwiGLU\(\) halves the last axis, which must be even and at least 2"),),
    ),
    "Embedding": Entry(
        {
            "": LayerCase(lambda: bp.Embedding(5, 3), ids(5, (), (4,), (2, 3))),
            "of many tokens": LayerCase(lambda: bp.Embedding(300, 1), ids(300, (4,))),
        },
        (
            BadArguments(lambda: bp.Embedding(0, 4), NOT_TWO.format("token")),
            BadArguments(lambda: bp.Embedding(4, True), NOT_TWO.format("token")),
            BadArguments(lambda: bp.Embedding(4, 4, weight_initializer="he"), "unknown initializer 'he'"),
        ),
        (
            BadInputs((zeros(5, 4),), r"takes ids, integers in 0 ... 4, got x of float32", DTypeError),
            BadInputs((zeros(dtype="int64"),), r"needs ids of shape \(N, ...\), got a 0-d array"),
            BadInputs(([[1, 2]],), "arrays, got list; use model.asarray", DTypeError),
        ),
    ),
    "Unembedding": Entry(
        {"": LayerCase(lambda: bp.Unembedding(5, 4))},
        (BadArguments(lambda: bp.Unembedding(5, 0), NOT_TWO.format("token")),),
        (BadInputs((zeros(5, 3),), r"Unembedding\(5, 4\) needs x of shape \(N, 4\), got \(5, 3\)"),),
    ),
    "LearnedPositions": Entry(
        {"": LayerCase(lambda: bp.LearnedPositions(5, 2), (*sequence(3, 2), *sequence(5, 2), *sequence(1, 2)))},
        (BadArguments(lambda: bp.LearnedPositions(0, 4), NOT_TWO.format("position")),),
        (
            BadInputs((zeros(5, 2),), NO_SEQUENCE.format(2, 2)),
            BadInputs((zeros(5, 0, 2),), NO_POSITION.format(2)),
            BadInputs((zeros(5, 6, 2),), "has vectors for 5 positions, got sequences of 6; cut them, or make it with"),
            BadInputs((zeros(5, 3, 4),), r"LearnedPositions\(5, 2\) needs x of shape \(N, T, 2\), got \(5, 3, 4\)"),
        ),
    ),
    "SinusoidalPositions": Entry(
        {"": LayerCase(lambda: bp.SinusoidalPositions(), (*sequence(3, 4), *sequence(1, 2)))},
        (),
        (
            BadInputs((zeros(5, 4),), NO_SEQUENCE.format("D", 4)),
            BadInputs((zeros(5, 2, 3),), r"needs an even number of features, got x of shape \(5, 2, 3\)"),
        ),
    ),
    "MultiHeadAttention": Entry(
        {
            "": LayerCase(lambda: bp.MultiHeadAttention(4, 2), sequence(3, 4)),
            "with a mask": LayerCase(lambda: bp.MultiHeadAttention(2, 1), sequence(3, 2, side={"mask": mask(3)})),
            "causal, rotary, with dropout": LayerCase(
                lambda: bp.MultiHeadAttention(2, 1, causal=True, rotary=100.0, dropout=0.3, bias=False),
                (*sequence(3, 2), *sequence(1, 2)),
            ),
            "to a context": LayerCase(
                lambda: bp.MultiHeadAttention(2, 2, n_context=3, bias=False),
                sequence(2, 2, others=sequence(3, 3), side={"mask": mask(3)}),
            ),
        },
        (
            BadArguments(lambda: bp.MultiHeadAttention(4, 3), "that divides the features.*got 3 heads and 4 features"),
            BadArguments(lambda: bp.MultiHeadAttention(4, 0), "got 0 heads and 4 features"),
            BadArguments(lambda: bp.MultiHeadAttention(4, 2, dropout=1), r"dropout must be in \[0, 1\), got 1"),
            BadArguments(lambda: bp.MultiHeadAttention(6, 2, rotary=1e4), "a head has 3; choose heads of an even size"),
            BadArguments(lambda: bp.MultiHeadAttention(4, 2, causal=True, n_context=4), "leave n_context out"),
        ),
        (
            BadInputs((zeros(5, 4),), NO_SEQUENCE.format(4, 4)),
            BadInputs((zeros(5, 0, 4),), NO_POSITION.format(4)),
            BadInputs((zeros(2, 3, 4), zeros(2, 3, 4)), "takes one input; give it n_context to take a second"),
            BadInputs((zeros(2, 3, 4),), "takes a second input", make=lambda: bp.MultiHeadAttention(4, 2, n_context=4)),
            BadInputs(
                (zeros(2, 3, 4), zeros(3, 3, 4)),
                r"needs a context of shape \(2, S, 4\), S at least 1, got \(3, 3, 4\)",
                make=lambda: bp.MultiHeadAttention(4, 2, n_context=4),
            ),
        ),
    ),
    "TransformerBlock": Entry(
        {
            "": LayerCase(lambda: bp.TransformerBlock(2, 1, n_hidden=3, causal=True), sequence(2, 2)),
            "post-norm, with dropout and a mask": LayerCase(
                lambda: bp.TransformerBlock(2, 1, n_hidden=2, pre_norm=False, activation="relu", dropout=0.2),
                sequence(2, 2, side={"mask": mask(2)}),
            ),
            "gated, rotary, with RMSNorm": LayerCase(
                lambda: bp.TransformerBlock(
                    2, 1, n_hidden=2, norm="rms", activation="swiglu", rotary=100.0, bias=False
                ),
                sequence(2, 2),
            ),
        },
        (
            BadArguments(lambda: bp.TransformerBlock(4, 3), "got 3 heads and 4 features"),
            BadArguments(lambda: bp.TransformerBlock(4, 2, activation="gleu"), "got 'gleu'; did you mean 'gelu'"),
            BadArguments(lambda: bp.TransformerBlock(4, 2, norm="batch"), "norm must be one of 'layer', 'rms'"),
            BadArguments(lambda: bp.TransformerBlock(4, 2, n_hidden=0), "n_hidden must be a whole number"),
            BadArguments(
                lambda: bp.TransformerBlock(4, 2, pre_norm=1),  # type: ignore[arg-type]
                "pre_norm must be True or False, got 1",
            ),
        ),
        (
            BadInputs((zeros(5, 3, 3),), r"LayerNorm\(2\) needs x of shape \(N, 2\), got \(5, 3, 3\)"),
            BadInputs((zeros(5, 2),), NO_SEQUENCE.format(2, 2)),
        ),
    ),
}
