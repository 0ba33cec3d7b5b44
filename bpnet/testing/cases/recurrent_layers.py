"""The entries of recurrent layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import bpnet as bp
from bpnet.errors import DTypeError
from bpnet.testing.cases.entries import BadArguments, BadInputs, Entry, LayerCase
from bpnet.testing.inputs import SampleInputs

PLAIN = (SampleInputs((3, 2)),)
PADDED = (SampleInputs((3, 2), side={"lengths": lambda rng, n: rng.integers(0, 4, size=n)}),)


def zeros(*shape: int, dtype: str = "float32") -> Any:
    return np.zeros(shape, dtype)


def cases(make: Callable[..., bp.Layer]) -> dict[str, LayerCase]:
    return {
        "": LayerCase(lambda: make(2, 2), PLAIN),
        "padded": LayerCase(lambda: make(2, 2), PADDED),
        "stacked, last output": LayerCase(lambda: make(2, 1, n_layers=2, last=True), PLAIN),
        "both directions, last output of padded": LayerCase(lambda: make(2, 1, bidirectional=True, last=True), PADDED),
        "stacked, both directions, padded": LayerCase(lambda: make(2, 1, n_layers=2, bidirectional=True), PADDED),
    }


def bad_arguments(make: Callable[..., bp.Layer], name: str) -> tuple[BadArguments, ...]:
    return (
        BadArguments(
            lambda: make(0, 5), rf"^{name} needs at least 1 input and 1 hidden unit, whole numbers: got {name}\(0, 5\)$"
        ),
        BadArguments(lambda: make(3, 2.5), rf"got {name}\(3, 2.5\)$"),
        BadArguments(lambda: make(3, 4, n_layers=0), f"{name}: n_layers must be a whole number of at least 1, got 0"),
        BadArguments(lambda: make(3, 4, bidirectional="no"), f"{name}: bidirectional must be True or False, got 'no'"),
        BadArguments(lambda: make(3, 4, last=1), f"{name}: last must be True or False, got 1"),
        BadArguments(lambda: make(3, 4, weight_initializer="he"), "unknown initializer 'he'; known are"),
        BadArguments(lambda: make(3, 4, recurrent_initializer=3), "must be a function of .stream, shape. or a name"),
        BadArguments(lambda: make(3, 4, hidden=2), f"{name}: got an unexpected keyword", TypeError),
    )


def bad_inputs(name: str) -> tuple[BadInputs, ...]:
    return (
        BadInputs(
            (zeros(3, 2),), rf"^{name}\(2, 2\) needs x of shape \(N, T, 2\), got \(3, 2\); for one sequence use x"
        ),
        BadInputs((zeros(5, 3, 4),), rf"^{name}\(2, 2\) needs x of shape \(N, T, 2\), got \(5, 3, 4\)$"),
        BadInputs((zeros(5, 2, 3),), r"got \(5, 2, 3\); positions come before features$"),
        BadInputs((zeros(5, 0, 2),), r"needs sequences of at least one position, got x of shape \(5, 0, 2\)$"),
        BadInputs((zeros(5, 3, 2, dtype="float64"),), "computes in float32, got x of float64", DTypeError),
        BadInputs(([[[1.0, 2.0]]],), "an array, got list; bring it over with model.asarray", DTypeError),
    )


RECURRENT_LAYERS: dict[str, Entry[LayerCase]] = {
    "RNN": Entry(
        {
            **cases(bp.RNN),
            "of relu": LayerCase(lambda: bp.RNN(2, 3, activation="relu"), PLAIN),
        },
        (
            *bad_arguments(bp.RNN, "RNN"),
            BadArguments(lambda: bp.RNN(2, 2, activation="elu"), "RNN: activation must be 'tanh' or 'relu', got 'elu'"),
        ),
        bad_inputs("RNN"),
    ),
    "LSTM": Entry(
        {**cases(bp.LSTM), "without forget bias": LayerCase(lambda: bp.LSTM(2, 2, forget_bias=0.0), PLAIN)},
        (
            *bad_arguments(bp.LSTM, "LSTM"),
            BadArguments(lambda: bp.LSTM(2, 2, forget_bias="1"), "LSTM: forget_bias must be a number, got '1'"),  # type: ignore[arg-type]
        ),
        bad_inputs("LSTM"),
    ),
    "GRU": Entry(cases(bp.GRU), bad_arguments(bp.GRU, "GRU"), bad_inputs("GRU")),
}
