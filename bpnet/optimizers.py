"""Optimizers: one pass over each segment of the model's store.

`optimizer.step(model)` updates the parameters from their gradients, counts the step, and consumes the gradients: they
stay readable, and the next backward writes afresh. A parameter that got no gradient counts as zero. Where the store's
flag `ok` is False (a loss that is not finite) nothing changes.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

from bpnet import ops
from bpnet.dispatch import Tracked
from bpnet.errors import ConfigError, StateError
from bpnet.layers.base import Layer
from bpnet.store import Segment, Store

_OTHER_NAMES = {
    "lr": "learning_rate",
    "decay": "weight_decay",
    "betas": "beta1 and beta2",
    "beta_1": "beta1",
    "beta_2": "beta2",
    "eps": "epsilon",
}


class Optimizer(Tracked):
    """Base of all optimizers.

    learning_rate : above 0; may be set at any time
    weight_decay  : at least 0; applied to parameters with `decay`, so not to biases
    """

    average: float | None = None

    def __init__(self, learning_rate: float, weight_decay: float = 0.0) -> None:
        self._learning_rate = _positive("learning_rate", learning_rate)
        self.weight_decay = _in_range("weight_decay", weight_decay, 0.0, math.inf)
        self._written_to: Any = None  # the store's array that holds the present learning rate

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OTHER_NAMES:
            raise AttributeError(f"{type(self).__name__} has no {name}; here it is called {_OTHER_NAMES[name]}")
        if name == "learning_rate":  # lies in an array, which recorded steps read: nothing to record again
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def learning_rate(self) -> float:
        """The present learning rate."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate = _positive("learning_rate", value)
        self._written_to = None

    def step(self, model: Layer) -> None:
        """Update the model's parameters and count the step; its gradients are then consumed."""
        if not isinstance(model, Layer):
            raise ConfigError(f"{type(self).__name__}.step takes the model, got {type(model).__name__}")
        store = model.store
        store.check()
        if store.parameters and not store.filled:
            raise StateError(
                f"{type(self).__name__}.step: no gradient since the last step; call "
                "model.backward(loss.backward()) first"
            )
        self.prepare(store)
        store.complete_gradients()
        for segment in store.ranges(by_decay=self.weight_decay > 0):
            self._update(store, segment, self.weight_decay if segment.decay else 0.0)
        ops.advance_(store.counters, store.ok)
        store.consume_gradients()

    def prepare(self, store: Store) -> None:
        """Write the learning rate into the store where it has changed; the one thing a planned step does by hand."""
        if self._written_to is store.learning_rate and store.serves(self):
            return
        store.claim(self)
        store.learning_rate[...] = self._learning_rate
        self._written_to = store.learning_rate

    def _update(self, store: Store, segment: Segment, weight_decay: float) -> None:
        raise NotImplementedError

    @property
    def config(self) -> dict[str, Any]:
        """The settings by name."""
        return {k.lstrip("_"): v for k, v in vars(self).items() if k != "_written_to"}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in self.config.items())})"


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or math.isnan(value):
        raise ConfigError(f"{name} must be a number, got {value!r}")
    return float(value)


def _positive(name: str, value: Any) -> float:
    number = _number(name, value)
    if not 0 < number < math.inf:
        raise ConfigError(f"{name} must be above 0 and finite, got {value!r}")
    return number


def _in_range(name: str, value: Any, low: float, high: float) -> float:
    number = _number(name, value)
    if not low <= number < high:
        raise ConfigError(f"{name} must lie in [{low:g}, {high:g}), got {value!r}")
    return number


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum and Nesterov's look-ahead.

    v = momentum v + g, value -= learning_rate v; nesterov: value -= learning_rate (g + momentum v).
    weight_decay adds weight_decay * value to g.
    """

    def __init__(
        self,
        learning_rate: float = 0.01,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(learning_rate, weight_decay)
        self.momentum = _in_range("momentum", momentum, 0.0, 1.0)
        self.nesterov = bool(nesterov)
        if nesterov and not momentum:
            raise ConfigError("nesterov=True looks ahead along the momentum; give a momentum above 0")

    def _update(self, store: Store, segment: Segment, weight_decay: float) -> None:
        value, grad = store.part("values", segment), store.part("grads", segment)
        if self.momentum:
            ops.sgd_momentum_(
                value,
                grad,
                store.part("velocity", segment),
                store.ok,
                store.learning_rate,
                store.counters,
                weight_decay,
                self.momentum,
                self.nesterov,
            )
        else:
            ops.sgd_(value, grad, store.ok, store.learning_rate, weight_decay)


class Adam(Optimizer):
    """Adam. [Kingma & Ba 2015, alg. 1]"""

    def __init__(
        self,
        learning_rate: float = 0.001,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__(learning_rate)
        self.beta1 = _in_range("beta1", beta1, 0.0, 1.0)
        self.beta2 = _in_range("beta2", beta2, 0.0, 1.0)
        self.epsilon = _positive("epsilon", epsilon)

    def _update(self, store: Store, segment: Segment, weight_decay: float) -> None:
        ops.adam_(
            store.part("values", segment),
            store.part("grads", segment),
            store.part("m", segment),
            store.part("v", segment),
            store.ok,
            store.learning_rate,
            store.counters,
            self.beta1,
            self.beta2,
            self.epsilon,
            weight_decay,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay: value shrinks by learning_rate * weight_decay. [Loshchilov & Hutter 2019]"""

    def __init__(
        self,
        learning_rate: float = 0.001,
        *,
        weight_decay: float = 0.01,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__(learning_rate, beta1=beta1, beta2=beta2, epsilon=epsilon)
        self.weight_decay = _in_range("weight_decay", weight_decay, 0.0, math.inf)
