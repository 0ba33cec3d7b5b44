"""Checks of what users hand in as settings. Each returns the value as Python's, or raises ConfigError, or
BackendError for what the environment says.
"""

from __future__ import annotations

import math
import numbers
import operator
import os
from typing import Any

from bpnet.errors import BackendError, ConfigError


def switched_off(variable: str) -> bool:
    """Whether an environment variable that is 0 or 1 is 0. Raises BackendError where it is something else."""
    value = os.environ.get(variable, "").strip()
    if value not in ("", "0", "1"):
        raise BackendError(f"{variable} must be 0 or 1, got {value!r}")
    return value == "0"


def number(name: str, value: Any) -> float:
    """A real number; no truth value, no NaN."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ConfigError(f"{name} must be a number, got {value!r}")
    try:
        found = float(value)
    except OverflowError as error:
        raise ConfigError(f"{name} must be a number that a float can hold: {error}") from error
    if math.isnan(found):
        raise ConfigError(f"{name} must be a number, got {value!r}")
    return found


def positive(name: str, value: Any) -> float:
    """Above 0 and finite."""
    found = number(name, value)
    if not 0 < found < math.inf:
        raise ConfigError(f"{name} must be above 0 and finite, got {value!r}")
    return found


def at_least_0(name: str, value: Any) -> float:
    """In [0, inf)."""
    return in_range(name, value, 0.0, math.inf)


def fraction(name: str, value: Any) -> float:
    """In [0, 1)."""
    return in_range(name, value, 0.0, 1.0)


def in_range(name: str, value: Any, low: float, high: float) -> float:
    """In [low, high)."""
    found = number(name, value)
    if not low <= found < high:
        raise ConfigError(f"{name} must lie in [{low:g}, {high:g}), got {value!r}")
    return found


def whole(name: str, value: Any, low: int) -> int:
    """A whole number of at least `low`."""
    try:
        found = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = None
    if found is None or found < low:
        raise ConfigError(f"{name} must be a whole number of at least {low}, got {value!r}")
    return found


def flag(name: str, value: Any) -> bool:
    """True or False, Python's or NumPy's; a text such as "no" would count as True."""
    if type(value).__name__ not in ("bool", "bool_"):
        raise ConfigError(f"{name} must be True or False, got {value!r}")
    return bool(value)
