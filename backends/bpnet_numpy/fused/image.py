"""Compiled functions as files: machine code that is brought into memory without what compiled it.

An image is what one function needs in memory, with the places in it that hold addresses. To load it is to reserve
memory, copy it, write these addresses, and let the system make it executable and no longer writable. numba, LLVM and a
linker take no part.

One image holds one function, because a process needs a few dozen of 150, and each is compiled when it is first needed.
A shared library, which the system itself would load, needs a linker, or all that a linker writes (a table of names with
its hashes, a dynamic section) and code without addresses in it, which is not what numba compiles: so the same function
would be two different ones, before and after. What debuggers would gain by it is the names.

Who may write a file of machine code decides what a process does. So an image is loaded only from a file and a folder
that belong to the user or to root, and that nobody else may write; a file says at its start what it is, with a sum
over all of it, so that what is cut off, altered, or made for something else is not loaded. It is written beside and
renamed, so that there is never half a file.

Whatever does not hold raises Unloadable, and the function is compiled, as it is on systems that are no Linux on x86-64.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import os
import platform
import struct
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

PAGE = 4096
MAGIC = b"bpnet code 1\n"
_SUM = 32
OTHERS_WRITE = 0o022

_OF_C = frozenset(("abort", "calloc", "free", "malloc", "memcmp", "memcpy", "memmove", "memset")) | {
    name + kind
    for name in ("cos", "exp", "exp2", "expm1", "ldexp", "log", "log1p", "pow", "sin", "tanh")
    for kind in ("", "f")
}
_NEVER_CALLED = {"NRT_MemInfo_call_dtor": "abort"}
"""What frees arrays of numba's. No image holds a function that makes one, for what that needs is not known here."""
_OF_PYTHON = frozenset(("PyEval_RestoreThread", "PyEval_SaveThread", "Py_NewRef", "_Py_NoneStruct"))


class Unloadable(Exception):
    """What cannot be loaded, or must not be."""


class Image(NamedTuple):
    """A function's memory.

    memory      : code and constants, and from `writable` on, a multiple of a page, what is written
    entry       : where the function begins
    relocations : places of words that are addresses: of the function of that name, or of the memory where it is '',
                  plus a number
    """

    memory: bytes
    writable: int
    entry: int
    relocations: tuple[tuple[int, str, int], ...]


def supported() -> bool:
    """Whether images are made and loaded on this system."""
    return sys.platform == "linux" and platform.machine() == "x86_64" and mmap.PAGESIZE == PAGE


def save(image: Image, path: Path, identity: str, about: dict[str, Any]) -> None:
    """Write an image to a file. identity : what it is, which `read` asks for. Raises OSError."""
    head = {"identity": identity, "about": about, "memory": len(image.memory)}
    head |= {"writable": image.writable, "entry": image.entry, "relocations": image.relocations}
    text = json.dumps(head).encode()
    content = struct.pack("<Q", len(text)) + text + image.memory
    beside = path.with_name(f".{path.name}-{os.getpid()}-{threading.get_ident()}")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(MAGIC + hashlib.sha256(content).digest() + content)
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def read(path: Path, identity: str) -> tuple[Image, dict[str, Any]]:
    """The image in a file, and what was written about it. Raises Unloadable."""
    try:
        _trusted(os.stat(path.parent))
        with open(path, "rb") as file:
            _trusted(os.fstat(file.fileno()))
            whole = file.read()
    except OSError as error:
        raise Unloadable(f"no file: {error}") from None
    start = len(MAGIC) + _SUM
    content = whole[start:]
    if whole[:start] != MAGIC + hashlib.sha256(content).digest():
        raise Unloadable("a damaged file")
    try:
        (size,) = struct.unpack_from("<Q", content)
        head, memory = json.loads(content[8 : 8 + size]), content[8 + size :]
        if (head["identity"], head["memory"]) != (identity, len(memory)):
            raise Unloadable("a file of something else")
        relocations = tuple((int(place), str(name), int(addend)) for place, name, addend in head["relocations"])
        return Image(memory, int(head["writable"]), int(head["entry"]), relocations), head["about"]
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise Unloadable(f"a file without what it must hold: {error}") from None


def _trusted(found: os.stat_result) -> None:
    """Raise Unloadable where others than this user and root can have written it."""
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & OTHERS_WRITE:
        raise Unloadable("others may write here")


@cache
def _external(name: str) -> int:
    """The address of a function of C or of Python. Raises Unloadable for one that no body is known to need."""
    name = _NEVER_CALLED.get(name, name)
    if name not in _OF_C | _OF_PYTHON:
        raise Unloadable(f"nobody knows what {name!r} is")
    try:
        return ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi if name in _OF_PYTHON else _c(), name))
    except ValueError:
        raise Unloadable(f"there is no {name!r} here") from None


@cache
def _c() -> Any:
    """The libraries that Python itself is linked with: C's and its mathematics."""
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    library.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return library


def load(image: Image) -> int:
    """Bring an image into memory, where it stays to the end of the process; the address of its function.

    Raises Unloadable, also where the system allows no such memory.
    """
    memory, size = bytearray(image.memory), len(image.memory)
    if not 0 < image.writable <= size or image.writable % PAGE or not 0 <= image.entry < image.writable:
        raise Unloadable("a memory without a function")
    targets = [(place, _external(name) if name else None, addend) for place, name, addend in image.relocations]
    if any(not 0 <= place <= size - 8 for place, _, _ in targets):
        raise Unloadable("an address outside of the memory")
    start = _c().mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if start in (None, ctypes.c_void_p(-1).value):
        raise Unloadable("no memory")
    for place, target, addend in targets:
        struct.pack_into("<Q", memory, place, ((start if target is None else target) + addend) & (1 << 64) - 1)
    ctypes.memmove(start, bytes(memory), size)
    if _c().mprotect(start, image.writable, mmap.PROT_READ | mmap.PROT_EXEC):
        _c().munmap(start, size)
        raise Unloadable(f"the system makes no memory executable: {os.strerror(ctypes.get_errno())}")
    return int(start) + image.entry
