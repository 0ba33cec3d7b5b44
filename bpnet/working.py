"""Where and how a Trainer's steps are made: on which device and stream, as one graph or not, in which precision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from bpnet.abilities import check_abilities, check_capture, check_matmul_precision, check_precision, scope_of
from bpnet.backend import Backend, get_backend
from bpnet.contracts import looks_at_values
from bpnet.dispatch import Tracked
from bpnet.errors import ConfigError, StateError
from bpnet.layers.base import Layer
from bpnet.losses import Loss
from bpnet.optimizers import Optimizer
from bpnet.pairing import plain_weights
from bpnet.planner import Planner
from bpnet.store import AVERAGE, Store


class Working(Tracked):
    """The part of a Trainer that knows its backend's abilities."""

    model: Layer
    loss: Loss
    optimizer: Optimizer
    plan: bool
    seed: int
    _planner: Planner | None = None
    _fitting = False  # whether a fit is running, of which there can be one at a time
    _scoped = False  # whether the caller is on the backend's device and stream already

    @property
    def capture(self) -> str:
        """Whether plans become graphs: "auto", "on" or "off"; may be set between steps."""
        return self._capture

    @capture.setter
    def capture(self, capture: str) -> None:
        self._capture = check_capture(capture)
        self._planner = None

    @property
    def matmul_precision(self) -> str:
        """How products of float32 arrays are computed; may be set between steps."""
        return self._matmul_precision

    @matmul_precision.setter
    def matmul_precision(self, name: str) -> None:
        self._matmul_precision = check_matmul_precision(name)
        self._planner = None

    @property
    def precision(self) -> str:
        """In which precision layers multiply that can do so in another: "float32" or "bf16"; may be set between steps.

        With "bf16" the model computes so wherever it is called, until a Trainer of another precision trains it.
        """
        return self._precision

    @precision.setter
    def precision(self, name: str) -> None:
        self._precision = check_precision(name)
        self._planner = None

    def _take_place(self, backend: str | Backend | None) -> None:
        """Bring the model to where it is trained; ConfigError before that where this cannot do what was asked for."""
        model = self.model
        place = get_backend(backend) if backend is not None else model.backend if model.initialized else None
        if place is not None:
            check_abilities(place, self.capture, self.matmul_precision)
        self._check_precision(place)
        if not model.initialized:
            model.materialize_with(self.seed, backend)
        elif place is not None and place is not model.backend:
            model.to(place)
        check_abilities(model.backend, self.capture, self.matmul_precision)
        self._store_in_precision()

    def _check_precision(self, place: Backend | None) -> None:
        """Raise ConfigError where the model, or a backend, cannot compute in the precision."""
        model = self.model
        check_precision(self.precision, place, model.store.dtype if model.initialized else "float32")
        if self.precision != "float32" and not any(layer.computes_in_bf16 for _, layer in model.walk()):
            raise ConfigError(
                f"Trainer: precision={self.precision!r} changes nothing in a model without a layer that multiplies in "
                "bfloat16, as Dense does; leave precision='float32'"
            )

    def _store_in_precision(self) -> Store:
        """The model's store, with copies in the Trainer's precision."""
        store = self.model.store
        if store.precision != self._precision:
            self._check_precision(store.backend)
            store.use_precision(self._precision)
        return store

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """A block on the device and stream of the model's backend, where all work of the Trainer is done.

        `fit`, `step`, `evaluate` and `predict` enter it by themselves; around a loop of steps it saves them that.
        Raises ConfigError where the backend cannot do what the Trainer was told.
        """
        self._store_in_precision().refresh()  # values may have been written into since
        with self._on_device():
            yield

    @contextlib.contextmanager
    def _on_device(self) -> Iterator[None]:
        backend = self.model.backend
        check_abilities(backend, self.capture, self.matmul_precision)
        before = self._scoped
        with scope_of(backend, self.matmul_precision):
            self._scoped = True
            try:
                yield
            finally:
                self._scoped = before

    def _check_alone(self) -> None:
        """Raise StateError while a fit is running: a second one would count its steps and epochs into the first."""
        if self._fitting:
            raise StateError(
                "a fit of this Trainer is running already; a callback, or another thread, may call step, evaluate and "
                "predict, or fit another Trainer"
            )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self._check_alone()
        self._fitting = True
        try:
            yield
        finally:
            self._fitting = False

    @property
    def _unplanned(self) -> str:
        """Why no step is planned, or ''."""
        if not self.plan:
            return "plan=False"
        if not plain_weights(self.loss):
            return "a loss that has weights of its own"
        return "strict mode, which looks at values" if looks_at_values() else ""

    def _check_capture(self) -> None:
        """Raise where capture="on" can do nothing because steps are not planned."""
        if self.capture == "on" and self._unplanned:
            raise StateError(
                f"Trainer(capture='on'): a graph is made of a plan, and with {self._unplanned} there is none"
            )

    def averaged(self) -> contextlib.AbstractContextManager[Any]:
        """In the block, the model has the parameters that evaluation uses.

        Those are the moving averages where the optimizer keeps any, and else the parameters as they are.
        """
        store = self.model.store
        keeps = self.optimizer.average is not None and AVERAGE in store.slots and not store.holds_average
        return self.model.averaged() if keeps else contextlib.nullcontext()

    def plan_report(self) -> str:
        """For every kind of step so far, the calls of its plan, or why it runs eagerly."""
        if self.plan and not plain_weights(self.loss):
            return "every step is eager: the loss has weights of its own, which may depend on values"
        if self._planner is None:
            return "no step has been made yet" if self.plan else "plans are off (plan=False)"
        return self._planner.report() or "no kind of step has been made twice yet"

    def _check_schedule(self, steps: int) -> None:
        """Raise ConfigError where the optimizer's warm-up, or what is left of it, would outlast the training."""
        warmup = getattr(self.optimizer.schedule, "warmup_steps", 0)
        if not steps or warmup <= steps:
            return
        store = self.model.store
        taken = store.steps_taken if store.continues(self.optimizer) else 0
        if warmup > taken + steps:
            before = f" after {taken} before it" if taken else ""
            raise ConfigError(
                f"the schedule warms up for {warmup} steps, and this fit has {steps}{before}; take fewer, or train "
                "for longer"
            )
