"""`bpnet evaluate`: a saved model on the data of its recipe."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from bpnet.commands import common
from bpnet.commands.saved import Saved
from bpnet.commands.settings import EvaluateSettings, validated
from bpnet.data import Dataset, available, load
from bpnet.data.named import OFFICIAL, find
from bpnet.errors import ConfigError, DataError, ShapeError
from bpnet.losses import Loss
from bpnet.metrics import Accuracy, Metric
from bpnet.optimizers import Adam
from bpnet.trainer import Trainer


def evaluate(
    model: common.ModelArgument,
    data: Annotated[str | None, typer.Option(metavar="NAME", help="Default: what the model was trained on.")] = None,
    split_seed: common.SplitSeedOption = None,
    part: Annotated[str | None, typer.Option(metavar="PART", help="test (the default), train or validation.")] = None,
    backend: common.BackendOption = None,
    batch_size: common.BatchSizeOption = None,
    as_json: common.JsonOption = False,
) -> None:
    """Measure a saved model on the part of its data that was held out."""
    settings = validated(
        EvaluateSettings,
        model=model,
        data=data,
        split_seed=split_seed,
        part=part,
        backend=backend,
        batch_size=batch_size,
    )
    saved = Saved(settings.model, settings.backend)
    loaded = saved.model
    name, samples, loss, metrics = _what_to_measure(saved, settings)
    trainer = Trainer(loaded, loss, Adam(), metrics=metrics)
    start = time.perf_counter()
    try:
        results = trainer.evaluate(samples, batch_size=settings.batch_size)
    except (ShapeError, DataError) as error:
        raise type(error)(f"{settings.model} cannot be evaluated on {name}: {error}") from error
    seconds = time.perf_counter() - start
    print(f"{settings.model}: {loaded.n_parameters:,} parameters, {common.where(loaded.backend)}")
    print(f"{name}, {samples.split}: {len(samples)} samples")
    print(common.as_results(results))
    common.print_matrices(results)
    if as_json:
        official = name in available() and find(name).split == OFFICIAL
        common.print_json(
            {
                **{f"{settings.part}_{key}": value for key, value in results.items()},
                "data": name,
                "split": samples.split,
                "split_seed": None if official else _seed_of(saved, name, settings.split_seed),
                "n_samples": len(samples),
                "backend": loaded.backend.name,
                "device": loaded.backend.describe()["device"],
                "seconds": seconds,
                "n_parameters": loaded.n_parameters,
                "model": settings.model,
                "versions": common.versions(loaded.backend),
            }
        )


def _what_to_measure(saved: Saved, settings: EvaluateSettings) -> tuple[str, Dataset, Loss, list[Metric]]:
    """The data's name, the samples, the loss, the metrics: of the recipe, or what an older file and --data say."""
    recipe = saved.recipe
    if recipe is not None and settings.data in (None, recipe.data.name):
        training, validation, test = saved.parts(settings.split_seed)
        part = {"test": test, "train": training, "validation": validation}[settings.part]
        if part is None:
            raise ConfigError(f"the recipe in {settings.model!r} has no validation part; take --part test or train")
        assert recipe.loss is not None
        return saved.data_name(), part, recipe.loss, list(recipe.metrics or ())
    if settings.part == "validation":
        raise ConfigError("--part validation needs a model whose file has a recipe; take test or train")
    loss = saved.classifier_loss()
    name = settings.data or saved.data_name()
    training, test = load(name, split_seed=saved.split_seed(name, settings.split_seed))
    metrics = [Accuracy()] if recipe is None else list(recipe.metrics or ())
    return name, test if settings.part == "test" else training, loss, metrics


def _seed_of(saved: Saved, data: str, asked: int | None) -> int:
    known = saved.info.get("split_seed") if saved.info.get("data") == data else None
    return int(known or 0) if asked is None else asked
