"""`bpnet train`: a recipe, from data to a saved model."""

from __future__ import annotations

import math
import os
import sys
import time
from typing import Annotated

import typer

from bpnet import recipes
from bpnet.commands import common
from bpnet.commands.settings import TrainSettings, validated
from bpnet.data import load
from bpnet.errors import NonFiniteError


def train(
    data: Annotated[str, typer.Argument(help=f"What to train on: {', '.join(recipes.available())}.")],
    backend: common.BackendOption = None,
    seed: Annotated[str | None, typer.Option(metavar="N", help="Of weights, dropout and order. Default: 0.")] = None,
    epochs: Annotated[str | None, typer.Option(metavar="N", help="Passes over the training data.")] = None,
    batch_size: common.BatchSizeOption = None,
    learning_rate: Annotated[str | None, typer.Option(metavar="X", help="Of Adam.")] = None,
    split_seed: common.SplitSeedOption = None,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="The model's file. Default: DATA.safetensors.")
    ] = None,
    as_json: common.JsonOption = False,
) -> None:
    """Train a model on a data set, test it on the part that was held out, and save it."""
    settings = validated(
        TrainSettings,
        data=data,
        backend=backend,
        seed=seed,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        split_seed=split_seed,
        out=f"{data}.safetensors" if out is None else out,
    )
    recipe = recipes.find(settings.data)
    epochs_asked = recipe.epochs if settings.epochs is None else settings.epochs
    size = settings.batch_size or recipe.batch_size
    training, test = load(recipe.data, split_seed=settings.split_seed)
    trainer = recipe.trainer(seed=settings.seed, backend=settings.backend, learning_rate=settings.learning_rate)
    model, optimizer = trainer.model, trainer.optimizer

    shape = tuple(training.x.shape[1:])
    print(f"data      {recipe.data}: {len(training)} samples to train on, {len(test)} to test on, shape {shape}")
    print(f"backend   {common.where(model.backend)}")
    print(
        f"training  {epochs_asked} epochs of {-(-len(training) // size)} steps, batch size {size}, "
        f"{type(optimizer).__name__}, learning rate {optimizer.learning_rate:g}, seed {settings.seed}"
    )
    print(f"\n{model.summary(shape)}\n", flush=True)

    start = time.perf_counter()
    try:
        history = trainer.fit(training, epochs=epochs_asked, batch_size=size)
    except NonFiniteError as error:
        raise NonFiniteError(f"{error}. No model was saved; --learning-rate sets the learning rate") from error
    seconds = time.perf_counter() - start

    model.save(
        settings.out,
        data=recipe.data,
        split_seed=settings.split_seed,
        loss=type(trainer.loss).__name__,
        epochs=len(history),
        batch_size=size,
        learning_rate=optimizer.learning_rate,
        complete=not history.interrupted,
    )
    results = trainer.evaluate(test)
    if sys.stdout.isatty() and len(history) > 1:
        print(f"loss          {curve(history['loss'])}")
    print(
        f"test accuracy {results['accuracy']:.4f}, test loss {results['loss']:.4f} "
        f"({len(test)} samples not trained on), after {seconds:.2f} s of training"
    )
    print(
        f"saved {settings.out} ({os.path.getsize(settings.out):,} bytes); see `bpnet predict {settings.out} --sample 0`"
    )
    if as_json:
        common.print_json(
            {
                "test_accuracy": results["accuracy"],
                "test_loss": results["loss"],
                "train_accuracy": history["accuracy"][-1] if len(history) else None,
                "train_loss": history["loss"][-1] if len(history) else None,
                "data": recipe.data,
                "split": test.split,
                "split_seed": settings.split_seed,
                "n_train": len(training),
                "n_test": len(test),
                "backend": model.backend.name,
                "device": model.backend.describe()["device"],
                "seed": settings.seed,
                "epochs": len(history),
                "epochs_asked": epochs_asked,
                "interrupted": history.interrupted,
                "batch_size": size,
                "learning_rate": optimizer.learning_rate,
                "seconds": seconds,
                "n_parameters": model.n_parameters,
                "model": settings.out,
                "versions": common.versions(model.backend),
            }
        )
    if history.interrupted:
        sys.stdout.flush()
        print(
            f"bpnet: interrupted after {len(history)} of {epochs_asked} epochs; "
            f"the model as it was then is whole, in {settings.out}",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def curve(values: list[float], width: int = 60) -> str:
    """At most `width` of the values, none below 0, as bars of their logarithms, then the first and the last value."""
    blocks = "▁▂▃▄▅▆▇█"
    try:
        blocks.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return f"{values[0]:.4f} ... {values[-1]:.4f}"
    width = min(width, len(values))
    shown = [math.log(max(values[i * len(values) // width], 1e-12)) for i in range(width)]
    low, high = min(shown), max(shown)
    bars = "".join(blocks[round((value - low) / ((high - low) or 1) * 7)] for value in shown)
    return f"{bars}  {values[0]:.4f} ... {values[-1]:.4f}"
