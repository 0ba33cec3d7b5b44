"""The errors of bpnet. Each is a `BpnetError` and the built-in exception it refines."""

from __future__ import annotations

from collections.abc import Iterable


class BpnetError(Exception):
    """Base of every error that bpnet raises on purpose."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or '' where none is near."""
    from difflib import get_close_matches

    near = get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


class ShapeError(BpnetError, ValueError):
    """An array has a shape that the operation cannot take."""


class DTypeError(BpnetError, TypeError):
    """An array has a data type, or is of an array library, that the operation cannot take."""


class DataError(BpnetError, ValueError):
    """Values that cannot be trained on: NaN, labels out of range, an empty data set."""


class ConfigError(BpnetError, ValueError):
    """A setting outside its allowed range, or two settings that contradict each other."""


class StateError(BpnetError, RuntimeError):
    """A call at the wrong time, such as `backward` without `forward`."""


class ContractError(BpnetError, RuntimeError):
    """In strict mode: a layer or a loss breaks a promise, such as not to write into its arguments."""


class NonFiniteError(BpnetError, ArithmeticError):
    """The loss became NaN or infinite, and the parameters are those before that step; or, in strict mode, an output."""


class BackendError(BpnetError, RuntimeError):
    """A backend is unknown or cannot run here; the message has the reason and the remedy."""


class OutOfMemoryError(BpnetError, MemoryError):
    """The device, or the host, has no memory left for a step; the message says who asked for how much."""


class CheckpointError(BpnetError, ValueError):
    """A file that cannot be read as a model, or does not fit the model it is read into."""


class MissingExtraError(BpnetError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""
