"""A data set in memory, and batches of it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import numpy as np

from bpnet.backend import as_numbers, to_numpy
from bpnet.checks import flag
from bpnet.data.checks import check_lengths
from bpnet.data.lazy import LazyRows
from bpnet.dispatch import namespace
from bpnet.errors import ConfigError, DataError, DTypeError, ShapeError
from bpnet.random import HostStream


def as_array(x: Any, name: str) -> Any:
    """Return `x` as it is when it is an array of some library, else as a NumPy array of numbers; DTypeError else."""
    return x if isinstance(x, LazyRows) else as_numbers(x, name)


class Dataset:
    """Samples and targets of equal number.

    x : (N, ...) array of any library, or nested lists; y : (N,) labels or (N, ...) values
    weight : (N,) numbers, how much each sample counts in the loss; None counts all alike
    side : arrays (N, ...) by name, which the model's `forward` takes by keyword: a mask, lengths. They go with their
           samples through batches, shuffling and splits
    name, split : what it is, for messages and results; classes : names of the classes, if any
    x and y may be memory maps (`bpnet.data.memmap`): only the batches are then read, sorted by their place in the file.
    Raises ShapeError when the lengths differ, DataError when there are no samples.

    >>> import bpnet as bp
    >>> data = bp.Dataset([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], [0, 1, 0], name="small", classes=("a", "b"))
    >>> data, len(data[:2])
    (<Dataset small: 3 samples of shape (2,)>, 2)
    >>> [x.shape for x, y in data.batches(2, seed=0)]
    [(2, 2), (1, 2)]
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        *,
        weight: Any = None,
        side: Mapping[str, Any] | None = None,
        name: str = "data",
        split: str = "",
        classes: tuple[str, ...] = (),
    ) -> None:
        self.x = as_array(x, "x")
        self.y = as_array(y, "y")
        self.weight = None if weight is None else as_array(weight, "sample_weight")
        self.side = as_side(side)
        self.name = name
        self.split = split
        self.classes = classes
        check_lengths(self.x, self.y)
        if self.weight is not None:
            check_lengths(self.x, self.weight, name_y="sample_weight")
        for each, array in self.side.items():
            check_lengths(self.x, array, name_y=each)

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def __iter__(self) -> Iterator[Any]:
        """Give (x, y), so that `x, y = dataset` works."""
        return iter((self.x, self.y))

    def __repr__(self) -> str:
        split = f", split {self.split}" if self.split else ""
        return f"<Dataset {self.name}: {len(self)} samples of shape {tuple(self.x.shape[1:])}{split}>"

    def __getitem__(self, rows: slice) -> Dataset:
        """The data set of a slice, as in dataset[:100]: views of the same arrays; a memory map stays one."""
        if not isinstance(rows, slice):
            raise ConfigError(f"a Dataset takes slices, as in dataset[:100], got {rows!r}; subset([...]) picks samples")
        start, stop, step = rows.indices(len(self))
        if step > 0:  # within the bounds, which the Array API asks for
            rows = slice(start, max(start, stop), step)
        where = f"{self.split} [{start}:{stop}{f':{step}' if step != 1 else ''}]".strip()
        return self._of(lambda array: array[rows, ...], where)

    def subset(self, indices: Any) -> Dataset:
        """The data set of the samples at `indices`, in that order: integers in 0 ... N - 1, or a mask of N flags.

        Copies them; those of a memory map come into memory. Raises DTypeError, ShapeError, DataError.
        """
        rows = _rows(indices, len(self))
        n = len(rows)
        return self._of(lambda array: _Taker(array, rows).take(0, n), f"{self.split} [{n} picked]".strip())

    def _of(self, take: Callable[[Any], Any], split: str) -> Dataset:
        weight = None if self.weight is None else take(self.weight)
        about: dict[str, Any] = {"name": self.name, "split": split, "classes": self.classes}
        side = {name: take(array) for name, array in self.side.items()}
        return Dataset(take(self.x), take(self.y), weight=weight, side=side, **about)

    def batches(
        self, batch_size: int, *, seed: int = 0, epoch: int = 0, shuffle: bool = True
    ) -> Iterator[tuple[Any, ...]]:
        """The same as `bpnet.data.batches(self, ...)`."""
        return batches(self, batch_size, seed=seed, epoch=epoch, shuffle=shuffle)


def as_side(side: Mapping[str, Any] | None) -> dict[str, Any]:
    """Side inputs as arrays by name, in the order of their names; ConfigError, DTypeError for what are none."""
    if side is None:
        return {}
    if not isinstance(side, Mapping) or not all(isinstance(name, str) for name in side):
        raise ConfigError(f'side must be arrays by name, as {{"lengths": [3, 2]}}, got {side!r:.80}')
    return {name: as_array(side[name], name) for name in sorted(side)}


def check_batch_size(batch_size: Any, name: str = "batch_size") -> int:
    """Return `batch_size` as an int; ConfigError unless it is an integer of at least 1."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ConfigError(f"{name} must be an integer of at least 1, got {batch_size!r}")
    return int(batch_size)


def _rows(indices: Any, n: int) -> Any:
    """The indices as (M,) int64."""
    rows = np.asarray(to_numpy(indices) if hasattr(indices, "shape") else indices)
    if rows.ndim != 1:
        raise ShapeError(f"indices must have one axis, got shape {rows.shape}")
    if rows.dtype == bool:
        if len(rows) != n:
            raise ShapeError(f"a mask must have one truth value a sample, {n}, got {len(rows)}")
        return np.flatnonzero(rows)
    if rows.dtype.kind not in "iu" and rows.size:
        raise DTypeError(f"indices must be integers, or a mask of truth values, got {rows.dtype}")
    outside = rows[(rows < 0) | (rows >= n)]
    if outside.size:
        raise DataError(f"indices must lie in 0 ... {n - 1}, got {outside[0]}")
    return rows.astype(np.int64)


def epoch_order(n: int, seed: int, epoch: int) -> Any:
    """The order of n samples in an epoch, int64."""
    return HostStream(seed, f"shuffle/epoch {epoch}").permutation(n)


def batches(
    data: Dataset, batch_size: int, *, seed: int = 0, epoch: int = 0, shuffle: bool = True, skip: int = 0
) -> Generator[tuple[Any, ...], None, None]:
    """Give (x, y) batches, or (x, y, weight) where the data have weights; the last batch may be smaller.

    The side inputs of data that have such stand behind these, in the order of their names.

    The order is a function of (seed, epoch) alone, and every sample comes once. Batches are of the data's library and
    dtype: new arrays, or views without shuffling. Of a memory map each batch's rows are read in the order of the file.
    skip : how many batches of that order to leave out at its start, without making them
    """
    batch_size = check_batch_size(batch_size)
    shuffle = flag("shuffle", shuffle)
    order = epoch_order(len(data), seed, epoch) if shuffle else None
    arrays = (data.x, data.y, data.weight, *data.side.values())
    takers = [_Taker(array, order) for array in arrays if array is not None]
    for start in range(skip * batch_size, len(data), batch_size):
        stop = min(start + batch_size, len(data))
        if order is None:
            yield tuple(taker.range(start, stop) for taker in takers)
        else:
            yield tuple(taker.take(start, stop) for taker in takers)


class _Taker:
    """Takes rows of one array.

    order : of the rows, int64 on the host; brought to the array's device once. None where none is taken by it
    """

    def __init__(self, array: Any, order: Any) -> None:
        self.array = array
        self.on_host = isinstance(array, np.ndarray)
        self.on_disk = isinstance(array, np.memmap)
        self.order = order
        if order is not None and not self.on_host and not isinstance(array, LazyRows):
            self.order = namespace(array).asarray(order, device=array.device)

    def range(self, start: int, stop: int) -> Any:
        return self.array[start:stop, ...]

    def take(self, start: int, stop: int) -> Any:
        rows = self.order[start:stop]
        if isinstance(self.array, LazyRows):
            return self.array.take(rows)
        if self.on_disk:  # in the order of the file, so that the disk is read forwards
            forwards = np.argsort(rows, kind="stable")
            taken = np.empty((len(rows), *self.array.shape[1:]), self.array.dtype)
            taken[forwards] = np.asarray(self.array)[rows[forwards]]
            return taken
        if self.on_host:
            return np.asarray(self.array).take(rows, axis=0)
        return namespace(self.array).take(self.array, rows, axis=0)


def as_dataset(x: Any, y: Any = None, weight: Any = None, side: Mapping[str, Any] | None = None) -> Dataset:
    """Return `x` where it is a Dataset, else that of x and y; ConfigError when there is too much or too little."""
    if isinstance(x, Dataset):
        if y is not None:
            raise ConfigError("a Dataset brings its own targets; pass it alone")
        if weight is not None:
            raise ConfigError("a Dataset brings its own weights: Dataset(x, y, weight=...)")
        if side is not None:
            raise ConfigError("a Dataset brings its own side inputs: Dataset(x, y, side=...)")
        return x
    if y is None:
        raise ConfigError("pass x and y, or a Dataset")
    return Dataset(x, y, weight=weight, side=side)


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
