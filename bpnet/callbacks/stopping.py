"""Ending a fit before its last epoch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from bpnet.backend import to_numpy
from bpnet.callbacks.base import Callback
from bpnet.callbacks.monitor import Monitor, check_count, check_number
from bpnet.dispatch import Array
from bpnet.errors import ConfigError
from bpnet.store import AVERAGE

if TYPE_CHECKING:
    from bpnet.history import History
    from bpnet.trainer import Trainer


class EarlyStopping(Callback):
    """Ends the fit when a value has not become better for some epochs, and goes back to the best parameters.

    monitor      : the name of the value, a key of the history's rows
    patience     : so many epochs in a row without anything better end the fit, at least 1
    min_delta    : better means better by more than this
    mode         : "min", "max", or "auto", which reads the name: losses and errors fall, accuracies rise
    restore_best : when the fit is over, set the parameters and their averages to those after the best epoch, unless
                   Ctrl-C or an error ended it. They are kept on the device meanwhile; the optimizer's state stays.
    `best` and `best_epoch` are of the latest fit; NaN and 0 where no value was a number.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        patience: int = 5,
        min_delta: float = 0.0,
        mode: str = "auto",
        restore_best: bool = True,
    ) -> None:
        self._monitor = Monitor("EarlyStopping", monitor, mode=mode, min_delta=min_delta)
        self.monitor = monitor
        self.patience = check_count("EarlyStopping", "patience", patience, low=1)
        self.min_delta = self._monitor.min_delta
        self.mode = self._monitor.mode
        if not isinstance(restore_best, bool):
            raise ConfigError(f"EarlyStopping: restore_best must be True or False, got {restore_best!r}")
        self.restore_best = restore_best
        self._waited = 0
        self._kept: dict[str, Array] = {}

    @property
    def best(self) -> float:
        """The best value of the latest fit."""
        return self._monitor.best

    @property
    def best_epoch(self) -> int:
        """The epoch that ended with it, as the rows count."""
        return self._monitor.best_epoch

    def on_fit_start(self, trainer: Trainer, names: tuple[str, ...]) -> None:
        """Begin afresh."""
        self._monitor.start(names)
        self._waited = 0
        self._kept = {}

    def state(self) -> dict[str, Any]:
        """The best value with its parameters, and the epochs since."""
        kept = {name: to_numpy(array) for name, array in self._kept.items()}
        return {**self._monitor.state(), "waited": self._waited, "kept": kept}

    def restore(self, trainer: Trainer, state: dict[str, Any]) -> None:
        """Go on."""
        store = trainer.model.store
        kept = dict(state["kept"])
        if any(name not in ("values", AVERAGE) or array.shape != (store.size,) for name, array in kept.items()):
            raise ValueError("the kept parameters are not the model's")
        self._monitor.restore(state)
        self._waited = int(state["waited"])
        xp = store.backend.xp
        self._kept = {
            name: xp.asarray(store.backend.asarray(array, dtype=store.dtype), copy=True) for name, array in kept.items()
        }

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Keep the parameters where the value is better; else count, and end the fit."""
        if self._monitor.improves(row):
            self._waited = 0
            if self.restore_best:
                self._keep(trainer)
            return
        self._waited += 1
        if self._waited >= self.patience:
            name, best, epoch = self.monitor, self.best, self.best_epoch
            reached = f"the best was {best:.6g} after epoch {epoch}" if epoch else "it was never a number"
            trainer.stop(f"{name} has not become better for {self._waited} epoch{'s' * (self._waited > 1)}; {reached}")

    def on_fit_end(self, trainer: Trainer, history: History) -> None:
        """Go back to the best parameters."""
        if not (history.interrupted or history.error):
            for name, array in _parameters(trainer).items():
                if name in self._kept:
                    array[...] = self._kept[name]
            trainer.model.store.refresh()
        self._kept = {}

    def _keep(self, trainer: Trainer) -> None:
        for name, array in _parameters(trainer).items():
            if name in self._kept:
                self._kept[name][...] = array
            else:
                self._kept[name] = trainer.model.backend.xp.asarray(array, copy=True)


def _parameters(trainer: Trainer) -> dict[str, Array]:
    """The flat buffers that hold what evaluation reads: the values, and their averages where there are any."""
    store = trainer.model.store
    return {"values": store.values} | {name: slot for name, slot in store.slots.items() if name == AVERAGE}


class TimeLimit(Callback):
    """Ends the fit after the first step that ends later than `seconds` after the start.

    The epoch of that step is then not complete and has no row.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = check_number("TimeLimit", "seconds", seconds)
        self._end = 0.0

    def on_fit_start(self, trainer: Trainer, names: tuple[str, ...]) -> None:
        """Start the clock."""
        self._end = time.monotonic() + self.seconds

    def on_step_end(self, trainer: Trainer) -> None:
        """Look at the clock."""
        if time.monotonic() >= self._end:
            trainer.stop(f"the time limit of {self.seconds:g} s was reached")
