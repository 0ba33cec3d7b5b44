"""Losses, optimizers, metrics, layers and schedules by name, with their arguments checked under the keys they have."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from bpnet import layers, losses, metrics, optimizers
from bpnet.errors import ConfigError
from bpnet.layers import Layer
from bpnet.losses import Loss
from bpnet.metrics import Metric
from bpnet.optimizers import Optimizer
from bpnet.recipes.calls import construct, hint, parameters, parse_call, takes, unknown
from bpnet.recipes.mistakes import Mistakes, Place

KINDS: dict[str, tuple[type, ModuleType]] = {
    "layer": (Layer, layers),
    "loss": (Loss, losses),
    "metric": (Metric, metrics),
    "optimizer": (Optimizer, optimizers),
}
BASES = (Layer, Loss, losses.ClassLoss, Metric, metrics.MeanMetric, Optimizer)


def classes(what: str) -> dict[str, Any]:
    """The public classes of a kind by name: "layer", "loss", "metric", "optimizer"."""
    kind, module = KINDS[what]
    names: list[str] = getattr(module, "__all__", [])
    found = {name: getattr(module, name) for name in sorted(names)}
    return {
        name: cls for name, cls in found.items() if isinstance(cls, type) and issubclass(cls, kind) and cls not in BASES
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
    """Return cls(**arguments), without the arguments that are wrong, which are noted under their keys; else None.

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
            mistakes.add((*place, key), f"unknown key; {takes(name, shown)}{hint(key, shown)}")
    missing = [
        keys.get(argument, argument)
        for argument, p in known.items()
        if p.default is p.empty and p.kind is not p.VAR_POSITIONAL and argument not in arguments
    ]
    for key in missing:
        mistakes.add((*place, key), f"is missing; {name} needs it")
    refused: list[str] = []
    while not missing:
        try:
            return construct(cls, name, [], good)
        except ConfigError as error:
            text = str(error).removeprefix(f"{name}: ")
            guilty = _guilty(cls, good, str(error))
            if not any(word in text for word in refused):  # else it only follows from what is noted
                at = place if guilty is None else (*place, keys.get(guilty, guilty))
                mistakes.add(at, text.removeprefix(f"{guilty} ") if text.startswith(f"{guilty} must") else text)
            if guilty is None:
                return None
            refused.append(guilty)
            del good[guilty]
    return None


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


def defaults(cls: type) -> dict[str, Any]:
    """The arguments of a constructor that a TOML file can hold, with what they are by default."""
    return {name: p.default for name, p in parameters(cls).items() if isinstance(p.default, (bool, int, float, str))}
