"""What training a model takes of memory, before anything is allocated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from bpnet.abilities import checked_precision
from bpnet.backend import FLOATING_DTYPES, Backend, selection
from bpnet.data.dataset import check_batch_size
from bpnet.errors import ConfigError
from bpnet.layers.activations import Activation
from bpnet.layers.containers import Container, Recompute, Sequential
from bpnet.layers.dense import Dense
from bpnet.losses import Loss, MeanSquaredError
from bpnet.memory.rehearsal import LOSS, Peaks, Rehearsal, Task
from bpnet.memory.report import MemoryReport, MemoryRow, RecomputeRow, bytes_of, search
from bpnet.optimizers import Adam, Optimizer

if TYPE_CHECKING:
    from bpnet.layers.base import Layer

COUNTED = {
    "own": "counted are all arrays; not the interpreter, libraries, and what a BLAS keeps for itself",
    "references": "counted are all arrays of the references; not the interpreter and libraries",
    "results": "counted are arrays; not the scratch of its own kernels, nor what its pool rounds up and keeps",
}
CANDIDATES = 32  # layers, those that save the most, around which a Recompute is tried


def estimate(
    model: Layer,
    batch_size: int,
    *,
    input_shape: tuple[int, ...] | int | None = None,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    dtype: str | None = None,
    precision: str | None = None,
    budget: int | str | None = None,
    planned: bool = True,
) -> MemoryReport:
    """What `model.memory` returns; the arguments are described there."""
    task = _task(model, batch_size, input_shape, loss, optimizer, dtype, precision)
    limit = None if budget is None else bytes_of(budget)
    with Rehearsal(task) as rehearsal:
        at, saved = rehearsal.walked()
        store, counted = rehearsal.store, COUNTED[rehearsal.place.bodies]
        sizes = {path: sum(each.bytes for each in blocks) for path, blocks in saved.items()}
        rows = tuple(_rows(rehearsal, sizes))
        slots = sum(slot.nbytes for slot in store.slots.values())
        batch = sum(each.nbytes for each in rehearsal.inputs)
        state = (store.values.nbytes, store.grads.nbytes)
        copies = 0 if store.compute is None else store.compute.nbytes
        del saved
    peaks = peaks_of(task)
    candidates = _candidates(model, sizes)
    return MemoryReport(
        task.batch_size,
        task.input_shape,
        task.dtype,
        task.backend,
        repr(task.loss),
        type(task.optimizer).__name__,
        planned,
        rows,
        peaks,
        *state,
        slots,
        sum(sizes.values()),
        batch,
        at,
        counted,
        tuple(_recomputed(task, candidates, sizes, planned)),
        limit,
        None if limit is None else search(task, limit, planned, peaks_of),
        task,
        peaks_of,
        precision=task.precision,
        copies=copies,
    )


def peaks_of(task: Task) -> Peaks:
    """The peaks of a training."""
    with Rehearsal(task) as rehearsal:
        return rehearsal.peaks()


@cache
def _default_optimizer() -> Optimizer:
    return Adam()


@cache
def _default_loss() -> Loss:
    return MeanSquaredError()


def _task(
    model: Layer, batch_size: Any, input_shape: Any, loss: Any, optimizer: Any, dtype: Any, precision: Any
) -> Task:
    for what, value, kind, article in (
        ("loss", loss, Loss, "a Loss"),
        ("optimizer", optimizer, Optimizer, "an Optimizer"),
    ):
        if value is not None and not isinstance(value, kind):
            hint = "; write its instance, with parentheses" if isinstance(value, type) else ""
            raise ConfigError(f"memory: {what} must be {article}, got {value!r}{hint}")
    if loss is not None and loss.reduction == "none":
        raise ConfigError(f'memory: {loss!r} gives no one number to train on; take reduction="mean" or "sum"')
    own_backend, own_dtype, own_precision = _where(model)
    if dtype is not None and dtype != own_dtype:
        own_precision = "float32"  # copies are of a model in its own dtype
    if dtype is not None and dtype not in FLOATING_DTYPES:
        raise ConfigError(f"memory: dtype must be one of {', '.join(FLOATING_DTYPES)}, got {dtype!r}")
    return Task(
        model,
        check_batch_size(batch_size),
        _shape(model, input_shape),
        loss or _default_loss(),
        optimizer or _default_optimizer(),
        dtype or own_dtype,
        own_backend,
        checked_precision(precision or own_precision, dtype or own_dtype),
    )


def _where(model: Layer) -> tuple[str, str, str]:
    """The name of the backend, the dtype and the precision that the model has, or would have."""
    store = model.root._store
    if store is not None:
        return store.backend.name, store.dtype, store.precision
    _, chosen, dtype = model.root._origin
    found: str | Backend = selection(chosen)[0]
    return found if isinstance(found, str) else found.name, dtype or "float32", "float32"


def _shape(model: Layer, given: Any) -> tuple[int, ...]:
    """The shape of one sample of x: as given, or as the first layer says."""
    if given is not None:
        shape = (given,) if isinstance(given, int) and not isinstance(given, bool) else given
        if not isinstance(shape, (tuple, list)) or not all(type(n) is int and n >= 1 for n in shape):
            raise ConfigError(f"memory: input_shape is that of one sample, as (64,) or (28, 28, 1), got {given!r}")
        return tuple(shape)
    if model.input_ids is not None and model.max_positions is not None:
        return (model.max_positions,)
    first = next((layer for layer in _leaves(model) if not isinstance(layer, Activation)), None)
    if isinstance(first, Dense):
        return (first.n_in,)
    raise ConfigError(
        "memory: the model does not say which shape its samples have; pass input_shape=, that of one sample, as "
        "(28, 28, 1) for images or (64,) for 64 features or 64 tokens"
    )


def _leaves(model: Layer) -> Iterator[Layer]:
    """The layers that x goes through first, in order."""
    if isinstance(model, Container):
        for layer in model.layers if isinstance(model, Sequential) else model.layers[:1]:
            yield from _leaves(layer)
    else:
        yield model


def _rows(rehearsal: Rehearsal, saved: dict[str, int]) -> Iterator[MemoryRow]:
    model, store = rehearsal.model, rehearsal.store
    item, n_slots = store.values.dtype.itemsize, len(store.slots)
    own = {path: 0 for path, _ in model.walk()}
    for path, parameter in model.parameters().items():
        owner = path.rpartition(".")[0]
        while owner not in own:  # the layer may hold it in a list
            owner = owner.rpartition(".")[0]
        own[owner] += parameter.size * item
    for path, layer in model.walk():
        values, kept = own[path], saved.get(path, 0)
        leaf = not list(layer.children())
        if leaf or values or kept:
            name = repr(layer) if leaf else type(layer).__name__
            yield MemoryRow(path, name, values, values, values * n_slots, kept)
    yield MemoryRow(LOSS, repr(rehearsal.loss), 0, 0, 0, saved.get(LOSS, 0))


def _candidates(model: Layer, saved: dict[str, int]) -> dict[str, str]:
    """The layers, by path, that a Recompute may help: those of the outermost Sequentials that save something."""
    found: dict[str, str] = {}
    sequentials: list[str] = []
    for path, layer in model.walk():
        inside = any(path.startswith(f"{each}." if each else "") for each in sequentials)
        if not isinstance(layer, Sequential) or (inside and path not in sequentials):
            continue
        sequentials.append(path)
        for index, child in enumerate(layer.layers):
            place = f"{path}.{index}" if path else str(index)
            if not isinstance(child, Recompute) and below(place, saved):
                found[place] = type(child).__name__ if list(child.children()) else repr(child)
    most = sorted(found, key=lambda place: below(place, saved), reverse=True)[:CANDIDATES]
    return {place: name for place, name in found.items() if place in most}


def below(path: str, saved: dict[str, int]) -> int:
    """What a layer and those in it save."""
    return sum(n for each, n in saved.items() if each == path or each.startswith(f"{path}."))


def _recomputed(task: Task, candidates: dict[str, str], saved: dict[str, int], planned: bool) -> Iterator[RecomputeRow]:
    choices: list[tuple[tuple[str, ...], str]] = [((path,), f"{path!r}, {name}") for path, name in candidates.items()]
    if len(candidates) > 1:
        choices.append((tuple(candidates), "all of them, each by itself"))
    for paths, name in choices:
        peak = peaks_of(replace(task, wrapped=paths)).peak(planned)
        yield RecomputeRow(paths, name, sum(below(path, saved) for path in paths), peak)
