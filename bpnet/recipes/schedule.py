"""Schedules of the learning rate as recipes have them: counted in epochs, made when the steps of an epoch are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bpnet.callbacks import ReduceOnPlateau
from bpnet.recipes.calls import parameters
from bpnet.recipes.components import build, find_class
from bpnet.recipes.mistakes import Mistakes
from bpnet.schedules import SCHEDULES, WarmUp

# What a schedule counts in steps, and the key under which a recipe has it, in epochs.
IN_EPOCHS = {"steps": "epochs", "warmup": "warmup_epochs", "every": "every_epochs"}
ARGUMENTS = {key: argument for argument, key in IN_EPOCHS.items()}
TRIAL = 1000  # steps an epoch, while the data are not known


@dataclass(frozen=True)
class SchedulePlan:
    """A schedule before the number of steps of an epoch is known.

    cls       : a Schedule, or ReduceOnPlateau, which is a callback
    arguments : those of its constructor, but for the learning rate; what IN_EPOCHS names in epochs
    warmup    : epochs of a linear warm-up before a schedule that has none of its own
    """

    cls: Any
    arguments: Mapping[str, Any]
    warmup: float = 0.0

    @property
    def is_callback(self) -> bool:
        """Whether it watches a number and lowers the learning rate, and is no function of the step."""
        return self.cls is ReduceOnPlateau

    def make(self, learning_rate: float, steps: int) -> Any:
        """The Schedule, for epochs of so many steps; or the callback."""
        if self.is_callback:
            return self.cls(**self.arguments)
        schedule = self.cls(**self.in_steps(steps), learning_rate=learning_rate)
        warmup = round(self.warmup * steps)
        return WarmUp(schedule, warmup) if warmup else schedule

    def in_steps(self, steps: int) -> dict[str, Any]:
        """The arguments, counted in steps; none becomes 0 that must be at least 1."""
        return {
            name: max(name != "warmup", round(value * steps)) if name in IN_EPOCHS else value
            for name, value in self.arguments.items()
        }


def read_schedule(section: Any, learning_rate: Any, epochs: int | None, mistakes: Mistakes) -> SchedulePlan | None:
    """The plan that the table [schedule] asks for; None, with every mistake noted, where it cannot be.

    learning_rate : the optimizer's, or None where it is not known; epochs : of the training, or None
    """
    place = ("schedule",)
    known: dict[str, Any] = {cls.__name__: cls for cls in SCHEDULES.values() if cls is not WarmUp}
    known[ReduceOnPlateau.__name__] = ReduceOnPlateau
    cls = find_class(section.name, known, "schedule", place, mistakes)
    if cls is None:
        return None
    given = dict(section.model_extra or {})
    before = len(mistakes)
    for key in [key for key in given if key in IN_EPOCHS and key not in ARGUMENTS and cls is not ReduceOnPlateau]:
        mistakes.add((*place, key), f"unknown key; recipes count epochs: did you mean {IN_EPOCHS[key]!r}?")
        del given[key]
    if "learning_rate" in given:
        mistakes.add((*place, "learning_rate"), "unknown key; it belongs into [optimizer]")
        del given["learning_rate"]
    takes = parameters(cls)
    warmup = 0.0
    for key in [key for key in given if key in ARGUMENTS]:
        value = given[key]
        lowest = 0 if key == "warmup_epochs" else 1e-9
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not lowest <= value < 1e9:
            mistakes.must_be((*place, key), f"a number {'of at least 0' if not lowest else 'above 0'}", value)
            del given[key]
        elif key == "warmup_epochs":
            if epochs and value >= epochs:
                mistakes.must_be((*place, key), f"below the {epochs} epochs of the training", value)
                del given[key]
            elif "warmup" not in takes and cls is not ReduceOnPlateau:
                warmup = float(given.pop(key))
    if "steps" in takes and "epochs" not in given:
        given["epochs"] = max(1, (1e6 if epochs is None else epochs) - warmup)
    plan = SchedulePlan(cls, {ARGUMENTS.get(key, str(key)): value for key, value in given.items()}, warmup)
    trial = plan.arguments if plan.is_callback else plan.in_steps(TRIAL) | {"learning_rate": learning_rate or 1.0}
    made = build(cls, trial, place, mistakes, IN_EPOCHS, hidden=("learning_rate",))
    return plan if made is not None and len(mistakes) == before else None
