"""A recipe with its data: the settings held to them, and the training itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from bpnet.abilities import check_abilities, check_precision
from bpnet.backend import Backend, get_backend
from bpnet.callbacks import Callback, EarlyStopping
from bpnet.checkpoint import Checkpoint
from bpnet.data import Dataset
from bpnet.door import Door
from bpnet.errors import BackendError, BpnetError, ConfigError, StateError
from bpnet.history import History
from bpnet.layers import Layer, Normalize, Sequential
from bpnet.losses import Loss
from bpnet.optimizers import Optimizer
from bpnet.recipes.recipe import VALIDATION_LOSS, Draft, Recipe
from bpnet.recipes.sources import Parts, load_parts
from bpnet.trainer import Trainer


class Run:
    """A recipe that is ready to be trained: data, model and Trainer, made anew for every Run.

    recipe                     : complete
    training, validation, test : Datasets; validation is None where no part is held out for it
    trainer                    : of a fresh model
    `Recipe.prepare` makes one; draft and parts are what was read, and what `examine` returned for it.
    Raises ConfigError that names every mistake of the settings, alone and with the data.
    """

    def __init__(self, draft: Draft, parts: Parts | None, backend: str | Backend | None = None) -> None:
        self.recipe: Recipe = draft.recipe()
        assert parts is not None
        self.training, self.validation, self.test = parts
        settings = draft.training
        model = fitted_model(draft, self.training)
        model.initialize(settings.seed, settings.backend if backend is None else backend, settings.dtype)
        classes = self.training.classes
        if model.input_ids == len(classes) and all(len(each) == 1 for each in classes):
            model.info["vocabulary"] = "".join(classes)
        loss, optimizer, plan = draft.loss, draft.optimizer, draft.schedule
        assert isinstance(loss, Loss)
        assert isinstance(optimizer, Optimizer)
        self.callbacks: list[Callback] = []
        if plan is not None and plan.is_callback:
            self.callbacks.append(plan.make(optimizer.learning_rate, 1))
        elif plan is not None:
            optimizer.learning_rate = plan.make(optimizer.learning_rate, self.steps_per_epoch)
        if settings.patience is not None:
            monitor = settings.monitor or VALIDATION_LOSS
            self.callbacks.append(EarlyStopping(monitor, patience=settings.patience))
        self.trainer = Trainer(
            model,
            loss,
            optimizer,
            metrics=draft.metrics or (),
            seed=settings.seed,
            check_gradients=settings.check_gradients,
            precision=settings.precision,
            matmul_precision=settings.matmul_precision,
            capture=settings.capture,
        )

    @property
    def model(self) -> Layer:
        """The Trainer's model."""
        return self.trainer.model

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches of the training part."""
        return -(-len(self.training) // int(self.recipe["training.batch_size"]))

    def fit(
        self,
        *,
        progress: bool = True,
        callbacks: Sequence[Callback] = (),
        checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
        resume: str | os.PathLike[str] | bool | None = None,
    ) -> History:
        """Train as the recipe says, with `callbacks` beside its own, and return the History.

        checkpoint, resume : see `Trainer.fit`
        """
        settings = self.recipe.settings["training"]
        return self.trainer.fit(
            self.training,
            validation_data=self.validation,
            epochs=settings["epochs"],
            batch_size=settings["batch_size"],
            micro_batch_size=settings.get("micro_batch_size"),
            progress=progress,
            callbacks=[*self.callbacks, *callbacks],
            checkpoint=checkpoint,
            resume=resume,
        )


def make_model(draft: Draft, training: Dataset) -> Sequential:
    """The recipe's layers, a Normalize of every feature before them where that is asked; it is not fitted yet."""
    before = [Normalize(tuple(training.x.shape[1:]))] if draft.data.normalize else []
    return Sequential(*before, *draft.make_layers())


def fitted_model(draft: Draft, training: Dataset) -> Sequential:
    """The recipe's layers, each Normalize fitted to the training part; not initialized yet."""
    model = make_model(draft, training)
    for layer in model.layers:
        if isinstance(layer, Normalize):
            layer.fit(training.x)
    return model


def examine(draft: Draft, backend: str | Backend | None = None) -> Parts | None:
    """Load a draft's data and hold its settings to them and to the backend; what is wrong is added to its mistakes.

    Returns the three parts, or None where they could not be loaded.
    """
    if backend is None and draft.training is not None:
        backend = draft.training.backend
    try:
        _check_abilities(draft, get_backend(backend))
    except BackendError as error:
        draft.mistakes.add(("training", "backend") if backend is not None else (), str(error))
    if draft.data is None or (draft.loss is None and draft.data.name is None):  # it says how to read a file's targets
        return None
    parts = load_parts(draft.data, draft.loss, draft.mistakes)
    if parts is None:
        return None
    training = parts[0]
    n_classes = len(training.classes) if training.y.dtype.kind in "iu" else 0
    fits = draft.loss is not None and _check_loss(draft, draft.loss, training, n_classes)
    if draft.schedule is not None and draft.optimizer is not None and draft.training is not None:
        try:
            draft.schedule.make(draft.optimizer.learning_rate, -(-len(training) // draft.training.batch_size))
        except ConfigError as error:
            draft.mistakes.add(("schedule",), str(error))
    model = _check_model(draft, training, n_classes, fits) if draft.layers is not None else None
    if model is not None and not draft.mistakes:
        _check_at_the_door(draft, model, parts)
    return parts


def _check_abilities(draft: Draft, backend: Backend) -> None:
    """Note what the backend cannot do of what is asked for."""
    settings = draft.training
    if settings is None:
        return
    for key, check in (
        ("capture", lambda: check_abilities(backend, settings.capture, "float32")),
        ("matmul_precision", lambda: check_abilities(backend, "auto", settings.matmul_precision)),
        ("precision", lambda: check_precision(settings.precision, backend)),
    ):
        try:
            check()
        except ConfigError as error:
            draft.mistakes.add(("training", key), str(error).removeprefix("Trainer: "))


def _check_loss(draft: Draft, loss: Loss, training: Dataset, n_classes: int) -> bool:
    """Note weights for another number of classes, and a loss for values on labels or the reverse; then False."""
    name, data, place = type(loss).__name__, training.name, ("loss", "name")
    weights = getattr(loss, "class_weight", None)
    if n_classes and weights is not None:
        found = 1 + max(weights, default=-1) if isinstance(weights, dict) else len(weights)
        if found > n_classes or (found < n_classes and not isinstance(weights, dict)):
            what = f"names class {found - 1}" if isinstance(weights, dict) else f"has {found} weights"
            draft.mistakes.add(("loss", "class_weight"), f"{what}, and {data} has {n_classes} classes")
    rows = training.y.ndim > 1 and training.y.shape[-1] > 1  # one-hot or soft labels may stand in such
    rows = rows and not draft.data.reconstruct
    if n_classes and loss.targets != "labels":
        classes = f"labels of {n_classes} classes"
        draft.mistakes.add(place, f"{name} takes values, and {data} has {classes}; take SoftmaxCrossEntropy")
    elif not n_classes and loss.targets == "labels" and not rows:
        draft.mistakes.add(place, f"{name} takes labels, and {data} has {_values_of(draft, training.y)}")
    else:
        return True
    return False


def _values_of(draft: Draft, y: Any) -> str:
    """Targets that are no labels, and what to do about them."""
    if y.dtype.kind == "b":
        return "truth values; write them as the integers 0 and 1"
    if draft.data.name is None and y.dtype.kind == "f" and np.all((y >= 0) & (y == np.floor(y))):
        return "whole numbers that are written with a point; write labels as integers, or take MeanSquaredError"
    return "values; take MeanSquaredError"


def _check_at_the_door(draft: Draft, model: Sequential, parts: Parts) -> None:
    """Note what the Trainer would refuse: metrics that cannot take the outputs, and bad values in the data."""
    loss, metrics = draft.loss, draft.metrics or []
    assert loss is not None
    if loss.reduction == "none":
        draft.mistakes.add(("loss", "reduction"), 'must be "mean" or "sum": there must be one number to train on')
        return
    door = Door(model, loss, ())
    first = parts[0]
    for index, metric in enumerate(metrics):
        try:
            metric.measure(model(door.x(first.x[:1, ...])), door.y(first.y[:1, ...]))
        except BpnetError as error:
            draft.mistakes.add(("training", "metrics", index), str(error))
    for part, name in zip(parts, ("training", "validation", "test"), strict=True):
        try:
            if part is not None:
                door.check(part, ("x", "y", "sample_weight"))
        except BpnetError as error:
            draft.mistakes.add(("data",), f"the {name} part: {error}")
            return


def _check_model(draft: Draft, training: Dataset, n_classes: int, whole: bool) -> Sequential | None:
    """Note the first layer that cannot take its input or, where `whole`, outputs that do not fit the targets.

    Returns a model for trials where it could be made.
    """
    model = make_model(draft, training).initialize(0, "numpy")
    for layer in model.layers:
        if isinstance(layer, Normalize):
            layer.set(np.zeros(layer.mean.shape), np.ones(layer.mean.shape))
    first = int(draft.data.normalize)
    shape = tuple(training.x.shape[1:])
    for index, layer in enumerate(model.layers[first:]):
        before = shape
        try:
            shape = tuple(layer.output_shape(shape))
        except (BpnetError, TypeError, ValueError, IndexError) as error:
            whose = f"a sample of {training.name}" if not index else "the layer before"
            draft.mistakes.add(("model", "layers", index), f"{error} ({whose} gives {before})")
            return None
    if draft.optimizer is not None:
        try:
            draft.optimizer.check(model)
        except ConfigError as error:
            draft.mistakes.add(("optimizer", "groups"), str(error))
        except StateError as error:
            draft.mistakes.add(("model", "layers"), str(error))
    last = ("model", "layers", len(model) - first - 1)
    wanted = tuple(training.y.shape[1:]) + ((n_classes,) if n_classes else ())
    if not whole or shape == wanted:
        return model
    needs = f"{training.name} has {n_classes} classes" if n_classes else f"the targets of {training.name} have {wanted}"
    draft.mistakes.add(last, f"the model's outputs must have shape {wanted}, since {needs}; they have {shape}")
    return model
