"""The Trainer: forward, loss, backward, update, over batches and epochs, with the data moved and cast."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.backend import Backend
from bpnet.beside import check_names, divided
from bpnet.callbacks.base import Callback
from bpnet.checkpoint import Checkpoint, as_checkpoint, find
from bpnet.checks import flag
from bpnet.data.dataset import Dataset, as_dataset, as_side, as_validation, check_batch_size
from bpnet.dispatch import Array
from bpnet.door import Door
from bpnet.errors import ConfigError
from bpnet.files import check_writable
from bpnet.fitting import Fit
from bpnet.history import History
from bpnet.inference import predict
from bpnet.layers.base import Layer
from bpnet.losses import Loss
from bpnet.metrics import Metric
from bpnet.optimizers import Optimizer
from bpnet.planner import Planner
from bpnet.random import check_seed
from bpnet.shortage import explained
from bpnet.snapshot import Snapshot
from bpnet.step import Step
from bpnet.store import Store
from bpnet.totals import Totals
from bpnet.working import Working


class Trainer(Working):
    """Trains a model: moves and casts the data, runs steps, counts metrics.

    model     : a Layer; initialized here with `seed` and `backend` if it has no arrays yet
    loss      : a Loss; optimizer : an Optimizer; metrics : Metrics, evaluated on training and validation data
    seed      : of the order of samples (and of the parameters and dropout masks, where the Trainer initializes)
    backend   : where to train; None leaves an initialized model where it is, and selects as `get_backend` does else
    plan      : whether steps that repeat are replayed from a recorded plan (the same bits, faster)
    capture   : whether a plan becomes one graph where the backend can record calls (CuPy; the same bits, faster):
                "auto" goes on call by call where that fails, and says why once; "on" raises there; "off"
    matmul_precision : of float32 arrays: "float32", or "tf32" or "bf16", which round the factors for tensor cores
    precision : "float32", or "bf16": products of parameters and activations in bfloat16, all else float32, updates too
    check_gradients : whether a step also changes nothing, and a fit stops, where the norm of its gradients is not
                      finite; with `clip_norm` that is so anyway
    bundle    : a file to write where a fit stops because of a number that is not finite: that step, for
                `bpnet.load_bundle`. None: into the folder of the fit's Checkpoint where it has one, else none, and
                `save_bundle` of the error that is raised writes it

    The loss that is reported is what is minimized: the mean over the samples' weights, and the model's penalties. With
    reduction="sum" it is the mean over batches of their sums, so it grows with the batch size, in evaluation too.
    Where the optimizer keeps an average of the parameters, evaluation uses it.
    A copy, or what a pickle brings back, has the parameters and the number of epochs; the optimizer begins anew there.

    >>> import bpnet as bp
    >>> train, test = bp.data.load("digits")
    >>> model = bp.Sequential(bp.Dense(64, 32), bp.ReLU(), bp.Dense(32, 10))
    >>> trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(5e-3), metrics=[bp.Accuracy()], seed=0)
    >>> history = trainer.fit(train, epochs=5, progress=False)
    >>> history["loss"][-1] < history["loss"][0], trainer.evaluate(test)["accuracy"] > 0.9
    (True, True)
    """

    def __init__(
        self,
        model: Layer,
        loss: Loss,
        optimizer: Optimizer,
        *,
        metrics: Sequence[Metric] = (),
        seed: int = 0,
        backend: str | Backend | None = None,
        plan: bool = True,
        capture: str = "auto",
        matmul_precision: str = "float32",
        precision: str = "float32",
        check_gradients: bool = False,
        bundle: str | os.PathLike[str] | None = None,
    ) -> None:
        for given, kind, what in (
            (model, Layer, "model must be a Layer"),
            (loss, Loss, "loss must be a Loss"),
            (optimizer, Optimizer, "optimizer must be an Optimizer"),
        ):
            if not isinstance(given, kind):
                hint = "; write its instance, with parentheses" if isinstance(given, type) else ""
                raise ConfigError(f"Trainer: {what}, got {given!r}{hint}")
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.metrics = metrics
        self.seed = check_seed(seed)
        self._epoch = 0
        self.plan = plan
        self.capture = capture
        self.matmul_precision = matmul_precision
        self.precision = precision
        self.check_gradients = check_gradients
        self.bundle = bundle
        self._totals: Totals | None = None
        self._stop = ""
        self._whole_batch = Step(self, None, counted=False)
        self._check_capture()
        self._take_place(backend)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is measured beside the loss; each has a name of its own."""
        return self._metrics

    @metrics.setter
    def metrics(self, metrics: Sequence[Metric] | None) -> None:
        metrics = () if metrics is None else metrics
        if isinstance(metrics, Metric) or not all(isinstance(metric, Metric) for metric in metrics):
            raise ConfigError(f"Trainer: metrics must be a list of Metrics, as in [Accuracy()], got {metrics!r}")
        names = ["loss", *(metric.name for metric in metrics)]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(
                    f"Trainer: two results would be called {name!r}; give one of the metrics another name"
                )
        self._metrics = tuple(metrics)

    @property
    def check_gradients(self) -> bool:
        """Whether a step changes nothing where the norm of its gradients is not finite."""
        return self._check_gradients

    @check_gradients.setter
    def check_gradients(self, check_gradients: bool) -> None:
        self._check_gradients = flag("Trainer: check_gradients", check_gradients)

    @property
    def bundle(self) -> str | None:
        """Where a fit that stops because of a number that is not finite writes down that step; None: see above."""
        return self._bundle

    @bundle.setter
    def bundle(self, bundle: str | os.PathLike[str] | None) -> None:
        if bundle is not None and (not isinstance(bundle, (str, os.PathLike)) or not os.fspath(bundle)):
            raise ConfigError(f"Trainer: bundle must be the path of a file, or None, got {bundle!r}")
        self._bundle = None if bundle is None else os.fsdecode(bundle)

    @property
    def epoch(self) -> int:
        """The number of complete epochs so far, over all fits."""
        return self._epoch

    def __repr__(self) -> str:
        return f"Trainer({self.model!r}, {self.loss!r}, {self.optimizer!r}, after {self.epoch} epochs)"

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_planner": None, "_totals": None, "_scoped": False, "_fitting": False}

    @property
    def totals(self) -> Totals | None:
        """The sums of the present or latest epoch, on the device."""
        return self._totals

    @property
    def _door(self) -> Door:
        return Door(self.model, self.loss, self._metrics)

    # --- one step ---

    def step(
        self,
        x: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        micro_batch_size: int | None = None,
        side: Mapping[str, Any] | None = None,
    ) -> Array:
        """Train on one batch: forward, loss, backward, update. Return the loss, a 0-d array on the device.

        x : (N, ...), y : as the loss wants, sample_weight : (N,) or None; any array library, moved and cast
        micro_batch_size : samples that go through the model at a time; their gradients are added up, each divided by
                           the whole batch's weight, so that they sum to the batch's also where the last part is smaller
        side : arrays by name, one row a sample, that `forward` takes by keyword: a mask, lengths
        Values are not checked here: a batch whose loss is NaN or infinite changes nothing, which the returned loss
        shows.
        """
        weights = () if sample_weight is None else (sample_weight,)
        if micro_batch_size is None and side is None:
            return self._run(self._whole_batch, (x, y, *weights))
        beside = as_side(side)
        check_names(beside, self.model)
        size = None if micro_batch_size is None else check_batch_size(micro_batch_size, "micro_batch_size")
        step = Step(self, size, counted=False, side=tuple(beside))
        return self._run(step, (x, y, *weights, *beside.values()))

    def _run(self, step: Step, given: tuple[Any, ...]) -> Array:
        """Make one step on a batch of any kind: from its plan where there is one that takes it as it is."""
        store = self._store_in_precision()
        if store.scoped and not self._scoped:
            with self._on_device():
                return self._run(step, given)
        accumulating = store.filled
        try:
            return self._run_on(store, step, given)
        except BaseException as error:
            if not accumulating:  # what a user's own backwards have gathered stays
                store.abandon_gradients()
            if isinstance(error, MemoryError):
                raise explained(error, self, getattr(given[0], "shape", (None,))[0]) from None
            raise

    def _run_on(self, store: Store, step: Step, given: tuple[Any, ...]) -> Array:
        planner = self._planner
        if planner is not None and not planner.serves(store):
            planner = None
        if planner is not None and self.plan and isinstance(given[0], store.backend.array_type):
            plan = planner.ready(step.name, *given)
            if plan is not None:
                self.optimizer.prepare(store)
                return plan.replay(*given)
        unplanned = self._unplanned
        if unplanned:
            self._check_capture()
        inputs = self._door.batch(*given, side=step.side)
        self.optimizer.check(self.model)  # before another optimizer's state is lost
        self.optimizer.prepare(store)
        if unplanned:
            return step(*inputs)
        if planner is None:
            known = lambda: self._totals.arrays() if self._totals else {}  # noqa: E731
            planner = self._planner = Planner(store, known, self.capture)
        return planner.run(step.name, step, inputs)

    # --- many steps ---

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        sample_weight: Any = None,
        side: Mapping[str, Any] | None = None,
        validation_data: Any = None,
        epochs: int = 10,
        batch_size: int = 32,
        micro_batch_size: int | None = None,
        shuffle: bool = True,
        progress: bool = True,
        callbacks: Sequence[Callback] = (),
        checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
        resume: str | os.PathLike[str] | bool | None = None,
    ) -> History:
        """Train for `epochs` passes over the data and return their History.

        x, y             : arrays of any library, or x alone a Dataset
        sample_weight    : (N,) how much each sample counts in the loss; a Dataset brings its own
        side             : arrays by name that the model takes by keyword, such as a mask; a Dataset brings its own
        validation_data  : a Dataset, (x, y) or (x, y, sample_weight), evaluated after every epoch
        micro_batch_size : samples that go through the model at a time; see `step`
        shuffle          : a new order every epoch, a function of (seed, epoch); the last partial batch is kept
        progress         : a bar on a terminal, a line an epoch elsewhere
        callbacks        : told of the start, every step and epoch, and the end; see `bpnet.callbacks`
        checkpoint       : a Checkpoint, or a folder: writes down all that the fit goes on from, after every epoch or so
        resume           : a folder of checkpoints, of which the newest whole one is taken, or one of their files: the
                           fit goes on from there, bit for bit as if it had never ended, and `epochs` counts from its
                           beginning. True: from the folder of `checkpoint` where it has any, else from the start.
        Ctrl-C takes effect at the end of the present step: the parameters are whole, and the History so far is returned
        with `interrupted` set; a second Ctrl-C interrupts at once, which may leave a step half made.
        Raises DataError, ShapeError, DTypeError, ConfigError, and StateError within a fit of this Trainer, before
        anything is changed; NonFiniteError when the loss
        stops being finite, with the parameters as they were before that step; CheckpointError where a checkpoint cannot
        be written or read, or the bundle could not be. What does not fit the checkpoint to resume from is refused with
        what differs.
        """
        self._check_alone()
        data = as_dataset(x, y, sample_weight, side)
        check_batch_size(batch_size)
        shuffle, progress = flag("shuffle", shuffle), flag("progress", progress)
        if micro_batch_size is not None:
            check_batch_size(micro_batch_size, "micro_batch_size")
        if isinstance(epochs, bool) or not isinstance(epochs, (int, np.integer)) or epochs < 0:
            raise ConfigError(f"epochs must be an integer of at least 0, got {epochs!r}")
        door = self._door
        prediction = door.check(data)
        validation = None if validation_data is None else as_validation(validation_data)
        if validation is not None:
            if data.side.keys() != validation.side.keys():
                raise ConfigError(
                    f"the data have the side inputs {', '.join(data.side) or 'none'}, the validation data "
                    f"{', '.join(validation.side) or 'none'}; give both the same: Dataset(x, y, side=...)"
                )
            door.check(validation, ("validation x", "validation y", "validation sample_weight"))
        checkpoint = as_checkpoint(checkpoint)
        found = find(resume, checkpoint)
        self.optimizer.check(self.model)
        door.check_smallest(data, int(batch_size), micro_batch_size)
        if self.bundle is not None:
            check_writable(self.bundle)
        fit = Fit(
            self,
            data,
            validation,
            epochs=int(epochs),
            batch_size=int(batch_size),
            micro_batch_size=micro_batch_size,
            shuffle=shuffle,
            callbacks=callbacks,
        )
        if found is None:
            self._check_schedule(fit.epochs * fit.n_steps)
        fit.go_on(found, checkpoint)
        with self.working(), self._alone():
            return fit.run(prediction, progress)

    def stop(self, reason: str) -> None:
        """End the fit that is running, after the present step or epoch; for callbacks.

        reason : kept as `history.stopped`
        """
        self._stop = reason or "stopped"

    def _prepare_totals(self, prediction: Array, data: Dataset) -> None:
        """Have sums that fit the metrics; those of an earlier fit where they still do, since plans name them."""
        store = self.model.store
        if self._totals is None or not self._totals.serves(store.backend, self._metrics, store.values.device):
            self._totals = Totals(store.backend, self._metrics)
        self._totals.prepare(prediction, self._door.y(data.y[:1, ...]))

    # --- files ---

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that training goes on from to a file, whole or not at all: for loops of one's own, between steps.

        Values, gradients where some are accumulated, the optimizer's slots and settings, averages, counters, epoch. The
        steps that follow `restore` are bit for bit those that follow `save`. In a fit, `checkpoint=` does this.
        Raises CheckpointError where the file cannot be written.
        """
        Snapshot.take(self).write(path)

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Go back to where a file of `save` was written, or a checkpoint of a fit; its epoch is then not counted on.

        Raises CheckpointError when the file is not whole; ConfigError that names what differs where it is of another
        model, loss or optimizer. Nothing is changed then. Warns where the last bits of further steps may differ.
        """
        found = Snapshot.read(path)
        found.check(self)
        found.restore(self)
        self._epoch = found.about["epoch"]

    # --- inference ---

    def evaluate(
        self,
        x: Any,
        y: Any = None,
        *,
        sample_weight: Any = None,
        side: Mapping[str, Any] | None = None,
        batch_size: int = 256,
    ) -> dict[str, Any]:
        """Return the loss and the metrics over the data (a Dataset, or x and y), by name. Nothing is changed."""
        data = as_dataset(x, y, sample_weight, side)
        check_batch_size(batch_size)
        self._door.check(data)
        with self.working():
            return self._evaluate(data, batch_size)

    def _evaluate(self, data: Dataset, batch_size: int) -> dict[str, Any]:
        door = self._door
        totals = Totals(self.model.backend, self._metrics)
        with self.averaged(), contextlib.closing(door.batches(data, batch_size, shuffle=False)) as found:
            penalty = self.model.penalty()
            for number, batch in enumerate(found):
                x, y, *more = door.batch(*batch, side=tuple(data.side))
                weight, beside = divided(tuple(more), tuple(data.side))
                weights = () if weight is None else (weight,)
                prediction = self.model(x, **beside)
                if not number:
                    totals.prepare(prediction, y)
                value = self.loss(prediction, y, *weights)
                if penalty is not None:
                    value = ops.add(value, penalty)
                totals.count_loss(value, self.loss.total_weight(prediction.shape, y, *weights))
                totals.count(prediction, y)
        return totals.read()

    def predict(self, x: Any, *, batch_size: int = 256, side: Mapping[str, Any] | None = None) -> Any:
        """Return the model's outputs for `x`, in the caller's kind of array (NumPy for lists)."""
        with self.working(), self.averaged():
            return predict(self.model, x, batch_size=batch_size, side=side)
