"""IDX files, the format of MNIST: two zero bytes, a code for the dtype, the number of axes, the axes, the values.

Numbers of more than one byte are big-endian. [LeCun, Cortes, Burges, "The MNIST database"]
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bpnet.errors import DataError

DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"
_MAX_AXES = 64  # what a NumPy array can have
_PIECE = 1 << 20  # bytes


class Readable(Protocol):
    """A file to read bytes from, plain or unpacked on the way."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; none at the end."""


def read_idx(path: str | os.PathLike[str]) -> Any:
    """Return the array of an IDX file, plain or compressed by gzip, in this machine's byte order.

    Raises DataError, with what was expected and what was found, when the file cannot be read, is no IDX file, is
    truncated or damaged, or goes on behind its values.
    """
    return read_checked(path)


def read_checked(path: str | os.PathLike[str], sha256: str = "") -> Any:
    """Return the array of an IDX file; DataError unless its bytes, unpacked, have the checksum (where one is given)."""
    name = repr(os.fspath(path))
    try:
        with Path(path).open("rb") as file:
            packed = file.read(2) == _GZIP
            file.seek(0)
            if not packed and os.fspath(path).endswith(".gz"):
                raise DataError(
                    f"{name} must be compressed by gzip and begin with the bytes 1f 8b, found {_hex(file.read(2))}"
                )
            if not packed:
                return _read(file, name, sha256)
            with gzip.GzipFile(fileobj=file) as unpacked:
                return _read(unpacked, name, sha256)
    except EOFError:
        raise DataError(f"{name} is truncated: its gzip stream has no end; get it anew") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{name} is damaged: its gzip stream cannot be unpacked ({error}); get it anew") from error
    except OSError as error:
        raise DataError(f"cannot read {name}: {error.strerror or error}") from error


def _read(file: Readable, name: str, sha256: str) -> Any:
    magic = _exactly(file, 4, name, "its first four bytes")
    if magic[:2] != b"\0\0":
        raise DataError(f"{name} is no IDX file: it must begin with the bytes 00 00, found {_hex(magic[:2])}")
    code, n_axes = magic[2], magic[3]
    if code not in DTYPES:
        known = ", ".join(f"{each:02x}" for each in DTYPES)
        raise DataError(f"{name}: the third byte of an IDX file names its dtype, one of {known}; found {code:02x}")
    if not 1 <= n_axes <= _MAX_AXES:
        raise DataError(f"{name}: an IDX file must have 1 to {_MAX_AXES} axes, its fourth byte says {n_axes}")
    lengths = _exactly(file, 4 * n_axes, name, f"the lengths of its {n_axes} axes")
    shape = tuple(int(n) for n in np.frombuffer(lengths, ">u4"))
    dtype = np.dtype(DTYPES[code])
    size = math.prod(shape) * dtype.itemsize
    values = _exactly(file, size, name, f"the values of shape {shape}")
    more = len(file.read(_PIECE))
    if more:
        raise DataError(
            f"{name} must end after the {size} bytes of its values of shape {shape}, found "
            f"{'at least ' if more == _PIECE else ''}{more} bytes more"
        )
    if sha256:
        check_sha256((magic, lengths, values), sha256, name)
    array = np.frombuffer(values, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="))


def _exactly(file: Readable, size: int, name: str, what: str) -> bytearray:
    """The next `size` bytes, read in pieces: a header that lies about the size takes no memory."""
    found = bytearray()
    while len(found) < size:
        piece = file.read(min(size - len(found), _PIECE))
        if not piece:
            raise DataError(f"{name} is truncated: {what} take {size} bytes, found {len(found)}")
        found += piece
    return found


def check_sha256(parts: tuple[bytes | bytearray, ...], expected: str, name: str) -> None:
    """Raise DataError unless the parts, one behind the other, have that SHA-256 (in hexadecimal digits)."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    found = digest.hexdigest()
    if found != expected:
        raise DataError(
            f"{name} has another content than the published one: SHA-256 must be {expected[:16]}..., found "
            f"{found[:16]}...; get it anew"
        )


def _hex(content: bytes | bytearray) -> str:
    return content.hex(" ") or "nothing"
