"""Learning rates that are functions of the number of steps taken.

A schedule stands where a learning rate does: `Adam(learning_rate=Cosine(1e-3, steps=5000, warmup=200))`. It is
immutable, compared by value, and has no state: the step is the store's counter, so an epoch of n batches is n steps,
and a step that was skipped (its loss was not finite) does not count. The formula is evaluated where the counter lies,
in float64; on the host, `schedule(step)` gives the same number.

A schedule of your own is any function of the step: `SGD(learning_rate=lambda step: 0.1 / (1 + step))`. It is called on
the host, once a step or more, which on a GPU costs one read of the counter; a subclass of Schedule costs none.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from bpnet.checks import at_least_0, number, positive, whole
from bpnet.errors import ConfigError, did_you_mean
from bpnet.ops.rates import Floats


class Schedule:
    """Base of all schedules: a frozen dataclass that states its formula in `rate`.

    steps        : after how many steps it has reached its end and stays there; None where it has no end
    warmup_steps : how many steps the learning rate rises before it takes its course
    """

    steps: int | None = None

    def rate(self, step: Any, m: Any) -> Any:
        """The learning rate of the step after `step` steps.

        step : a float, or a (1,) float64 array; m : has `where`, `minimum`, `floor` and `cos` for it
        """
        raise NotImplementedError(f"{type(self).__name__} must define rate(step, m)")

    def __call__(self, step: int) -> float:
        """The learning rate of the step after `step` steps."""
        return float(self.rate(float(whole("step", step, 0)), Floats))

    @property
    def warmup_steps(self) -> int:
        """The number of steps of the warm-up; 0 where there is none."""
        return 0

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments by name, and the class as "name": JSON values for `from_config`."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.init}  # type: ignore[arg-type]
        plain = {name: value.config if isinstance(value, Schedule) else value for name, value in values.items()}
        return {"name": type(self).__name__, **plain}

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _check_rate(self) -> None:
        self._set(learning_rate=positive("learning_rate", self.learning_rate))  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Constant(Schedule):
    """Always learning_rate."""

    learning_rate: float

    def __post_init__(self) -> None:
        self._check_rate()

    def rate(self, step: Any, m: Any) -> Any:
        """learning_rate."""
        return self.learning_rate + 0 * step


@dataclass(frozen=True)
class InverseTime(Schedule):
    """learning_rate / (1 + decay * step).

    decay : at least 0; the rate is halved after 1 / decay steps
    """

    learning_rate: float
    decay: float = field(kw_only=True)

    def __post_init__(self) -> None:
        self._check_rate()
        self._set(decay=at_least_0("decay", self.decay))

    def rate(self, step: Any, m: Any) -> Any:
        """learning_rate / (1 + decay * step)."""
        return self.learning_rate / (1 + self.decay * step)


def _factor(value: Any) -> float:
    found = positive("factor", value)
    if found > 1:
        raise ConfigError(f"factor must be above 0 and at most 1, got {value!r}")
    return found


@dataclass(frozen=True)
class StepDecay(Schedule):
    """learning_rate times `factor` after every `every` steps: learning_rate * factor^floor(step / every)."""

    learning_rate: float
    every: int = field(kw_only=True)
    factor: float = field(default=0.1, kw_only=True)

    def __post_init__(self) -> None:
        self._check_rate()
        self._set(every=whole("every", self.every, 1), factor=_factor(self.factor))

    def rate(self, step: Any, m: Any) -> Any:
        """learning_rate * factor^floor(step / every)."""
        return self.learning_rate * self.factor ** m.floor(step / self.every)


@dataclass(frozen=True)
class Exponential(Schedule):
    """learning_rate * factor^(step / every), without stairs."""

    learning_rate: float
    factor: float = field(kw_only=True)
    every: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        self._check_rate()
        self._set(every=whole("every", self.every, 1), factor=_factor(self.factor))

    def rate(self, step: Any, m: Any) -> Any:
        """learning_rate * factor^(step / every)."""
        return self.learning_rate * self.factor ** (step / self.every)


def _check_warmup(warmup: int, steps: int | None, what: str) -> None:
    if steps is not None and warmup >= steps:
        raise ConfigError(f"a warm-up of {warmup} steps leaves nothing of {what} of {steps} steps; make it shorter")


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from learning_rate down to `final`, after a linear warm-up. [Loshchilov & Hutter 2017, eq. 5]

    steps  : of the whole, warm-up included; from then on the rate is `final`
    warmup : W, below steps; warm-up step k = 0 ... W - 1 has (k + 1) / (W + 1) of learning_rate
    Then with u = (step - W) / (steps - W): final + (learning_rate - final) (1 + cos(pi u)) / 2.
    """

    learning_rate: float
    steps: int = field()
    warmup: int = field(default=0, kw_only=True)
    final: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        self._check_rate()
        self._set(steps=whole("steps", self.steps, 1), warmup=whole("warmup", self.warmup, 0))
        self._set(final=at_least_0("final", self.final))
        if self.final > self.learning_rate:
            raise ConfigError(f"final must be at most the learning rate {self.learning_rate:g}, got {self.final:g}")
        _check_warmup(self.warmup, self.steps, "a schedule")

    @property
    def warmup_steps(self) -> int:
        """The number of steps of the warm-up."""
        return self.warmup

    def rate(self, step: Any, m: Any) -> Any:
        """The warm-up's line, then the cosine, then final."""
        part = m.minimum((step - self.warmup) / (self.steps - self.warmup), 1.0)
        course = self.final + (self.learning_rate - self.final) * (1 + m.cos(math.pi * part)) / 2
        return m.where(step < self.warmup, self.learning_rate * (step + 1) / (self.warmup + 1), course)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Half a cosine up to learning_rate, half a cosine down to almost nothing. [Smith & Topin 2018]

    learning_rate : the highest
    steps         : of the whole cycle; from then on the rate is the last
    rise          : the part of the steps in which it rises, between 0 and 1
    start, final  : the first and the last rate, as parts of learning_rate
    As PyTorch's OneCycleLR with cos annealing and rise = pct_start, start = 1 / div_factor, final = start /
    final_div_factor; the momentum stays as it is. The rise ends with step rise * steps - 1, the fall with step
    steps - 1.
    """

    learning_rate: float
    steps: int = field()
    rise: float = field(default=0.3, kw_only=True)
    start: float = field(default=1 / 25, kw_only=True)
    final: float = field(default=1 / 25e4, kw_only=True)

    def __post_init__(self) -> None:
        self._check_rate()
        self._set(steps=whole("steps", self.steps, 2), rise=number("rise", self.rise))
        self._set(start=at_least_0("start", self.start), final=at_least_0("final", self.final))
        for name in ("start", "final"):
            if getattr(self, name) > 1:
                raise ConfigError(f"{name} is a part of the learning rate, at most 1, got {getattr(self, name)!r}")
        if not (0 < self.rise < 1 and self.rise * self.steps > 1):
            raise ConfigError(
                f"rise must lie between 0 and 1 and make more than 1 of the {self.steps} steps, got {self.rise!r}"
            )

    @property
    def warmup_steps(self) -> int:
        """The number of steps of the rise."""
        return math.ceil(self.rise * self.steps)

    def rate(self, step: Any, m: Any) -> Any:
        """The two half cosines."""
        top, end = self.rise * self.steps - 1, self.steps - 1
        up = step / top
        down = m.minimum((step - top) / (end - top), 1.0)
        highest = self.learning_rate
        first, last = self.start * highest, self.final * highest
        rising = highest + (first - highest) / 2 * (1 + m.cos(math.pi * up))
        falling = last + (highest - last) / 2 * (1 + m.cos(math.pi * down))
        return m.where(step <= top, rising, falling)


@dataclass(frozen=True)
class WarmUp(Schedule):
    """A linear warm-up before another schedule, which begins when it is over.

    schedule : a Schedule, or a number, which then stays
    warmup   : W, at least 1; warm-up step k = 0 ... W - 1 has (k + 1) / (W + 1) of the schedule's first rate
    Raises ConfigError when the warm-up is as long as the schedule itself.
    """

    schedule: Schedule | float
    warmup: int

    def __post_init__(self) -> None:
        inner: Any = self.schedule
        if not isinstance(inner, Schedule):
            inner = Constant(inner)
        self._set(schedule=inner, warmup=whole("warmup", self.warmup, 1))
        _check_warmup(self.warmup, inner.steps, type(inner).__name__)
        self._set(steps=None if inner.steps is None else self.warmup + inner.steps)

    @property
    def _after(self) -> Schedule:
        assert isinstance(self.schedule, Schedule)
        return self.schedule

    @property
    def warmup_steps(self) -> int:
        """The number of steps of the warm-up, the schedule's own included."""
        return self.warmup + self._after.warmup_steps

    def rate(self, step: Any, m: Any) -> Any:
        """The warm-up's line, then the schedule."""
        after = m.where(step < self.warmup, 0.0, step - self.warmup)
        course = self._after.rate(after, m)
        return m.where(step < self.warmup, course * (step + 1) / (self.warmup + 1), course)


SCHEDULES: dict[str, type[Schedule]] = {
    cls.__name__: cls for cls in (Constant, InverseTime, StepDecay, Exponential, Cosine, OneCycle, WarmUp)
}


def from_config(config: dict[str, Any]) -> Schedule:
    """The schedule whose `config` this is, as JSON brought it back.

    Raises ConfigError when the class is unknown or refuses the arguments.
    """
    name = config.get("name") if isinstance(config, dict) else None
    if not isinstance(name, str) or name not in SCHEDULES:
        hint = did_you_mean(name, SCHEDULES)
        raise ConfigError(f"unknown schedule {name!r}; known are {', '.join(sorted(SCHEDULES))}{hint}")
    values = {k: from_config(v) if isinstance(v, dict) else v for k, v in config.items() if k != "name"}
    try:
        return SCHEDULES[name](**values)
    except TypeError as error:
        raise ConfigError(f"the schedule {name} cannot be made of {values}: {error}") from None


__all__ = [
    "Constant",
    "Cosine",
    "Exponential",
    "InverseTime",
    "OneCycle",
    "Schedule",
    "StepDecay",
    "WarmUp",
    "from_config",
]
