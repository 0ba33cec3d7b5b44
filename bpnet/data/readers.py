"""Data sets from the user's own files: .csv, .npz, and .npy mapped into memory."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bpnet.checks import flag
from bpnet.data.dataset import Dataset
from bpnet.data.rows import UNREADABLE, read_rows, reason
from bpnet.data.table import Table, is_missing, number, numbers, read_table
from bpnet.errors import ConfigError, DataError, did_you_mean


def read_csv(
    path: str | os.PathLike[str],
    *,
    target: str | int | None,
    classes: Sequence[str] | None = None,
    values: bool = False,
    drop: Sequence[str | int] = (),
    delimiter: str = ",",
    header: bool | None = None,
) -> Dataset:
    """Return the Dataset of a text file, one sample a line: x (N, columns) float64, y from the column `target`.

    target  : the column's name, or its number from 0 (-1: the last); None: there is none, and y is x, for what is
              trained to give back its input
    classes : the target's class names in the order of their labels; None: where the target holds text, the names found,
              sorted
    values  : whether the target is a quantity. y is then (N, 1) float64. None of both: text gives classes, whole
              numbers give labels, y (N,) int64, and other numbers give values.
    drop    : columns that are no features, such as a sample's number
    header  : whether the first line has the columns' names; None: where a name is asked for, or none of its cells holds
              a number
    Raises DataError with line and column where a feature is missing, no number or not finite, where a target is missing
    or none of the classes, where rows differ in length, two columns share a name or a feature has none, where the first
    line may be names or numbers, and where there are no samples;
    ConfigError where settings contradict each other or name no column.
    """
    header = None if header is None else flag("header", header)
    if flag("values", values) and classes is not None:
        raise ConfigError("read_csv: a target with classes is no quantity; pass classes or values=True, not both")
    if target is None and (values or classes is not None):
        raise ConfigError("read_csv: without a target there are no classes and no values; leave them out")
    if isinstance(drop, (str, int)):
        drop = [drop]
    if any(isinstance(each, str) for each in (target, *drop)):
        if header is False:
            raise ConfigError("read_csv: columns have names only with a header; pass their numbers, or no header=False")
        header = True
    table = read_table(path, delimiter=delimiter, header=header)
    if not table.rows:
        what = "a header alone" if table.names else "nothing"
        raise DataError(f"{table.path!r} holds no samples: it holds {what}")
    column = None if target is None else _column(table, target, "target")
    dropped = {column, *(_column(table, each, "drop") for each in drop)}
    features = [i for i in range(table.width) if i not in dropped]
    nameless = [i for i in features if table.names and not table.names[i]]
    if nameless:
        raise DataError(
            f"{table.path!r}: column {nameless[0] + 1} has no name; if it numbers the samples, as pandas' index does, "
            f"it is no feature: leave it out with drop=[{nameless[0]}], or give it a name"
        )
    if not features:
        raise DataError(f"{table.path!r} has no column of features; {_columns(table)}")
    hint = "; numbers alone can be features: drop the column, or encode it"
    x = np.asarray(numbers(table, features, hint), dtype=np.float64)
    y, names = (x, ()) if column is None else _target(table, column, classes, values)
    return Dataset(x, y, name=Path(path).stem, classes=names)


def _columns(table: Table) -> str:
    shown = ", ".join(table.names[:12]) + (", ..." if len(table.names) > 12 else "")
    what = f"the columns are {shown}" if table.names else f"there are {table.width} columns"
    return what + ("; is another delimiter= needed?" if table.width == 1 else "")


def _column(table: Table, which: Any, setting: str) -> int:
    """The number of a column that a name or a number stands for."""
    if isinstance(which, str):
        if which not in table.names:
            hint = did_you_mean(which, table.names)
            raise ConfigError(f"{setting}: {table.path!r} has no column {which!r}; {_columns(table)}{hint}")
        return table.names.index(which)
    if isinstance(which, bool) or not isinstance(which, (int, np.integer)):
        raise ConfigError(f"{setting} must be a column's name or its number from 0, got {which!r}")
    if not -table.width <= which < table.width:
        raise ConfigError(f"{setting} must be in 0 ... {table.width - 1}, got {which}; {_columns(table)}")
    return int(which) % table.width


def _target(table: Table, column: int, classes: Sequence[str] | None, values: bool) -> tuple[Any, tuple[str, ...]]:
    """y and the names of its classes."""
    if values:
        return np.asarray(numbers(table, [column]), dtype=np.float64), ()
    cells = [cells[column] for _, cells in table.rows]
    given = classes is not None
    if classes is not None:
        if isinstance(classes, str) or len(set(classes)) != len(classes) or not classes:
            raise ConfigError(f"classes must be names, each once, as in ['cat', 'dog'], got {classes!r}")
        names = tuple(str(each) for each in classes)
    elif all(re.fullmatch(r"[+-]?[0-9]{1,18}", cell) for cell in cells):
        return np.asarray([int(cell) for cell in cells], dtype=np.int64), ()
    elif any(number(cell) is not None for cell in cells):
        hint = ", as the target's other cells are; if they name classes, pass classes=[...]"
        return np.asarray(numbers(table, [column], hint), dtype=np.float64), ()
    else:
        names = tuple(sorted(set(cells)))
    labels = {name: label for label, name in enumerate(names)}
    for (line, _), cell in zip(table.rows, cells, strict=True):
        if cell not in labels or (not given and is_missing(cell)):
            why = "is a missing value" if is_missing(cell) else f"is none of the classes {', '.join(names[:12])}"
            hint = "" if is_missing(cell) else did_you_mean(cell, names)
            raise DataError(f"{table.path!r}, {table.place(line, column)} holds {cell[:40]!r}, which {why}{hint}")
    return np.asarray([labels[cell] for cell in cells], dtype=np.int64), names


def read_npz(path: str | os.PathLike[str]) -> Dataset:
    """Return the Dataset of the arrays "x" and "y" that numpy.savez wrote.

    Raises DataError when the file cannot be read as such, lacks one of them, or x holds anything but finite numbers.
    Nothing in it is executed: pickled objects are refused.
    """
    if Path(path).suffix.lower() != ".npz":
        raise DataError(f"{os.fspath(path)!r} must be a .npz file, as numpy.savez(path, x=x, y=y) writes it")
    x, y = read_rows(path)
    if y is None:
        raise DataError(f"{os.fspath(path)!r} must hold the arrays 'x' and 'y', as numpy.savez(path, x=x, y=y) writes")
    return Dataset(x, y, name=Path(path).stem)


def memmap(path: str | os.PathLike[str]) -> Any:
    """Return the array of a .npy file as a read-only memory map: what is looked at is read, and nothing else.

    For data beyond memory: Dataset(memmap("x.npy"), memmap("y.npy")). Write such a file in parts by
    numpy.lib.format.open_memmap. Raises DataError when it is none, is truncated, or holds anything but numbers.
    """
    name = repr(os.fspath(path))
    try:
        with Path(path).open("rb") as file:
            start = file.read(6)
        if start != b"\x93NUMPY":
            raise DataError(f"{name} cannot be mapped: it is no .npy file that numpy.save wrote")
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except DataError:
        raise
    except UNREADABLE as error:
        raise DataError(f"cannot map {name}: {reason(error)}") from error
    if mapped.dtype.kind not in "biuf":
        raise DataError(f"{name} must hold numbers, found dtype {mapped.dtype}")
    return mapped
