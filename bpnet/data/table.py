"""Text files of rows and columns, and the cells in them. Every refusal names the line and the column."""

from __future__ import annotations

import csv
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from bpnet.errors import ConfigError, DataError

MISSING = frozenset({"", "na", "n/a", "nan", "null", "?"})


@dataclass(frozen=True)
class Table:
    """The rows of a file: (number of the line, cells), all of one length; the columns' names, () if none."""

    path: str
    names: tuple[str, ...]
    rows: list[tuple[int, list[str]]]

    @property
    def width(self) -> int:
        """The number of columns."""
        return len(self.names) if self.names else len(self.rows[0][1])

    def place(self, line: int, column: int) -> str:
        """Where a cell is, for messages: "line 3, column 2 ('age')"."""
        name = f" ({self.names[column]!r})" if self.names else ""
        return f"line {line}, column {column + 1}{name}"


def read_table(path: str | os.PathLike[str], *, delimiter: str = ",", header: bool | None = None) -> Table:
    """Read a text file in UTF-8, cells between delimiters and in double quotes where they hold some.

    header : whether the first line names the columns; None: it does where none of its cells holds a number
    Empty lines are skipped. A first line that counts 0, 1, 2 may be either, and is refused where header is None.
    Raises DataError when the file cannot be read as such or its rows differ in length,
    ConfigError for a delimiter that is not one character.
    """
    if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '"\r\n':
        raise ConfigError(f"delimiter must be one character, such as ',' or '\\t', got {delimiter!r}")
    name = repr(os.fspath(path))
    rows: list[tuple[int, list[str]]] = []
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            line = 1
            for cells in reader:
                if any(cell.strip() for cell in cells) or len(cells) > 1:
                    rows.append((line, [cell.strip() for cell in cells]))
                line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"cannot read {name} as csv: line {line}: {error}") from error
    except OSError as error:
        raise DataError(f"cannot read {name}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read {name} as csv: it is no text in UTF-8 ({error.reason})") from error
    names: tuple[str, ...] = ()
    if header is None and rows and len(rows[0][1]) > 2 and rows[0][1] == [str(i) for i in range(len(rows[0][1]))]:
        raise DataError(
            f"{name} begins with the line {', '.join(rows[0][1][:3])}, ..., which may be a sample or names as pandas "
            "makes them: give the columns names that are no numbers, or say header=True or header=False"
        )
    if rows and (header or (header is None and not any(_has_number(cell) for cell in rows[0][1]))):
        names = tuple(rows.pop(0)[1])
        twice = sorted({each for each in names if names.count(each) > 1})
        if twice:
            raise DataError(f"{name} has more than one column named {twice[0]!r}; give each a name of its own")
    width = len(names) if names else len(rows[0][1]) if rows else 0
    for line, cells in rows:
        if len(cells) != width:
            first = "its header" if names else "the first sample"
            raise DataError(f"cannot read {name} as csv: line {line} has {len(cells)} columns, {first} {width}")
    return Table(os.fspath(path), names, rows)


def _has_number(cell: str) -> bool:
    """Whether a cell holds a number, perhaps in quotes or between other separators: then its line is no header."""
    return any(number(part.strip().strip("\"'")) is not None for part in re.split(r"[;\t]", cell))


def number(cell: str) -> float | None:
    """The number that a cell holds, None where it holds none."""
    try:
        return None if "_" in cell else float(cell)  # Python reads 1_0 as 10
    except ValueError:
        return None


def numbers(table: Table, columns: list[int], hint: str = "") -> list[list[float]]:
    """The numbers of these columns, one list a row; DataError names the first cell that holds no finite one.

    hint : what to add where a cell holds text
    """
    found = []
    for line, cells in table.rows:
        row = []
        for column in columns:
            value = number(cells[column])
            if value is None or not math.isfinite(value):
                raise DataError(
                    f"{table.path!r}, {table.place(line, column)} holds {cells[column][:40]!r}, "
                    + _why_not(cells[column], value, hint)
                )
            row.append(value)
        found.append(row)
    return found


def _why_not(cell: str, value: float | None, hint: str) -> str:
    if is_missing(cell):
        return "which is no number but a missing value; remove the row or impute it"
    return f"which is no number{hint}" if value is None else "which is not finite"


def is_missing(cell: str) -> bool:
    """Whether a cell stands for a value that is not there."""
    return cell.lower() in MISSING
