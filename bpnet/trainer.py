"""The Trainer: forward, loss, backward, update, over batches and epochs, with the data moved and cast."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.backend import Backend, get_backend, to_numpy
from bpnet.data.checks import check_finite, check_label_form, check_range
from bpnet.data.dataset import Dataset, as_array, as_dataset, as_validation, batches, check_batch_size
from bpnet.dispatch import Array, Tracked, namespace
from bpnet.errors import ConfigError, DataError, DTypeError, NonFiniteError, ShapeError
from bpnet.history import History
from bpnet.inference import host_if_foreign, predict
from bpnet.interrupt import Interrupt
from bpnet.layers.base import Layer
from bpnet.losses import Loss
from bpnet.metrics import Metric
from bpnet.optimizers import Optimizer
from bpnet.pairing import check_pairing, check_probabilities, plain_weights
from bpnet.planner import Planner
from bpnet.progress import make_progress
from bpnet.random import check_seed
from bpnet.store import Store

READ_EVERY = 0.2  # seconds between looks at the device while an epoch runs
WEIGHT = "total weight of the loss"  # among the totals


class Trainer(Tracked):
    """Trains a model: moves and casts the data, runs steps, counts metrics.

    model     : a Layer; initialized here with `seed` and `backend` if it has no arrays yet
    loss      : a Loss; optimizer : an Optimizer; metrics : Metrics, evaluated on training and validation data
    seed      : of the order of samples (and of the parameters and dropout masks, where the Trainer initializes)
    backend   : where to train; None leaves an initialized model where it is, and selects as `get_backend` does else
    plan      : whether steps that repeat are replayed from a recorded plan (the same bits, faster)
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
        self._planner: Planner | None = None
        self._totals: dict[str, Array] = {}
        self._weights: dict[str, float] = {}
        self._step_weights: dict[Any, dict[str, float]] = {}  # by the shapes of x and y, as the eager step found them
        if not model.initialized:
            model.materialize_with(self.seed, backend)
        elif backend is not None and get_backend(backend) is not model.backend:
            model.to(backend)

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
        self._names = tuple(names)

    @property
    def epoch(self) -> int:
        """The number of complete epochs so far, over all fits."""
        return self._epoch

    def __repr__(self) -> str:
        return f"Trainer({self.model!r}, {self.loss!r}, {self.optimizer!r}, after {self.epoch} epochs)"

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_planner": None, "_totals": {}}

    # --- one step ---

    def step(self, x: Any, y: Any) -> Array:
        """Train on one batch: forward, loss, backward, update. Return the loss, a 0-d array on the device.

        x : (N, ...), y : as the loss wants; any array library, moved and cast. Values are not checked here: a batch
        whose loss is NaN or infinite changes nothing, which the returned loss shows.
        """
        return self._run(self._step, "step", x, y)

    def _run(self, step: Any, name: str, x: Any, y: Any) -> Array:
        """Make one step on a batch of any kind: from its plan where there is one that takes it as it is."""
        store = self.model.store
        accumulating = store.filled
        try:
            return self._run_on(store, step, name, x, y)
        except BaseException:
            if not accumulating:  # what a user's own backwards have gathered stays
                store.abandon_gradients()
            raise

    def _run_on(self, store: Store, step: Any, name: str, x: Any, y: Any) -> Array:
        planner = self._planner
        if planner is not None and not planner.serves(store):
            planner = None
        if planner is not None and self.plan and isinstance(x, store.backend.array_type):
            plan = planner.ready(name, x, y)
            if plan is not None:
                self.optimizer.prepare(store)
                return plan.replay(x, y)
        inputs = self._bring_x(x), self._bring_y(y)
        if not (self.plan and plain_weights(self.loss, self._metrics)):
            return step(*inputs)
        if planner is None:
            planner = self._planner = Planner(store, lambda: self._totals)
        self.optimizer.prepare(store)
        return planner.run(name, step, inputs)

    def _step(self, x: Array, y: Array) -> Array:
        ops.fill_(self.model.store.ok, True)  # every batch is judged by itself; in a fit the flag stays down
        return self._forward_backward(x, y)[1]

    def _forward_backward(self, x: Array, y: Array) -> tuple[Array, Array, Any]:
        prediction = self.model.forward(x)
        weight = self.loss.total_weight(prediction.shape, y)
        value = self.loss.forward(prediction, y, weight)
        ops.check_finite_(self.model.store.ok, value)
        self.model.backward(self.loss.backward(), need_dx=False)
        self.optimizer.step(self.model)
        return prediction, value, weight

    def _counted_step(self, x: Array, y: Array) -> Array:
        prediction, value, weight = self._forward_backward(x, y)
        ops.accumulate_(self._totals["loss"], value, weight)
        weights = {"loss": self._counted(self._totals, weight)}
        for metric in self.metrics:
            ops.accumulate_(self._totals[metric.name], metric.measure(prediction, y), 1.0)
            weights[metric.name] = metric.weight(prediction, y)
        self._step_weights[x.shape, y.shape] = weights
        return value

    def _counted(self, totals: dict[str, Array], weight: Any) -> float:
        """A total weight of the loss that is a number; one that is an array stays on the device, in `totals`."""
        if isinstance(weight, float):
            return weight
        ops.accumulate_(totals[WEIGHT], weight, 1.0)
        return 0.0

    # --- many steps ---

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        validation_data: Any = None,
        epochs: int = 10,
        batch_size: int = 32,
        shuffle: bool = True,
        progress: bool = True,
    ) -> History:
        """Train for `epochs` passes over the data and return their History.

        x, y            : arrays of any library, or x alone a Dataset
        validation_data : a Dataset or (x, y), evaluated after every epoch
        shuffle         : a new order every epoch, a function of (seed, epoch); the last partial batch is kept
        progress        : a bar on a terminal, a line an epoch elsewhere
        Ctrl-C takes effect at the end of the present step: the parameters are whole, and the History so far is returned
        with `interrupted` set; a second Ctrl-C interrupts at once, which may leave a step half made.
        Raises DataError, ShapeError, DTypeError before anything is changed; NonFiniteError when the loss stops being
        finite, with the parameters as they were before that step.
        """
        data = as_dataset(x, y)
        check_batch_size(batch_size)
        if isinstance(epochs, bool) or not isinstance(epochs, (int, np.integer)) or epochs < 0:
            raise ConfigError(f"epochs must be an integer of at least 0, got {epochs!r}")
        self._check_at_the_door(data, "x", "y")
        validation = None
        if validation_data is not None:
            validation = as_validation(validation_data)
            self._check_at_the_door(validation, "validation x", "validation y")
        data = self._moved(data)
        self.model.store.ok[...] = True
        history = History()
        n_steps = -(-len(data) // batch_size)
        quiet = np.errstate(all="ignore")  # NonFiniteError says it better
        with make_progress(progress, epochs, n_steps) as shown, Interrupt() as interrupt, quiet:
            for epoch in range(1, epochs + 1):
                start = time.perf_counter()
                complete = self._train_epoch(data, batch_size, shuffle, shown, interrupt)
                if not complete:
                    history.interrupted = True
                    break
                row = {"epoch": float(self._epoch), **self._read_totals()}
                if validation is not None:
                    results = self._evaluate(validation, max(batch_size, 256))
                    row |= {f"val_{name}": value for name, value in results.items()}
                row["seconds"] = time.perf_counter() - start
                history.rows.append(row)
                shown.epoch(epoch, row)
                if interrupt.asked:
                    history.interrupted = True
                    break
        if history.interrupted:
            steps = int(to_numpy(self.model.store.counters)[0])
            print(
                f"interrupted after {len(history)} complete epochs; the parameters are whole, as after step {steps}",
                flush=True,
            )
        return history

    def _train_epoch(self, data: Dataset, batch_size: int, shuffle: bool, shown: Any, interrupt: Interrupt) -> bool:
        """One pass over the data; False when an interrupt ended it early."""
        self._reset_totals()
        seen = time.perf_counter()
        order = batches(data, batch_size, seed=self.seed, epoch=self._epoch, shuffle=shuffle)
        n_steps = -(-len(data) // batch_size)
        for done, (x, y) in enumerate(order, start=1):
            if _is_memmap(data.x):
                check_finite(x, "x")
            self._run(self._counted_step, "counted step", x, y)
            for name, weight in self._step_weights[x.shape, y.shape].items():
                self._weights[name] += weight
            now = time.perf_counter()
            if now - seen > READ_EVERY:
                seen = now
                shown.step(done)
                self._stop_if_not_finite()
            if interrupt.asked and done < n_steps:
                self._stop_if_not_finite()
                return False
        self._stop_if_not_finite()
        self._epoch += 1
        return True

    def _reset_totals(self) -> None:
        backend = self.model.backend
        names = (*self._names, WEIGHT)
        self._totals = {name: total for name, total in self._totals.items() if name in names}
        for name in names:
            total: Any = self._totals.get(name)
            if type(total) is backend.array_type and total.device == self.model.store.values.device:
                total[...] = 0
            else:
                self._totals[name] = backend.zeros((), "float64")
            self._weights[name] = 0.0

    def _read_totals(self) -> dict[str, float]:
        return self._means(self._totals, self._weights)

    def _means(self, totals: dict[str, Array], weights: dict[str, float]) -> dict[str, float]:
        counted = weights | {"loss": weights["loss"] + float(to_numpy(totals[WEIGHT]))}
        return {name: float(to_numpy(totals[name])) / (counted[name] or 1.0) for name in self._names}

    def _stop_if_not_finite(self) -> None:
        store = self.model.store
        if bool(store.ok):
            return
        store.ok[...] = True
        steps = int(to_numpy(store.counters)[0])
        raise NonFiniteError(
            f"the loss was NaN or infinite in step {steps + 1} (epoch {self._epoch + 1}); the parameters are "
            f"as they were before it, after step {steps}. Lower the learning rate ({self.optimizer.learning_rate:g}), "
            "or look at the data of that step"
        )

    # --- inference ---

    def evaluate(self, x: Any, y: Any = None, *, batch_size: int = 256) -> dict[str, float]:
        """Return the loss and the metrics over the data (a Dataset, or x and y), by name. Nothing is changed."""
        data = as_dataset(x, y)
        check_batch_size(batch_size)
        self._check_at_the_door(data, "x", "y")
        return self._evaluate(data, batch_size)

    def _evaluate(self, data: Dataset, batch_size: int) -> dict[str, float]:
        backend = self.model.backend
        totals = {name: backend.zeros((), "float64") for name in (*self._names, WEIGHT)}
        weights = dict.fromkeys(self._names, 0.0)
        for x, y in batches(data, batch_size, shuffle=False):
            if _is_memmap(data.x):
                check_finite(x, "x")
            bx, by = self._bring_x(x), self._bring_y(y)
            prediction = self.model(bx)
            weight = self.loss.total_weight(prediction.shape, by)
            ops.accumulate_(totals["loss"], self.loss(prediction, by), weight)
            weights["loss"] += self._counted(totals, weight)
            for metric in self.metrics:
                ops.accumulate_(totals[metric.name], metric.measure(prediction, by), 1.0)
                weights[metric.name] += metric.weight(prediction, by)
        return self._means(totals, weights)

    def predict(self, x: Any, *, batch_size: int = 256) -> Any:
        """Return the model's outputs for `x`, in the caller's kind of array (NumPy for lists)."""
        return predict(self.model, x, batch_size=batch_size)

    # --- the door ---

    def _check_at_the_door(self, data: Dataset, name_x: str, name_y: str) -> None:
        """Raise unless model, loss and metrics belong together and can take the data, and every value is a good one."""
        check_pairing(self.model, self.loss, self.metrics)
        if not _is_memmap(data.x):
            check_finite(data.x, name_x)
            check_range(data.x, name_x, self.model.store.dtype)
        try:
            prediction = self._probe(data, name_y)
        except (ShapeError, DTypeError) as error:
            shapes = f"{name_x} {tuple(data.x.shape)} and {name_y} {tuple(data.y.shape)}"
            raise type(error)(f"{error} (found with the first sample of {shapes})") from error
        if self.loss.kind_of(data.y) == "values":
            check_finite(data.y, name_y)
            check_range(data.y, name_y, self.model.store.dtype)
        self.loss.check_values(data.y, name_y, int(prediction.shape[-1]))

    def _probe(self, data: Dataset, name_y: str) -> Array:
        """The model's output for the first sample, which the loss and the metrics can take."""
        prediction = self.model(self._bring_x(data.x[:1, ...]))
        if prediction.shape[0] != 1:
            raise DataError(f"the model made {prediction.shape[0]} outputs of 1 sample; the first axis is the samples'")
        if self.loss.targets == "labels" and prediction.ndim == 2 and not self._takes_rows(data.y):
            check_label_form(data.y, int(prediction.shape[-1]), name_y)
        target = self._bring_y(data.y[:1, ...])
        self.loss.check(prediction, target)
        for metric in self.metrics:
            metric.measure(prediction, target)
        if self.loss.wants in ("probabilities", "log-probabilities"):
            some = self._bring_x(data.x[: min(64, len(data)), ...])
            check_probabilities(to_numpy(self.model(some)), self.loss)
        return prediction

    def _bring_x(self, x: Any) -> Array:
        store = self.model.store
        return store.backend.asarray(host_if_foreign(as_array(x, "x"), store.backend), dtype=store.dtype)

    def _bring_y(self, y: Any) -> Array:
        store = self.model.store
        y = as_array(y, "y")
        if self.loss.targets != "labels" or self._takes_rows(y):
            return self._bring_x(y)
        if not namespace(y).isdtype(y.dtype, "integral"):
            check_label_form(y, 1)
        return store.backend.asarray(host_if_foreign(y, store.backend), dtype="int64")

    def _takes_rows(self, y: Any) -> bool:
        """Whether `y` is of rows of probabilities, for a loss that takes labels or those."""
        return self.loss.kind_of(y) == "values" and y.ndim > 1

    def _moved(self, data: Dataset) -> Dataset:
        """The data on the model's device where that is not the host, so that batches are taken there."""
        backend = self.model.backend
        if backend.array_type is np.ndarray or _is_memmap(data.x):
            return data
        return Dataset(self._bring_x(data.x), self._bring_y(data.y), name=data.name, split=data.split)

    def plan_report(self) -> str:
        """For every kind of step so far, the calls of its plan, or why it runs eagerly."""
        if self.plan and not plain_weights(self.loss, self._metrics):
            return "every step is eager: the loss or a metric has weights of its own, which may depend on values"
        if self._planner is None:
            return "no step has been made yet" if self.plan else "plans are off (plan=False)"
        lines = []
        for (name, x, y), plan in self._planner.plans().items():
            lines.append(f"{name} for x {x}, y {y}: planned, {len(plan)} prepared calls, {plan.bytes} bytes")
            lines += [f"    {line}" for line in repr(plan).splitlines()]
        for (name, x, y), reason in self._planner.refusals().items():
            lines.append(f"{name} for x {x}, y {y}: eager, because {reason}")
        return "\n".join(lines) or "no kind of step has been made twice yet"


def _is_memmap(x: Any) -> bool:
    return isinstance(x, np.memmap)
