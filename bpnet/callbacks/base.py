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
    """Base of all callbacks: four moments of a fit, and what is kept of them; none has to be used.

    A callback may read `trainer.model`, `.optimizer`, `.loss`, `.metrics` and `.epoch`, and end the fit after the
    present step or epoch with `trainer.stop("reason")`. bpnet's own start afresh in `on_fit_start`, so one object can
    serve many fits, one after another. One that remembers something from epoch to epoch defines `state` and `restore`
    too, so that a fit that is resumed from a checkpoint goes on as if it had never ended.
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

    def state(self) -> dict[str, Any]:
        """What has to be kept in a checkpoint, so that `restore` can go on from there: by name, JSON values and arrays,
        or dicts of them.

        Called between two steps or epochs of a fit. Not for what the constructor was given.
        """
        return {}

    def restore(self, trainer: Trainer, state: dict[str, Any]) -> None:
        """Go on as when `state` returned this; arrays come back as NumPy's. Called after `on_fit_start`.

        What a checkpoint says is not to be trusted blindly: a KeyError, TypeError or ValueError here becomes a
        CheckpointError.
        """

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
        try:
            yield
        except BaseException as error:
            history.error = f"{type(error).__name__}: {error}"
            raise
