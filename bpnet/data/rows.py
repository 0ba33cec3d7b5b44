"""Samples from a file of the user's: .npy, .npz or .csv."""

from __future__ import annotations

import os
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from bpnet.data.checks import check_finite, check_lengths
from bpnet.data.table import numbers, read_table
from bpnet.errors import DataError

READABLE = (".npy", ".npz", ".csv")


# What NumPy and zipfile raise for damaged files, each in some place.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_rows(path: str | os.PathLike[str]) -> tuple[Any, Any]:
    """Return (x, y) of a file: x (N, ...) numbers, one sample a row, and y (N, ...) where the file has it, else None.

    .npy : x; a one-dimensional array is one sample
    .npz : the arrays "x" and, if there, "y"; or its only array, as x
    .csv : x, numbers between commas, one sample a line; a first line without any number is skipped
    Raises DataError when the file cannot be read as such, is empty, or holds anything but finite numbers. Nothing in it
    is executed: pickled objects are refused.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in READABLE:
        raise DataError(f"cannot read {str(path)!r}: its name must end in one of {', '.join(READABLE)}")
    try:
        x, y = _read_csv(path) if suffix == ".csv" else _read_numpy(path)
    except DataError:
        raise
    except UNREADABLE as error:
        raise DataError(f"cannot read {str(path)!r} as {suffix[1:]}: {reason(error)}") from error
    if x.dtype.kind not in "biuf":
        raise DataError(f"{str(path)!r} must hold numbers, found dtype {x.dtype}")
    if x.ndim == 0 or x.size == 0:
        raise DataError(f"{str(path)!r} holds no samples: its array has shape {x.shape}")
    if x.ndim == 1:
        x = x[None, :]
    check_finite(x, str(path))
    if y is not None:
        check_lengths(x, y, f"x of {str(path)!r}", "y")
    return x, y


def reason(error: BaseException) -> str:
    """What an error that reading raised says, in the system's words where it has some."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _read_numpy(path: Path) -> tuple[Any, Any]:
    with path.open("rb") as file:
        start = file.read(6)
        if not start.startswith((b"\x93NUMPY", b"PK")):
            raise ValueError("it is no file that numpy.save or numpy.savez wrote")
        file.seek(0)
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, None
        names = loaded.files
        if "x" in names:
            return loaded["x"], loaded["y"] if "y" in names else None
        if len(names) != 1:
            raise ValueError(f"it must hold one array, or one named 'x'; it holds {', '.join(names) or 'none'}")
        return loaded[names[0]], None


def _read_csv(path: Path) -> tuple[Any, Any]:
    table = read_table(path)
    if not table.rows:
        return np.zeros((0,)), None
    return np.asarray(numbers(table, list(range(table.width)), "; commas separate"), dtype=np.float64), None
