"""Files written whole or not at all, and tensors in safetensors files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bpnet.errors import CheckpointError

SEAL = "sha256"  # the key of the metadata that holds the digest of the whole file
_BLANK = "0" * 64  # what stands in its place while the file is digested


def write(path: str | os.PathLike[str], tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    """Write NumPy arrays and texts to `path`, as `write_bytes` does; equal contents give equal files.

    The metadata get one more text, the SHA-256 of the file in which 64 zeros stand in that text's place.
    """
    write_bytes(path, pack(tensors, metadata))


def pack(tensors: dict[str, Any], metadata: dict[str, str]) -> bytes:
    """The bytes of the file that `write` writes."""
    from safetensors.numpy import save

    # safetensors writes the memory as it lies and does not look at strides: C order, or other numbers are read back.
    ordered = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    plain = memoryview(save(ordered, metadata=metadata | {SEAL: _BLANK}))
    size = int.from_bytes(plain[:8], "little")
    header = json.loads(bytes(plain[8 : 8 + size]))
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))  # safetensors has them in any order
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    length, data = len(text).to_bytes(8, "little"), plain[8 + size :]
    return b"".join((length, text.replace(_sealing(_BLANK), _sealing(_digest(length, text, data))), data))


def _sealing(digest: str) -> bytes:
    """How the header says the digest; texts cannot hold this, since JSON puts backslashes before their quotes."""
    return f'"{SEAL}":"{digest}"'.encode()


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _check_seal(path: Any, content: bytes, header: int, digest: str) -> None:
    """Raise CheckpointError unless the file's digest is what its header says. header : bytes of it"""
    length, text, data = content[:8], content[8 : 8 + header], memoryview(content)[8 + header :]
    said = _sealing(digest)
    if text.count(said) != 1 or _digest(length, text.replace(said, _sealing(_BLANK)), data) != digest:
        raise CheckpointError(
            f"{str(path)!r} is damaged: its SHA-256 is not the one that was written with it; take another copy"
        )


def write_bytes(path: str | os.PathLike[str], content: bytes | Iterable[bytes | memoryview]) -> None:
    """Write `content` to `path`: a temporary file beside it, flushed to the disk, then renamed.

    content : the bytes, or pieces of them in order
    Raises CheckpointError when that is not possible; a file that was there before is then untouched.
    """
    target = _regular(path)
    with _temporary(target) as (handle, name):
        with os.fdopen(handle, "wb") as file:
            if target.exists():
                os.chmod(name, stat.S_IMODE(target.stat().st_mode))
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, target)
    _settle(target.parent)


def _settle(folder: Path) -> None:
    """Bring a folder's new entry to the disk, where the system lets one."""
    with contextlib.suppress(OSError, AttributeError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


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
    path = _named(path, "write to")
    if os.path.isdir(path):
        raise CheckpointError(f"cannot write {str(path)!r}: it is a folder; name a file in it")
    if os.path.exists(path) and not os.path.isfile(path):
        raise CheckpointError(f"cannot write {str(path)!r}: it is no regular file; name one, or a new one")
    return Path(os.path.realpath(path) if os.path.islink(path) else path)  # a link stays; its target is written


def _named(path: Any, verb: str) -> str:
    """The path as text; CheckpointError where it names no file. A number would be one of an open file."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise CheckpointError(f"cannot {verb} a file: its path must be a text or a pathlib.Path, got {path!r}")
    name = os.fsdecode(path)
    if not name or "\0" in name:
        raise CheckpointError(f"cannot {verb} {name!r}: name a file")
    return name


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

    Raises CheckpointError when it cannot be read, is truncated or damaged, or is something else. A file without a
    digest of its content is taken as it is; where there was one, it is in the metadata under `SEAL`.
    """
    from safetensors.numpy import load

    return _parsed(path, load)


def read_raw(path: str | os.PathLike[str]) -> tuple[dict[str, tuple[str, tuple[int, ...], Any]], dict[str, str]]:
    """As `read`, each tensor as (dtype, shape, bytes), the dtype as the file says it: NumPy lacks some of them."""
    from safetensors import deserialize

    def load(content: bytes) -> dict[str, Any]:
        found = ((name, each["dtype"], tuple(each["shape"]), each["data"]) for name, each in deserialize(content))  # type: ignore[no-untyped-call]
        return {name: tuple(rest) for name, *rest in found}

    return _parsed(path, load)


def _parsed(path: str | os.PathLike[str], load: Callable[[bytes], dict[str, Any]]) -> tuple[dict[str, Any], Any]:
    """What `load` makes of a file's content, by name, and its texts; CheckpointError where it is none."""
    from safetensors import SafetensorError

    content = _content(path)
    try:
        tensors = load(content)
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size]).get("__metadata__") or {}
    except (
        SafetensorError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        ArithmeticError,
        ImportError,
        RecursionError,
    ) as error:
        what = f"{error}"[:200]
        raise CheckpointError(f"{str(path)!r} is no whole safetensors file ({len(content)} bytes): {what}") from error
    if SEAL in metadata:
        _check_seal(path, content, size, metadata[SEAL])
    return dict(sorted(tensors.items())), metadata


def _content(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a regular file: of a device or a pipe there may be no end."""
    path = _named(path, "read")
    try:
        kind = os.stat(path).st_mode
        if stat.S_ISREG(kind) or stat.S_ISDIR(kind):
            return Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path!r}: {_reason(error)}") from error
    raise CheckpointError(f"cannot read {path!r}: it is no regular file")
