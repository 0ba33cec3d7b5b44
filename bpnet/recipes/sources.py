"""A recipe's data: named sets and files, and their parts to train on, to validate with and to test on."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet.data import Dataset, load, split
from bpnet.data.rows import read_rows
from bpnet.errors import ConfigError, DataError, DTypeError, MissingExtraError, ShapeError
from bpnet.losses import Loss
from bpnet.recipes.mistakes import Mistakes

REFUSED = (DataError, ConfigError, ShapeError, DTypeError, MissingExtraError)
TEST_FRACTION = 0.2
Parts = tuple[Dataset, Dataset | None, Dataset]


def load_parts(data: Any, loss: Loss | None, mistakes: Mistakes) -> Parts | None:
    """(training, validation, test) of the section `data`; None, with the mistake noted, where they cannot be had.

    loss : says whether a file's targets are labels or values, where the file alone does not
    """
    source = next(key for key in ("name", "csv", "npz") if getattr(data, key) is not None)
    try:
        if source == "name":
            training, test = load(data.name, split_seed=data.split_seed, **(data.model_extra or {}))
        else:
            whole = read_csv_data(data, loss) if source == "csv" else read_npz_data(data.npz, loss)
    except REFUSED as error:
        mistakes.add(("data", source), str(error))
        return None
    if source != "name":
        held_out = _held_out(whole, data, "test_fraction", data.test_fraction or TEST_FRACTION, mistakes)
        if held_out is None:
            return None
        training, test = held_out
    if not data.validation_fraction:
        return training, None, test
    parts = _held_out(training, data, "validation_fraction", data.validation_fraction, mistakes)
    return None if parts is None else (*parts, test)


def _held_out(
    whole: Dataset, data: Any, key: str, fraction: float, mistakes: Mistakes
) -> tuple[Dataset, Dataset] | None:
    try:
        return split(whole, fraction, seed=data.split_seed)
    except ConfigError as error:
        mistakes.add(("data", key), str(error))
        return None


def wants_labels(loss: Loss | None) -> bool:
    """Whether the loss is one of classes, whose targets are labels."""
    return loss is None or loss.targets == "labels"


def read_npz_data(path: str, loss: Loss | None) -> Dataset:
    """The arrays x and y of an .npz file."""
    x, y = read_rows(path)
    if y is None:
        raise DataError(
            f"{path!r} has no array 'y'; a recipe's file holds x and y, as numpy.savez(path, x=x, y=y) writes"
        )
    return as_data(x, y, path, loss)


def as_data(x: Any, y: Any, name: str, loss: Loss | None) -> Dataset:
    """A Dataset of a file's arrays: labels as int64 (N,), values as floats with an axis of outputs."""
    x = x if x.dtype.kind == "f" else x.astype(np.float32)
    if wants_labels(loss) and y.ndim == 1 and y.dtype.kind in "biuf" and not np.any(y != np.floor(y)):
        y = y.astype(np.int64)
        n_classes = int(y.max()) + 1 if y.size and y.min() >= 0 else 0
        return Dataset(x, y, name=name, classes=tuple(map(str, range(n_classes))))
    y = y.astype(np.float32) if y.dtype.kind in "biu" else y
    return Dataset(x, y[:, None] if y.ndim == 1 else y, name=name)


def read_csv_data(data: Any, loss: Loss | None) -> Dataset:
    """The columns of a .csv file, `target` as y."""
    from bpnet.data import read_csv

    raise NotImplementedError(read_csv)
