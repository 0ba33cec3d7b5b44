"""The door: data of any kind on their way into a model. They are checked once, moved, and cast."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Any

import numpy as np

from bpnet import beside
from bpnet.abilities import Uploader
from bpnet.backend import host_if_foreign, to_numpy
from bpnet.beside import brought, divided, dtype_beside
from bpnet.data.checks import check_finite, check_ids, check_label_form, check_range, check_weights
from bpnet.data.dataset import Dataset, as_array, batches
from bpnet.data.lazy import LazyRows
from bpnet.data.prefetch import prefetch
from bpnet.dispatch import Array, namespace
from bpnet.errors import ConfigError, DataError, DTypeError, ShapeError
from bpnet.layers.base import Layer
from bpnet.losses import Loss
from bpnet.metrics import Metric
from bpnet.pairing import check_pairing, check_probabilities


def may_exceed_memory(x: Any) -> bool:
    """Whether `x` may be beyond memory, so that its values are looked at a batch at a time."""
    return isinstance(x, (np.memmap, LazyRows))


def _looked_at(found: Iterable[tuple[Any, ...]], n_ids: int | None) -> Generator[tuple[Any, ...], None, None]:
    for batch in found:
        if n_ids is None:
            check_finite(batch[0], "x")
        else:
            check_ids(batch[0], n_ids)
        yield batch


def _sent(
    found: Iterable[tuple[Any, ...]], uploader: Uploader, door: Door, side: tuple[str, ...]
) -> Generator[Any, None, None]:
    for batch in found:
        yield uploader.send(door.host_batch(*batch, side=side))


def _uploaded(
    found: Iterable[tuple[Any, ...]], uploader: Uploader, door: Door, side: tuple[str, ...]
) -> Generator[tuple[Array, ...], None, None]:
    """The batches on the device, each until the next one is asked for; a thread reads and sends meanwhile."""
    sent = prefetch(_sent(found, uploader, door, side))
    try:
        for each in sent:
            yield uploader.receive(each)
    finally:
        uploader.close()  # first: the thread may be waiting for a place, and is waited for
        sent.close()


class Door:
    """Checks data for a model, a loss and metrics, and brings them to where the model is."""

    def __init__(self, model: Layer, loss: Loss, metrics: Sequence[Metric]) -> None:
        self.model = model
        self.loss = loss
        self.metrics = metrics

    def x(self, x: Any) -> Array:
        """`x` on the model's device: in the model's dtype, or int64 where the model takes ids."""
        ids = self.model.input_ids
        if ids is None:
            return self.values(x)
        x = as_array(x, "x")
        if not namespace(x).isdtype(x.dtype, "integral"):
            check_ids(x, ids)
        backend = self.model.backend
        return backend.asarray(host_if_foreign(x, backend), dtype="int64")

    def values(self, x: Any) -> Array:
        """Numbers on the model's device, in its dtype."""
        store = self.model.store
        return store.backend.asarray(host_if_foreign(as_array(x, "x"), store.backend), dtype=store.dtype)

    def y(self, y: Any) -> Array:
        """`y` on the model's device: labels as int64, values in the model's dtype."""
        y = as_array(y, "y")
        if not self._labels(y):
            return self.values(y)
        if not namespace(y).isdtype(y.dtype, "integral"):
            check_label_form(y, 1)
        backend = self.model.backend
        return backend.asarray(host_if_foreign(y, backend), dtype="int64")

    def _labels(self, y: Any) -> bool:
        """Whether `y` is to be integer labels; one-dimensional floating numbers are to be, and are refused."""
        return self.loss.kind_of(y) == "labels" or (self.loss.targets == "labels" and y.ndim == 1)

    def batch(self, x: Any, y: Any, *more: Any, side: tuple[str, ...] = ()) -> tuple[Array, ...]:
        """The inputs of a step: (x, y), then the weights where there are any, then the side inputs of these names."""
        weight, given = divided(more, side)
        weights = () if weight is None else (self.values(weight),)
        return (self.x(x), self.y(y), *weights, *brought(given, self.model).values())

    def host_batch(self, x: Any, y: Any, *more: Any, side: tuple[str, ...] = ()) -> tuple[Any, ...]:
        """The same on the host, in the dtypes that `batch` has."""
        weight, given = divided(more, side)
        arrays = [np.asarray(to_numpy(each), dtype=dtype_beside(each, self.model)) for each in given.values()]
        dtype, x, y = self.model.store.dtype, as_array(x, "x"), as_array(y, "y")
        if self._labels(y) and not namespace(y).isdtype(y.dtype, "integral"):
            check_label_form(y, 1)
        ids = self.model.input_ids
        if ids is not None and not namespace(x).isdtype(x.dtype, "integral"):
            check_ids(x, ids)
        target = np.asarray(to_numpy(y), dtype="int64" if self._labels(y) else dtype)
        values = np.asarray(to_numpy(x), dtype=dtype if ids is None else "int64")
        weights = [] if weight is None else [np.asarray(to_numpy(weight), dtype=dtype)]
        return (values, target, *weights, *arrays)

    def batches(self, data: Dataset, batch_size: int, **order: Any) -> Generator[tuple[Any, ...], None, None]:
        """The batches of `data` in the `order` of `bpnet.data.batches`.

        Where data may exceed memory, a thread makes the next batches meanwhile, and looks at their values; where the
        backend has an uploader it sends them to the device too.
        """
        found = batches(data, batch_size, **order)
        if not may_exceed_memory(data.x):
            return found
        looked_at, uploader = _looked_at(found, self.model.input_ids), getattr(self.model.backend, "uploader", None)
        return prefetch(looked_at) if uploader is None else _uploaded(looked_at, uploader(), self, tuple(data.side))

    def moved(self, data: Dataset) -> Dataset:
        """The data on the model's device where that is not the host, so that batches are taken there."""
        if self.model.backend.array_type is np.ndarray or may_exceed_memory(data.x):
            return data
        weight = None if data.weight is None else self.values(data.weight)
        side = brought(data.side, self.model)
        return Dataset(self.x(data.x), self.y(data.y), weight=weight, side=side, name=data.name, split=data.split)

    def check(self, data: Dataset, names: tuple[str, str, str] = ("x", "y", "sample_weight")) -> Array:
        """Raise unless model, loss and metrics belong together and can take the data, and every value is a good one.

        Returns the model's output for the first sample.
        """
        name_x, name_y, name_weight = names
        check_pairing(self.model, self.loss, self.metrics)
        if self.loss.reduction == "none":
            raise ConfigError(
                f'{self.loss!r} gives no one number to train on; leave reduction="none" to the explicit loop'
            )
        dtype = self.model.store.dtype
        n_ids = self.model.input_ids
        if n_ids is not None:
            check_ids(data.x[:1, ...] if may_exceed_memory(data.x) else data.x, n_ids, name_x)
        elif not may_exceed_memory(data.x):
            check_finite(data.x, name_x)
            check_range(data.x, name_x, dtype)
        if data.weight is not None:
            check_weights(data.weight, name_weight)
            check_range(data.weight, name_weight, dtype)
        beside.check(data, self.model)
        try:
            prediction = self._probe(data, name_y)
        except (ShapeError, DTypeError) as error:
            shapes = f"{name_x} {tuple(data.x.shape)} and {name_y} {tuple(data.y.shape)}"
            raise type(error)(f"{error} (found with the first sample of {shapes})") from error
        if not self._labels(data.y):
            check_finite(data.y, name_y)
            check_range(data.y, name_y, dtype)
        self.loss.check_values(data.y, name_y, int(prediction.shape[-1]))
        return prediction

    def check_smallest(self, data: Dataset, batch_size: int, micro_batch_size: int | None) -> None:
        """Raise ShapeError where the model cannot be trained on the smallest part that the data will be cut into.

        So it is with statistics of one sample. A forward is made, and what the layers have kept let go of.
        """
        n = len(data)
        if not n or not self.model.statistics():
            return
        batches = {min(n, batch_size), n % batch_size or batch_size}
        size = micro_batch_size or batch_size
        smallest = min(part for batch in batches for part in (min(batch, size), batch % size or size))
        if smallest > 1:
            return
        try:
            self.model.forward(self.x(data.x[:smallest, ...]), **self._first(data, smallest))
        except ShapeError as error:
            raise ShapeError(f"{error} (found with the smallest batch, {smallest} of {n} samples)") from error
        finally:
            for _, layer in self.model.walk():
                layer._kept = None

    def _probe(self, data: Dataset, name_y: str) -> Array:
        """The model's output for the first sample, which the loss and the metrics can take."""
        prediction = self.model(self.x(data.x[:1, ...]), **self._first(data, 1))
        if prediction.shape[0] != 1:
            raise DataError(f"the model made {prediction.shape[0]} outputs of 1 sample; the first axis is the samples'")
        if prediction.ndim == 2 and self._labels(data.y):
            check_label_form(data.y, int(prediction.shape[-1]), name_y)
        target = self.y(data.y[:1, ...])
        self.loss.check(prediction, target)
        for metric in self.metrics:
            metric.measure(prediction, target)
        if self.loss.wants.endswith("probabilities"):
            n = min(64, len(data))
            check_probabilities(to_numpy(self.model(self.x(data.x[:n, ...]), **self._first(data, n))), self.loss)
        return prediction

    def _first(self, data: Dataset, n: int) -> dict[str, Array]:
        """The side inputs of the first n samples."""
        return brought({name: array[:n, ...] for name, array in data.side.items()}, self.model)
