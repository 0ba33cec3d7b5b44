"""Sample arguments for the kernels of recurrent networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bpnet.testing.cases.common import Cases, normal

SEQUENCES = [(1, 1, 1, 1), (3, 1, 4, 2), (3, 5, 2, 4), (2, 7, 3, 1), (0, 3, 2, 2), (6, 12, 5, 8)]
"""(N, T, I, H)"""
NEEDS = ((), (False,), (True, False), (False, False))


def lengths_of(rng: Any, n: int, n_steps: int) -> Iterator[Any]:
    """Nothing; lengths of all kinds; some that leave nothing, or say more than there is."""
    yield None
    yield rng.integers(1, n_steps + 1, size=n)
    if n > 1:
        found = rng.integers(0, n_steps + 1, size=n).astype(np.int32)
        found[0], found[-1] = 0, n_steps + 3
        yield found
        found = found.copy()
        found[0] = -2
        yield found


def sequences(gates: int, *activations: str) -> Callable[[Any, str], Iterator[tuple[Any, ...]]]:
    """x, W, U, biases, activation if there is one, lengths, reverse."""

    def cases(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for n, n_steps, n_in, width in SEQUENCES:
            arrays = [
                normal(rng, shape, dtype)
                for shape in ((n, n_steps, n_in), (n_in, gates * width), (width, gates * width), (gates * width,))
            ]
            if gates == 3:
                arrays.append(normal(rng, (width,), dtype))
            arrays[2] /= np.sqrt(np.asarray(width, dtype))
            for lengths in lengths_of(rng, n, n_steps):
                for reverse in (False, True):
                    for activation in activations or (None,):
                        yield (*arrays, *(() if activation is None else (activation,)), lengths, reverse)

    return cases


def with_states(cases: Any, n_states: int) -> Callable[[Any, str], Iterator[tuple[Any, ...]]]:
    """The cases, and some that go on from states."""

    def more(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for args in cases(rng, dtype):
            yield args
            if args[-2] is None:
                yield (*args, *(normal(rng, (args[0].shape[0], args[2].shape[0]), dtype) for _ in range(n_states)))

    return more


def _logistic(shape: Any, rng: Any, dtype: str) -> Any:
    return rng.uniform(0.05, 0.95, size=shape).astype(dtype)


def backward(cases: Any, n_biases: int, kept: tuple[str, ...]) -> Callable[[Any, str], Iterator[tuple[Any, ...]]]:
    """dy, y, x, W, U, what is kept, then constants; states and gates of their usual size.

    Beyond the lengths what is kept is as a forward leaves it: 0 in y and in cells.
    """

    def more(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
        for index, args in enumerate(cases(rng, dtype)):
            x, W, U = args[:3]
            constants = args[3 + n_biases :]
            n, n_steps, _ = x.shape
            width, lengths = U.shape[0], constants[-2]
            there = (
                np.ones((n, n_steps, 1), bool)
                if lengths is None
                else np.arange(n_steps)[:, None] < lengths[:, None, None]
            )
            y = np.tanh(normal(rng, (n, n_steps, width), dtype)) * there
            saved = []
            shapes = {
                "gates": (n_steps, 4, n, width),
                "cells": (n_steps, n, width),
                "side by side": (n_steps, n, 4 * width),
            }
            for name in kept:
                each = _logistic(shapes[name], rng, dtype)
                saved.append(each * there.transpose(1, 0, 2) if name == "cells" else each)
            dy = normal(rng, y.shape, dtype)
            yield (
                dy,
                y,
                x,
                W,
                U,
                *(np.ascontiguousarray(s) for s in saved),
                *constants,
                *NEEDS[(index + index // len(NEEDS)) % len(NEEDS)],
            )

    return more


def last_steps(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for n, n_steps, _, width in SEQUENCES:
        for lengths in lengths_of(rng, n, n_steps):
            for reverse in (False, True):
                yield normal(rng, (n, n_steps, width), dtype), lengths, reverse


def last_steps_backward(rng: Any, dtype: str) -> Iterator[tuple[Any, ...]]:
    for y, *rest in last_steps(rng, dtype):
        yield (normal(rng, (len(y), y.shape[2]), dtype), y.shape[1], *rest)


RNN, LSTM, GRU = sequences(1, "tanh", "relu"), sequences(4), sequences(3)

CASES: dict[str, Cases] = {
    "rnn": with_states(RNN, 1),
    "rnn_backward": backward(RNN, 1, ()),
    "lstm": with_states(LSTM, 2),
    "lstm_backward": backward(LSTM, 1, ("gates", "cells")),
    "gru": with_states(GRU, 1),
    "gru_backward": backward(GRU, 2, ("side by side",)),
    "last_step": last_steps,
    "last_step_backward": last_steps_backward,
}
