"""A recipe's data: named sets and files, and their parts to train on, to validate with and to test on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bpnet.data import Dataset, load, read_csv, read_npz, split
from bpnet.data.rows import read_rows
from bpnet.errors import ConfigError, DataError, DTypeError, MissingExtraError, ShapeError
from bpnet.losses import Loss
from bpnet.recipes.mistakes import Mistakes

REFUSED = (DataError, ConfigError, ShapeError, DTypeError, MissingExtraError)
TEST_FRACTION = 0.2
MOST_CLASSES = 1 << 16  # unless there are more samples: what is larger is no label but a number of something
# The keys about a .csv file, and the arguments of read_csv that they are.
CSV_OPTIONS = {"target": "target", "drop": "drop", "class_names": "classes", "delimiter": "delimiter"}
Parts = tuple[Dataset, Dataset | None, Dataset]


def load_parts(data: Any, loss: Loss | None, mistakes: Mistakes) -> Parts | None:
    """(training, validation, test) of the section `data`; None, with the mistake noted, where they cannot be had.

    loss : says whether a file's targets are labels or values; not needed for a named set
    With `reconstruct` the targets are the inputs.
    """
    parts = _load_parts(data, loss, mistakes)
    if parts is None or not data.reconstruct:
        return parts
    training, validation, test = parts
    return _onto_itself(training), None if validation is None else _onto_itself(validation), _onto_itself(test)


def _onto_itself(part: Dataset) -> Dataset:
    """The data set whose targets are its inputs: what an autoencoder is trained on."""
    classes = part.classes if part.x.dtype.kind in "iu" else ()  # of ids: what they name
    return Dataset(part.x, part.x, weight=part.weight, name=part.name, split=part.split, classes=classes)


def _load_parts(data: Any, loss: Loss | None, mistakes: Mistakes) -> Parts | None:
    source = next(key for key in ("name", "csv", "npz") if getattr(data, key) is not None)
    try:
        if source == "name":
            training, test = load(data.name, split_seed=data.split_seed, **(data.model_extra or {}))
        else:
            assert loss is not None
            whole = read_file(data, loss)
    except REFUSED as error:
        key, text = _blamed(str(error), source)
        mistakes.add(("data", key), text)
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


def _blamed(message: str, source: str) -> tuple[str, str]:
    """The key that a message is about, the source unless it begins with an option, and the rest of the message."""
    for key, argument in CSV_OPTIONS.items():
        if message.startswith((f"{argument}: ", f"{argument} must ")):
            return key, message.removeprefix(f"{argument}:").removeprefix(argument).lstrip()
    return source, message


def _held_out(
    whole: Dataset, data: Any, key: str, fraction: float, mistakes: Mistakes
) -> tuple[Dataset, Dataset] | None:
    try:
        return split(whole, fraction, seed=data.split_seed)
    except ConfigError as error:
        mistakes.add(("data", key), str(error).removesuffix(", or stratify=False"))  # an argument, and no key
        return None


def read_file(data: Any, loss: Loss) -> Dataset:
    """The samples of the file that the section `data` names.

    Labels are as the file has them: integers, or names in a .csv file. A loss of values gets them as numbers (N, 1).
    """
    values = loss.targets != "labels"
    if data.reconstruct:
        return _inputs_of_file(data)
    if data.csv is not None:
        options = {
            argument: getattr(data, key) for key, argument in CSV_OPTIONS.items() if getattr(data, key) is not None
        }
        whole = read_csv(data.csv, values=values, **options)
    else:
        whole = read_npz(data.npz)
    if values:
        y = whole.y if whole.y.dtype.kind == "f" else whole.y.astype(np.float32)
        return Dataset(whole.x, y[:, None] if y.ndim == 1 else y, name=whole.name)
    if is_label(whole.y) and not whole.classes:
        low, high = int(whole.y.min()), int(whole.y.max())
        if low < 0:
            raise DataError(f"labels must be 0 ... C - 1, found {low} ... {high}; number them anew")
        if high >= max(len(whole), MOST_CLASSES):
            raise DataError(
                f"labels must be 0 ... C - 1, found {low} ... {high} for {len(whole)} samples; number the classes anew"
            )
        whole.classes = tuple(map(str, range(high + 1)))
    return whole


def _inputs_of_file(data: Any) -> Dataset:
    """The samples of a file that has no targets, or whose targets are not wanted."""
    if data.csv is not None:
        given = {
            CSV_OPTIONS[key]: getattr(data, key) for key in ("drop", "delimiter") if getattr(data, key) is not None
        }
        return read_csv(data.csv, target=None, **given)
    x, _ = read_rows(data.npz)
    x = x if x.dtype.kind == "f" else x.astype(np.float32)
    return Dataset(x, x, name=Path(data.npz).stem)


def is_label(y: Any) -> bool:
    """Whether targets are labels of classes: integers, one a sample."""
    return bool(y.ndim == 1 and y.dtype.kind in "iu")
