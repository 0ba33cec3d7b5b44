"""Schedules of the learning rate as recipes have them: counted in epochs, made when the steps of an epoch are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bpnet.callbacks import ReduceOnPlateau
from bpnet.errors import ConfigError
from bpnet.recipes.calls import parameters
from bpnet.recipes.components import build, defaults, find_class
from bpnet.recipes.mistakes import Mistakes
from bpnet.schedules import SCHEDULES, WarmUp

# What a schedule counts in steps, and the key under which a recipe has it, in epochs.
IN_EPOCHS = {"steps": "epochs", "warmup": "warmup_epochs", "every": "every_epochs", "decay": "decay_per_epoch"}
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

    def complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The table [schedule] with its defaults; the epochs stay those of the training where it does not say them."""
        found = {IN_EPOCHS.get(name, name): value for name, value in defaults(self.cls).items()}
        if "every_epochs" in found:
            found["every_epochs"] = 1
        return {"name": given["name"], **found, **given}

    def make(self, learning_rate: float, steps: int) -> Any:
        """The Schedule, for epochs of so many steps; or the callback."""
        if self.is_callback:
            return self.cls(**self.arguments)
        schedule = self.cls(**self.in_steps(steps), learning_rate=learning_rate)
        warmup = round(self.warmup * steps)
        return WarmUp(schedule, warmup) if warmup else schedule

    def in_steps(self, steps: int) -> dict[str, Any]:
        """The arguments, counted in steps, for epochs of so many; a warm-up leaves at least one step of the whole."""
        counted = dict(self.arguments)
        for name in counted.keys() & {"steps", "every"}:
            counted[name] = max(1, round(counted[name] * steps))
        if "warmup" in counted:
            counted["warmup"] = min(round(counted["warmup"] * steps), counted.get("steps", 1) - 1)
        if "decay" in counted:
            counted["decay"] = counted["decay"] / steps
        return counted


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
    epochs = epochs or None  # without training there is nothing to hold a schedule to
    given = dict(section.model_extra or {})
    before = len(mistakes)
    own = parameters(cls)
    if cls is not ReduceOnPlateau:
        _note_steps(given, mistakes)
        for key in [key for key in given if key in ARGUMENTS]:
            _check_count(key, given, epochs, mistakes)
        if "every" in own and own["every"].default is not own["every"].empty:
            given.setdefault("every_epochs", 1)
    warmup = given.pop("warmup_epochs", 0) if "warmup" not in own else 0
    if "steps" in own and "epochs" not in given:
        given["epochs"] = max(1, (1e6 if epochs is None else epochs) - warmup)
    plan = SchedulePlan(cls, {ARGUMENTS.get(key, str(key)): value for key, value in given.items()}, warmup)
    trial = plan.arguments if plan.is_callback else plan.in_steps(TRIAL) | {"learning_rate": learning_rate or 1.0}
    made = build(cls, trial, place, mistakes, IN_EPOCHS, hidden=("learning_rate",))
    if made is None or len(mistakes) > before:
        return None
    try:
        plan.make(learning_rate or 1.0, TRIAL)
    except ConfigError:
        leaves = f"leaves too little of {cls.__name__} in {epochs} epochs; make it shorter"
        mistakes.add((*place, "warmup_epochs"), leaves)
        return None
    return plan


def _note_steps(given: dict[str, Any], mistakes: Mistakes) -> None:
    """Note and take out what counts steps, or belongs elsewhere."""
    for key in [key for key in given if key in IN_EPOCHS]:
        mistakes.add(("schedule", key), f"unknown key; recipes count epochs: did you mean {IN_EPOCHS[key]!r}?")
        del given[key]
    if given.pop("learning_rate", None) is not None:
        mistakes.add(("schedule", "learning_rate"), "unknown key; it belongs into [optimizer]")


def _check_count(key: str, given: dict[str, Any], epochs: int | None, mistakes: Mistakes) -> None:
    """Note and replace a number of epochs that is none, and a warm-up as long as the training."""
    value, zero = given[key], key in ("warmup_epochs", "decay_per_epoch")
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < 1e9 or (value == 0 and not zero):
        mistakes.must_be(("schedule", key), f"a number {'of at least' if zero else 'above'} 0", value)
    elif key == "warmup_epochs" and epochs is not None and value >= epochs:
        if "training.epochs" in mistakes.labels:  # the recipe's own epochs may well be enough
            mistakes.must_be(("training", "epochs"), f"above {value:g}, warmup_epochs of the recipe's schedule", epochs)
        else:
            mistakes.must_be(("schedule", key), f"below the {epochs} epochs of the training", value)
    else:
        return
    if key == "warmup_epochs":
        del given[key]
    else:
        given[key] = 1  # what stands there is not used: there are mistakes
