"""What a loss is told at construction: checked there, and kept as it is, because recorded steps rely on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

from bpnet.errors import ConfigError


class Setting:
    """An attribute that is checked when a constructor sets it, and cannot be set again.

    check : called with the class's name, the attribute's name and the value; returns what is kept, or raises
    """

    def __init__(self, check: Callable[[str, str, Any], Any], doc: str) -> None:
        self._check = check
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else vars(instance)[self._name]

    def __set__(self, instance: Any, value: Any) -> None:
        kind = type(instance).__name__
        if self._name in vars(instance):
            raise AttributeError(f"{kind}: {self._name} is said at construction; make a new {kind}")
        vars(instance)[self._name] = self._check(kind, self._name, value)


def is_real(value: Any) -> bool:
    """Whether `value` is a finite number, and no bool."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def number(low: float, high: float, words: str, *, optional: bool = False) -> Callable[[str, str, Any], Any]:
    """A check for numbers in low <= x < high, which `words` say."""

    def check(kind: str, name: str, value: Any) -> float | None:
        if optional and value is None:
            return None
        if not is_real(value) or not low <= value < high:
            raise ConfigError(f"{kind}: {name} must be {words}, got {value!r}")
        return float(value)

    return check


POSITIVE = number(math.ulp(0.0), math.inf, "a number above 0")
NOT_NEGATIVE = number(0.0, math.inf, "a number of at least 0")
SHARE = number(0.0, 1.0, "a number in [0, 1)")


def flag(kind: str, name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ConfigError(f"{kind}: {name} must be True or False, got {value!r}")
    return value


def reduction(kind: str, name: str, value: Any) -> str:
    """One of the three."""
    if value not in ("mean", "sum", "none"):
        raise ConfigError(f"{kind}: {name} must be 'mean', 'sum' or 'none', got {value!r}")
    return str(value)


def label(kind: str, name: str, value: Any) -> int | None:
    """An integer, or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, Integral)):
        raise ConfigError(f"{kind}: {name} must be an integer or None, got {value!r}")
    return None if value is None else int(value)


def class_weight(kind: str, name: str, value: Any) -> tuple[float, ...] | dict[int, float] | None:
    """One number a class as a tuple, or a dict of some; none of them negative, and not all 0."""
    if value is None:
        return None
    words = f"{kind}: {name} must be a sequence of numbers, one a class, or a dict {{class: weight}}"
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise ConfigError(f"{words}, got {value!r}")
    found: Any
    if isinstance(value, Mapping):
        for key in value:
            if isinstance(key, bool) or not isinstance(key, Integral) or key < 0:
                raise ConfigError(f"{words}; the key {key!r} is no class, which are 0, 1, 2 and so on")
        found = {int(key): each for key, each in value.items()}
        items = list(found.items())
    else:
        found = tuple(value)
        items = list(enumerate(found))
    for key, each in items:
        if not is_real(each) or each < 0:
            raise ConfigError(f"{kind}: {name} of class {key} must be a number of at least 0, got {each!r}")
    if isinstance(found, dict):
        return {key: float(each) for key, each in found.items()}
    if not any(found):
        raise ConfigError(f"{kind}: {name} needs a number above 0 for some class, got {found!r}")
    return tuple(float(each) for each in found)


def weights_of_classes(
    kind: str, given: tuple[float, ...] | dict[int, float] | None, n_classes: int
) -> tuple[float, ...] | None:
    """`given` as one number for each of the model's classes; those that a dict leaves out weigh 1.

    Raises ConfigError when it is of another number of classes.
    """
    if given is None:
        return None
    if isinstance(given, dict):
        if max(given, default=0) >= n_classes:
            raise ConfigError(
                f"{kind}: class_weight names class {max(given)}, the model's {n_classes} outputs are the classes 0 "
                f"... {n_classes - 1}"
            )
        return tuple(given.get(each, 1.0) for each in range(n_classes))
    if len(given) != n_classes:
        raise ConfigError(
            f"{kind}: class_weight has {len(given)} numbers, the model's {n_classes} outputs need {n_classes}"
        )
    return given
