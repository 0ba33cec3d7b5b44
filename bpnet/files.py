"""Files written whole or not at all, and tensors in safetensors files."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bpnet.errors import CheckpointError


def write(path: str | os.PathLike[str], tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    """Write NumPy arrays and texts to `path`, as `write_bytes` does."""
    from safetensors.numpy import save

    # safetensors writes the memory as it lies and does not look at strides: C order, or other numbers are read back.
    ordered = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    write_bytes(path, save(ordered, metadata=metadata))


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content` to `path`: a temporary file beside it, flushed to the disk, then renamed.

    Raises CheckpointError when that is not possible; a file that was there before is then untouched.
    """
    target = _regular(path)
    with _temporary(target) as (handle, name):
        with os.fdopen(handle, "wb") as file:
            if target.exists():
                os.chmod(name, stat.S_IMODE(target.stat().st_mode))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, target)


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[tuple[int, str]]:
    """A new file beside `target`, open for writing, that is gone afterwards; an OSError becomes a CheckpointError."""
    name = str(target.parent / f".{secrets.token_hex(8)}.tmp")
    try:
        yield os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666), name
    except OSError as error:
        raise CheckpointError(f"cannot write {str(target)!r}: {_reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(name)


def _regular(path: str | os.PathLike[str]) -> Path:
    """Return `path`; CheckpointError when it is a folder or a device such as /dev/null, which no file may replace."""
    if not os.fspath(path):
        raise CheckpointError("cannot write to '': name a file")
    if os.path.isdir(path):
        raise CheckpointError(f"cannot write {str(path)!r}: it is a folder; name a file in it")
    if os.path.exists(path) and not os.path.isfile(path):
        raise CheckpointError(f"cannot write {str(path)!r}: it is no regular file; name one, or a new one")
    return Path(os.path.realpath(path) if os.path.islink(path) else path)  # a link stays; its target is written


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise CheckpointError unless a file could be written at `path`: to be asked before hours of training."""
    target = _regular(path)
    if not os.path.isdir(target.parent):
        raise CheckpointError(f"cannot write {str(target)!r}: there is no folder {str(target.parent)!r}")
    with _temporary(target) as (handle, _):
        os.close(handle)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the NumPy arrays and the texts of a safetensors file. Nothing in it is executed.

    Raises CheckpointError when it cannot be read, is truncated, or is something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {str(path)!r}: {_reason(error)}") from error
    try:
        tensors = load(content)
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{str(path)!r} is no whole safetensors file ({len(content)} bytes): {error}") from error
    return tensors, metadata
