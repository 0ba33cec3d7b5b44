"""A lower learning rate where nothing becomes better any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bpnet.callbacks.base import Callback
from bpnet.callbacks.monitor import Monitor, check_count, check_number
from bpnet.errors import ConfigError

if TYPE_CHECKING:
    from bpnet.trainer import Trainer


class ReduceOnPlateau(Callback):
    """Multiplies the learning rate by `factor` when a value has not become better for more than `patience` epochs.

    monitor           : the name of the value, a key of the history's rows
    factor            : between 0 and 1
    patience          : epochs without anything better that are let pass; the next one reduces
    cooldown          : epochs after a reduction that are not counted
    min_learning_rate : no lower than this
    threshold         : better means better by more than this share of the best's size (relative=True), or by more
                        than this (relative=False)
    mode              : "min", "max", or "auto", which reads the name
    These are PyTorch's ReduceLROnPlateau's rules and defaults, but for values below 0, whose size counts here. The
    reduced learning rate stays when the fit is over. Raises ConfigError where the optimizer has a schedule, which
    sets the learning rate itself.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        factor: float = 0.1,
        patience: int = 10,
        cooldown: int = 0,
        min_learning_rate: float = 0.0,
        threshold: float = 1e-4,
        relative: bool = True,
        mode: str = "auto",
    ) -> None:
        owner = "ReduceOnPlateau"
        self.monitor = monitor
        self.factor = check_number(owner, "factor", factor, 0.0, 1.0)
        if self.factor in (0.0, 1.0):
            raise ConfigError(f"{owner}: factor must lie between 0 and 1, got {factor!r}")
        self.patience = check_count(owner, "patience", patience)
        self.cooldown = check_count(owner, "cooldown", cooldown)
        self.min_learning_rate = check_number(owner, "min_learning_rate", min_learning_rate)
        self.threshold = check_number(owner, "threshold", threshold)
        if not isinstance(relative, bool):
            raise ConfigError(f"{owner}: relative must be True or False, got {relative!r}")
        self.relative = relative
        self._monitor = Monitor(owner, monitor, mode=mode, min_delta=self.threshold, relative=relative)
        self.mode = self._monitor.mode
        self._waited = self._cooling = 0

    def on_fit_start(self, trainer: Trainer, names: tuple[str, ...]) -> None:
        """Begin afresh."""
        if trainer.optimizer.schedule is not None:
            raise ConfigError(
                "ReduceOnPlateau sets the learning rate, and the optimizer's schedule does too: give the optimizer a "
                "number, or leave ReduceOnPlateau out"
            )
        self._monitor.start(names)
        self._waited = self._cooling = 0

    def state(self) -> dict[str, Any]:
        """The best value, and the epochs that were counted."""
        return {**self._monitor.state(), "waited": self._waited, "cooling": self._cooling}

    def restore(self, trainer: Trainer, state: dict[str, Any]) -> None:
        """Go on."""
        self._monitor.restore(state)
        self._waited, self._cooling = int(state["waited"]), int(state["cooling"])

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Count epochs without anything better, and reduce."""
        self._waited = 0 if self._monitor.improves(row) else self._waited + 1
        if self._cooling:
            self._cooling -= 1
            self._waited = 0
        if self._waited > self.patience:
            optimizer = trainer.optimizer
            reduced = max(optimizer.learning_rate * self.factor, self.min_learning_rate)
            if reduced < optimizer.learning_rate:
                optimizer.learning_rate = reduced
            self._cooling = self.cooldown
            self._waited = 0
