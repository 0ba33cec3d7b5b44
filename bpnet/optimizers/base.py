"""What all optimizers share: the order of a step, the learning rate, and the settings around the update.

`optimizer.step(model)` updates the parameters from their gradients, counts the step, and consumes the gradients: they
stay readable, and the next backward writes afresh. A parameter that got no gradient counts as zero. In a step
1. a schedule's rate is written into the store,
2. the gradients of the penalties are added (`Parameter.l1`, `.l2`): once a step, however many backwards it has,
3. gradients are clipped, first by value, then by norm; both in the store itself, so that `parameter.grad` shows it,
4. the parameters are updated, run by run; statistics become what the step has made of them; averages follow,
5. the step is counted.
Where the store's flag `ok` is False (a loss, or with clip_norm or check_gradients a gradient, that is not finite)
nothing changes. The flag stays down until somebody raises it: the Trainer does; a loop of one's own sets
`model.store.ok[...] = True`.
"""

from __future__ import annotations

import functools
import inspect
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

from bpnet import ops
from bpnet.checks import at_least_0, fraction, number, positive
from bpnet.dispatch import Array, Tracked, note_change, version
from bpnet.errors import ConfigError, StateError
from bpnet.layers.base import Layer
from bpnet.optimizers.groups import Group, as_groups
from bpnet.parameter import Parameter
from bpnet.schedules import Schedule
from bpnet.store import AVERAGE, Run, Store

Check = Callable[[str, Any], Any]
Rate = float | Schedule | Callable[[int], float]
"""What a learning rate may be: a number, a Schedule, or a function of the number of steps taken."""

_OTHER_NAMES = {
    "lr": "learning_rate",
    "decay": "weight_decay",
    "betas": "beta1 and beta2",
    "beta_1": "beta1",
    "beta_2": "beta2",
    "alpha": "rho",
    "eps": "epsilon",
    "clipnorm": "clip_norm",
    "clipvalue": "clip_value",
    "ema": "average",
}


def _elsewhere(cls: type, name: str) -> str:
    return f"{cls.__name__} has no {name}; here it is called {_OTHER_NAMES[name]}"


def _knowing_other_names(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap a constructor so that an argument with a name of another library's is answered with the name it has here."""
    takes = inspect.signature(init).parameters

    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **keywords: Any) -> None:
        for name in keywords:
            if name in _OTHER_NAMES and name not in takes:
                raise TypeError(_elsewhere(type(self), name))
        init(self, *args, **keywords)

    return wrapped


def _or_none(check: Check) -> Check:
    return lambda name, value: None if value is None else check(name, value)


class _Passes(NamedTuple):
    """What a step does for one layout of parameters and settings."""

    version: int
    optimizer: Any
    runs: tuple[Run, ...]
    scales: tuple[float, ...]  # of the learning rate, other than 1
    penalized: tuple[Parameter, ...]


class Optimizer(Tracked):
    """Base of all optimizers. A subclass defines `_update` and names the checks of its settings in `checks`.

    learning_rate : a number above 0, a Schedule, or a function of the number of steps taken; may be set at any time
    weight_decay  : at least 0; applied to parameters with `decay`, so not to biases
    clip_norm     : the largest norm of all gradients together, which above it are scaled down; None: no limit
    clip_value    : the largest absolute value of a gradient's element; None: no limit
    average       : decay of the parameters' moving averages, in [0, 1), for `model.averaged()`; None: no averages, and
                    those that were made before stay as they are, from where a number goes on
    groups        : Groups of parameters with rates or decays of their own
    """

    checks: ClassVar[dict[str, Check]] = {
        "weight_decay": at_least_0,
        "clip_norm": _or_none(positive),
        "clip_value": _or_none(positive),
        "average": _or_none(fraction),
        "groups": as_groups,
    }

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        inherited = {
            name: check for base in reversed(cls.__mro__) for name, check in vars(base).get("checks", {}).items()
        }
        cls.checks = inherited
        if "__init__" in vars(cls):
            cls.__init__ = _knowing_other_names(cls.__init__)  # type: ignore[method-assign]

    def __init__(
        self,
        learning_rate: Rate,
        weight_decay: float = 0.0,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: float | None = None,
        groups: Sequence[Group] = (),
    ) -> None:
        self._written_to: Any = None  # the store's array that holds the present learning rate
        self._served: Callable[[], Store | None] = _nowhere
        self._learning_rate = _as_rate(learning_rate)
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.average = average
        self.groups = groups

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OTHER_NAMES:
            raise AttributeError(_elsewhere(type(self), name))
        if name == "learning_rate":  # its setter says whether recorded steps must look again
            object.__setattr__(self, name, value)
        else:
            check = self.checks.get(name)
            super().__setattr__(name, value if check is None else check(name, value))

    # --- the learning rate ---

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step. Where a schedule sets it, reading it reads the device's counter."""
        rate = self._learning_rate
        if isinstance(rate, float):
            return rate
        store = self._served()
        return _evaluate(rate, store.steps_taken if store is not None and store.serves(self) else 0)

    @learning_rate.setter
    def learning_rate(self, value: Rate) -> None:
        new, old = _as_rate(value), self._learning_rate
        self._learning_rate = new
        self._written_to = None
        if isinstance(new, Schedule) or isinstance(
            old, Schedule
        ):  # a number lies in an array, which recorded steps read
            note_change()

    @property
    def schedule(self) -> Schedule | Callable[[int], float] | None:
        """What sets the learning rate where that is no number; None where it is one."""
        return None if isinstance(self._learning_rate, float) else self._learning_rate

    def prepare(self, store: Store) -> None:
        """Claim the store, and write the learning rate where it has changed: all that a planned step does by hand."""
        rate = self._learning_rate
        if self._written_to is not store.learning_rate or not store.serves(self):
            if not isinstance(rate, (float, Schedule)):
                _evaluate(rate, 0)  # so that a function of no use is refused before another optimizer's state is lost
            store.claim(self)
            self._served = weakref.ref(store)
            if isinstance(rate, float):
                store.learning_rate[...] = rate
            self._written_to = store.learning_rate
        if not isinstance(rate, (float, Schedule)):
            store.learning_rate[...] = _evaluate(rate, store.steps_taken)

    # --- a step ---

    def step(self, model: Layer, *, check_gradients: bool = False) -> None:
        """Update the model's parameters and count the step; its gradients are then consumed.

        check_gradients : whether a norm of all gradients that is not finite lets nothing change, without clipping too
        Raises StateError when there is no gradient, or all is frozen; ConfigError when a group matches nothing.
        """
        if not isinstance(model, Layer):
            raise ConfigError(f"{type(self).__name__}.step takes the model, got {type(model).__name__}")
        store = model.store
        store.check()
        passes = self._passes(store)
        if store.parameters and not store.filled:
            raise StateError(
                f"{type(self).__name__}.step: no gradient since the last step; call "
                "model.backward(loss.backward()) first"
            )
        self.prepare(store)
        if isinstance(self._learning_rate, Schedule):
            ops.set_rate_(store.learning_rate, store.counters, self._learning_rate)
        for scale in passes.scales:
            ops.scale_rate_(store.rate(scale), store.learning_rate, scale)
        store.complete_gradients()
        for parameter in passes.penalized:
            ops.penalty_gradient_(parameter.grad, parameter.value, parameter.l1, parameter.l2)
        if check_gradients:
            ops.check_norm_(store.ok, store.grads)
        if self.clip_value is not None:
            ops.clip_value_(store.grads, self.clip_value)
        if self.clip_norm is not None:
            ops.clip_norm_(store.grads, store.ok, self.clip_norm)
        average = None if self.average is None else store.slot(AVERAGE)  # a new one begins at the values before
        for run in passes.runs:
            self._update(store, run, store.rate(run.scale))
            if store.compute is not None:  # a plan does both in one pass
                ops.round_bf16_(store.part("compute", run), store.part("values", run))
        store.commit_statistics()
        if average is not None:
            ops.average_(average, store.values, store.ok, store.counters, self.average)
        ops.advance_(store.counters, store.ok)
        store.consume_gradients()

    def _update(self, store: Store, run: Run, rate: Array) -> None:
        """Update one run of parameters. rate : its learning rate, 0-d float64."""
        raise NotImplementedError

    def check(self, model: Layer) -> None:
        """Raise what `step` would raise because of the model: all is frozen, or a group that matches nothing."""
        self._passes(model.store)

    def _passes(self, store: Store) -> _Passes:
        known: _Passes | None = store.passes
        if known is None or known.version != version() or known.optimizer is not self:
            known = store.passes = self._lay_out(store)
        return known

    def _lay_out(self, store: Store) -> _Passes:
        parameters = store.parameters
        trainable = {path: p for path, p in parameters.items() if p.trainable}
        if len(parameters) > len(store.statistics) and not trainable:
            raise StateError(
                f"{type(self).__name__}.step: the model has nothing to train: all of its {len(parameters)} parameters "
                "are frozen; unfreeze() those that training shall change"
            )
        for group in self.groups:
            if not any(group.matches(path) for path in parameters):
                raise ConfigError(f"no parameter matches {group!r}; there are {', '.join(map(repr, parameters))}")

        def rule(path: str, parameter: Parameter) -> tuple[float, float] | None:
            if not parameter.trainable:
                return None
            scale, decay = 1.0, self.weight_decay
            group = next((each for each in self.groups if each.matches(path)), None)
            if group is not None:
                scale = group.learning_rate_scale
                decay = decay if group.weight_decay is None else group.weight_decay
            return scale, decay if parameter.decay else 0.0

        runs = store.runs(rule)
        scales = tuple(dict.fromkeys(run.scale for run in runs if run.scale != 1.0))
        penalized = tuple(p for p in trainable.values() if p.l1 or p.l2)
        return _Passes(version(), self, runs, scales, penalized)

    # --- as text and in files ---

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments by name, as JSON values; of a function of one's own, its name."""
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        found = {name: getattr(self, name) for name in names if name != "learning_rate" and hasattr(self, name)}
        rate: Any = self._learning_rate
        if isinstance(rate, Schedule):
            rate = rate.config
        elif not isinstance(rate, float):
            rate = getattr(rate, "__qualname__", repr(rate))
        groups = [group.config for group in self.groups]
        return {"learning_rate": rate, **found, **({"groups": groups} if "groups" in found else {})}

    def __repr__(self) -> str:
        shown = {"learning_rate": self._learning_rate} | {
            k: getattr(self, k) for k in self.config if k != "learning_rate"
        }
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in shown.items() if v is not None and v != ())})"

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_written_to": None, "_served": _nowhere}


def _nowhere() -> None:
    """Where an optimizer serves that has made no step yet."""


def _as_rate(value: Any) -> Rate:
    if isinstance(value, Schedule):
        return value
    if callable(value) and not isinstance(value, type):
        return value  # type: ignore[no-any-return]
    if isinstance(value, type) and issubclass(value, Schedule):
        raise ConfigError(
            f"learning_rate must be a number or a schedule, got the class {value.__name__}: write {value.__name__}(...)"
        )
    return positive("learning_rate", value)


def _evaluate(rate: Callable[[int], float], step: int) -> float:
    found = number("the learning rate that a schedule gives", rate(step))
    if not 0 <= found < math.inf:
        raise ConfigError(
            f"the learning rate that a schedule gives must be finite and at least 0, got {found} at step {step}"
        )
    return found
