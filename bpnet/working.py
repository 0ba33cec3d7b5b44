"""Where and how a Trainer's steps are made: on which device and stream, as one graph or not, in which precision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bpnet.abilities import check_abilities, check_capture, check_matmul_precision, scope_of
from bpnet.contracts import looks_at_values
from bpnet.dispatch import Tracked
from bpnet.errors import StateError
from bpnet.layers.base import Layer
from bpnet.losses import Loss
from bpnet.pairing import plain_weights
from bpnet.planner import Planner


class Working(Tracked):
    """The part of a Trainer that knows its backend's abilities."""

    model: Layer
    loss: Loss
    plan: bool
    _planner: Planner | None = None
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

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """A block on the device and stream of the model's backend, where all work of the Trainer is done.

        `fit`, `step`, `evaluate` and `predict` enter it by themselves; around a loop of steps it saves them that.
        Raises ConfigError where the backend cannot do what the Trainer was told.
        """
        backend = self.model.backend
        check_abilities(backend, self.capture, self.matmul_precision)
        before = self._scoped
        with scope_of(backend, self.matmul_precision):
            self._scoped = True
            try:
                yield
            finally:
                self._scoped = before

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
