"""Kernels: a reference body in Array API vocabulary, and variants by array type that may be faster.

A kernel is called with arrays of one library. The variants registered for that library are asked in order, the
latest registered first, and the first whose `accepts(*args)` holds runs; when none does, the reference runs. A variant
may change speed, never meaning: the tests walk every variant against its reference.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import groupby
from typing import Any, Protocol, overload

import numpy as np

from bpnet.errors import DTypeError

Array = Any
"""An array of any library; shapes and dtypes are stated in docstrings and held by tests."""

_KERNELS: list[Kernel] = []
_PROVIDERS: dict[str, Callable[[], object]] = {}
_GUARDS: dict[type, Variant] = {}
_NAMESPACES: dict[type, Any] = {np.ndarray: np}
_RECORDERS: dict[int, Recorder] = {}
_version = 0


class Tracked:
    """Base of what takes part in a step: setting a public attribute tells recorded steps to look again."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name[0] != "_":
            note_change()
        object.__setattr__(self, name, value)


def note_change() -> None:
    """Tell recorded steps to look again: something that they may depend on has been set."""
    global _version
    _version += 1


def version() -> int:
    """A number that grows whenever a public attribute of a layer, loss, optimizer, metric or parameter is set."""
    return _version


_watchers = 0


def watch(change: int) -> None:
    """Count who wants to see every call of every layer, so that none may be left out by a plan."""
    global _watchers
    _watchers += change


def watched() -> bool:
    """Whether somebody wants to see every call of a layer or a kernel."""
    return bool(_watchers or _RECORDERS)


class Recorder(Protocol):
    """What the plan installs to see each outermost kernel call of its own thread."""

    def run(self, kernel: Kernel, args: tuple[Any, ...]) -> Any:
        """Make the call, note it, and return its result."""


def namespace(x: Array) -> Any:
    """Return the Array API namespace of `x`: NumPy's own for NumPy arrays, array-api-compat's for all others."""
    try:
        return _NAMESPACES[type(x)]
    except KeyError:
        pass
    if isinstance(x, (np.ndarray, np.generic)):
        return np
    from array_api_compat import array_namespace

    try:
        found = _NAMESPACES[type(x)] = array_namespace(x)
    except TypeError:
        raise DTypeError(f"expected an array, got {type(x).__name__}; bring it over with model.asarray(x)") from None
    return found


def set_namespace(array_type: type, xp: Any) -> None:
    """Let `xp` be the namespace of arrays of exactly this type, which need not be one that array-api-compat knows."""
    _NAMESPACES[array_type] = xp


def _refuse_what_holds_no_array(x: Any) -> None:
    """Raise DTypeError unless `x` is an array, or nested lists or tuples of them: a kernel's first argument."""
    inner = x
    while isinstance(inner, (list, tuple)) and inner:
        inner = inner[0]
    try:
        namespace(inner)
    except DTypeError:
        namespace(x)  # names what was given
        raise


@lru_cache(maxsize=None, typed=True)
def dtype_name(dtype: Any) -> str:
    """The name of a dtype, whatever its library calls it: "float32"."""
    return str(dtype).rpartition(".")[2]


Flops = int | Callable[..., int]
"""Operations of a call: a number for each element of its first argument, or a function of its arguments."""

Places = tuple[int, ...] | Callable[..., tuple[int, ...]]
"""Places of arguments, or a function of the arguments that returns them."""

Call = Callable[[], Any]
"""A prepared call: it has its arguments and the place of its result. Where its class has a static method `join`, such
calls that follow each other may be replaced by `join(calls)`, one call that does what they do, in order."""


def joined(calls: list[Call]) -> list[Call]:
    """The calls, with neighbours joined where their class can."""
    found: list[Call] = []
    for cls, group in groupby(calls, type):
        join, neighbours = getattr(cls, "join", None), list(group)
        found += neighbours if join is None else [join(neighbours)]
    return found


MISSED: Any = object()
"""What a shortcut returns for arguments that it does not know."""


class Shortcut(Protocol):
    """Makes calls of a kernel that were prepared for arguments like these before."""

    def __call__(self, args: tuple[Any, ...]) -> Any:
        """The result, or MISSED."""

    def forget(self) -> None:
        """Know no arguments any more: another variant may now be the one for them."""


class Variant:
    """One body of a kernel for one array library.

    body : `body(*args)` returns the result
    into : `into(out, *args)` writes the result to `out` (an array, a tuple of them, or None where there is no result)
    bind : `bind(out, *args)` prepares that once and returns the calls which then do it again and again
    allocate : `allocate(*args)` makes what `bind` gets as `out` where the caller has no place
    overwrites : whether it is as fast where it writes an elementwise kernel's result over the first argument
    """

    __slots__ = ("accepts", "allocate", "bind", "body", "into", "name", "overwrites")

    def __init__(
        self,
        body: Callable[..., Any],
        name: str,
        accepts: Callable[..., bool] | None = None,
        into: Callable[..., Any] | None = None,
        bind: Callable[..., list[Call]] | None = None,
        allocate: Callable[..., Any] | None = None,
    ) -> None:
        self.body = body
        self.name = name
        self.accepts = accepts
        self.into = into
        self.bind = bind
        self.allocate = allocate
        self.overwrites = False

    def __repr__(self) -> str:
        return f"<variant {self.name}>"


class Kernel:
    """A function of arrays with one meaning and one body per array library. Made by `@kernel`.

    name        : the function's name; one that ends in `_` writes into its first argument
    view        : the result shares its argument's memory where it can (reshape)
    elementwise : the result has the first argument's shape and may be written over it
    shortcut    : asked before variants are; it does what the variant that it stands for would do, or returns MISSED
    activation_at : how many arguments stand before an elementwise kernel, and its settings, that it may apply to its
                    result; 0 where it takes none
    flops       : what a call costs (`bpnet.ops.costs` says what counts): a number for each element of the first
                  argument, or a function of the arguments that looks at shapes and constants alone; None: not declared
    writes      : the places of the arguments that it writes into
    unread      : the places of those whose values it does not read, or a function of the arguments that returns them
    """

    def __init__(
        self,
        reference: Callable[..., Any],
        view: bool = False,
        elementwise: bool = False,
        flops: Flops | None = None,
        writes: tuple[int, ...] | None = None,
        unread: Places = (),
        activation_at: int = 0,
    ) -> None:
        self.reference = Variant(reference, "reference")
        self.name = reference.__name__
        self.view = view
        self.elementwise = elementwise
        self.flops = flops
        self.writes = writes if writes is not None else (0,) if self.name.endswith("_") else ()
        self.unread = unread
        self.activation_at = activation_at
        self.__doc__ = reference.__doc__
        self.__name__ = reference.__name__
        self.__module__ = reference.__module__
        self.__wrapped__ = reference
        self._registered: dict[type, list[Variant]] = {}
        self._table: dict[type, tuple[Variant, ...]] = {}
        self.shortcut: Shortcut | None = None
        _KERNELS.append(self)

    def __call__(self, *args: Any) -> Any:
        """Run the variant for the arguments' library; show the call to this thread's recorder, if it has one."""
        if _RECORDERS and (recorder := _RECORDERS.pop(thread := threading.get_ident(), None)) is not None:
            try:
                return recorder.run(self, args)
            finally:
                _RECORDERS[thread] = recorder
        if self.shortcut is not None:
            found = self.shortcut(args)
            if found is not MISSED:
                return found
        return self.choose(args).body(*args)

    def choose(self, args: tuple[Any, ...]) -> Variant:
        """Return the variant that runs on `args`."""
        cls = type(args[0])
        if cls is tuple and args[0]:
            cls = type(args[0][0])
        variants = self._table.get(cls)
        if variants is None:
            _refuse_what_holds_no_array(args[0])
            # what a list holds, its type does not say, so the next one must be looked at too
            variants = () if cls in (list, tuple) else self._resolve(cls)
        for variant in variants:
            if variant.accepts is None or variant.accepts(*args):
                return variant
        return self.reference

    def register(
        self, array_type: type, *, accepts: Callable[..., bool] | None = None, name: str = ""
    ) -> Callable[[Callable[..., Any]], Variant]:
        """Decorate a body for arrays of `array_type`; it is asked before those registered earlier.

        accepts : called with the kernel's arguments; the body runs where it returns True (None: always)
        """

        def decorate(body: Callable[..., Any]) -> Variant:
            return self._add(array_type, Variant(body, name or library(array_type), accepts))

        return decorate

    def register_bound(
        self,
        array_type: type,
        *,
        allocate: Callable[..., Any],
        accepts: Callable[..., bool] | None = None,
        name: str = "",
    ) -> Callable[[Callable[..., list[Call]]], Variant]:
        """Decorate `bind(out, *args) -> [call, ...]`, of which the body is made: allocate, bind, make the calls.

        allocate : called with the kernel's arguments; returns what `bind` gets as `out`. One source serves the eager
                   step and the planned one, so that the two cannot differ.
        """

        def decorate(bind: Callable[..., list[Call]]) -> Variant:
            def into(out: Any, *args: Any) -> None:
                for call in bind(out, *args):
                    call()

            def body(*args: Any) -> Any:
                out = allocate(*args)
                for call in bind(out, *args):
                    call()
                return out

            body.__doc__ = bind.__doc__
            return self._add(array_type, Variant(body, name or library(array_type), accepts, into, bind, allocate))

        return decorate

    def _add(self, array_type: type, variant: Variant) -> Variant:
        self._registered.setdefault(array_type, []).insert(0, variant)
        self._clear()
        return variant

    def _clear(self) -> None:
        self._table.clear()
        if self.shortcut is not None:
            self.shortcut.forget()

    def variants(self) -> list[tuple[type, Variant]]:
        """Every registered variant with its array type, in the order they are asked."""
        return [(cls, variant) for cls, found in self._registered.items() for variant in found]

    def _resolve(self, cls: type) -> tuple[Variant, ...]:
        load_variants(cls)
        found = next((self._registered[base] for base in cls.__mro__ if base in self._registered), [])
        guards = (_GUARDS[base] for base in cls.__mro__ if base in _GUARDS)
        variants = self._table[cls] = (*guards, *found)
        return variants

    def __repr__(self) -> str:
        return f"<kernel {self.name}>"


@overload
def kernel(reference: Callable[..., Any], /) -> Kernel: ...
@overload
def kernel(
    *,
    view: bool = ...,
    elementwise: bool = ...,
    flops: Flops | None = ...,
    writes: tuple[int, ...] | None = ...,
    unread: Places = ...,
    activation_at: int = ...,
) -> Callable[[Callable[..., Any]], Kernel]: ...
def kernel(reference: Callable[..., Any] | None = None, /, **traits: Any) -> Kernel | Callable[..., Kernel]:
    """Make a kernel of the decorated reference body. Its first argument is an array, or a tuple of arrays."""
    if reference is not None:
        return Kernel(reference)
    return lambda body: Kernel(body, **traits)


def kernels() -> list[Kernel]:
    """Every kernel made so far, in order of definition."""
    return list(_KERNELS)


def library(array_type: type) -> str:
    """The top-level module of an array type: "numpy"."""
    return array_type.__module__.split(".")[0]


def provide_variants(name: str, load: Callable[[], object]) -> None:
    """Say that `load()` registers the variants for arrays of the library `name`.

    It is called once, before the first dispatch on such an array, so that which body runs does not depend on whether
    a backend happened to be selected before.
    """
    _PROVIDERS[name] = load


def load_variants(cls: type) -> None:
    """Load the variants for arrays of type `cls`, if some backend provides them and they are not loaded yet."""
    load = _PROVIDERS.pop(library(cls), None)
    if load is not None:
        load()


def guard(array_type: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate `refuse(*args)`, which every kernel called on arrays of `array_type` asks before it looks for a body.

    It raises where the arguments cannot be taken, and returns None else.
    """

    def decorate(refuse: Callable[..., None]) -> Callable[..., None]:
        def accepts(*args: Any) -> bool:
            refuse(*args)
            return False

        _GUARDS[array_type] = Variant(refuse, "guard", accepts)
        for each in _KERNELS:
            each._clear()
        return refuse

    return decorate


def guarded(array_type: type) -> bool:
    """Whether every call on arrays of that type is to be seen by a guard."""
    return any(base in _GUARDS for base in array_type.__mro__)


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Show every kernel call that this thread makes in the block to `recorder`."""
    thread = threading.get_ident()
    before = _RECORDERS.get(thread)
    _RECORDERS[thread] = recorder
    try:
        yield
    finally:
        _RECORDERS.pop(thread, None)
        if before is not None:
            _RECORDERS[thread] = before
