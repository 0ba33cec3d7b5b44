"""What a backend may offer beyond the protocol. Each is an optional method; where it is missing, bpnet does without."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from bpnet.backend import Backend
from bpnet.dispatch import Array, Call
from bpnet.errors import ConfigError, did_you_mean

CAPTURES = ("auto", "on", "off")
PRECISIONS = ("float32", "tf32", "bf16")
COMPUTE_PRECISIONS = ("float32", "bf16")


class Uploader(Protocol):
    """Brings host batches to the device while it computes: one thread sends, another receives in the same order."""

    def send(self, arrays: Sequence[Any]) -> Any:
        """Begin to copy host arrays; return what `receive` takes. Waits while all places are in use."""

    def receive(self, sent: Any) -> tuple[Array, ...]:
        """The arrays on the device, in use until the next `receive`, which gives their memory to a later batch."""

    def close(self) -> None:
        """Let everybody who waits go, and give the memory back when the device is done with it."""


class Scratch(Protocol):
    """What the bodies of a kernel may write and read while they run.

    asked : the bytes that have been asked for since the last `lend`
    """

    asked: int

    def lend(self, memory: Array | None) -> None:
        """Let the next bodies that are bound use this vector of uint8; where it is too small or None, memory of their
        own."""


class Abilities(Protocol):
    """The optional methods and attributes of a backend.

    precisions : the names of those in which its own bodies multiply, as "bf16"; what is not there is emulated
    block      : how many samples go through a model at a time where it is called on more of them
    alignment  : bytes, with `carve`; the arrays of a plan begin at multiples of it
    """

    precisions: tuple[str, ...]
    block: int
    alignment: int

    def scope(self, matmul_precision: str = "float32") -> contextlib.AbstractContextManager[Any]:
        """A block in which this thread works on the backend's device and stream, in that precision of products.

        What was asked for before the block is done before it, what is asked for behind it after. It may be nested.
        """

    def carve(self, memory: Array, start: int, shape: tuple[int, ...], dtype: str) -> Array:
        """A C-contiguous array in the bytes of `memory`, a vector of uint8 that `zeros` made, from `start` on.

        Without it, what a plan never uses at the same time shares memory only where shape and dtype are equal.
        """

    def shared_scratch(self) -> contextlib.AbstractContextManager[Scratch]:
        """A block in which the calls of one plan are bound, which are made one after the other; with `carve` only.

        What bodies need on the way they take from what was lent, which others use before and after.
        """

    def capture(self, calls: Sequence[Call]) -> Call:
        """Record what `calls` do, without doing it; the result does all of it at once, again and again.

        All have been made before. They take and return nothing and read nothing on the host. The result holds every
        array that they name. Raises what prevents it; the calls can then still be made one by one.
        """

    def writer(self, buffer: Array) -> Callable[[Array], None]:
        """A function that copies an array of the same shape and dtype into `buffer`, faster than an assignment."""

    def uploader(self) -> Uploader:
        """A way for batches from the host's memory."""

    def explain_memory_error(self, error: MemoryError) -> str:
        """How much was asked for, how much is in use, and what limits it; then let go of what is cached."""


def scope_of(backend: Backend, matmul_precision: str = "float32") -> contextlib.AbstractContextManager[Any]:
    """The backend's `scope`, or a block that changes nothing."""
    found: Callable[..., contextlib.AbstractContextManager[Any]] | None = getattr(backend, "scope", None)
    return contextlib.nullcontext() if found is None else found(matmul_precision)


def can_capture(backend: Backend) -> bool:
    """Whether the backend can record calls."""
    return hasattr(backend, "capture")


def check_capture(capture: str) -> str:
    """Return `capture`; ConfigError unless it is one of those known."""
    if capture not in CAPTURES:
        known = ", ".join(map(repr, CAPTURES))
        raise ConfigError(f"Trainer: capture must be one of {known}, got {capture!r}{did_you_mean(capture, CAPTURES)}")
    return capture


def check_matmul_precision(name: str) -> str:
    """Return `name`; ConfigError unless it is one of those known."""
    if name not in PRECISIONS:
        known = ", ".join(map(repr, PRECISIONS))
        raise ConfigError(
            f"Trainer: matmul_precision must be one of {known}, got {name!r}{did_you_mean(name, PRECISIONS)}"
        )
    return name


def checked_precision(name: str, dtype: str = "float32") -> str:
    """Return `name`; ConfigError unless it is a precision to train in, and the dtype goes with it."""
    if name not in COMPUTE_PRECISIONS:
        known = ", ".join(map(repr, COMPUTE_PRECISIONS))
        raise ConfigError(f"precision must be one of {known}, got {name!r}{did_you_mean(name, COMPUTE_PRECISIONS)}")
    if name != "float32" and dtype != "float32":
        raise ConfigError(
            f"precision={name!r} computes products of a float32 model's copies in bfloat16; this one is of {dtype}: "
            "model.to(dtype='float32'), or leave precision='float32', which is the model's own"
        )
    return name


def check_precision(name: str, backend: Backend | None = None, dtype: str = "float32") -> str:
    """Return `name`; ConfigError unless it is a precision to train in, and the backend and the dtype go with it."""
    if backend is None:
        return checked_precision(name)
    if checked_precision(name, dtype) == "float32":
        return name
    try:
        backend.zeros((1,), "uint16")
    except Exception as error:  # whatever a library says of a dtype that it lacks
        raise ConfigError(
            f"precision={name!r} needs arrays of uint16, which hold the bits, and {backend.name!r} makes none "
            f"({type(error).__name__}: {error}); leave precision='float32'"
        ) from error
    return name


def computes_bf16(backend: Backend) -> bool:
    """Whether the backend multiplies bfloat16 itself; else they are rounded, and multiplied in float32: the same
    numbers but for the order of sums, slower."""
    return "bf16" in getattr(backend, "precisions", ())


def check_abilities(backend: Backend, capture: str, matmul_precision: str) -> None:
    """ConfigError where the backend cannot do what is asked for."""
    if capture == "on" and not can_capture(backend):
        raise ConfigError(
            f"Trainer: capture='on' needs a backend that can record a step as one graph, as 'cupy' can; "
            f"{backend.name!r} cannot. Leave capture='auto'"
        )
    if matmul_precision != "float32" and not hasattr(backend, "scope"):
        raise ConfigError(
            f"Trainer: matmul_precision={matmul_precision!r} is for backends whose hardware has it, as 'cupy'; "
            f"{backend.name!r} computes products in float32"
        )
