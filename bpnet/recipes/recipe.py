"""A recipe: what to train, on what, and how, as the tables of a TOML file. Read, checked, completed with defaults."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpnet.backend import get_backend
from bpnet.data import named
from bpnet.errors import ConfigError, did_you_mean
from bpnet.layers import Layer, Normalize, Sequential
from bpnet.losses import (
    BinaryCrossEntropy,
    BinaryFocalLoss,
    ClassLoss,
    Huber,
    LogCosh,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
)
from bpnet.optimizers import Group, Optimizer
from bpnet.pairing import check_pairing, plain_weights
from bpnet.recipes import schema, toml
from bpnet.recipes.components import build, classes, defaults, find_class, parse_list
from bpnet.recipes.mistakes import Mistakes
from bpnet.recipes.sources import CSV_OPTIONS

if TYPE_CHECKING:
    from bpnet.backend import Backend
    from bpnet.recipes.run import Run
    from bpnet.recipes.schedule import SchedulePlan


@dataclass(frozen=True)
class Recipe:
    """A recipe without mistakes, complete with defaults.

    name     : the bundled recipe's, or the file's without its ending
    settings : its tables; recipe["training.epochs"] gives one value
    """

    name: str
    settings: Mapping[str, Any]

    def __getitem__(self, path: str) -> Any:
        found: Any = self.settings
        for key in path.split("."):
            if not isinstance(found, Mapping) or key not in found:
                raise KeyError(path)
            found = found[key]
        return found

    def toml(self) -> str:
        """The recipe as TOML text, with every default written out."""
        return toml.write(self.settings)

    def prepare(self, *, backend: str | Backend | None = None) -> Run:
        """Load the data, hold the settings to them, and return what is ready to be trained.

        backend : where to train, before the recipe's own and BPNET_BACKEND
        Raises ConfigError that names every mistake; BackendError when `backend` cannot be used.
        """
        from bpnet.recipes.run import Run, examine

        if backend is not None:
            get_backend(backend)
        draft = Draft(self.settings, name=self.name)
        parts = examine(draft, backend)
        return Run(draft, parts, backend)


class Draft:
    """A recipe while it is checked: what could be read of it, and the mistakes. What is None could not be read.

    given  : the tables, as read; name : see Recipe; folder : what relative paths are relative to
    labels : the names under which to report the mistakes of some keys, such as those that options have set
    """

    def __init__(
        self,
        given: Mapping[str, Any],
        *,
        name: str,
        folder: str | Path | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.given: dict[str, Any] = copy.deepcopy(dict(given))
        self.mistakes = Mistakes(labels)
        self.data: Any = None
        self.training: Any = None
        self.layers: list[Any] | None = None
        self.loss: Loss | None = None
        self.optimizer: Optimizer | None = None
        self.schedule: SchedulePlan | None = None
        self.metrics: list[Any] | None = None
        optimizer = self.given.get("optimizer", {})
        self.given["optimizer"] = {"name": "Adam", **optimizer} if isinstance(optimizer, Mapping) else optimizer
        self.given.setdefault("training", {})
        self._check_top()
        self._read_data(folder)
        self.training = self._section("training")
        self._read_components()
        self._check_contradictions()

    # --- the sections ---

    def _check_top(self) -> None:
        for key, value in self.given.items():
            if key not in schema.TOP:
                self.mistakes.add((key,), schema.unknown_key("", key, schema.TOP))
            elif key == "description" and not isinstance(value, str):
                self.mistakes.must_be((key,), "a text", value)
        for key in schema.REQUIRED:
            if key not in self.given:
                self.mistakes.add((key,), f"is missing; a recipe needs a table [{key}]")

    def _section(self, name: str) -> Any:
        return schema.read_section(name, self.given[name], self.mistakes) if name in self.given else None

    def _read_data(self, folder: str | Path | None) -> None:
        data = self._section("data")
        if data is None:
            return
        sources = [key for key in ("name", "csv", "npz") if getattr(data, key) is not None]
        options = self._options_of_named(data)
        for key in data.model_extra or {}:
            if options is not None and key not in options:
                self.mistakes.add(("data", key), schema.unknown_key("data", key, [*schema.Data.model_fields, *options]))
        if len(sources) != 1:
            if not self.mistakes.at("data.name", "data.csv", "data.npz"):
                found = f"got {' and '.join(sources)}" if sources else "got none of them"
                self.mistakes.add(("data",), f"must have exactly one of name, csv and npz; {found}")
            return
        self._check_source(data, sources[0])
        for key in ("csv", "npz"):
            if getattr(data, key) is not None:
                self.given["data"] = {
                    **self.given["data"],
                    key: str((Path(folder or "") / getattr(data, key)).absolute()),
                }
        if not self.mistakes.at("data"):
            self.data = schema.Data.model_validate(self.given["data"])

    def _options_of_named(self, data: Any) -> list[str] | None:
        """The options that the named data set takes; None where it is not known which set, which is noted."""
        if data.name is None:
            return None if data.csv is None and data.npz is None else []
        try:
            read = named.find(data.name).read
        except ConfigError as error:
            self.mistakes.add(("data", "name"), str(error))
            return None
        return [p.name for p in inspect.signature(read).parameters.values() if p.kind is p.KEYWORD_ONLY]

    def _check_source(self, data: Any, source: str) -> None:
        if source == "name" and data.test_fraction is not None:
            self.mistakes.add(("data", "test_fraction"), f"{data.name} has a test part of its own; leave it out")
        if source == "csv" and data.target is None and not data.reconstruct:
            self.mistakes.add(("data", "target"), "is missing; it must be the column to predict, by name or number")
        for key in ("target", "class_names"):
            if source == "csv" and data.reconstruct and getattr(data, key) is not None:
                what = "; to keep a column out, name it in data.drop" if key == "target" else ""
                self.mistakes.add(("data", key), f"with reconstruct the targets are the inputs: leave it out{what}")
        for key in CSV_OPTIONS:
            if source != "csv" and getattr(data, key) is not None:
                self.mistakes.add(("data", key), f"is about a csv file; with {source} leave it out")

    def _read_components(self) -> None:
        model = self._section("model")
        if model is not None:
            self.layers = parse_list(model.layers, "layer", LAYERS, self.mistakes)
            for index, layer in enumerate(self.layers or ()):
                if any(isinstance(each, Normalize) for _, each in layer.walk()):
                    self.mistakes.add(
                        (*LAYERS, index), "set data.normalize = true; that puts it before the first layer"
                    )
        self.loss = self._component("loss")
        self.optimizer = self._component("optimizer")
        self._read_schedule()
        training = self.training
        given = None if training is None else training.metrics
        self.metric_texts = default_metrics(self.loss) if given is None else given
        place = ("training", "metrics")
        self.metrics = parse_list(self.metric_texts, "metric", place, self.mistakes)
        names = [metric.name for metric in self.metrics or ()]
        for name in sorted({name for name in names if names.count(name) > 1}):
            self.mistakes.add(place, f"two results would be called {name!r}; give one another name, as in (name=...)")

    def make_layers(self) -> list[Layer]:
        """The layers, new ones every time; none where they could not be read."""
        if self.layers is None:
            return []
        return parse_list(self.given["model"]["layers"], "layer", LAYERS, Mistakes()) or []

    def _component(self, what: str) -> Any:
        section = self._section(what)
        if section is None:
            return None
        cls = find_class(section.name, classes(what), what, (what,), self.mistakes)
        arguments = dict(section.model_extra or {})
        if isinstance(arguments.get("class_weight"), Mapping):  # TOML's keys are texts
            weights = arguments["class_weight"].items()
            arguments["class_weight"] = {int(k) if k.isdecimal() else k: weight for k, weight in weights}
        if what == "optimizer" and "groups" in arguments:
            arguments["groups"] = self._groups(arguments["groups"])
        return None if cls is None else build(cls, arguments, (what,), self.mistakes)

    def _groups(self, tables: Any) -> list[Any]:
        """The optimizer's groups, of a list of tables with the arguments of Group."""
        place = ("optimizer", "groups")
        if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
            self.mistakes.must_be(place, 'a list of tables such as [{ pattern = "0.*", weight_decay = 0.0 }]', tables)
            return []
        made = [build(Group, table, (*place, index), self.mistakes) for index, table in enumerate(tables)]
        return [group for group in made if group is not None]

    def _read_schedule(self) -> None:
        section = self._section("schedule")
        if section is None:
            return
        from bpnet.recipes.schedule import read_schedule

        rate = None if self.optimizer is None else self.optimizer.learning_rate
        epochs = None if self.training is None or self.mistakes.at("training.epochs") else self.training.epochs
        self.schedule = read_schedule(section, rate, epochs, self.mistakes)

    # --- what belongs together ---

    def _check_contradictions(self) -> None:
        if None not in (self.layers, self.loss, self.metrics):
            try:
                check_pairing(Sequential(*self.make_layers()), self.loss, self.metrics or ())  # type: ignore[arg-type]
            except ConfigError as error:
                self.mistakes.add(("loss", "name"), str(error))
        training = self.training
        if self.data is not None and self.data.class_names and self.loss is not None and self.loss.targets != "labels":
            name = type(self.loss).__name__
            self.mistakes.add(("data", "class_names"), f"names classes, and {name} takes values; leave it out")
        if training is None:
            return
        self._check_precision(training)
        if training.capture == "on" and self.loss is not None and not plain_weights(self.loss):
            self.mistakes.add(
                ("training", "capture"),
                'must be "auto" or "off": with a loss that has weights of its own no step is planned',
            )
        if training.patience is not None:
            self._check_monitor(training.monitor or VALIDATION_LOSS, ("training",), training.monitor is None)
        elif training.monitor is not None and not self.mistakes.at("training.patience"):
            self.mistakes.add(("training", "monitor"), "is what early stopping watches; set training.patience too")
        if self.schedule is not None and self.schedule.is_callback:
            monitor = self.schedule.arguments.get("monitor", VALIDATION_LOSS)
            self._check_monitor(monitor, ("schedule",), "monitor" not in self.schedule.arguments)

    def _check_precision(self, training: Any) -> None:
        """Note a precision that the dtype, or all layers, leave no place for."""
        if training.precision == "float32":
            return
        place = ("training", "precision")
        if training.dtype != "float32":
            self.mistakes.add(place, f'is for dtype = "float32", and training.dtype is "{training.dtype}"')
        layers = self.make_layers() if self.layers is not None else []
        if self.layers is not None and not any(each.computes_in_bf16 for top in layers for _, each in top.walk()):
            self.mistakes.add(place, "changes nothing here: no layer multiplies in bfloat16, as Dense does")

    def _check_monitor(self, monitor: str, place: tuple[str, ...], by_default: bool) -> None:
        """Note where no epoch will have the number that is watched."""
        validated = self.data is None or self.data.validation_fraction > 0
        if monitor.startswith("val_") and not validated:
            who = {"training": "early stopping", "schedule": "ReduceOnPlateau"}[place[0]]
            blamed = {"training": "patience", "schedule": "name"}[place[0]] if by_default else "monitor"
            self.mistakes.add(
                (*place, blamed),
                f"{who} watches {monitor}, and there are no validation data: set data.validation_fraction, to 0.1 for "
                f"instance, or {place[0]}.monitor to a number of the training data, such as loss",
            )
            return
        if self.metrics is None:
            return
        names = ["loss", *(metric.name for metric in self.metrics)]
        names += [f"val_{name}" for name in names if validated]
        if monitor not in names:
            self.mistakes.add(
                (*place, "monitor"),
                f"there is no {monitor!r}; there are {', '.join(names)}{did_you_mean(monitor, names)}",
            )

    # --- a recipe without mistakes ---

    def recipe(self) -> Recipe:
        """The recipe, complete; ConfigError with every mistake where there are any."""
        self.mistakes.raise_if_any()
        assert self.loss is not None
        assert self.optimizer is not None
        settings = {key: self.given[key] for key in schema.TOP if key in self.given}
        for name in ("data", "training"):
            values = getattr(self, name).model_dump() | ({"metrics": self.metric_texts} if name == "training" else {})
            settings[name] = {key: value for key, value in values.items() if value is not None}
        for name, made in (("loss", self.loss), ("optimizer", self.optimizer)):
            settings[name] = {"name": settings[name]["name"], **defaults(type(made)), **settings[name]}
        if self.schedule is not None:
            settings["schedule"] = self.schedule.complete(settings["schedule"])
        return Recipe(self.name, settings)


VALIDATION_LOSS = "val_loss"
LAYERS = ("model", "layers")


def default_metrics(loss: Loss | None) -> list[str]:
    """The metrics where a recipe names none: what one asks of such a loss first."""
    if isinstance(loss, (BinaryCrossEntropy, BinaryFocalLoss)):
        return ["BinaryAccuracy()" if loss.wants == "logits" else "BinaryAccuracy(from_logits=False)"]
    if isinstance(loss, (MeanSquaredError, MeanAbsoluteError, Huber, LogCosh)):
        return ["RMSE()", "R2()"]
    return ["Accuracy()"] if isinstance(loss, ClassLoss) else []
