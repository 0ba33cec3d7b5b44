"""What a layer holds: its children, parameters and streams, wherever its attributes keep them, and its arguments."""

from __future__ import annotations

import functools
import inspect
import numbers
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from bpnet.errors import ConfigError

PENALTIES = ("weight_l1", "weight_l2", "bias_l1", "bias_l2")


def held(kind: type | tuple[type, ...], name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """(path, object) of every object of `kind` that `value` is, or holds in lists, tuples and dicts at any depth."""
    if isinstance(value, kind):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for index, each in enumerate(value):
            yield from held(kind, f"{name}.{index}", each)
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from held(kind, f"{name}.{key}", each)


def first_of_each(members: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Every object once, at its first path."""
    found: dict[int, tuple[str, Any]] = {}
    for path, each in members:
        found.setdefault(id(each), (path, each))
    return dict(found.values())


def check_no_loop(layer: Any, children: Iterable[tuple[str, Any]]) -> None:
    """Raise ConfigError where what a layer is to hold is the layer itself, or has it below."""
    for path, child in children:
        if any(each is layer for _, each in child.walk()):
            raise ConfigError(
                f"{type(layer).__name__}.{path} cannot be this {type(child).__name__}: it is the layer itself, or "
                "contains it, and layers form a tree; for a way back keep weakref.ref(...)"
            )


def forget_above(layer: Any, child: Any) -> None:
    """Let nobody above a layer be part of what it is to hold: it once was, and has been taken out."""
    while layer._parent is not None:
        if layer._parent is child:
            layer._parent = None
            return
        layer = layer._parent


def recording(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap a constructor so that the outermost one records its arguments, by name, in `_config`."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **keywords: Any) -> None:
        if "_config" not in vars(self):
            try:
                bound = signature.bind(self, *args, **keywords)
            except TypeError as error:
                takes = ", ".join(str(p) for p in list(signature.parameters.values())[1:])
                raise TypeError(f"{type(self).__name__}: {error}; it takes ({takes})") from None
            bound.apply_defaults()
            vars(self)["_config"] = {name: _plain(value) for name, value in list(bound.arguments.items())[1:]}
        init(self, *args, **keywords)

    return wrapped


def is_number(x: Any) -> bool:
    """Whether `x` is a real number of Python or NumPy, and no truth value."""
    return isinstance(x, numbers.Real) and not isinstance(x, bool)


def as_size(n: Any) -> int:
    """`n` as an int where it is a whole number of at least 1, else 0; a truth value is none."""
    try:
        return 0 if isinstance(n, bool) else max(0, operator.index(n))
    except TypeError:
        return 0


def _plain(value: Any) -> Any:
    """A number of an array library, such as numpy.int64(3), as Python's; a tuple of numbers as JSON brings it back."""
    if isinstance(value, tuple) and value and all(isinstance(each, (numbers.Number, str, tuple)) for each in value):
        return [_plain(each) for each in value]
    return value.item() if hasattr(value, "item") and getattr(value, "shape", None) == () else value


def live_config(layer: Any) -> dict[str, Any]:
    """The recorded arguments, each as its public attribute of the same name says where that is of the same kind."""
    recorded: dict[str, Any] = vars(layer).get("_config", {})
    return {name: _live(layer, name, value) for name, value in recorded.items()}


def _live(layer: Any, name: str, recorded: Any) -> Any:
    present = getattr(layer, name, recorded)
    both_numbers = is_number(present) and is_number(recorded)
    return present if both_numbers or type(present) is type(recorded) else recorded


def arguments(layer: Any) -> tuple[list[Any], dict[str, Any]]:
    """(positional, keyword) arguments that make a layer like this one."""
    config = live_config(layer)
    parameters = list(inspect.signature(type(layer).__init__).parameters.values())[1:]
    splat = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.name not in config:
            continue
        value = config[parameter.name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional += value
        elif parameter.kind is parameter.VAR_KEYWORD:
            keywords |= value
        elif parameter.kind is parameter.POSITIONAL_ONLY or (
            splat is not None and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ):
            positional.append(value)
        else:
            keywords[parameter.name] = value
    return positional, keywords


def typed(layer: Any) -> str:
    """The layer as one would type it: sizes by place, of the rest what is not as it is by default."""
    config, written = live_config(layer), []
    for name, parameter in list(inspect.signature(type(layer).__init__).parameters.items())[1:]:
        value = config[name]
        value = getattr(value, "__name__", value) if callable(value) else value
        if parameter.kind is not parameter.KEYWORD_ONLY:
            written.append(repr(value))
        elif value != parameter.default:
            written.append(f"{name}={value!r}")
    return f"{type(layer).__name__}({', '.join(written)})"


def shown(layer: Any, kind: type) -> Iterator[str]:
    """The constructor's arguments as they would be typed: layers, numbers, and penalties other than 0."""
    for name, value in layer.config.items():
        if isinstance(value, tuple) and any(isinstance(each, kind) for each in value):
            yield ", ".join(repr(each) for each in value)
        elif name in PENALTIES:
            if value:
                yield f"{name}={value}"
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{value}"
