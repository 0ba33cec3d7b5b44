"""`bpnet evaluate`: a saved classifier on labelled data."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from bpnet.commands import common
from bpnet.commands.settings import EvaluateSettings, validated
from bpnet.data import load
from bpnet.data.named import FIFTH, OFFICIAL, find
from bpnet.errors import ConfigError, DataError, ShapeError
from bpnet.layers import Layer
from bpnet.metrics import Accuracy
from bpnet.optimizers import Adam
from bpnet.trainer import Trainer


def evaluate(
    model: common.ModelArgument,
    data: Annotated[str | None, typer.Option(metavar="NAME", help="Default: what the model was trained on.")] = None,
    split_seed: common.SplitSeedOption = None,
    part: Annotated[str | None, typer.Option(metavar="PART", help="test (the default) or train.")] = None,
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
    loaded = common.open_model(settings.model, settings.backend)
    name = settings.data or data_of(loaded, settings.model)
    split = split_seed_of(loaded, name, settings.split_seed)
    training, test = load(name, split_seed=split)
    samples = test if settings.part == "test" else training
    trainer = Trainer(loaded, common.classifier_loss(loaded), Adam(), metrics=[Accuracy()])
    start = time.perf_counter()
    try:
        results = trainer.evaluate(samples, batch_size=settings.batch_size)
    except (ShapeError, DataError) as error:
        raise type(error)(f"{settings.model} cannot be evaluated on {name}: {error}") from error
    seconds = time.perf_counter() - start
    print(f"{settings.model}: {loaded.n_parameters:,} parameters, {common.where(loaded.backend)}")
    print(f"{name}, {samples.split}: {len(samples)} samples")
    print(f"accuracy {results['accuracy']:.4f}, loss {results['loss']:.4f}")
    if as_json:
        common.print_json(
            {
                f"{settings.part}_accuracy": results["accuracy"],
                f"{settings.part}_loss": results["loss"],
                "data": name,
                "split": samples.split,
                "split_seed": None if find(name).split == OFFICIAL else split,
                "n_samples": len(samples),
                "backend": loaded.backend.name,
                "device": loaded.backend.describe()["device"],
                "seconds": seconds,
                "n_parameters": loaded.n_parameters,
                "model": settings.model,
                "versions": common.versions(loaded.backend),
            }
        )


def data_of(model: Layer, path: str) -> str:
    """The name of the data that `model` was trained on; ConfigError when its file does not say."""
    name = model.info.get("data")
    if not isinstance(name, str):
        raise ConfigError(
            f"{path!r} does not say what data it was trained on; `bpnet evaluate` takes --data digits, "
            "`bpnet predict` takes --input FILE"
        )
    return name


def split_seed_of(model: Layer, data: str, asked: int | None) -> int:
    """The split to take; says on standard error when it is not the one that `model` was trained on."""
    kind = find(data).split
    if kind == OFFICIAL:
        if asked is not None:
            common.note(f"{data} has an official split, which --split-seed {asked} does not change")
        return 0
    info: dict[str, Any] = model.info
    known = info.get("split_seed") if info.get("data") == data else None
    if known is None or asked in (None, known) or kind != FIFTH:
        return int(known or 0) if asked is None else asked
    common.note(
        f"the model was trained on the split with seed {known}; it has seen most test samples of the split with seed "
        f"{asked}"
    )
    return asked
