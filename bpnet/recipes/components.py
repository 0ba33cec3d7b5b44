"""Losses, optimizers, metrics, layers and schedules by name, with their arguments checked under the keys they have."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bpnet.errors import ConfigError, did_you_mean
from bpnet.layers import Layer
from bpnet.losses import Loss
from bpnet.metrics import Metric
from bpnet.optimizers import Optimizer
from bpnet.recipes.calls import check_arguments, construct, parameters, parse_call, takes, unknown
from bpnet.recipes.mistakes import Mistakes, Place

KINDS: dict[str, type] = {"layer": Layer, "loss": Loss, "metric": Metric, "optimizer": Optimizer}


def classes(what: str) -> dict[str, Any]:
    """The public classes of a kind by name: "layer", "loss", "metric", "optimizer"."""
    import bpnet

    kind = KINDS[what]
    found = {name: getattr(bpnet, name) for name in bpnet.__all__}
    return {
        name: cls
        for name, cls in found.items()
        if isinstance(cls, type) and issubclass(cls, kind) and cls is not kind and not inspect.isabstract(cls)
    }


def parse_list(texts: list[Any], what: str, place: Place, mistakes: Mistakes) -> list[Any] | None:
    """The objects that a list of texts describes; None, with every mistake noted, where one cannot be read."""
    from bpnet import initializers

    known = classes(what)
    inner = {"constant": initializers.constant} if what == "layer" else {}
    found = []
    for index, text in enumerate(texts):
        try:
            found.append(parse_call(text, known, what, inner))
        except ConfigError as error:
            mistakes.add((*place, index), str(error))
    return found if len(found) == len(texts) else None


def find_class(name: str, known: Mapping[str, Any], what: str, place: Place, mistakes: Mistakes) -> Any:
    """The class `name`; None, noted, where there is none."""
    if name not in known:
        mistakes.add((*place, "name"), unknown(name, known, what))
        return None
    return known[name]


def build(
    cls: Any, arguments: Mapping[str, Any], place: Place, mistakes: Mistakes, keys: Mapping[str, str] | None = None
) -> Any:
    """Return cls(**arguments); None, with every mistake noted under its key, where that cannot be.

    keys : the key under which an argument stands in the recipe, where that is another word
    """
    keys = keys or {}
    name = cls.__name__
    known = parameters(cls)
    good = {}
    for argument, value in arguments.items():
        if argument in known:
            good[argument] = value
        else:
            key = keys.get(argument, argument)
            hint = did_you_mean(argument, known)
            mistakes.add((*place, key), f"{name} has no argument {key!r}{hint}; {takes(name, known)}")
    complete = len(good) == len(arguments)
    refused: list[str] = []
    while True:
        try:
            check_arguments(cls, name, [], good)
            made = construct(cls, name, [], good)
            return made if complete and not refused else None
        except ConfigError as error:
            guilty = _guilty(cls, good, str(error))
            if guilty is None:
                if not any(word in str(error) for word in refused):  # else it only follows from what is noted
                    mistakes.add(place, str(error))
                return None
            mistakes.add((*place, keys.get(guilty, guilty)), str(error))
            refused.append(guilty)
            good = {argument: value for argument, value in good.items() if argument != guilty}


def _guilty(cls: Any, arguments: Mapping[str, Any], message: str) -> str | None:
    """The argument that alone draws the same message; None where the fault lies between several."""
    required = {
        p.name: arguments[p.name]
        for p in parameters(cls).values()
        if p.default is p.empty and p.name in arguments and p.kind is not p.VAR_POSITIONAL
    }
    for argument, value in arguments.items():
        if not required and len(arguments) == 1:
            return argument
        try:
            cls(**{**required, argument: value})
        except Exception as error:
            if str(error) == message and (argument not in required or argument in message):
                return argument
    return None


# What schedules count in steps, recipes count in epochs.
IN_EPOCHS = {"steps": "epochs", "warmup": "warmup_epochs", "every": "every_epochs"}


@dataclass(frozen=True)
class SchedulePlan:
    """A schedule before the number of steps of an epoch is known.

    cls      : the class; arguments : its own, by name, those of IN_EPOCHS in epochs
    warmup   : epochs of a linear warm-up before a schedule that has none of its own
    """

    cls: Any
    arguments: dict[str, Any]
    warmup: float = 0

    def in_steps(self, learning_rate: float, steps_per_epoch: int) -> dict[str, Any]:
        """The class's arguments, counted in steps."""
        counted = {
            name: max(1 if name != "warmup" else 0, round(value * steps_per_epoch)) if name in IN_EPOCHS else value
            for name, value in self.arguments.items()
        }
        return {"learning_rate": learning_rate, **counted}

    def make(self, learning_rate: float, steps_per_epoch: int) -> Any:
        """The Schedule."""
        from bpnet.schedules import WarmUp

        schedule = self.cls(**self.in_steps(learning_rate, steps_per_epoch))
        warmup = round(self.warmup * steps_per_epoch)
        return WarmUp(schedule, warmup) if warmup else schedule
