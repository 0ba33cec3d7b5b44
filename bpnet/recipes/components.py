"""Losses, optimizers, metrics, layers and schedules by name, with their arguments checked under the keys they have."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from bpnet import layers, losses, metrics, optimizers
from bpnet.errors import ConfigError, did_you_mean
from bpnet.layers import Layer
from bpnet.losses import Loss
from bpnet.metrics import Metric
from bpnet.optimizers import Optimizer
from bpnet.recipes.calls import check_arguments, construct, parameters, parse_call, takes, unknown
from bpnet.recipes.mistakes import Mistakes, Place

# The modules that have the classes of a kind, and the method without which a class is only a base.
KINDS: dict[str, tuple[type, ModuleType, str]] = {
    "layer": (Layer, layers, "forward"),
    "loss": (Loss, losses, ""),
    "metric": (Metric, metrics, "measure"),
    "optimizer": (Optimizer, optimizers, "_update"),
}


def classes(what: str) -> dict[str, Any]:
    """The public classes of a kind by name: "layer", "loss", "metric", "optimizer"."""
    kind, module, method = KINDS[what]
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    return {
        name: cls
        for name in sorted(names)
        if isinstance(cls := getattr(module, name), type)
        and issubclass(cls, kind)
        and cls is not kind
        and (not method or getattr(cls, method) is not getattr(kind, method))
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
    cls: Any,
    arguments: Mapping[str, Any],
    place: Place,
    mistakes: Mistakes,
    keys: Mapping[str, str] | None = None,
    hidden: tuple[str, ...] = (),
) -> Any:
    """Return cls(**arguments); None, with every mistake noted under its key, where that cannot be.

    keys   : the key under which an argument stands in the recipe, where that is another word
    hidden : arguments that a recipe does not set here, and that messages leave out
    """
    keys = keys or {}
    name = cls.__name__
    known = parameters(cls)
    shown = {keys.get(argument, argument): known[argument] for argument in known if argument not in hidden}
    good = {}
    for argument, value in arguments.items():
        if argument in known:
            good[argument] = value
        else:
            key = keys.get(argument, argument)
            mistakes.add((*place, key), f"unknown key{did_you_mean(key, shown)}; {takes(name, shown)}")
    missing = [
        argument
        for argument, p in known.items()
        if p.default is p.empty and p.kind is not p.VAR_POSITIONAL and argument not in arguments
    ]
    for argument in missing:
        mistakes.add((*place, keys.get(argument, argument)), f"is missing; {name} needs it")
    if missing:
        return None
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
