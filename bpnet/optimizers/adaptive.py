"""Adagrad, RMSprop and Lion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from bpnet import ops
from bpnet.checks import at_least_0, flag, fraction, positive
from bpnet.dispatch import Array
from bpnet.optimizers.base import Check, Optimizer, Rate
from bpnet.optimizers.groups import Group
from bpnet.store import Run, Store


class Adagrad(Optimizer):
    """Adagrad: every number's rate falls with the squares of the gradients it has seen. [Duchi et al. 2011]

    s += g^2; value -= learning_rate g / (sqrt(s) + epsilon); weight_decay adds weight_decay * value to g.
    initial_accumulator : where every s begins, at least 0
    PyTorch's lr_decay is the schedule InverseTime.
    """

    checks: ClassVar[dict[str, Check]] = {"initial_accumulator": at_least_0, "epsilon": positive}

    def __init__(
        self,
        learning_rate: Rate = 0.01,
        *,
        initial_accumulator: float = 0.0,
        epsilon: float = 1e-10,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: float | None = None,
        groups: Sequence[Group] = (),
    ) -> None:
        super().__init__(
            learning_rate, weight_decay, clip_norm=clip_norm, clip_value=clip_value, average=average, groups=groups
        )
        self.initial_accumulator = initial_accumulator
        self.epsilon = epsilon

    def _update(self, store: Store, run: Run, rate: Array) -> None:
        ops.adagrad_(
            store.part("values", run),
            store.part("grads", run),
            store.part("total", run),
            store.ok,
            rate,
            self.initial_accumulator,
            self.epsilon,
            run.weight_decay,
        )


class RMSprop(Optimizer):
    """RMSprop: the gradient is divided by the root of its recent mean square. [Tieleman & Hinton 2012, lecture 6.5]

    s = rho s + (1 - rho) g^2; value -= learning_rate g / (sqrt(s) + epsilon); weight_decay adds weight_decay * value
    to g.
    momentum : of a velocity, which gathers g / (sqrt(s) + epsilon) and is multiplied by the learning rate, as PyTorch's
    centered : whether the variance stands in the place of s [Graves 2013, eq. 38-45]; it is kept at least 0
    rho is PyTorch's alpha.
    """

    checks: ClassVar[dict[str, Check]] = {"rho": fraction, "momentum": fraction, "epsilon": positive}

    def __init__(
        self,
        learning_rate: Rate = 0.01,
        *,
        rho: float = 0.99,
        momentum: float = 0.0,
        centered: bool = False,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: float | None = None,
        groups: Sequence[Group] = (),
    ) -> None:
        super().__init__(
            learning_rate, weight_decay, clip_norm=clip_norm, clip_value=clip_value, average=average, groups=groups
        )
        self.rho = rho
        self.momentum = momentum
        self.centered = flag("centered", centered)
        self.epsilon = epsilon

    def _update(self, store: Store, run: Run, rate: Array) -> None:
        ops.rmsprop_(
            store.part("values", run),
            store.part("grads", run),
            store.part("square", run),
            store.part("mean", run) if self.centered else None,
            store.part("velocity", run) if self.momentum else None,
            store.ok,
            rate,
            store.counters,
            self.rho,
            self.epsilon,
            self.momentum,
            run.weight_decay,
        )


class Lion(Optimizer):
    """Lion: a step of one size, along the sign of an interpolated momentum. [Chen et al. 2023, alg. 2]

    value -= learning_rate (sign(beta1 m + (1 - beta1) g) + weight_decay value); m = beta2 m + (1 - beta2) g. The weight
    decay is decoupled, as AdamW's. The rate wants to be 3 to 10 times smaller than Adam's, the decay as much larger.
    """

    checks: ClassVar[dict[str, Check]] = {"beta1": fraction, "beta2": fraction}

    def __init__(
        self,
        learning_rate: Rate = 0.0001,
        *,
        beta1: float = 0.9,
        beta2: float = 0.99,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: float | None = None,
        groups: Sequence[Group] = (),
    ) -> None:
        super().__init__(
            learning_rate, weight_decay, clip_norm=clip_norm, clip_value=clip_value, average=average, groups=groups
        )
        self.beta1 = beta1
        self.beta2 = beta2

    def _update(self, store: Store, run: Run, rate: Array) -> None:
        ops.lion_(
            store.part("values", run),
            store.part("grads", run),
            store.part("m", run),
            store.ok,
            rate,
            store.counters,
            self.beta1,
            self.beta2,
            run.weight_decay,
        )
