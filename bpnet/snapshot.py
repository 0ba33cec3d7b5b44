"""Everything that a training goes on from, as one safetensors file: taken from a Trainer, checked, and put back."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bpnet.backend import to_numpy
from bpnet.callbacks.base import Callback
from bpnet.errors import BpnetError, CheckpointError, ConfigError
from bpnet.files import SEAL, read, write
from bpnet.identity import described, differences, environment, listed, plain
from bpnet.optimizers import Group
from bpnet.schedules import from_config
from bpnet.store import SLOT

if TYPE_CHECKING:
    from bpnet.trainer import Trainer

FORMAT = "bpnet-checkpoint"
VERSION = 1
DEEPEST = 100  # levels of nested JSON
STORE = "store/"
TOTALS = "totals/"
CALLBACK = "callback/"
MAY_CHANGE = ("trainable", "decay", "l1", "l2")  # of a parameter
SETTABLE = ("layers", "parameters", "optimizer")  # parts of a description that callbacks may change during a fit


@dataclass
class Position:
    """Where a fit stands.

    start   : the description of Trainer and data with which the fit began
    rows    : of the history; done : steps of the present epoch; seconds : that these took
    stopped : why a callback has ended the fit, or ''
    best    : what the Checkpoint has watched, by `Monitor.state`
    recipe  : what else the checkpoint was told to keep, as JSON values
    """

    start: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    done: int = 0
    seconds: float = 0.0
    stopped: str = ""
    best: dict[str, Any] | None = None
    info: dict[str, Any] = field(default_factory=dict)


@dataclass
class Snapshot:
    """What a checkpoint file holds: `about`, JSON values, and host arrays by name."""

    path: str
    about: dict[str, Any]
    arrays: dict[str, Any]

    # --- taking ---

    @classmethod
    def take(cls, trainer: Trainer, position: Position | None = None, callbacks: Sequence[Callback] = ()) -> Snapshot:
        """The state of a Trainer between two steps, and of the fit that is running where there is one."""
        store = trainer.model.store
        store.check()
        kept = store.arrays()
        kept.pop("compute", None)  # a function of the values
        if not store.filled:
            del kept["grads"]
        arrays = {STORE + name: to_numpy(array) for name, array in kept.items()}
        if position is None:  # a step of one's own loop that changed nothing leaves the flag down, and is over
            arrays[STORE + "ok"] = np.array(True)
        about: dict[str, Any] = {
            "now": described(trainer),
            "epoch": trainer.epoch,
            "slots": list(store.slots),
            "filled": [path for path, parameter in store.parameters.items() if parameter._filled],
            "environment": environment(store.backend),
        }
        if position is not None:
            if trainer.totals is not None:
                arrays |= {TOTALS + name: to_numpy(array) for name, array in trainer.totals.arrays().items()}
            about["fit"] = vars(position)
            about["callbacks"] = [
                {"name": type(callback).__name__, "state": _split(callback.state(), f"{CALLBACK}{index}", arrays)}
                for index, callback in enumerate(callbacks)
            ]
        return cls("", about, arrays)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it, whole or not at all; CheckpointError where that is not possible."""
        try:
            text = json.dumps(self.about, default=_number)
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"a checkpoint holds JSON values and arrays, and a metric or a callback gave another: {error}"
            ) from error
        write(path, self.arrays, {"format": FORMAT, "version": str(VERSION), "state": text})

    # --- reading ---

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Snapshot:
        """Read a checkpoint; CheckpointError unless it is a whole one, with the digest that it was written with."""
        arrays, metadata = read(path)
        if metadata.get("format") != FORMAT:
            raise CheckpointError(f"{str(path)!r} is a safetensors file, but no checkpoint of bpnet")
        if SEAL not in metadata:
            raise CheckpointError(f"{str(path)!r} is damaged: it lacks the digest of its content")
        try:
            version = int(metadata["version"])
            if version > VERSION:
                raise CheckpointError(
                    f"{str(path)!r} is of format {version}; this bpnet reads up to {VERSION}: update it"
                )
            snapshot = cls(str(path), json.loads(metadata["state"]), arrays)
            snapshot._check_form()
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{str(path)!r} has a damaged header: {repr(error)[:200]}") from error
        return snapshot

    def _check_form(self) -> None:
        """Raise ValueError, KeyError or TypeError where `about` is not built as `take` builds it."""
        about = self.about
        expect(about, {"now": dict, "epoch": int, "slots": list, "filled": list, "environment": dict})
        expect(about["now"], dict.fromkeys(SETTABLE, dict))
        if depth(about) > DEEPEST or not 0 <= about["epoch"] < 1 << 53:
            raise ValueError("it is nested too deeply, or 'epoch' is no number of epochs")
        if not all(isinstance(name, str) for name in [*about["slots"], *about["filled"]]):
            raise ValueError("'slots' or 'filled' is malformed")
        if "fit" not in about:
            return
        fit = about["fit"]
        expect(about, {"callbacks": list})
        expect(fit, {"start": dict, "rows": list, "done": int, "seconds": float, "stopped": str, "info": dict})
        if fit["done"] < 0 or not all(isinstance(row, dict) and "epoch" in row for row in fit["rows"]):
            raise ValueError("'done' or 'rows' is malformed")
        if fit["best"] is not None:
            expect(fit["best"], {"monitor": str, "best": float, "best_epoch": int})
        for each in about["callbacks"]:
            expect(each, {"name": str, "state": dict})

    @property
    def position(self) -> Position:
        """Where the fit stood; CheckpointError where the checkpoint is of none."""
        if "fit" not in self.about:
            raise CheckpointError(
                f"{self.path!r} was written by trainer.save, while no fit was running; trainer.restore({self.path!r}) "
                "brings it back"
            )
        return Position(**{name: self.about["fit"].get(name) for name in Position.__dataclass_fields__})

    # --- putting back ---

    def check(self, trainer: Trainer, present: dict[str, Any] | None = None) -> None:
        """Raise unless the checkpoint is of such a Trainer, and in a fit of one with such data. Nothing is changed.

        present : the description of what is to go on, where that is a fit
        Raises ConfigError that names what differs; CheckpointError where the arrays do not fit.
        """
        start = self.about["fit"]["start"] if present is not None else self.about["now"]
        now = described(trainer) if present is None else present
        lines = list(differences(start, now))
        if present is None:  # what may be set at any time is taken from the checkpoint
            lines = [line for line in lines if not line.startswith(("optimizer.learning_rate:", "precision:"))]
        elif lines and not list(differences({**start, **self.about["now"]}, now)):
            lines = []  # the Trainer of the fit itself, in which callbacks have changed something
        if lines:
            raise ConfigError(
                f"the checkpoint {self.path!r} is of another training: {listed(lines)}. Make everything as it was, or "
                "begin anew"
            )
        self._check_arrays(trainer)

    def _check_arrays(self, trainer: Trainer) -> None:
        store = trainer.model.store
        try:
            store.check_restorable(self._of(STORE))
        except CheckpointError as error:
            raise CheckpointError(f"{self.path!r} does not fit the model: {error}") from error
        unknown = [path for path in self.about["filled"] if path not in store.parameters]
        if unknown or (self.about["filled"] and STORE + "grads" not in self.arrays):
            raise CheckpointError(f"{self.path!r} does not fit the model: it lacks gradients that it names")
        if not bool(self.arrays[STORE + "ok"]):
            raise CheckpointError(f"{self.path!r} was taken after a loss that was not finite")

    def restore(self, trainer: Trainer) -> None:
        """Put the arrays, the learning rate and the other settings back; `check` has let it pass.

        Warns where the bits of further steps may be others than where the checkpoint was made.
        """
        store = trainer.model.store
        try:
            _set_changed(trainer, self.about["now"])
        except (KeyError, TypeError, AttributeError, BpnetError) as error:
            raise CheckpointError(f"{self.path!r} has settings that cannot be set: {str(error)[:200]}") from error
        trainer.optimizer.prepare(store)
        kept = self._of(STORE)
        first = {SLOT + name: kept[SLOT + name] for name in self.about["slots"] if SLOT + name in kept}
        store.restore(first | kept, self.about["filled"])
        if trainer.optimizer.schedule is None:  # the array has that of the latest step; the next one writes the present
            trainer.optimizer.learning_rate = trainer.optimizer.learning_rate
        lines = list(differences(self.about["environment"], plain(environment(store.backend))))
        lines = [line for line in lines if not line.startswith("Python:")]
        lines += differences(
            {"precision": self.about["now"].get("precision", "float32")}, {"precision": trainer.precision}
        )
        if lines:
            warnings.warn(
                f"resumed elsewhere than where {self.path!r} was made, so from here on the last bits may differ from "
                f"those of an uninterrupted training: {listed(lines)}",
                RuntimeWarning,
                stacklevel=2,
            )

    def restore_callbacks(self, trainer: Trainer, callbacks: Sequence[Callback]) -> None:
        """Let the callbacks go on: each takes the state of the next one of its class.

        Raises CheckpointError where one that had a state is not there, or cannot go on.
        """
        waiting = list(callbacks)
        for each in self.about["callbacks"]:
            name = each["name"][:80]
            callback = next((one for one in waiting if type(one).__name__ == each["name"]), None)
            if callback is None:
                if each["state"]:
                    raise CheckpointError(
                        f"{self.path!r} was made with a callback {name}, which is not among the callbacks now"
                    )
                continue
            waiting = [one for one in waiting if one is not callback]
            if not each["state"]:
                continue
            try:
                callback.restore(trainer, _join(each["state"], self.arrays))
            except CheckpointError:
                raise
            except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, OSError) as error:
                raise CheckpointError(f"{self.path!r}: {name} cannot go on from it: {repr(error)[:200]}") from error

    def totals(self, trainer: Trainer) -> dict[str, Any]:
        """The sums of the epoch that was begun; CheckpointError where they do not fit the metrics."""
        found, wanted = self._of(TOTALS), trainer.totals.arrays() if trainer.totals is not None else {}
        shapes = {name: (tuple(array.shape), "float64") for name, array in wanted.items()}
        if {name: (array.shape, str(array.dtype)) for name, array in found.items()} != shapes:
            raise CheckpointError(f"{self.path!r} does not fit: its sums of metrics have other shapes")
        return found

    def _of(self, prefix: str) -> dict[str, Any]:
        return {name.removeprefix(prefix): each for name, each in self.arrays.items() if name.startswith(prefix)}


def expect(table: Any, kinds: Mapping[str, type]) -> None:
    """Raise unless `table` has values of these kinds under these names."""
    for name, kind in kinds.items():
        value = table[name]
        fine = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if not fine or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"{name!r} must be a {kind.__name__}, got {str(value)[:40]!r}")


def depth(value: Any) -> int:
    """How deep dicts and lists are nested; does not recur."""
    levels, level = 0, [value]
    while level:
        levels += 1
        tables = [each for each in level if isinstance(each, (dict, list))]
        level = [inner for each in tables for inner in (each.values() if isinstance(each, dict) else each)]
    return levels


def _number(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is none of them")


ARRAY = "array:"


def _split(state: Any, where: str, arrays: dict[str, Any]) -> Any:
    """The state with the arrays taken out, which go into `arrays` by the names that stand in their places."""
    if isinstance(state, dict):
        return {str(key): _split(value, f"{where}/{key}", arrays) for key, value in state.items()}
    if getattr(state, "shape", None):
        arrays[where] = np.array(to_numpy(state))
        return {ARRAY: where}
    return state


def _join(state: Any, arrays: Mapping[str, Any]) -> Any:
    """The state with its arrays."""
    if isinstance(state, dict):
        if set(state) == {ARRAY}:
            return np.array(arrays[state[ARRAY]])
        return {key: _join(value, arrays) for key, value in state.items()}
    return state


def _set_changed(trainer: Trainer, now: dict[str, Any]) -> None:
    """Set what callbacks have changed since the fit began: numbers of layers, parameters and the optimizer."""
    present = described(trainer)
    owners: dict[str, dict[str, Any]] = {
        "layers": dict(trainer.model.walk()),
        "parameters": dict(trainer.model.parameters()),
        "optimizer": {"": trainer.optimizer},
    }
    for kind, objects in owners.items():
        there, here = ({"": table[kind]} if kind == "optimizer" else table[kind] for table in (now, present))
        for path, settings in there.items():
            for name, value in settings.items():
                if value == here[path][name] or (kind == "parameters" and name not in MAY_CHANGE) or name == "name":
                    continue
                setattr(objects[path], name, _decoded(name, value))


def _decoded(name: str, value: Any) -> Any:
    if name == "groups":
        return [Group(**each) for each in value]
    return from_config(value) if name == "learning_rate" and isinstance(value, dict) else value
