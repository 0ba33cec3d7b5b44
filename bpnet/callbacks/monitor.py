"""A number of every epoch that is watched: whether it is there, which direction is better, which value was the best."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Sequence
from typing import Any

from bpnet.errors import CheckpointError, ConfigError, did_you_mean

MODES = ("auto", "min", "max")
SMALLER_IS_BETTER = {"loss", "error", "mae", "mse", "rmse", "perplexity"}
LARGER_IS_BETTER = {"accuracy", "f1", "precision", "recall", "r2"}


def direction(owner: str, monitor: str, mode: str = "auto") -> str:
    """Return `mode`, or with "auto" the "min" or "max" that the words of the name say; ConfigError without one."""
    if mode != "auto":
        return mode
    words = set(re.split(r"[^a-z0-9]+", monitor.lower()))
    smaller, larger = bool(words & SMALLER_IS_BETTER), bool(words & LARGER_IS_BETTER)
    if smaller == larger:
        raise ConfigError(f"{owner}: the name {monitor!r} does not say which is better; give mode='min' or mode='max'")
    return "min" if smaller else "max"


def as_number(owner: str, monitor: str, value: Any) -> float:
    """`value` as a float; ConfigError where it is none, such as a confusion matrix."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ConfigError(f"{owner}: {monitor!r} is a {type(value).__name__}, not a number, and cannot be compared")
    return float(value)


class Monitor:
    """Keeps the best value of one name over the epochs of a fit.

    owner     : who watches, for messages
    mode      : "min", "max", or "auto", which reads the name
    min_delta : a value must be better than the best by more than this
    relative  : whether `min_delta` is a share of the size of the best
    NaN is never better than anything, and the first other value is always better.
    """

    def __init__(
        self, owner: str, monitor: str, *, mode: str = "auto", min_delta: float = 0.0, relative: bool = False
    ) -> None:
        if not isinstance(monitor, str) or not monitor:
            raise ConfigError(f"{owner}: monitor must be a name, such as 'val_loss', got {monitor!r}")
        if mode not in MODES:
            known = ", ".join(MODES)
            raise ConfigError(f"{owner}: mode must be one of {known}, got {mode!r}{did_you_mean(mode, MODES)}")
        self.owner = owner
        self.name = monitor
        self.mode = mode
        self.min_delta = check_number(owner, "min_delta", min_delta)
        self.relative = relative
        self._falls = True
        self.reset()

    def reset(self) -> None:
        """Forget every value."""
        self.best = math.nan
        self.best_epoch = 0

    def start(self, names: Sequence[str]) -> None:
        """Forget every value; raise ConfigError unless the epochs of the fit that begins will have the name."""
        self.reset()
        if self.name in names:
            self._falls = direction(self.owner, self.name, self.mode) == "min"
            return
        of_validation = [name for name in names if name.startswith("val_")]
        if self.name.startswith("val_") and not of_validation:
            raise ConfigError(
                f"{self.owner} watches {self.name!r}, and this fit has no validation data: give "
                f"validation_data=(x, y), or watch one of {', '.join(names)}"
            )
        raise ConfigError(
            f"{self.owner}: there is no {self.name!r} to watch; there are {', '.join(names)}"
            f"{did_you_mean(self.name, names)}"
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"monitor": self.name, "best": self.best, "best_epoch": self.best_epoch}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; CheckpointError where another name was watched in it."""
        if state["monitor"] != self.name:
            raise CheckpointError(
                f"{self.owner} watches {self.name!r}, and in the checkpoint it watched {str(state['monitor'])[:80]!r}"
            )
        self.best, self.best_epoch = float(state["best"]), int(state["best_epoch"])

    def improves(self, row: dict[str, Any]) -> bool:
        """Whether the row's value is better than the best before, which it then replaces."""
        value = as_number(self.owner, self.name, row[self.name])
        margin = self.min_delta * (abs(self.best) if self.relative and math.isfinite(self.best) else 1.0)
        gain = self.best - value if self._falls else value - self.best
        better = value == value and (self.best != self.best or gain > margin)
        if better:
            self.best = value
            self.best_epoch = int(row.get("epoch", 0))
        return better


def check_number(owner: str, name: str, value: Any, low: float = 0.0, high: float = math.inf) -> float:
    """`value` as a finite float in [low, high]; else ConfigError."""
    number = float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    if not low <= number <= high or math.isinf(number):
        span = f"at least {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"
        raise ConfigError(f"{owner}: {name} must be a number {span}, got {value!r}")
    return number


def check_count(owner: str, name: str, value: Any, *, low: int = 0) -> int:
    """`value` as an integer of at least `low`; else ConfigError."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < low:
        raise ConfigError(f"{owner}: {name} must be an integer of at least {low}, got {value!r}")
    return int(value)
