"""Keeping the best model in a file."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from bpnet.callbacks.base import Callback
from bpnet.callbacks.monitor import Monitor
from bpnet.errors import ConfigError
from bpnet.files import check_writable
from bpnet.layers.serialization import describe, save_model

if TYPE_CHECKING:
    from bpnet.trainer import Trainer


class BestCheckpoint(Callback):
    """Saves the model whenever a value is better than in every epoch of the fit before.

    path    : a file, written whole or not at all, and replaced; one from an earlier fit is replaced by the first epoch
    monitor : the name of the value, a key of the history's rows
    mode    : "min", "max", or "auto", which reads the name
    info    : JSON values kept in the file beside the epoch and the value; read back as `bp.load(path).info`
    Where the optimizer averages the parameters, the averages are saved, since those were measured. Raises
    CheckpointError before the first step where the file cannot be written, ConfigError where the model can be in none.
    `best` and `best_epoch` are of the latest fit; NaN and 0 where nothing was saved.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        monitor: str = "val_loss",
        mode: str = "auto",
        info: dict[str, Any] | None = None,
    ) -> None:
        self._monitor = Monitor("BestCheckpoint", monitor, mode=mode)
        self.path = os.fspath(path)
        self.monitor = monitor
        self.mode = self._monitor.mode
        self.info = dict(info or {})
        if not all(isinstance(key, str) for key in self.info):
            raise ConfigError(f"BestCheckpoint: info needs names that are text, got {list(self.info)}")
        try:
            json.dumps(self.info)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"BestCheckpoint: info must hold JSON values: {error}") from error

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
        describe(trainer.model, self.info)
        check_writable(self.path)

    def state(self) -> dict[str, Any]:
        """The best value so far; the file itself is made again by the epoch that is."""
        return self._monitor.state()

    def restore(self, trainer: Trainer, state: dict[str, Any]) -> None:
        """Go on."""
        self._monitor.restore(state)

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Save the model where the value is better."""
        if not self._monitor.improves(row):
            return
        model = trainer.model
        with trainer.averaged():
            save_model(model, self.path, self.info | {"epoch": self.best_epoch, self.monitor: self.best})
