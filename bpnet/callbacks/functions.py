"""Plain functions as callbacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bpnet.callbacks.base import Callback
from bpnet.callbacks.monitor import check_count
from bpnet.errors import ConfigError

if TYPE_CHECKING:
    from bpnet.trainer import Trainer


def _callable(owner: str, function: Any, takes: str) -> Any:
    if not callable(function):
        raise ConfigError(f"{owner} needs a function of {takes}, got {function!r}")
    return function


class EveryEpoch(Callback):
    """Calls `function(trainer, row)` after every epoch.

    row : what was measured, by name; what the function returns is not looked at
    """

    def __init__(self, function: Callable[[Trainer, dict[str, Any]], object]) -> None:
        self.function = _callable("EveryEpoch", function, "(trainer, row)")

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Call the function."""
        self.function(trainer, row)


class EveryStep(Callback):
    """Calls `function(trainer)` after every `n` steps of a fit.

    Reading a value from the device in it makes that step wait.
    """

    def __init__(self, function: Callable[[Trainer], object], *, n: int = 1) -> None:
        self.function = _callable("EveryStep", function, "(trainer)")
        self.n = check_count("EveryStep", "n", n, low=1)
        self._done = 0

    def on_fit_start(self, trainer: Trainer, names: tuple[str, ...]) -> None:
        """Begin afresh."""
        self._done = 0

    def state(self) -> dict[str, Any]:
        """The number of steps so far, where it matters."""
        return {"done": self._done} if self.n > 1 else {}

    def restore(self, trainer: Trainer, state: dict[str, Any]) -> None:
        """Go on."""
        self._done = int(state["done"])

    def on_step_end(self, trainer: Trainer) -> None:
        """Count, and call the function."""
        self._done += 1
        if self._done % self.n == 0:
            self.function(trainer)
