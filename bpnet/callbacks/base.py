"""What a fit tells others while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bpnet.errors import ConfigError

if TYPE_CHECKING:
    from bpnet.history import History
    from bpnet.trainer import Trainer


class Callback:
    """Base of all callbacks: four moments of a fit, none of which has to be used.

    A callback may read `trainer.model`, `.optimizer`, `.loss`, `.metrics` and `.epoch`, and end the fit with
    `trainer.stop("reason")`. It starts afresh in `on_fit_start`: one object can serve many fits, one after another.
    """

    def on_fit_start(self, trainer: Trainer, names: tuple[str, ...]) -> None:
        """Before the first step; an error raised here comes before anything is changed.

        names : the keys that every epoch's row will have
        """

    def on_step_end(self, trainer: Trainer) -> None:
        """After an update. Reading values from the device here makes every step wait for it."""

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """After an epoch and its validation; `row` holds what was measured, by name."""

    def on_fit_end(self, trainer: Trainer, history: History) -> None:
        """After the last epoch, or an error: called in any case where `on_fit_start` succeeded."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({shown})"


@contextlib.contextmanager
def running(
    callbacks: Sequence[Callback], trainer: Trainer, names: tuple[str, ...], history: History
) -> Iterator[None]:
    """Tell the callbacks of the start, and in any case of the end every one that was told of the start."""
    if not isinstance(callbacks, (list, tuple)) or not all(isinstance(callback, Callback) for callback in callbacks):
        raise ConfigError(f"callbacks must be a list of Callbacks, got {callbacks!r}")
    with contextlib.ExitStack() as ends:
        for callback in callbacks:
            callback.on_fit_start(trainer, names)
            ends.callback(callback.on_fit_end, trainer, history)
        yield
