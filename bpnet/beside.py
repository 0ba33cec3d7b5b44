"""Side inputs: arrays that go with the samples, and that layers take by keyword: masks, lengths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bpnet.backend import host_if_foreign
from bpnet.data.checks import check_each, check_finite, check_range
from bpnet.data.dataset import Dataset, as_array
from bpnet.dispatch import Array, namespace
from bpnet.errors import ConfigError, did_you_mean
from bpnet.layers.base import Layer
from bpnet.layers.containers import Container
from bpnet.layers.recurrence import Recurrent


def divided(more: tuple[Any, ...], names: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    """(weights or None, side inputs by name) of what stands behind x and y in a batch."""
    weight = more[0] if len(more) > len(names) else None
    return weight, dict(zip(names, more[len(more) - len(names) :], strict=True))


def dtype_beside(array: Any, model: Layer) -> str:
    """The dtype of a side input on its way into a model: truth values and integers stay such."""
    xp = namespace(array)
    if xp.isdtype(array.dtype, "bool"):
        return "bool"
    return "int64" if xp.isdtype(array.dtype, "integral") else model.store.dtype


def brought(side: Mapping[str, Any], model: Layer) -> dict[str, Array]:
    """Side inputs on the model's device."""
    backend, found = model.backend, {}
    for name, given in side.items():
        array = as_array(given, name)
        found[name] = backend.asarray(host_if_foreign(array, backend), dtype=dtype_beside(array, model))
    return found


def check_names(side: Iterable[str], model: Layer) -> None:
    """Raise ConfigError unless some layer declares each of these side inputs."""
    declared = model.accepted() if isinstance(model, Container) else model.side_inputs
    for name in side:
        if name not in declared:
            raise ConfigError(
                f"no layer of the model takes the side input {name!r}; declared are "
                f"{', '.join(sorted(declared)) or 'none'}{did_you_mean(name, declared)}"
            )


def check(data: Dataset, model: Layer) -> None:
    """Raise unless the model takes the data's side inputs, and their values are good ones."""
    check_names(data.side, model)
    for name, array in data.side.items():
        check_finite(array, name)
        check_range(array, name, model.store.dtype)
    lengths = data.side.get("lengths")
    if lengths is None or data.x.ndim < 2 or not namespace(lengths).isdtype(lengths.dtype, "integral"):
        return  # the layer says what it needs
    if any(isinstance(layer, Recurrent) for _, layer in model.walk()):
        n = int(data.x.shape[1])
        check_each(lengths, (lengths >= 0) & (lengths <= n), "lengths", f"be in 0 ... {n}, the positions of x")
