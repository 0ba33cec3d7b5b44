"""One call of `Trainer.fit`: epochs of steps, what is told of them, and where it goes on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bpnet.backend import to_numpy
from bpnet.callbacks.base import Callback, running
from bpnet.checkpoint import BUNDLE, Checkpoint, Writer
from bpnet.data.dataset import Dataset
from bpnet.dispatch import Array
from bpnet.errors import CheckpointError, ConfigError
from bpnet.history import History
from bpnet.identity import described, fingerprint
from bpnet.interrupt import Interrupt
from bpnet.progress import make_progress
from bpnet.snapshot import Position, Snapshot
from bpnet.step import Step

if TYPE_CHECKING:
    from bpnet.trainer import Trainer

READ_EVERY = 0.2  # seconds between looks at the device while an epoch runs


class Fit:
    """The settings of a fit, which have been checked, and where it stands.

    history  : of the complete epochs
    position : what a checkpoint says of it beside the Trainer
    """

    def __init__(
        self,
        trainer: Trainer,
        data: Dataset,
        validation: Dataset | None,
        *,
        epochs: int,
        batch_size: int,
        micro_batch_size: int | None,
        shuffle: bool,
        callbacks: Sequence[Callback],
    ) -> None:
        self.trainer = trainer
        self.data = data
        self.validation = validation
        self.epochs = epochs
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self.shuffle = shuffle
        self.callbacks = callbacks
        self.n_steps = -(-len(data) // batch_size)
        self.history = History()
        self.position = Position({}, self.history.rows)
        self._first = 0  # the number of steps taken before the present epoch
        self._snapshot: Snapshot | None = None
        self._writer: Writer | None = None

    @property
    def done(self) -> int:
        """The number of steps of the present epoch."""
        return self.position.done

    @property
    def steps(self) -> int:
        """The number of steps so far."""
        return len(self.history) * self.n_steps + self.position.done

    @property
    def bundle_path(self) -> str | None:
        """The file for a step that fails: the Trainer's, or one beside the checkpoints; None where there is neither."""
        if self.trainer.bundle is not None or self._writer is None:
            return self.trainer.bundle
        return str(self._writer.folder / BUNDLE)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names that every epoch's row will have."""
        names = ("loss", *(metric.name for metric in self.trainer.metrics))
        validated = [f"val_{name}" for name in names if self.validation is not None]
        return ("epoch", *names, *validated, "learning_rate", "seconds")

    def go_on(self, snapshot: Snapshot | None, checkpoint: Checkpoint | None) -> None:
        """Be ready to go on from a snapshot and to write checkpoints; raise where that cannot be, before any change."""
        if snapshot is None and checkpoint is None:
            return
        present = self._described()
        self.position.start = present
        if snapshot is not None:
            position = snapshot.position
            snapshot.check(self.trainer, present)
            if len(position.rows) > self.epochs or position.done >= self.n_steps:
                raise ConfigError(
                    f"the checkpoint {snapshot.path!r} stands after {len(position.rows)} epochs, and epochs is "
                    f"{self.epochs}; that counts from the beginning of the training"
                )
            if any(set(row) != set(self.columns) for row in position.rows):
                raise CheckpointError(f"{snapshot.path!r} has a damaged history: its rows lack {self.columns}")
            self.history.rows[:] = position.rows
            position.rows = self.history.rows
            self.position = position
        if checkpoint is not None:
            self._writer = Writer(checkpoint, self.columns, snapshot)
            self.position.info = checkpoint.info
        self._snapshot = snapshot

    def _described(self) -> dict[str, Any]:
        settings = {"batch_size": self.batch_size, "micro_batch_size": self.micro_batch_size, "shuffle": self.shuffle}
        data = {"data": fingerprint(self.data), "validation data": None}
        if self.validation is not None:
            data["validation data"] = fingerprint(self.validation)
        return described(self.trainer) | settings | data

    def run(self, prediction: Array, progress: bool) -> History:
        """Train; return the history. prediction : the model's, for the first sample."""
        trainer, history = self.trainer, self.history
        data = trainer._door.moved(self.data)
        trainer._stop = ""
        quiet = np.errstate(all="ignore")  # NonFiniteError says it better
        with (
            running(self.callbacks, trainer, self.columns, history),
            self._flag(),
            make_progress(progress, self.epochs, self.n_steps) as shown,
            Interrupt() as interrupt,
            quiet,
        ):
            trainer._prepare_totals(prediction, data)
            if self._snapshot is not None:
                self._restore(self._snapshot)
                shown.begin(len(history))
            step = Step(trainer, self.micro_batch_size, counted=True, side=tuple(data.side))
            trainer._stop = self.position.stopped
            while len(history) < self.epochs and not self.position.stopped:
                if not self._epoch(step, data, shown, interrupt):
                    history.interrupted = interrupt.asked
                    break
                self._end_epoch(shown)
                if interrupt.asked or trainer._stop:
                    history.interrupted = interrupt.asked
                    break
            history.stopped = trainer._stop
            if self._writer is not None:
                self._writer.write(self)
        if history.interrupted:
            steps = int(to_numpy(trainer.model.store.counters)[0])
            print(
                f"interrupted after {len(history)} complete epochs; the parameters are whole, as after step {steps}",
                flush=True,
            )
        return history

    @contextlib.contextmanager
    def _flag(self) -> Iterator[None]:
        """Raise the store's flag `ok`, and in any case again at the end: where it is down no loop can train."""
        store = self.trainer.model.store
        store.ok[...] = True
        try:
            yield
        finally:
            store.ok[...] = True

    def _restore(self, snapshot: Snapshot) -> None:
        """Bring the Trainer and the callbacks to where the snapshot was taken."""
        trainer = self.trainer
        sums = snapshot.totals(trainer)
        snapshot.restore_callbacks(trainer, self.callbacks)
        snapshot.restore(trainer)
        trainer._epoch = snapshot.about["epoch"]
        assert trainer.totals is not None
        for name, array in trainer.totals.arrays().items():
            array[...] = trainer.model.backend.asarray(sums[name])

    def _epoch(self, step: Step, data: Dataset, shown: Any, interrupt: Interrupt) -> bool:
        """One pass over the data, or what is left of it; False when something ended it early."""
        trainer, position, writer = self.trainer, self.position, self._writer
        assert trainer.totals is not None
        if not position.done:
            trainer.totals.reset()
        self._first = self._steps_taken() - position.done
        start = time.perf_counter() - position.seconds
        order = trainer._door.batches(
            data, self.batch_size, seed=trainer.seed, epoch=trainer.epoch, shuffle=self.shuffle, skip=position.done
        )
        seen = time.perf_counter()
        listening = [each for each in self.callbacks if type(each).on_step_end is not Callback.on_step_end]
        with contextlib.closing(order):
            done = position.done
            for batch in order:
                done += 1
                trainer._run(step, batch)
                del batch  # else the next one would be made beside it
                for callback in listening:
                    callback.on_step_end(trainer)
                now = time.perf_counter()
                if now - seen > READ_EVERY:
                    seen = now
                    shown.step(done)
                    self._stop_if_not_finite()
                if done < self.n_steps and (writer is not None or interrupt.asked or trainer._stop):
                    position.done, position.seconds = done, now - start
                    ended = interrupt.asked or bool(trainer._stop)
                    due = writer is not None and writer.due_after_step(self)
                    if ended or due:
                        self._stop_if_not_finite()
                    if ended:
                        return False
                    if due:
                        assert writer is not None
                        writer.write(self)
        self._stop_if_not_finite()
        trainer._epoch += 1
        position.done, position.seconds = 0, time.perf_counter() - start
        return True

    def _end_epoch(self, shown: Any) -> None:
        """Make the row, tell the callbacks, and write a checkpoint where it is time."""
        trainer, history, position = self.trainer, self.history, self.position
        start = time.perf_counter() - position.seconds
        assert trainer.totals is not None
        row = {"epoch": float(trainer.epoch), **trainer.totals.read()}
        if self.validation is not None:
            results = trainer._evaluate(self.validation, max(self.batch_size, 256))
            row |= {f"val_{name}": value for name, value in results.items()}
        row["learning_rate"] = trainer.optimizer.learning_rate
        row["seconds"] = time.perf_counter() - start
        position.seconds = 0.0
        history.rows.append(row)
        before, trainer._stop = trainer._stop, ""
        for callback in self.callbacks:
            callback.on_epoch_end(trainer, row)
        position.stopped = trainer._stop  # not what a step has ended, such as a time limit: that fit may go on
        trainer._stop = trainer._stop or before
        shown.epoch(len(history), row)
        if self._writer is not None:
            self._writer.after_epoch(self, row)

    def _stop_if_not_finite(self) -> None:
        store, optimizer = self.trainer.model.store, self.trainer.optimizer
        if bool(store.ok):
            return
        steps = self._steps_taken()
        checked = optimizer.clip_norm is not None or self.trainer.check_gradients
        what = "the loss or the norm of the gradients" if checked else "the loss"
        from bpnet.bundle import error_of  # only now: no fit that goes well needs it

        raise error_of(
            self,
            steps - self._first,
            f"{what} was NaN or infinite in step {steps + 1} (epoch {self.trainer.epoch + 1}); the parameters are "
            f"as they were before it, after step {steps}. Lower the learning rate ({optimizer.learning_rate:g}), "
            "or look at the data of that step",
        )

    def _steps_taken(self) -> int:
        return int(to_numpy(self.trainer.model.store.counters)[0])
