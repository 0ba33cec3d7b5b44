"""Finds compiled bodies, keeps them on disk, and runs programs. Imports numba only where a body is not kept yet.

What is kept lies in a folder named by everything that a compiled body depends on: the sources of this package and of
`OUTSIDE`, the variables that numba reads, the versions of Python, NumPy, numba and LLVM, and the processor. So none is
taken that was made of other sources or flags. What is kept are images (`image.py`), and where these cannot be made
numba's own files. Where no folder can be written, bodies are compiled in every process.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import os
import platform
import sys
import threading
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bpnet.ops import smooth
from bpnet_numpy.fused import image, state

__all__ = ["COMPILER", "VECTOR", "address", "cache_folder", "dismiss", "execute", "serve", "team"]

ENVIRONMENT_VARIABLE = "BPNET_CACHE_DIR"
OUTSIDE = (smooth,)
"""What bodies take constants from outside of this package: the terms of a series stand where its reference is."""
team = state
_addresses: dict[tuple[str, np.dtype[Any] | None], int] = {}
_lock = threading.RLock()


def _processor() -> tuple[Any, ...]:
    """What machine code for this processor depends on: its model, and the instructions that it and the system have."""
    kept = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")
    found = []
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if not line.strip():  # the other processors
                    break
                name, _, value = line.partition(":")
                if name.strip() in kept or name.startswith(("CPU ", "Features")):
                    found.append((name.strip(), value.strip()))
    except OSError:
        found.append(("", platform.processor()))
    features = getattr(np._core._multiarray_umath, "__cpu_features__", {})  # type: ignore[attr-defined]
    return platform.machine(), tuple(found), tuple(sorted(features.items()))


def _made_with() -> tuple[Any, ...]:
    """The versions that compile, and what they are told from outside. Nothing of them is imported."""
    found: list[Any] = [sys.implementation.cache_tag, sys.version, getattr(sys, "abiflags", ""), np.__version__]
    for name in ("numba", "llvmlite"):
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            about = os.stat(spec.origin)
            found.append((spec.origin, about.st_size, about.st_mtime_ns))
            with suppress(OSError):
                found.append(Path(spec.origin).with_name("_version.py").read_bytes())
    found += sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_"))
    with suppress(OSError):
        found.append(Path(".numba_config.yaml").read_bytes())  # numba reads it there
    return tuple(found)


def _key() -> str:
    """Names everything that a compiled body depends on."""
    found = hashlib.sha256()
    for path in (*sorted(Path(__file__).parent.rglob("*.py")), *(Path(str(each.__file__)) for each in OUTSIDE)):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    found.update(repr((_processor(), _made_with())).encode())
    return found.hexdigest()[:32]


def _user_cache() -> Path | None:
    """The folder of the user's cache that is bpnet's, or None where there is no home."""
    if sys.platform == "win32":
        found = os.environ.get("LOCALAPPDATA")
        return Path(found, "bpnet", "Cache") if found else None
    if found := os.environ.get("XDG_CACHE_HOME"):
        return Path(found, "bpnet")
    try:
        return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "bpnet"
    except RuntimeError:
        return None


def cache_folder() -> Path | None:
    """Where compiled bodies are kept, whether it is there or not; None where nobody says where."""
    given = os.environ.get(ENVIRONMENT_VARIABLE, "").strip()
    base = Path(given) if given else _user_cache()
    return None if base is None else base / "fused" / _key()


_FOLDER = cache_folder()
_images = image.supported()


def _writable() -> Path | None:
    """That folder where something can be written into it."""
    if _FOLDER is None:
        return None
    try:
        _FOLDER.parent.mkdir(parents=True, exist_ok=True)
        _FOLDER.mkdir(mode=0o700, exist_ok=True)
        probe = _FOLDER / f".{os.getpid()}-{threading.get_ident()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError:
        return None
    return _FOLDER


def _find(name: str, dtype: np.dtype[Any] | None) -> tuple[int, dict[str, Any]]:
    """Where a function begins, and what is known about how it was made."""
    kind = name if dtype is None else f"{name}-{dtype}"
    path = None if _FOLDER is None else _FOLDER / f"{kind}.code"
    if _images and path is not None:
        try:
            found, about = image.read(path, _identity(path))
            return image.load(found), about
        except image.Unloadable:
            pass
    return _compile(name, dtype, path)


def _compile(name: str, dtype: np.dtype[Any] | None, path: Path | None) -> tuple[int, dict[str, Any]]:
    """Compile a function, and keep its image in that file; numba keeps it where no image can be made."""
    global _images
    try:
        compiler = importlib.import_module("bpnet_numpy.fused.compiler")
    except Exception as error:
        error.add_note("A body that is not kept yet needs numba; with BPNET_FUSED=0 NumPy computes alone.")
        raise
    folder = _writable()
    about = {"vector": compiler.VECTOR, "compiler": compiler.NAME}
    if _images and path is not None and folder is not None:
        from bpnet_numpy.fused import elf

        try:
            found = elf.image(*compiler.compiled(name, dtype))
            start = image.load(found)
        except image.Unloadable:
            _images = False
        else:
            with suppress(OSError):
                image.save(found, path, _identity(path), about)
            return start, about
    return compiler.address(name, dtype, folder), about


def _identity(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def address(name: str, dtype: np.dtype[Any] | None) -> int:
    """Where the body of that name for that dtype begins; compiled now if it was not yet."""
    found = _addresses.get((name, dtype))
    if found is None:
        with _lock:
            found = _addresses.get((name, dtype))
            if found is None:
                found = _addresses[name, dtype] = _find(name, dtype)[0]
    return found


class _Definition(ctypes.Structure):
    """A function of Python's C interface."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("text", ctypes.c_char_p),
    )


def _as_python_function(name: bytes, start: int) -> Any:
    """The function at an address, which takes an object and returns one: a call costs a third of one by ctypes."""
    one_argument = 8
    definition = _Definition(name, start, one_argument, None)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(definition))  # it must outlive all functions
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    return make(ctypes.addressof(definition), None, None)


def _shape_lies_there(words: Any) -> bool:
    """Whether `execute` finds the address and the number of words where it looks for them."""
    head = (ctypes.c_size_t * 3).from_address(id(words) + object.__basicsize__)
    return bool(head[0] == words.ctypes.data and ctypes.c_ssize_t.from_address(head[2]).value == words.size)


_START, _ABOUT = _find("execute", None)
if not _shape_lies_there(np.arange(3)):
    raise ImportError("this NumPy's arrays do not lie in memory as its C interface says")
execute = _as_python_function(b"execute", _START)
"""Run a program, an array of words. Other threads of Python may run meanwhile."""

VECTOR: int = _ABOUT["vector"]
"""The bytes of this processor's vectors; 0 where tiles are not made for them."""

COMPILER: str = _ABOUT["compiler"]


def serve(team: int, place: int) -> None:
    """What the helper at a place, 1 or more, does until it is told to stop."""
    address("dismiss", None)  # so that nothing is compiled when the interpreter ends
    ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(address("serve", None))(team, place)


def dismiss(team: int) -> None:
    """Tell all helpers to stop."""
    ctypes.CFUNCTYPE(None, ctypes.c_int64)(address("dismiss", None))(team)


def named(words: Any) -> tuple[str, tuple[int, int, int]]:
    """The name of an instruction's body, and m, n, k of a product, else zeros. It may import numba."""
    from bpnet_numpy.fused.code import direct, division, matmul

    names = {found: name for (name, _), found in _addresses.items()}
    name, operands = names.get(int(words[0]), "?"), [int(each) for each in words[2:]]
    if name == "divided":
        return f"{names.get(operands[division.BODY], '?')}, divided", (0, 0, 0)
    places = {
        "tiled_product": (matmul.M, matmul.N, matmul.K),
        "direct_product": (direct.M, direct.N, direct.K),
        "product_64": (3, 4, 5),
        "product_32": (3, 4, 5),
    }
    if name not in places:
        return name, (0, 0, 0)
    m, n, k = (operands[place] for place in places[name])
    return f"{name} {m}x{k}x{n}", (m, n, k)
