"""Gradient descent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from bpnet import ops
from bpnet.checks import flag, fraction
from bpnet.dispatch import Array
from bpnet.errors import ConfigError
from bpnet.optimizers.base import Check, Optimizer, Rate
from bpnet.optimizers.groups import Group
from bpnet.store import Run, Store


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum and Nesterov's look-ahead.

    v = momentum v + g, value -= learning_rate v; nesterov: value -= learning_rate (g + momentum v).
    weight_decay adds weight_decay * value to g.
    """

    checks: ClassVar[dict[str, Check]] = {"momentum": fraction}

    def __init__(
        self,
        learning_rate: Rate = 0.01,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: float | None = None,
        groups: Sequence[Group] = (),
    ) -> None:
        super().__init__(
            learning_rate, weight_decay, clip_norm=clip_norm, clip_value=clip_value, average=average, groups=groups
        )
        self.momentum = momentum
        self.nesterov = flag("nesterov", nesterov)
        if nesterov and not momentum:
            raise ConfigError("nesterov=True looks ahead along the momentum; give a momentum above 0")

    def _update(self, store: Store, run: Run, rate: Array) -> None:
        value, grad = store.part("values", run), store.part("grads", run)
        if self.momentum:
            ops.sgd_momentum_(
                value,
                grad,
                store.part("velocity", run),
                store.ok,
                rate,
                store.counters,
                run.weight_decay,
                self.momentum,
                self.nesterov,
            )
        else:
            ops.sgd_(value, grad, store.ok, rate, run.weight_decay)
