"""What an entry of the registry says of a class: how it is made, what it is called with, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from bpnet.errors import ConfigError, ShapeError
from bpnet.layers.base import Layer
from bpnet.losses import Loss
from bpnet.metrics import Metric
from bpnet.optimizers import Optimizer
from bpnet.schedules import Schedule
from bpnet.testing.inputs import SampleInputs

Case = TypeVar("Case")


@dataclass(frozen=True)
class BadArguments:
    """A constructor call that is refused.

    message : a regular expression that the error's text matches somewhere; `exactly` makes one of a whole text
    """

    mistake: Callable[[], Any]
    message: str
    error: type[Exception] = ConfigError


@dataclass(frozen=True)
class BadInputs:
    """Arguments of a call that is refused, and that leaves the object as it was.

    arguments : NumPy arrays, which are brought to the backend, and others, which are passed on as they are
    make      : of what they are refused; None: of the entry's first case
    """

    arguments: tuple[Any, ...]
    message: str
    error: type[Exception] = ShapeError
    make: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Entry(Generic[Case]):
    """All that is said of one public class.

    cases         : by name, '' being the plain one; every generic test runs all of them
    bad_arguments : of the constructor; at least one where it takes arguments
    bad_inputs    : of its calls; at least one where they can be refused
    """

    cases: Mapping[str, Case]
    bad_arguments: tuple[BadArguments, ...] = ()
    bad_inputs: tuple[BadInputs, ...] = ()


VECTORS = (SampleInputs((4,)), SampleInputs((3, 4)))


@dataclass(frozen=True)
class LayerCase:
    """A layer, and what it is called with.

    inputs : one or more; the first is the usual one
    """

    make: Callable[[], Layer]
    inputs: tuple[SampleInputs, ...] = VECTORS


@dataclass(frozen=True)
class Fit:
    """A loss at the end of a network, for tests of whole steps.

    targets : called with a random generator, the number of samples and that of outputs
    last    : makes the layers behind the last Dense, such as a Softmax
    """

    make: Callable[[], Loss]
    targets: Callable[[Any, int, int], Any]
    last: tuple[Callable[[], Layer], ...] = ()


@dataclass(frozen=True)
class LossCase:
    """A loss, and arrays for it in float64. make : called with the options, and with a reduction"""

    make: Callable[..., Loss]
    prediction: Any
    target: Any
    weight: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def loss(self, **more: Any) -> Loss:
        """The loss, with more options."""
        return self.make(**self.options, **more)


@dataclass(frozen=True)
class LossEntry(Entry[LossCase]):
    """The entry of a loss. fits : networks that it trains, by name"""

    fits: Mapping[str, Fit] = field(default_factory=dict)


@dataclass(frozen=True)
class OptimizerCase:
    """An optimizer, and its paper's formula in float64.

    formula : called with the number of steps, the parameter, the list of gradients, and whether it decays; returns the
              parameter after those steps
    """

    make: Callable[[], Optimizer]
    formula: Callable[[int, Any, Any, bool], Any]


@dataclass(frozen=True)
class ScheduleCase:
    """A schedule, its length, and that of its warm-up."""

    make: Callable[[], Schedule]
    steps: int | None = None
    warmup_steps: int = 0


@dataclass(frozen=True)
class MetricCase:
    """A metric, a batch, and the value that is right, worked by hand or by a formula. expected : a number, or lists"""

    make: Callable[[], Metric]
    prediction: Any
    target: Any
    expected: Any


def exactly(text: str) -> str:
    """A regular expression that matches this text and nothing more."""
    return f"^{re.escape(text)}$"


def all_cases(entries: Mapping[str, Entry[Case]]) -> dict[str, Case]:
    """Every case of every entry, as "Dense" or "Dense, without bias"."""
    return {
        name + (f", {case_name}" if case_name else ""): case
        for name, entry in entries.items()
        for case_name, case in entry.cases.items()
    }
