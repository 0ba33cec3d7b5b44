"""Where the files of a data set are looked for, and how they get into the user's cache. Nothing is fetched unasked."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpnet.data.idx import read_checked
from bpnet.errors import CheckpointError, DataError
from bpnet.files import write_bytes

ENVIRONMENT_VARIABLE = "BPNET_DATA_DIR"
SYSTEM_FOLDER = Path("/usr/share/datasets")
TIMEOUT = 60.0  # seconds that a mirror may be silent
_GZIP_OVERHEAD = 1 << 16  # bytes by which a gzip file may be larger than its content


@dataclass(frozen=True)
class IdxFile:
    """One IDX file: its name without .gz, and the size in bytes and SHA-256 of its content, unpacked."""

    name: str
    size: int
    sha256: str

    def variants(self) -> tuple[str, ...]:
        """The names under which it is found: compressed, plain, and plain with a dot as some archives have it."""
        return f"{self.name}.gz", self.name, self.name.replace("-idx", ".idx")


@dataclass(frozen=True)
class FileSet:
    """The files of a data set.

    mirrors  : addresses of folders that hold them, compressed
    commands : what a user may type to get them
    elsewhere: (what it is, function that returns the arrays or raises DataError), asked after all folders
    """

    name: str
    files: tuple[IdxFile, ...]
    mirrors: tuple[str, ...]
    commands: tuple[str, ...]
    elsewhere: tuple[tuple[str, Callable[[], tuple[Any, ...]]], ...] = ()


def cache_folder() -> Path:
    """The folder of the user's cache that is bpnet's: $XDG_CACHE_HOME/bpnet, or what the system has in its place.

    Raises DataError where there is neither that variable nor a home folder.
    """
    windows = sys.platform == "win32"
    variable = "LOCALAPPDATA" if windows else "XDG_CACHE_HOME"
    given = os.environ.get(variable)
    if given and os.path.isabs(given):
        return Path(given) / "bpnet"
    try:
        home = Path.home()
    except RuntimeError:
        raise DataError(f"there is no home folder to keep data in; set {variable} to a folder") from None
    if windows:
        return home / "AppData" / "Local" / "bpnet"
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "bpnet"


def folders(name: str) -> Iterator[tuple[Path, str]]:
    """(folder, why it is looked at), in the order in which they are looked at."""
    given = os.environ.get(ENVIRONMENT_VARIABLE)
    if given:
        yield Path(given) / name, ENVIRONMENT_VARIABLE
        yield Path(given), ENVIRONMENT_VARIABLE
    if sys.platform != "win32":
        yield SYSTEM_FOLDER / name, "the system's data sets"
    yield cache_folder() / name, "the user's cache"


def read_folder(files: FileSet, folder: Path) -> tuple[Any, ...]:
    """The arrays of the set's files in `folder`; DataError when one is missing, damaged or of other content."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {str(folder)!r}" if not folder.exists() else f"{str(folder)!r} is a file")
    return tuple(read_checked(_file_in(folder, file), file.sha256) for file in files.files)


def _file_in(folder: Path, file: IdxFile) -> Path:
    try:
        present = set(os.listdir(folder))
    except OSError as error:
        raise DataError(f"cannot read the folder {str(folder)!r}: {error.strerror or error}") from error
    for variant in file.variants():
        if variant in present:
            return folder / variant
    raise DataError(f"{str(folder)!r} holds no {file.name}.gz and no {file.name}")


def read_files(
    files: FileSet, *, path: str | os.PathLike[str] | None = None, download: bool = False
) -> tuple[tuple[Any, ...], str]:
    """Return the arrays of the set's files and where they were found.

    path     : the folder that holds them; nowhere else is looked then
    download : whether they may be fetched into the user's cache where they are found nowhere
    Raises DataError with every place that was tried and why it would not do, and the commands that get the data.
    """
    if path is not None:
        return read_folder(files, Path(path)), str(path)
    tried = []
    for folder, why in folders(files.name):
        try:
            return read_folder(files, folder), str(folder)
        except DataError as error:
            tried.append(f"{folder} ({why}): {error}")
    for what, read in files.elsewhere:
        try:
            return read(), what
        except DataError as error:
            tried.append(f"{what}: {error}")
    if download:
        folder = fetch(files)
        return read_folder(files, folder), str(folder)
    raise DataError(_not_found(files, tried))


def _not_found(files: FileSet, tried: list[str]) -> str:
    lines = [f"{files.name} was not found. Looked at:", *(f"  {each}" for each in tried)]
    if not os.environ.get(ENVIRONMENT_VARIABLE):
        lines.append(f"  {ENVIRONMENT_VARIABLE} is not set; it may name a folder that holds the files")
    return "\n".join([*lines, "Get it with one of:", *(f"  {command}" for command in files.commands)])


def fetch(files: FileSet, source: str | os.PathLike[str] | None = None) -> Path:
    """Bring the set's files into the user's cache, each whole or not at all, and return their folder.

    source : a folder to copy them from; None: the mirrors, in order
    A file that is there already and has the right content is left. Raises DataError; what was fetched till then stays.
    """
    folder = cache_folder() / files.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {str(folder)!r}: {error.strerror or error}") from error
    for file in files.files:
        with contextlib.suppress(DataError):
            read_checked(_file_in(folder, file), file.sha256)
            continue
        name, content = _copied(file, Path(source)) if source is not None else _downloaded(file, files.mirrors)
        for variant in file.variants():
            with contextlib.suppress(OSError):  # a damaged one would be found first
                (folder / variant).unlink()
        try:
            write_bytes(folder / name, content)
        except CheckpointError as error:
            raise DataError(str(error)) from error
    return folder


def _copied(file: IdxFile, folder: Path) -> tuple[str, bytes]:
    if not folder.is_dir():
        raise DataError(f"there is no folder {str(folder)!r} to take {file.name} from")
    path = _file_in(folder, file)
    read_checked(path, file.sha256)
    return path.name, path.read_bytes()


def _downloaded(file: IdxFile, mirrors: tuple[str, ...]) -> tuple[str, bytes]:
    import http.client  # these bring half of the standard library along
    import urllib.request

    tried = []
    name = f"{file.name}.gz"
    for mirror in mirrors:
        address = mirror + name
        try:
            with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
                content: bytes = answer.read(file.size + _GZIP_OVERHEAD)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / name
                path.write_bytes(content)
                read_checked(path, file.sha256)
            return name, content
        except (OSError, http.client.HTTPException, DataError, ValueError) as error:
            tried.append(f"  {address}: {error}")
    raise DataError("\n".join([f"{name} could not be fetched. Tried:", *tried]))
