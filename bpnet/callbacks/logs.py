"""Every epoch's numbers as a line of a file, written as soon as they are known."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any

from bpnet.callbacks.base import Callback
from bpnet.errors import CheckpointError, ConfigError
from bpnet.files import check_writable

if TYPE_CHECKING:
    from bpnet.history import History
    from bpnet.trainer import Trainer


def plain(value: Any) -> Any:
    """`value` in JSON's vocabulary: arrays and tuples as lists, NaN and infinities as None, at any depth."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value


class _FileLogger(Callback):
    """A text file that gets a line an epoch, each flushed.

    It is opened by the first, so that a fit without a complete epoch leaves the file of an earlier one as it was.
    """

    def __init__(self, path: str | os.PathLike[str], *, append: bool = False) -> None:
        if not isinstance(append, bool):
            raise ConfigError(f"{type(self).__name__}: append must be True or False, got {append!r}")
        self.path = os.fspath(path)
        self.append = append
        self._names: tuple[str, ...] = ()
        self._length = 0  # of what belongs to this fit, or was there before where it is appended to
        self._resumed = False
        self._file: IO[str] | None = None

    def on_fit_start(self, trainer: Trainer, names: tuple[str, ...]) -> None:
        """See that the file can be written, and appended to where that is asked."""
        check_writable(self.path)
        if os.path.exists(self.path) and not os.access(self.path, os.W_OK):
            raise CheckpointError(f"cannot write {self.path!r}: it may not be changed")
        self._names = names
        self._length, self._resumed = 0, False
        if self.append and os.path.exists(self.path):
            self._length = os.path.getsize(self.path)
            try:
                with open(self.path, newline="", encoding="utf-8", errors="replace") as file:
                    self._check_head(file.readline())
            except OSError as error:
                raise self._error(error) from error

    def state(self) -> dict[str, Any]:
        """Which file it is, and how long."""
        return {"path": os.path.abspath(self.path), "bytes": self._length}

    def restore(self, trainer: Trainer, state: dict[str, Any]) -> None:
        """Go on behind the lines that were written before the checkpoint; what came after them is written again.

        Another file than before is begun anew. Raises CheckpointError where the file is shorter than it was.
        """
        length = int(state["bytes"])
        if state["path"] != os.path.abspath(self.path) or not length:
            return
        found = os.path.getsize(self.path) if os.path.exists(self.path) else 0
        if not 0 < length <= found:
            raise CheckpointError(
                f"{self.path!r} had {length} bytes when the checkpoint was made, and has {found} now; bring the file "
                "back, or write to another one"
            )
        self._length, self._resumed = length, True

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Write the line."""
        row = row | ({"epoch": int(row["epoch"])} if "epoch" in row else {})
        try:
            if self._file is None:
                self._file = self._open()
            self._file.write(self._line(row))
            self._file.flush()
            self._length = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise self._error(error) from error

    def on_fit_end(self, trainer: Trainer, history: History) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _open(self) -> IO[str]:
        if self._resumed:
            os.truncate(self.path, self._length)
        goes_on = self.append or self._resumed
        size = os.path.getsize(self.path) if goes_on and os.path.exists(self.path) else 0
        torn = False
        if size:
            with open(self.path, "rb") as before:
                before.seek(-1, os.SEEK_END)
                torn = before.read(1) != b"\n"
        file = open(self.path, "a" if goes_on else "w", newline="", encoding="utf-8")  # noqa: SIM115
        if torn:
            file.write("\n")  # the line that a killed process left unfinished stays a line of its own
        if not size:
            file.write(self._head())
        return file

    def _error(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"cannot write {self.path!r}: {error.strerror or error}")

    def _check_head(self, line: str) -> None:
        """Raise ConfigError where a file that begins so is none to append to."""

    def _head(self) -> str:
        """What a new file begins with."""
        return ""

    def _line(self, row: dict[str, Any]) -> str:
        raise NotImplementedError


class CSVLogger(_FileLogger):
    """A line of comma-separated values for every epoch, under a header of names.

    path   : a file; a fit writes it anew, and with append=True goes on where the header is the same
    Floats are written so that they read back as the same numbers; lists and dicts as JSON.
    Raises CheckpointError, before the first step, where the file cannot be written.
    """

    def _check_head(self, line: str) -> None:
        if line and next(csv.reader([line]), []) != list(self._names):
            raise ConfigError(
                f"CSVLogger: {self.path!r} begins with {line.rstrip()!r}, and this fit has the columns "
                f"{','.join(self._names)}; write to another file"
            )

    def _head(self) -> str:
        return _csv_line(self._names)

    def _line(self, row: dict[str, Any]) -> str:
        values = (row.get(name, "") for name in self._names)
        return _csv_line(json.dumps(plain(v)) if isinstance(v, (dict, list, tuple)) else v for v in values)


def _csv_line(values: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


class JSONLogger(_FileLogger):
    """A JSON object on a line of its own for every epoch.

    path : a file; a fit writes it anew, and with append=True goes on
    NaN and infinities, which JSON lacks, are written as null.
    Raises CheckpointError, before the first step, where the file cannot be written.
    """

    def _line(self, row: dict[str, Any]) -> str:
        return json.dumps(plain(row), allow_nan=False) + "\n"
