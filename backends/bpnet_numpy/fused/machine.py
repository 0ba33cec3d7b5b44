"""Compiles bodies when they are first bound, keeps them on disk, and runs programs. Imports numba.

What is kept lies in a folder named by everything that a compiled body depends on: the sources of this package, how they
are compiled, the versions of Python, numba and LLVM, and the processor. So none is taken that was made of other
sources or flags. Where no folder can be written, bodies are compiled in every process.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import threading
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding
import numba
import numpy as np
from numba import cfunc, njit, types
from numba.core import config

from bpnet_numpy.fused.code import (
    attention,
    convolution,
    counting,
    direct,
    division,
    elementwise,
    fork,
    images,
    lstm,
    matmul,
    norms,
    products,
    rows,
    sequences,
    smooth,
    softmax,
    team,
    updates,
)
from bpnet_numpy.fused.code.intrinsics import FLAGS, call
from bpnet_numpy.fused.code.tiles import VECTOR

__all__ = ["VECTOR", "address", "cache_folder", "dismiss", "execute", "serve", "team"]

ENVIRONMENT_VARIABLE = "BPNET_CACHE_DIR"
_SIGNATURES = {
    np.dtype("float32"): types.void(types.CPointer(types.float32)),
    np.dtype("float64"): types.void(types.CPointer(types.float64)),
}
_SHARES = {
    np.dtype("float32"): types.void(types.CPointer(types.float32), types.int64, types.int64),
    np.dtype("float64"): types.void(types.CPointer(types.float64), types.int64, types.int64),
}
"""Of bodies that a team makes: each thread calls them with the team and its place."""
_MODULES = (
    elementwise,
    products,
    softmax,
    updates,
    counting,
    images,
    matmul,
    direct,
    rows,
    division,
    fork,
    norms,
    smooth,
    sequences,
    attention,
    lstm,
    convolution,
)
_addresses: dict[tuple[str, np.dtype[Any]], int] = {}
_bodies: list[Any] = []  # compiled code lives as long as these
_lock = threading.RLock()


def _execute(program: Any) -> None:
    """Run the instructions of a program, one behind the other: address of the body, number of words, words."""
    start = program.ctypes.data
    i = 0
    while i < program.size:
        call(program[i], start + 8 * (i + 2))
        i += program[i + 1] + 2


def _key() -> str:
    """Names everything that a compiled body depends on."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    target = llvmlite.binding
    processor = (platform.machine(), target.get_host_cpu_name(), target.get_host_cpu_features().flatten())
    settings = (config.CPU_NAME, config.CPU_FEATURES, config.OPT, sorted(FLAGS["fastmath"]), FLAGS["error_model"])
    versions = (sys.implementation.cache_tag, numba.__version__, llvmlite.__version__, np.__version__)
    found.update(repr((processor, settings, versions)).encode())
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
    """Where compiled bodies are kept, or None where nothing can be written."""
    given = os.environ.get(ENVIRONMENT_VARIABLE, "").strip()
    base = Path(given) if given else _user_cache()
    if base is None:
        return None
    folder = base / "fused" / _key()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}-{threading.get_ident()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError:
        return None
    return folder


_FOLDER = cache_folder()


def _kept(compile_it: Any, function: Any) -> Any:
    """Compile a function, from and into the cache where that can be done."""
    with _lock:
        if _FOLDER is not None:
            before, config.CACHE_DIR = config.CACHE_DIR, str(_FOLDER)
            try:
                return compile_it(cache=True)(function)
            except Exception:  # a damaged or foreign file, a full disk: the cache must not end a training
                pass
            finally:
                config.CACHE_DIR = before
        return compile_it(cache=False)(function)


class _Later:
    """A function that is compiled when it is first called."""

    def __init__(self, compile_it: Any, function: Any) -> None:
        self._made = compile_it, function
        self._compiled: Any = None

    def __call__(self, *args: Any) -> Any:
        if self._compiled is None:
            self._compiled = _kept(*self._made)
        return self._compiled(*args)


serve = _Later(lambda cache: njit("void(int64, int64)", nogil=True, cache=cache, **FLAGS), team.serve)
dismiss = _Later(lambda cache: njit("void(int64)", nogil=True, cache=cache, **FLAGS), team.dismiss)
execute = _kept(lambda cache: njit("void(int64[::1])", nogil=True, cache=cache, **FLAGS), _execute)


def address(name: str, dtype: np.dtype[Any]) -> int:
    """Where the body of that name for that dtype begins; compiled now if it was not yet."""
    found = _addresses.get((name, dtype))
    return found if found is not None else _compile(name, dtype)


def _compile(name: str, dtype: np.dtype[Any]) -> int:
    with _lock:
        if (name, dtype) not in _addresses:
            body = next(getattr(module, name) for module in _MODULES if hasattr(module, name))
            signature = (_SHARES if body.__code__.co_argcount > 1 else _SIGNATURES)[dtype]
            _bodies.append(_kept(lambda cache: cfunc(signature, cache=cache, **FLAGS), body))
            _addresses[name, dtype] = int(_bodies[-1].address)
        return _addresses[name, dtype]


def named(words: Any) -> tuple[str, tuple[int, int, int]]:
    """The name of an instruction's body, and m, n, k of a product, else zeros."""
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
