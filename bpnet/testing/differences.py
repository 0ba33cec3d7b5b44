"""Derivatives by central differences in float64, and what is wrong with a gradient that differs from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpnet.backend import to_numpy

STEP = 1e-6
MAX_ELEMENTS = 200  # of larger arrays, directions are differenced in the place of elements
N_DIRECTIONS = 16
PROPORTIONAL = 1e-4  # the relative residual up to which one array counts as a multiple of another


def gradient(f: Callable[[Any], float], x: Any) -> Any:
    """d f / d x for a scalar function of a NumPy array, one central difference an element."""
    x = np.array(x, dtype=np.float64)
    result = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + STEP
        above = f(x.copy())
        x[index] = kept - STEP
        below = f(x.copy())
        x[index] = kept
        result[index] = (above - below) / (2 * STEP)
    return result


def slope(f: Callable[[Any], float], x: Any, direction: Any) -> float:
    """The derivative of `f` at `x` along `direction`, by one central difference."""
    step = STEP * direction
    return (f(x + step) - f(x - step)) / (2 * STEP)


@dataclass(frozen=True)
class Comparison:
    """A computed gradient beside differences.

    error     : the largest deviation; tolerance : the largest that differences in float64 leave room for
    diagnosis : what is wrong, to be read behind the gradient's name ("is 20.000x too large"); '' where they agree
    relative  : the error as a part of the largest derivative; ratio : of the computed to the right one, where it is a
                multiple of it; kinks : how many of them were stepped around; how : what was differenced
    """

    error: float
    tolerance: float
    diagnosis: str
    relative: float = 0.0
    ratio: float | None = None
    kinks: int = 0
    how: str = ""

    @property
    def agrees(self) -> bool:
        """Whether nothing is wrong."""
        return not self.diagnosis


def compare(
    computed: Any,
    f: Callable[[Any], float],
    x: Any,
    *,
    seed: int = 0,
    max_elements: int = MAX_ELEMENTS,
    factors: Mapping[str, float] | None = None,
) -> Comparison:
    """Hold `computed`, an array of any library, to the differences of `f` at `x`.

    Every element is differenced where there are at most `max_elements`; else 16 random directions, drawn with `seed`.
    factors : numbers that a wrong gradient may be off by, by name ({"the number of samples": 5}), for the diagnosis
    """
    x, found = np.array(x, dtype=np.float64), np.asarray(to_numpy(computed), dtype=np.float64)
    if found.shape != x.shape:
        turned = "; it is transposed" if found.ndim == 2 and found.shape[::-1] == x.shape else ""
        return Comparison(math.inf, 0.0, f"has shape {found.shape}, not {x.shape}{turned}")
    if x.size <= max_elements:
        expected = gradient(f, x)
    else:
        rng = np.random.default_rng(seed)
        directions = [rng.normal(size=x.shape) for _ in range(N_DIRECTIONS)]
        expected = np.array([slope(f, x, each) for each in directions])
        found = np.array([float(np.sum(found * each)) for each in directions])
    # Beside the error of the formula, 2e-16 of the value of f is lost in each, and divided by the step.
    tolerance = 2e-7 * max(1.0, float(np.max(np.abs(expected), initial=0.0))) + 1e-9 * abs(f(x))
    error = float(np.max(np.abs(found - expected), initial=0.0))
    if error <= tolerance:
        return Comparison(error, tolerance, "")
    return Comparison(error, tolerance, diagnose(found, expected, factors, along=x.size > max_elements))


def diagnose(
    found: Any,
    expected: Any,
    factors: Mapping[str, float] | None = None,
    *,
    along: bool = False,
    alternatives: Mapping[str, Any] | None = None,
) -> str:
    """What is wrong with `found`: a factor, a sign, a transposition, or the element that is furthest off.

    along        : whether the numbers are derivatives along directions
    alternatives : what other arrays would mean, if `found` were one of them: {"is dy itself": dy}
    """
    where = " along random directions" if along else ""
    if not np.all(np.isfinite(found)):
        return f"holds {int(np.sum(~np.isfinite(found)))} NaN or infinite values"
    if not np.any(found):
        return f"is zero everywhere, where differences give up to {np.max(np.abs(expected)):.4g}{where}"
    size = float(np.sum(expected * expected))
    if size and (text := _as_multiple(found, float(np.sum(found * expected)) / size, expected, factors or {})):
        return text
    if found.ndim == 2 and found.shape[0] == found.shape[1] and _equal(found.T, expected):
        return "is transposed"
    for text, other in (alternatives or {}).items():
        if other.shape == found.shape and np.any(other) and _equal(found, other):
            return text
    if not along and (text := _one_slice(found, expected)):
        return text
    off = np.abs(found - expected)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(off)), off.shape))
    n_off = int(np.sum(off > 1e-5 * max(1.0, float(np.max(np.abs(expected))))))
    place = f"direction {index[0]}" if along else f"index {index}"
    return (
        f"is wrong in {n_off} of {off.size} {'directions' if along else 'elements'}, most at {place}: "
        f"{found[index]:.6g}, where differences give {expected[index]:.6g}"
    )


def ratio_of(found: Any, expected: Any) -> float | None:
    """The number c for which found = c * expected, or None where there is none."""
    size = float(np.sum(expected * expected))
    ratio = float(np.sum(found * expected)) / size if size else 0.0
    return ratio if size and _equal(found, ratio * expected) and np.all(np.isfinite(found)) else None


def _one_slice(found: Any, expected: Any) -> str:
    """What is wrong where only the first row, or column, is right, and all else is zero."""
    for axis, name in enumerate(("row", "column")[: found.ndim]):
        first, rest = (0, slice(1, None)) if axis == 0 else ((slice(None), 0), (slice(None), slice(1, None)))
        if found.shape[axis] < 2 or np.any(found[rest]) or not np.any(expected[rest]):
            continue
        if np.any(expected[first]) and _equal(found[first], expected[first]):
            return f"is right in the first {name} only, and zero in the other {found.shape[axis] - 1}"
    return ""


def _equal(a: Any, b: Any) -> bool:
    return float(np.linalg.norm(a - b)) <= PROPORTIONAL * float(np.linalg.norm(b))


def _as_multiple(found: Any, ratio: float, expected: Any, factors: Mapping[str, float]) -> str:
    """What is wrong where found = ratio * expected, or '' where it is no multiple."""
    if not ratio or not _equal(found, ratio * expected):
        return ""
    size = abs(ratio)
    if abs(size - 1) < PROPORTIONAL:
        return "has the wrong sign" if ratio < 0 else ""
    text = f"{size:.3f}x too large" if size > 1 else f"{1 / size:.3f}x too small"
    known = (name for name, factor in factors.items() if abs(max(size, 1 / size) / factor - 1) < 1e-3 and factor > 1)
    hint = "".join(f" ({factors[name]:g} is {name})" for name in known)
    return f"has the wrong sign and is {text}{hint}" if ratio < 0 else f"is {text}{hint}"


def assert_gradient(computed: Any, f: Callable[[Any], float], x: Any, *, name: str = "gradient") -> None:
    """Raise AssertionError, with the diagnosis, unless `computed` is the gradient of `f` at `x`."""
    comparison = compare(computed, f, x)
    assert comparison.agrees, f"{name} {comparison.diagnosis}"
