"""Difference quotients that know kinks: functions of arrays differenced from both sides, at two step sizes.

Where the quotients from the left and from the right differ, and differ as much with a smaller step, the point lies on
a kink: there is no derivative to compare with, and the point has to be moved. Where a smaller step ends the difference,
a kink lies beside the point, and the smaller step is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

STEP = 1e-6  # relative to the largest of 1 and |x|
SMALLER = 16.0  # how much smaller the second step is
APART = 1e-4  # the relative difference of one-sided quotients from which the second step is taken
N_DIRECTIONS = 16


@dataclass(frozen=True)
class Slopes:
    """Derivatives of f : (...) -> (m,) along k directions.

    values  : (k, m); slack : (k, m) what the error of the formula may be
    blocked : (k,) whether a kink lies at the point, so that the row means nothing
    beside  : the number of directions in which a kink beside the point was stepped around
    """

    values: Any
    slack: Any
    blocked: Any
    beside: int


def element_directions(shape: tuple[int, ...], elements: Any) -> list[Any]:
    """The directions that are the given elements, by flat index."""
    found = []
    for index in elements:
        direction = np.zeros(int(np.prod(shape, dtype=int)))
        direction[index] = 1.0
        found.append(direction.reshape(shape))
    return found


def random_directions(shape: tuple[int, ...], seed: int, n: int = N_DIRECTIONS) -> list[Any]:
    """Random directions, normal in every element."""
    rng = np.random.default_rng([seed, 5])
    return [rng.normal(size=shape) for _ in range(n)]


def slopes(f: Callable[[Any], Any], x: Any, directions: list[Any], apart: float = APART) -> Slopes:
    """Difference `f`, a function of float64 NumPy arrays, at `x` along each direction.

    apart : the relative difference of one-sided quotients from which a smaller step is taken, too
    """
    at = np.ravel(f(x))
    rows, slack, blocked, beside = [], [], [], 0
    for direction in directions:
        value, room, on_kink, near = _along(f, x, at, direction, apart)
        rows.append(value)
        slack.append(room)
        blocked.append(on_kink)
        beside += near
    return Slopes(np.array(rows), np.array(slack), np.array(blocked, dtype=bool), beside)


def _along(f: Callable[[Any], Any], x: Any, at: Any, direction: Any, apart: float) -> tuple[Any, Any, bool, bool]:
    touched = np.abs(x[direction != 0])
    step = STEP * max(1.0, float(np.max(touched, initial=0.0)))
    value, gap = _quotients(f, x, at, step * direction, step)
    slack = np.zeros_like(value)
    noise = 1e-7 * float(np.max(np.abs(at), initial=0.0))
    limit = apart * float(np.max(np.abs(value), initial=0.0)) + noise
    doubtful = gap > limit
    if not np.any(doubtful):
        return value, slack, False, False
    smaller = step / SMALLER
    finer, finer_gap = _quotients(f, x, at, smaller * direction, smaller)
    on_kink = bool(np.any(doubtful & (finer_gap > 0.3 * gap)))
    gone = doubtful & (finer_gap < gap / SMALLER**2 + noise)
    smooth = doubtful & ~gone
    correction = np.where(smooth, (finer - value) / (SMALLER**2 - 1), 0.0)  # Richardson's
    value = np.where(doubtful, finer + correction, value)
    return value, np.abs(correction), on_kink, bool(np.any(gone)) and not on_kink


def _quotients(f: Callable[[Any], Any], x: Any, at: Any, change: Any, step: float) -> tuple[Any, Any]:
    """The central quotient, and how far the one from the right is from the one from the left."""
    above, below = x + change, x - change
    # What was really stepped: x + h is rounded, which for large x is much of h.
    real = float(np.sum((above - below) * change)) / float(np.sum(change * change)) if np.any(change) else 2.0
    y_above, y_below = np.ravel(f(above)), np.ravel(f(below))
    return (y_above - y_below) / (real * step), np.abs(y_above - 2 * at + y_below) / step


def moved_off_kinks(x: Any, blocked: Any, seed: int) -> Any:
    """`x` with its blocked elements moved by about a thousandth, far more than a step and far less than a scale.

    Where no element is below 0, as of probabilities, none gets there.
    """
    rng = np.random.default_rng([seed, 7])
    shift = rng.uniform(0.5e-3, 1.5e-3, size=x.shape)
    if np.any(x < 0):
        shift = shift * rng.choice([-1.0, 1.0], size=x.shape)
    return np.where(blocked, x + shift * np.maximum(1.0, np.abs(x)), x)
