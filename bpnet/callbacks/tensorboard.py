"""TensorBoard's event files, written without TensorBoard.

A file is a row of records: the length of the data (8 bytes, little-endian), its masked CRC-32C (4 bytes), the data,
and their masked CRC-32C. The data are protocol buffers:
    Event   : 1 wall_time (double), 2 step (int64), 3 file_version (string), 5 summary (Summary)
    Summary : 1 value, repeated (Value);   Value : 1 tag (string), 2 simple_value (float)
A field is its key, number << 3 | type, and its value: type 0 a varint, 1 eight bytes, 2 a length and bytes, 5 four
bytes.   [TensorFlow, core/util/event.proto, core/framework/summary.proto, core/lib/io/record_writer.h]
"""

from __future__ import annotations

import itertools
import math
import numbers
import os
import re
import struct
import time
from typing import IO, TYPE_CHECKING, Any

from bpnet.callbacks.base import Callback
from bpnet.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from bpnet.history import History
    from bpnet.trainer import Trainer

POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
MASK = 0xA282EAD8
_serial = itertools.count()
_FILE = re.compile(r"events\.out\.tfevents\.[A-Za-z0-9_.-]+")


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """The CRC-32C of `data` (RFC 3720, B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def masked_crc(data: bytes) -> bytes:
    """The CRC as records hold it: turned right by 15 bits and shifted by a constant, 4 bytes."""
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + MASK) & 0xFFFFFFFF)


def record(data: bytes) -> bytes:
    """`data` as a record of an event file."""
    length = struct.pack("<Q", len(data))
    return length + masked_crc(length) + data + masked_crc(data)


def _varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _bytes_field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def version_event(wall_time: float) -> bytes:
    """The Event that every file starts with."""
    return struct.pack("<Bd", 1 << 3 | 1, wall_time) + _bytes_field(3, b"brain.Event:2")


def scalars_event(wall_time: float, step: int, scalars: dict[str, float]) -> bytes:
    """An Event with a value for every tag, as 32-bit floats; larger numbers become infinite."""
    values = b""
    for tag, value in scalars.items():
        try:
            number = struct.pack("<Bf", 2 << 3 | 5, value)
        except OverflowError:
            number = struct.pack("<Bf", 2 << 3 | 5, math.copysign(math.inf, value))
        values += _bytes_field(1, _bytes_field(1, tag.encode()) + number)
    head = struct.pack("<Bd", 1 << 3 | 1, wall_time) + _varint(2 << 3) + _varint(step)
    return head + _bytes_field(5, values)


class TensorBoard(Callback):
    """Writes every epoch's numbers for `tensorboard --logdir FOLDER`; needs neither TensorBoard nor TensorFlow.

    folder : made where it is missing. The training's numbers go to `training` in it and those of the validation to
             `validation`, under the same names, so that TensorBoard draws them into one chart.
    Every fit makes new files; the step is the Trainer's epoch. What is no number, such as a confusion matrix, is left
    out. Raises CheckpointError, before the first step, where the folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        if not os.fspath(folder):
            raise ConfigError(f"TensorBoard: folder must be a path, got {folder!r}")
        self.folder = os.fspath(folder)
        self._files: dict[str, IO[bytes]] = {}
        self._before: dict[str, int] = {}  # files of the same fit before it was resumed, with their lengths

    def on_fit_start(self, trainer: Trainer, names: tuple[str, ...]) -> None:
        """Make the files."""
        self._before = {}
        runs = ["training"] + ["validation"] * any(name.startswith("val_") for name in names)
        try:
            for run in runs:
                self._files[run] = self._open(os.path.join(self.folder, run))
                self._write(run, version_event(time.time()))
        except OSError as error:
            self._close()
            raise self._error(error) from error

    def state(self) -> dict[str, Any]:
        """The files of this fit, and how long they are."""
        files = {run: [os.path.basename(file.name), file.tell()] for run, file in self._files.items()}
        return {"files": {**self._before, **{f"{run}/{name}": length for run, (name, length) in files.items()}}}

    def restore(self, trainer: Trainer, state: dict[str, Any]) -> None:
        """Cut off what the earlier files have of epochs after the checkpoint: they come into the new ones."""
        before = {str(name): int(length) for name, length in state["files"].items()}
        for name in before:
            run, _, file = name.partition("/")
            if run not in ("training", "validation") or not _FILE.fullmatch(file):
                raise ValueError(f"{name!r} is no event file")
        for name, length in before.items():
            path = os.path.join(self.folder, *name.split("/"))
            if os.path.isfile(path) and os.path.getsize(path) > length >= 0:
                os.truncate(path, length)
        self._before = before

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Write and flush the numbers."""
        step, now = int(row["epoch"]), time.time()
        scalars: dict[str, dict[str, float]] = {run: {} for run in self._files}
        for name, value in row.items():
            if name == "epoch" or isinstance(value, bool) or not isinstance(value, numbers.Real):
                continue
            run, tag = ("validation", name[4:]) if name.startswith("val_") else ("training", name)
            scalars[run][tag] = float(value)
        try:
            for run, values in scalars.items():
                self._write(run, scalars_event(now, step, values))
        except OSError as error:
            raise self._error(error) from error

    def on_fit_end(self, trainer: Trainer, history: History) -> None:
        """Close the files."""
        self._close()

    @staticmethod
    def _open(folder: str) -> IO[bytes]:
        from socket import gethostname

        os.makedirs(folder, exist_ok=True)
        unique = f"{os.getpid()}.{next(_serial)}"
        name = f"events.out.tfevents.{int(time.time()):010d}.{gethostname()}.{unique}"
        return open(os.path.join(folder, name), "xb")

    def _write(self, run: str, event: bytes) -> None:
        self._files[run].write(record(event))
        self._files[run].flush()

    def _close(self) -> None:
        files, self._files = self._files, {}
        for file in files.values():
            file.close()

    def _error(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            f"TensorBoard cannot write to the folder {self.folder!r}: {error.strerror or error}; name another one"
        )
