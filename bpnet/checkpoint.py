"""Checkpoints of a fit in a folder: when to write one, which to keep, and which to go on from."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpnet.callbacks.monitor import Monitor, check_count, check_number
from bpnet.errors import CheckpointError, ConfigError
from bpnet.files import check_writable, write_bytes
from bpnet.snapshot import Snapshot

if TYPE_CHECKING:
    from bpnet.fitting import Fit

BEST = "best.safetensors"
INDEX = "index.json"
BUNDLE = "bundle.safetensors"  # the step of a fit that failed
_STEP = re.compile(r"step-(\d{1,18})\.safetensors")
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")


class Checkpoint:
    """Says when `Trainer.fit` writes checkpoints, where, and how many of them stay.

    folder        : made where it is missing; a fit that begins anew wants one without checkpoints
    every_epochs  : after so many epochs; None: not after epochs
    every_steps   : after so many steps, in the middle of an epoch too; None: not after steps
    every_seconds : after the first step that ends so long after the last checkpoint; None: not by time
    keep          : how many of the newest stay
    keep_best     : the name of the number that says which epoch's checkpoint stays beside them, "auto" for val_loss or,
                    without validation data, loss; None: no best one
    mode          : of that number: "min", "max", or "auto", which reads the name
    info          : JSON values that are kept in every checkpoint
    One more is written when the fit ends, also by Ctrl-C or by a callback. A file is whole or not there: a kill while
    one is written leaves those before. They hold arrays and JSON, no code. The step that writes one waits for it.

    >>> import bpnet as bp
    >>> train, _ = bp.data.load("digits")
    >>> def trainer():
    ...     model = bp.Sequential(bp.Dense(64, 10))
    ...     return bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(1e-2), seed=0)
    >>> whole, first, second = trainer(), trainer(), trainer()
    >>> history = whole.fit(train, epochs=4, progress=False)
    >>> history = first.fit(train, epochs=2, progress=False, checkpoint=bp.Checkpoint("run"))
    >>> history = second.fit(train, epochs=4, progress=False, resume="run")
    >>> len(history), bool((second.model[0].weight.value == whole.model[0].weight.value).all())
    (4, True)
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every_epochs: int | None = 1,
        every_steps: int | None = None,
        every_seconds: float | None = None,
        keep: int = 2,
        keep_best: str | None = "auto",
        mode: str = "auto",
        info: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(folder, (str, os.PathLike)) or not os.fspath(folder):
            raise ConfigError(f"Checkpoint: folder must be a path, got {folder!r}")
        self.folder = os.fspath(folder)
        owner = "Checkpoint"
        self.every_epochs = None if every_epochs is None else check_count(owner, "every_epochs", every_epochs, low=1)
        self.every_steps = None if every_steps is None else check_count(owner, "every_steps", every_steps, low=1)
        self.every_seconds = None if every_seconds is None else check_number(owner, "every_seconds", every_seconds)
        self.keep = check_count(owner, "keep", keep, low=1)
        if keep_best is not None:
            Monitor(owner, keep_best, mode=mode)
        self.keep_best = keep_best
        self.mode = mode
        self.info = dict(info or {})
        try:
            json.dumps(self.info)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"Checkpoint: info must hold JSON values: {error}") from error

    def __repr__(self) -> str:
        shown = {name: value for name, value in vars(self).items() if name not in ("folder", "info")}
        return f"Checkpoint({self.folder!r}, {', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def as_checkpoint(given: Any) -> Checkpoint | None:
    """A Checkpoint as it is, a path as one with the usual settings; ConfigError for anything else."""
    if given is None or isinstance(given, Checkpoint):
        return given
    if isinstance(given, (str, os.PathLike)):
        return Checkpoint(given)
    raise ConfigError(f"checkpoint must be a Checkpoint, or the path of a folder, got {given!r}")


class Writer:
    """Writes the checkpoints of one fit.

    resumed : the snapshot that the fit goes on from, if any
    Raises, before anything is changed, ConfigError where the folder has checkpoints of another training, or no epoch
    will have the number to watch; CheckpointError where nothing can be written.
    """

    def __init__(self, settings: Checkpoint, columns: tuple[str, ...], resumed: Snapshot | None) -> None:
        self.settings = settings
        self.folder = Path(settings.folder)
        self.monitor: Monitor | None = None
        name = settings.keep_best
        if name is not None:
            name = ("val_loss" if "val_loss" in columns else "loss") if name == "auto" else name
            self.monitor = Monitor("Checkpoint", name, mode=settings.mode)
            self.monitor.start(columns)
            best = None if resumed is None else resumed.position.best
            if best is not None and best["monitor"] == name:
                self.monitor.restore(best)
        self._prepare(resumed)
        self._last = (-1, -1)  # (complete epochs, steps) of the latest one
        self._written = time.monotonic()

    def _prepare(self, resumed: Snapshot | None) -> None:
        there = steps(self.folder) or (self.folder / BEST).exists()
        own = resumed is not None and Path(resumed.path).resolve().parent == self.folder.resolve()
        if there and not own:
            raise ConfigError(
                f"the folder {str(self.folder)!r} has checkpoints already: go on from them with resume=True, name "
                "another folder, or delete it"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            leftovers = [path for path in self.folder.iterdir() if _TEMPORARY.fullmatch(path.name)]
        except OSError as error:
            raise CheckpointError(
                f"cannot write checkpoints to {str(self.folder)!r}: {error.strerror or error}"
            ) from error
        for path in leftovers:  # of a process that was killed while it wrote
            with contextlib.suppress(OSError):
                path.unlink()
        check_writable(self.folder / INDEX)

    # --- when ---

    def due_after_step(self, fit: Fit) -> bool:
        """Whether a checkpoint is to be written now, in the middle of an epoch."""
        every, seconds = self.settings.every_steps, self.settings.every_seconds
        if every is not None and fit.steps % every == 0:
            return True
        return seconds is not None and time.monotonic() - self._written >= seconds

    def due_after_epoch(self, fit: Fit) -> bool:
        """Whether one is to be written now that an epoch is complete."""
        every = self.settings.every_epochs
        return (every is not None and len(fit.history) % every == 0) or self.due_after_step(fit)

    # --- what ---

    def after_epoch(self, fit: Fit, row: dict[str, Any]) -> None:
        """Keep the best one, and write one where it is time. A kill between the two only makes the best one anew."""
        better = self.monitor is not None and self.monitor.improves(row)
        if better:
            self._snapshot(fit).write(self.folder / BEST)
        if self.due_after_epoch(fit):
            self.write(fit)

    def write(self, fit: Fit) -> None:
        """Write one, unless that was just done, and delete those that are too many."""
        place = (len(fit.history), fit.done)
        if place == self._last:
            return
        snapshot, number = self._snapshot(fit), fit.steps
        snapshot.write(self.folder / f"step-{number:010d}.safetensors")
        self._last, self._written = place, time.monotonic()
        there = steps(self.folder)
        older = [known for known in there if known <= number]
        later = [known for known in there if known > number]  # broken, or of a course that was left
        for known in [*later, *older[: -self.settings.keep]]:
            with contextlib.suppress(OSError):
                there[known].unlink()
        self._write_index(fit)

    def _snapshot(self, fit: Fit) -> Snapshot:
        fit.position.best = None if self.monitor is None else self.monitor.state()
        fit.position.info = self.settings.info
        return Snapshot.take(fit.trainer, fit.position, fit.callbacks)

    def _write_index(self, fit: Fit) -> None:
        """A table for people; nothing reads it."""
        files = [path.name for path in steps(self.folder).values()]
        table: dict[str, Any] = {"checkpoints": files, "steps_an_epoch": fit.n_steps, "epochs": fit.epochs}
        if self.monitor is not None and self.monitor.best_epoch:
            table["best"] = {"file": BEST, **self.monitor.state()}
        write_bytes(self.folder / INDEX, (json.dumps(table, indent=1) + "\n").encode())


def steps(folder: str | os.PathLike[str]) -> dict[int, Path]:
    """The checkpoints in a folder by the number of their step, in ascending order."""
    try:
        names = os.listdir(folder)
    except OSError:
        return {}
    found = {int(match[1]): Path(folder) / match[0] for name in names if (match := _STEP.fullmatch(name))}
    return dict(sorted(found.items()))


def newest(folder: str | os.PathLike[str]) -> Snapshot:
    """The newest whole checkpoint in a folder; warns of newer ones that are not whole.

    Raises CheckpointError where there is none.
    """
    known = list(steps(folder).values())[::-1]
    if not known:
        what = "there is no such folder" if not os.path.isdir(folder) else "the folder has no checkpoint"
        raise CheckpointError(f"cannot resume from {os.fspath(folder)!r}: {what}")
    errors = []
    for path in known:
        try:
            found = Snapshot.read(path)
        except CheckpointError as error:
            errors.append(str(error))
            continue
        if errors:
            warnings.warn(f"going on from {found.path!r}: {'; '.join(errors)}", RuntimeWarning, stacklevel=2)
        return found
    raise CheckpointError(f"cannot resume from {os.fspath(folder)!r}: {'; '.join(errors)}")


def find(resume: Any, checkpoint: Checkpoint | None) -> Snapshot | None:
    """The snapshot that `fit(resume=...)` means: of a file, the newest of a folder, or with True of the Checkpoint's.

    With True, None where that folder has none yet.
    """
    if resume is None or resume is False:
        return None
    if resume is True:
        if checkpoint is None:
            raise ConfigError("resume=True goes on from the folder of checkpoint=..., which is missing; or name it")
        return newest(checkpoint.folder) if steps(checkpoint.folder) else None
    if not isinstance(resume, (str, os.PathLike)):
        raise ConfigError(f"resume must be a folder of checkpoints, one of their files, or True, got {resume!r}")
    return Snapshot.read(resume) if os.path.isfile(resume) else newest(resume)
