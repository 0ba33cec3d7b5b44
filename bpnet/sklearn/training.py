"""What an estimator keeps of its training, and when a training ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from bpnet.backend import to_numpy
from bpnet.callbacks.base import Callback
from bpnet.losses import Loss
from bpnet.trainer import Trainer


class Training:
    """A Trainer that can be pickled between two fits, with the optimizer's state.

    trainer : made by the estimator; ask for it with `ready()`
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._own_l2 = {path: p.l2 for path, p in trainer.model.parameters().items() if p.decay}
        self._waiting: dict[str, Any] | None = None  # host arrays that an unpickled store has not been given yet

    @property
    def loss(self) -> Loss:
        """The loss that the model was trained with."""
        return self._trainer.loss

    def ready(self) -> Trainer:
        """The Trainer; of one that was unpickled, with its optimizer's state back in place."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            store = self._trainer.model.store
            store.counters[...] = store.backend.asarray(waiting["counters"])
            for name, slot in waiting["slots"].items():
                store.slot(name)[...] = store.backend.asarray(slot, dtype=store.dtype)
        return self._trainer

    def penalize(self, l2: float) -> None:
        """Penalize the weights, beside what a user's own layers ask for, by l2 times the sum of their squares."""
        parameters = self.ready().model.parameters()
        for path, own in self._own_l2.items():
            if parameters[path].l2 != own + l2:
                parameters[path].l2 = own + l2

    def __getstate__(self) -> dict[str, Any]:
        waiting = self._waiting
        if waiting is None:
            store = self._trainer.model.store
            waiting = {
                "counters": to_numpy(store.counters),
                "slots": {name: to_numpy(slot) for name, slot in store.slots.items()},
            }
        return vars(self) | {"_waiting": waiting}


class Convergence(Callback):
    """Ends a fit where it has stopped getting better: for more than `patience` epochs by less than `tol`.

    score : None, and the training loss is watched; or a function of the Trainer that returns a score of validation
            data, which is watched instead, and the parameters of the best epoch come back at the end
    """

    def __init__(self, tol: float, patience: float, score: Callable[[Trainer], float] | None = None) -> None:
        self.tol = tol
        self.patience = patience
        self.score = score
        self.losses: list[float] = []
        self.scores: list[float] = []
        self.best = -math.inf
        self.waited = 0
        self._kept: dict[str, Any] = {}

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Look whether this epoch was better than the best before it."""
        self.losses.append(row["loss"])
        if self.score is None:
            value = -row["loss"]
        else:
            value = self.score(trainer)
            self.scores.append(value)
        self.waited = 0 if value >= self.best + self.tol else self.waited + 1
        if value > self.best:
            self.best = value
            if self.score is not None:
                self._keep(trainer)
        if self.waited > self.patience:
            what = "training loss" if self.score is None else "validation score"
            trainer.stop(f"the {what} did not improve by {self.tol:g} for {self.waited} epochs")

    def restore_best(self, trainer: Trainer) -> None:
        """Give the model the parameters of the best epoch, where scores were watched."""
        arrays = trainer.model.store.arrays()
        for name, kept in self._kept.items():
            arrays[name][...] = kept

    def _keep(self, trainer: Trainer) -> None:
        store = trainer.model.store
        arrays = {name: array for name, array in store.arrays().items() if name in ("values", "slot/average")}
        self._kept = {name: store.backend.xp.asarray(array, copy=True) for name, array in arrays.items()}
