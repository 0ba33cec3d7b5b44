"""Backends: what an array library must offer, the registry of them, and how one is chosen.

Selection is loud. The argument wins, then `use_backend(...)`, then the environment variable `BPNET_BACKEND`, then
`numpy`. The chosen backend is probed once: it allocates, computes and copies back. What cannot run raises
`BackendError` with the reason and the remedy; nothing falls back to another backend.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from bpnet.dispatch import Array, provide_variants
from bpnet.errors import BackendError, DTypeError, did_you_mean

ENVIRONMENT_VARIABLE = "BPNET_BACKEND"
ENTRY_POINT_GROUP = "bpnet.backends"
FLOATING_DTYPES = ("float32", "float64")


@runtime_checkable
class Backend(Protocol):
    """An array library on one device. Made by `factory(device)`, where `device` is the text after the colon or None.

    name       : the registry's name, with the device where it is not the default ("cupy:1")
    xp         : the Array API namespace
    array_type : the class of its arrays
    """

    name: str
    xp: Any
    array_type: Any

    def asarray(self, x: Any, dtype: str | None = None) -> Array:
        """Return `x` (a host array, a nested sequence, or an array of this library) on this device, C-contiguous."""

    def to_numpy(self, x: Array) -> Any:
        """Return a NumPy array with the contents of `x`."""

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Return a C-contiguous array of zeros; a one-dimensional one should start at a multiple of 256 bytes."""

    def describe(self) -> dict[str, str]:
        """Return versions and the device, for `bpnet doctor`: at least "version" and "device"."""

    def synchronize(self) -> None:
        """Wait until the device has done all that was asked of it."""


Factory = Callable[[str | None], Backend]


def _builtin(module: str, attribute: str) -> Factory:
    return lambda device: getattr(importlib.import_module(module), attribute)(device)


_FACTORIES: dict[str, Factory] = {
    "numpy": _builtin("bpnet_numpy", "NumpyBackend"),
    "cupy": _builtin("bpnet_cupy", "CupyBackend"),
    "torch": _builtin("bpnet_torch", "TorchBackend"),
}
provide_variants("numpy", lambda: importlib.import_module("bpnet_numpy.kernels"))
provide_variants("cupy", lambda: importlib.import_module("bpnet_cupy.variants"))
provide_variants("torch", lambda: importlib.import_module("bpnet_torch.autograd"))

_READY: dict[str, Backend] = {}
_lock = threading.RLock()
_process_choices: list[use_backend] = []  # the latest last
_context_choice: ContextVar[str | Backend | None] = ContextVar("bpnet_backend", default=None)


def register_backend(name: str, factory: Factory, *, replace: bool = False) -> None:
    """Make `factory` available under `name`, as an installed package does by an entry point `bpnet.backends`.

    factory : called with the device (the text after the colon in "name:device", or None), returns a `Backend`
    Raises BackendError when the name is taken (unless `replace`) or is no plain word.
    """
    if not name.isidentifier():
        raise BackendError(f"a backend's name must be a plain word such as 'rocm', got {name!r}")
    with _lock:
        if not replace and name in backend_names():
            raise BackendError(f"a backend named {name!r} exists already; pass replace=True to take its place")
        _FACTORIES[name] = factory
        for ready in [ready for ready in _READY if ready.partition(":")[0] == name]:
            del _READY[ready]


def _load_entry_points() -> None:
    from importlib.metadata import EntryPoint, entry_points

    def factory(entry: EntryPoint) -> Factory:
        return lambda device: entry.load()(device)

    for entry in entry_points(group=ENTRY_POINT_GROUP):
        _FACTORIES.setdefault(entry.name, factory(entry))


def backend_names() -> list[str]:
    """The names of all backends that can be asked for: built in, installed as plug-ins, registered."""
    with _lock:
        _load_entry_points()
        return sorted(_FACTORIES)


def selection(choice: str | Backend | None = None) -> tuple[str | Backend, str]:
    """Return what `get_backend(choice)` would take, and what decides it, without probing.

    What decides: "the argument", "use_backend", "BPNET_BACKEND" or "the default".
    """
    if choice is not None:
        return choice, "the argument"
    chosen = _context_choice.get() or (_process_choices[-1].backend if _process_choices else None)
    if chosen is not None:
        return chosen, "use_backend"
    named = os.environ.get(ENVIRONMENT_VARIABLE, "").strip()
    return (named, ENVIRONMENT_VARIABLE) if named else ("numpy", "the default")


def get_backend(choice: str | Backend | None = None) -> Backend:
    """Return a probed, ready backend: `choice`, or `use_backend`'s, or `BPNET_BACKEND`'s, or NumPy's.

    choice : "numpy", "cupy", "cupy:1", "torch", "torch:cuda", a registered name, a `Backend` object, or None
    Raises BackendError with the reason and the remedy when it is unknown or cannot run here.
    """
    choice, source = selection(choice)
    if not isinstance(choice, str):
        return _probed(choice)
    ready = _READY.get(choice)
    if ready is None:
        with _lock:
            ready = _READY.get(choice) or _make(choice, source)
            _READY[choice] = ready
    return ready


def _make(choice: str, source: str) -> Backend:
    name, _, device = choice.partition(":")
    if name not in _FACTORIES:
        _load_entry_points()
    if name not in _FACTORIES:
        names = backend_names()
        hint = did_you_mean(name, names)
        raise BackendError(f"unknown backend {choice!r} (from {source}); known are {', '.join(names)}{hint}")
    try:
        backend = _FACTORIES[name](device or None)
    except BackendError as error:
        raise BackendError(f"the backend {choice!r} (from {source}) cannot be used: {error}") from error
    except Exception as error:
        raise BackendError(
            f"the backend {choice!r} (from {source}) could not be loaded: {type(error).__name__}: {error}; "
            "see `bpnet doctor`"
        ) from error
    return _probed(backend)


_PROBED: list[Backend] = []


def _probed(backend: Backend) -> Backend:
    if any(each is backend for each in _PROBED):
        return backend
    if not isinstance(backend, Backend):
        raise BackendError(
            f"{type(backend).__name__} is no backend: it lacks "
            + ", ".join(name for name in _PROTOCOL if not hasattr(backend, name))
        )
    probe(backend)
    _PROBED.append(backend)
    _READY.setdefault(backend.name, backend)
    return backend


_PROTOCOL = ("name", "xp", "array_type", "asarray", "to_numpy", "zeros", "describe", "synchronize")


def probe(backend: Backend) -> None:
    """Allocate, compute and copy back on `backend`; raise BackendError when the answer is not what it must be."""
    try:
        xp = backend.xp
        with getattr(backend, "scope", contextlib.nullcontext)():
            flat = backend.zeros((6,), "float32")
            view = xp.reshape(flat[0:4], (2, 2))
            view[...] = backend.asarray([[1.0, 2.0], [3.0, 4.0]], dtype="float32")
            product = backend.to_numpy(view @ view)
            kept = backend.to_numpy(flat).tolist()
    except BackendError:
        raise
    except Exception as error:
        raise BackendError(
            f"the backend {backend.name!r} failed its probe (allocate, multiply, copy back): "
            f"{type(error).__name__}: {error}; see `bpnet doctor`"
        ) from error
    if product.tolist() != [[7.0, 10.0], [15.0, 22.0]]:
        raise BackendError(
            f"the backend {backend.name!r} computed [[1, 2], [3, 4]] squared as {product.tolist()}; "
            "its library or driver is broken, so it is not used"
        )
    if kept != [1.0, 2.0, 3.0, 4.0, 0.0, 0.0]:
        raise BackendError(
            f"the backend {backend.name!r} does not write through views of its arrays; bpnet keeps parameters as views "
            "of one flat buffer and needs that"
        )


class use_backend:
    """Choose the backend for the whole process, or, as a context manager, for the block in this thread or task.

    >>> import bpnet as bp
    >>> with bp.use_backend("numpy") as backend:
    ...     backend.name
    'numpy'

    Raises BackendError at once when the backend cannot be used; the choice before then stays.
    """

    def __init__(self, choice: str | Backend) -> None:
        self.backend = get_backend(choice)
        _process_choices.append(self)

    def __enter__(self) -> Backend:
        _process_choices.remove(self)  # its own entry, whatever other threads have chosen since
        self._token = _context_choice.set(self.backend)
        return self.backend

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _context_choice.reset(self._token)


def backend_of(x: Array) -> Backend | None:
    """Return the ready backend whose arrays `x` belongs to, or None."""
    return next((backend for backend in _READY.values() if isinstance(x, backend.array_type)), None)


def to_numpy(x: Any) -> Any:
    """Return `x`, an array of any backend, as a NumPy array; a NumPy array comes back as it is."""
    import numpy as np

    if isinstance(x, np.ndarray):
        return x
    backend = backend_of(x)
    if backend is not None:
        return backend.to_numpy(x)
    library = type(x).__module__.split(".")[0]
    if library == "cupy":
        return x.get()
    if library == "torch":  # DLPack would refuse what autograd follows
        return x.numpy(force=True)
    try:
        return np.from_dlpack(x, device="cpu", copy=None) if hasattr(x, "__dlpack__") else np.asarray(x)
    except Exception as error:
        raise DTypeError(f"cannot bring a {type_name(x)} to NumPy: {error}") from error


def host_if_foreign(x: Any, backend: Backend) -> Any:
    """`x` itself where `backend` takes it (its own arrays, the host's), else a host copy."""
    return x if isinstance(x, backend.array_type) else to_numpy(x)


def check_no_mask(x: Any, name: str) -> None:
    """Raise DTypeError when `x` is a masked array, whose mask would be dropped."""
    masked = sys.modules.get("numpy.ma")  # who has such an array has loaded it, which takes a while
    if masked is not None and isinstance(x, masked.MaskedArray):
        raise DTypeError(f"{name} is a masked array; fill its gaps first, as with {name}.filled(...)")


def as_numbers(x: Any, name: str) -> Any:
    """Return `x` as it is when it is an array of some library, else as a NumPy array of numbers; DTypeError else."""
    import numpy as np

    check_no_mask(x, name)
    given = x
    if not isinstance(x, np.ndarray):
        from array_api_compat import is_array_api_obj

        if is_array_api_obj(x):
            return x
        try:
            x = np.asarray(x)
        except ValueError as error:
            raise DTypeError(f"{name} is no rectangular array: {error}") from error
    if x.dtype.kind not in "biuf":
        found = type_name(given) if x.ndim == 0 and x is not given else f"dtype {x.dtype}"
        hint = "; for labels, np.unique(y, return_inverse=True)[1] numbers them" if name == "y" else ""
        if x.dtype.kind == "O" and x.ndim and not hint:
            hint = "; if numbers are all that it holds, np.asarray(..., dtype=float) makes an array of them"
        raise DTypeError(f"{name} must hold numbers, got {found}{hint}")
    return x


def type_name(x: Any) -> str:
    """The qualified name of the type of `x`, for messages: "numpy.ndarray"."""
    cls = type(x)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__.split('.')[0]}.{cls.__qualname__}"
