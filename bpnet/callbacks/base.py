"""The callback: told when a fit starts, after every step and epoch, and when it ends."""

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

    A callback may read `trainer.model`, `.optimizer`, `.loss`, `.metrics` and `.epoch`, and end the fit after the
    present step or epoch with `trainer.stop("reason")`. bpnet's own start afresh in `on_fit_start`, so one object can
    serve many fits, one after another.
    """

    def on_fit_start(self, trainer: Trainer, names: tuple[str, ...]) -> None:
        """A fit begins; refuse here what cannot work, before anything is changed.

        names : the keys that every epoch's row will have
        """

    def on_step_end(self, trainer: Trainer) -> None:
        """A step was made. Reading a value of the device here waits for it."""

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """An epoch ended with these numbers; not all are floats: a confusion matrix is nested lists."""

    def on_fit_end(self, trainer: Trainer, history: History) -> None:
        """The fit ended, whatever ended it; close what is open. Called wherever `on_fit_start` succeeded."""

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
