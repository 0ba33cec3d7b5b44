"""Copies of what is audited, and the inputs that every layer gets inside its model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpnet.backend import Backend, to_numpy
from bpnet.errors import ConfigError
from bpnet.layers.base import Layer
from bpnet.trace import is_array


@dataclass(frozen=True)
class Inputs:
    """What a forward was called with: arrays on the host, other arguments as they were."""

    args: tuple[Any, ...]
    side: dict[str, Any]

    @property
    def plain(self) -> bool:
        """Whether there is one array and nothing else."""
        return len(self.args) == 1 and not self.side and isinstance(self.args[0], np.ndarray)


def copied(model: Layer, backend: Backend, dtype: str, seed: int = 0) -> Layer:
    """A copy of `model` with its values on `backend` in `dtype`, and with gradients, counters and slots of its own."""
    try:
        twin = copy.deepcopy(model)
    except Exception as error:
        raise ConfigError(
            f"the model cannot be copied, and it is not audited itself: copy.deepcopy raised {type(error).__name__}: "
            f"{error}"
        ) from error
    twin.to(backend, dtype)
    twin.materialize_with(seed, None)
    return twin


@contextmanager
def patched(objects: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """Give each (object, name, function) the function in the place of its method, in the block."""
    for each, name, function in objects:
        vars(each)[name] = function
    try:
        yield
    finally:
        for each, name, _ in objects:
            vars(each).pop(name, None)


def captured(model: Layer, x: Any) -> tuple[dict[str, Inputs], Any]:
    """What every layer of `model` is called with in a forward of x, by path, and what the model returns."""
    seen: dict[str, Inputs] = {}

    def note(path: str, layer: Layer) -> Any:
        forward = layer.forward

        def noting(*args: Any, **side: Any) -> Any:
            seen.setdefault(path, Inputs(tuple(map(on_host, args)), {k: on_host(v) for k, v in side.items()}))
            return forward(*args, **side)

        return noting

    model.store.counters[...] = 0
    with patched([(layer, "forward", note(path, layer)) for path, layer in model.walk()]):
        y = model.forward(model.asarray(x))
    for _, layer in model.walk():
        layer._kept = None
    return seen, np.array(to_numpy(y))


def inner_first(model: Layer, path: str = "") -> Iterator[tuple[str, Layer]]:
    """(path, layer) of all layers, each behind those within it: what is wrong is then met first where it arises."""
    for name, child in model.children():
        yield from inner_first(child, f"{path}.{name}" if path else name)
    yield path, model


def on_host(value: Any) -> Any:
    """A copy of an array on the host; anything else as it is."""
    return np.array(to_numpy(value)) if is_array(value) else value


def named(path: str, layer: Layer) -> str:
    """A layer for the table: "0.1 Dense"; the model itself is "model"."""
    return f"{path or 'model'} {type(layer).__name__}"


def said(error: BaseException) -> str:
    """An error as text."""
    return f"{type(error).__name__}: {error}"
