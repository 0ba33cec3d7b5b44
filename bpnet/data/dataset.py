"""A data set in memory, and batches of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bpnet.data.checks import check_lengths
from bpnet.dispatch import namespace
from bpnet.errors import ConfigError, DataError, DTypeError, ShapeError
from bpnet.random import HostStream


def as_array(x: Any, name: str) -> Any:
    """Return `x` as it is when it is an array of some library, else as a NumPy array of numbers; DTypeError else."""
    if isinstance(x, np.ma.MaskedArray):
        raise DTypeError(f"{name} is a masked array; fill its gaps first, as with {name}.filled(...)")
    if not isinstance(x, np.ndarray):
        from array_api_compat import is_array_api_obj

        if is_array_api_obj(x):
            return x
        try:
            x = np.asarray(x)
        except ValueError as error:
            raise DTypeError(f"{name} is no rectangular array: {error}") from error
    if x.dtype.kind not in "biuf":
        hint = "; for labels, np.unique(y, return_inverse=True)[1] numbers them" if name == "y" else ""
        raise DTypeError(f"{name} must hold numbers, got dtype {x.dtype}{hint}")
    return x


class Dataset:
    """Samples and targets of equal number.

    x : (N, ...) array of any library, or nested lists; y : (N,) labels or (N, ...) values
    weight : (N,) numbers, how much each sample counts in the loss; None counts all alike
    name, split : what it is, for messages and results; classes : names of the classes, if any
    Raises ShapeError when the lengths differ, DataError when there are no samples.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        *,
        weight: Any = None,
        name: str = "data",
        split: str = "",
        classes: tuple[str, ...] = (),
    ) -> None:
        self.x = as_array(x, "x")
        self.y = as_array(y, "y")
        self.weight = None if weight is None else as_array(weight, "sample_weight")
        self.name = name
        self.split = split
        self.classes = classes
        check_lengths(self.x, self.y)
        if self.weight is not None:
            check_lengths(self.x, self.weight, name_y="sample_weight")

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def __iter__(self) -> Iterator[Any]:
        """Give (x, y), so that `x, y = dataset` works."""
        return iter((self.x, self.y))

    def __repr__(self) -> str:
        split = f", split {self.split}" if self.split else ""
        return f"<Dataset {self.name}: {len(self)} samples of shape {tuple(self.x.shape[1:])}{split}>"

    def batches(
        self, batch_size: int, *, seed: int = 0, epoch: int = 0, shuffle: bool = True
    ) -> Iterator[tuple[Any, ...]]:
        """The same as `bpnet.data.batches(self, ...)`."""
        return batches(self, batch_size, seed=seed, epoch=epoch, shuffle=shuffle)


def check_batch_size(batch_size: Any, name: str = "batch_size") -> int:
    """Return `batch_size` as an int; ConfigError unless it is an integer of at least 1."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ConfigError(f"{name} must be an integer of at least 1, got {batch_size!r}")
    return int(batch_size)


def batches(
    data: Dataset, batch_size: int, *, seed: int = 0, epoch: int = 0, shuffle: bool = True
) -> Iterator[tuple[Any, ...]]:
    """Give (x, y) batches in an order that is a function of (seed, epoch) alone; the last one may be smaller.

    Where the data have weights, (x, y, weight). Every sample comes once. Batches are of the data's library and dtype:
    new arrays, or views without shuffling.
    """
    batch_size = check_batch_size(batch_size)
    order = HostStream(seed, f"shuffle/epoch {epoch}").permutation(len(data)) if shuffle else None
    takers = [_Taker(array) for array in (data.x, data.y, data.weight) if array is not None]
    for start in range(0, len(data), batch_size):
        stop = min(start + batch_size, len(data))
        if order is None:
            yield tuple(taker.range(start, stop) for taker in takers)
        else:
            yield tuple(taker.take(order[start:stop]) for taker in takers)


class _Taker:
    """Takes rows of one array."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.on_host = isinstance(array, np.ndarray)

    def range(self, start: int, stop: int) -> Any:
        return self.array[start:stop, ...]

    def take(self, rows: Any) -> Any:
        if self.on_host:
            return np.asarray(self.array).take(rows, axis=0)
        xp = namespace(self.array)
        return xp.take(self.array, xp.asarray(rows, device=self.array.device), axis=0)


def as_dataset(x: Any, y: Any = None, weight: Any = None) -> Dataset:
    """Return `x` where it is a Dataset, else that of x and y; ConfigError when there is too much or too little."""
    if isinstance(x, Dataset):
        if y is not None:
            raise ConfigError("a Dataset brings its own targets; pass it alone")
        if weight is not None:
            raise ConfigError("a Dataset brings its own weights: Dataset(x, y, weight=...)")
        return x
    if y is None:
        raise ConfigError("pass x and y, or a Dataset")
    return Dataset(x, y, weight=weight)


def as_validation(data: Any) -> Dataset:
    """Return the Dataset that `validation_data` is, or (x, y) or (x, y, weight) as one; errors say what they mean."""
    if isinstance(data, Dataset):
        return data
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        raise ConfigError("validation_data must be a Dataset, a pair (x, y), or (x, y, sample_weight)")
    try:
        return Dataset(*data[:2], weight=data[2] if len(data) == 3 else None)
    except (ShapeError, DTypeError, DataError) as error:
        raise type(error)(f"validation_data: {error}") from error
