"""One gradient held to difference quotients: all of the Jacobian where it is small, else random directions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bpnet.testing.differences import Comparison, diagnose, ratio_of
from bpnet.testing.slopes import APART, Slopes, element_directions, moved_off_kinks, random_directions, slopes

MAX_ELEMENTS = 200
ATTEMPTS = 5  # to find a point without kinks
PATCH = 14  # its square is how many elements of a large array are differenced to say what is wrong
FINER = 100.0  # by which a second look finds smaller kinks, such as those of single units deep within a network
RELATIVE, OF_THE_SUM = 2e-7, 2e-9  # what the formula and float64 leave room for

Function = Callable[[Any], Any]
Suspects = Callable[["Case"], dict[str, Any]]


class Case:
    """What is known when a gradient is wrong, for those who guess why.

    x, dy, y : the point, the upstream gradient, the output; function : y = function(x)
    backward : (x, dy) -> the gradient computed; jacobian : (k, m), a row for each element of `elements`, flat indices
    found    : (k,) of the gradient; expected : (k,); whole : whether the elements are all
    patch    : the rows and the columns of x, as (rows, all the rest), that the elements are; None for all
    """

    def __init__(self, x: Any, dy: Any, y: Any, function: Function, backward: Callable[[Any, Any], Any]) -> None:
        self.x, self.dy, self.y, self.function, self.backward = x, dy, y, function, backward
        self.jacobian: Any = None
        self.elements: Any = None
        self.found: Any = None
        self.expected: Any = None
        self.whole = False
        self.patch: tuple[Any, Any] | None = None

    def along(self, direction: Any) -> Any:
        """The derivative of the output along a direction of x, flat: the Jacobian's transpose times that."""
        return slopes(self.function, self.x, [np.reshape(direction, self.x.shape)]).values[0]

    def jacobian_at(self, point: Any) -> Any:
        """The Jacobian of the same elements at another point."""
        return slopes(self.function, point, element_directions(self.x.shape, self.elements)).values


def hold(
    x: Any,
    function: Function,
    backward: Callable[[Any, Any], Any],
    upstream: Callable[[Any], list[Any]],
    *,
    seed: int,
    factors: Mapping[str, float],
    suspects: Suspects,
) -> Comparison:
    """Compare `backward(x, dy)` with the differences of `function` at x, a float64 array, or near it if that is a kink.

    upstream : y -> the dy to take; suspects : what else a wrong gradient might be, by what that would mean
    """
    whole = x.size <= MAX_ELEMENTS
    kinks = 0
    for attempt in range(ATTEMPTS):
        every = range(x.size)
        directions = element_directions(x.shape, every) if whole else random_directions(x.shape, seed)
        found = slopes(function, x, directions)
        kinks += int(np.sum(found.blocked)) if whole else int(np.any(found.blocked))
        if not np.any(found.blocked) or attempt == ATTEMPTS - 1:
            break
        blocked = found.blocked.reshape(x.shape) if whole else np.ones(x.shape, dtype=bool)
        x = moved_off_kinks(x, blocked, seed + attempt)
    kinks += found.beside
    y = np.asarray(function(x))
    how = f"Jacobian, {x.size} x {y.size}" if whole else f"{len(directions)} directions"
    worst = Comparison(0.0, 0.0, "", kinks=kinks, how=how)
    for dy in upstream(y):
        case = Case(x, dy, y, function, backward)
        comparison = _one(case, found, directions, whole, factors, suspects, kinks, how)
        if not comparison.agrees:
            again = slopes(function, x, directions, APART / FINER)
            if 2 * int(np.sum(again.blocked)) > len(directions):
                return comparison
            second = _one(case, again, directions, whole, factors, suspects, kinks + again.beside, how)
            if not second.agrees:
                return comparison
            found, kinks, comparison = again, kinks + again.beside, second
        worst = max(worst, comparison, key=lambda each: each.relative)
    return worst


def _one(
    case: Case,
    found: Slopes,
    directions: list[Any],
    whole: bool,
    factors: Mapping[str, float],
    suspects: Suspects,
    kinks: int,
    how: str,
) -> Comparison:
    x, dy = case.x, np.ravel(case.dy)
    computed = np.asarray(case.backward(x, case.dy), dtype=np.float64)
    if computed.shape != x.shape:
        turned = "; it is transposed" if computed.ndim == 2 and computed.shape[::-1] == x.shape else ""
        what = f"has shape {computed.shape}, not {x.shape}{turned}"
        return Comparison(math.inf, 0.0, what, math.inf, kinks=kinks, how=how)
    usable = ~found.blocked
    expected = (found.values @ dy)[usable]
    flat = np.ravel(computed) if whole else np.array([float(np.sum(computed * each)) for each in directions])
    flat = flat[usable]
    largest = float(np.max(np.abs(expected), initial=0.0))
    room = 3 * float(np.max((found.slack @ np.abs(dy))[usable], initial=0.0))
    noise = OF_THE_SUM * float(np.sum(np.abs(np.ravel(case.y) * dy))) + 1e-10 * float(np.max(np.abs(dy), initial=0.0))
    tolerance = RELATIVE * largest + noise + room
    off = np.abs(flat - expected)
    error = float(np.max(off, initial=0.0)) if np.all(np.isfinite(flat)) else math.inf
    relative = error / largest if largest > tolerance else (0.0 if error <= tolerance else math.inf)
    if error <= tolerance:
        note = "" if usable.any() else "kinks wherever it was looked; nothing was compared"
        return Comparison(error, tolerance, "", relative, 1.0, kinks, f"{how}; {note}" if note else how)
    text = _explained(case, computed, found, whole, factors, suspects)
    if not text:
        text = diagnose(flat, expected, factors, along=not whole)
    return Comparison(error, tolerance, text, relative, ratio_of(flat, expected), kinks, how)


def _explained(
    case: Case, computed: Any, found: Slopes, whole: bool, factors: Mapping[str, float], suspects: Suspects
) -> str:
    """What is wrong, from single elements: all, or a patch of a large array; '' where they do not show it."""
    shape: tuple[int, ...]
    if whole:
        if np.any(found.blocked):
            return ""
        case.elements, case.jacobian, shape = np.arange(case.x.size), found.values, case.x.shape
    else:
        rows, columns = case.x.shape[0], case.x.size // case.x.shape[0]
        counts = (PATCH, PATCH) if rows == columns or columns > PATCH**2 else (max(1, PATCH**2 // columns), columns)
        picked = [
            np.unique(np.linspace(0, n - 1, min(n, m), dtype=int)) for n, m in zip((rows, columns), counts, strict=True)
        ]
        if case.x.ndim == 1:
            picked = [np.unique(np.linspace(0, rows - 1, PATCH**2, dtype=int)), np.array([0])]
        case.elements = (picked[0][:, None] * columns + picked[1][None, :]).ravel()
        shape = (len(picked[0]), len(picked[1])) if case.x.ndim > 1 else (len(picked[0]),)
        case.patch = (picked[0], picked[1])
        patch = slopes(case.function, case.x, element_directions(case.x.shape, case.elements))
        if np.any(patch.blocked):
            return ""
        case.jacobian = patch.values
    case.whole = whole
    case.found = np.ravel(computed)[case.elements]
    case.expected = case.jacobian @ np.ravel(case.dy)
    if np.max(np.abs(case.found - case.expected)) <= 1e-6 * np.max(np.abs(case.expected), initial=0.0):
        return ""  # what is wrong lies elsewhere
    plain = diagnose(case.found.reshape(shape), case.expected.reshape(shape), factors)
    if not plain.startswith("is wrong in"):
        return plain
    guesses = suspects(case)
    others = {text: np.reshape(array, shape) for text, array in guesses.items() if array is not None}
    again = diagnose(case.found.reshape(shape), case.expected.reshape(shape), factors, alternatives=others)
    if not again.startswith("is wrong in"):
        return again
    said = [text for text, array in guesses.items() if array is None]
    return f"{said[0]} ({again})" if said else again
