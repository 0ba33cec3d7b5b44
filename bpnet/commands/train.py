"""`bpnet train`: a recipe, from data to a saved model."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from bpnet import recipes
from bpnet.abilities import computes_bf16
from bpnet.callbacks import Callback, CSVLogger, JSONLogger, TensorBoard
from bpnet.checkpoint import steps as checkpoints_in
from bpnet.commands import common
from bpnet.commands import resume as resuming
from bpnet.commands.settings import TrainSettings, backend_mistake, collected
from bpnet.errors import BpnetError, ConfigError, NonFiniteError
from bpnet.history import History
from bpnet.recipes.mistakes import raise_all
from bpnet.recipes.run import Run, examine

# The keys that options set.
KEYS = {
    "backend": "training.backend",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "learning_rate": "optimizer.learning_rate",
    "seed": "training.seed",
    "patience": "training.patience",
    "split_seed": "data.split_seed",
    "validation_fraction": "data.validation_fraction",
    "check_gradients": "training.check_gradients",
    "precision": "training.precision",
    "matmul_precision": "training.matmul_precision",
    "capture": "training.capture",
}


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE", help=f"A recipe of bpnet's ({', '.join(recipes.available())}), or a file: mine.toml."
        ),
    ] = None,
    backend: common.BackendOption = None,
    seed: Annotated[str | None, typer.Option(metavar="N", help="Of weights, dropout and order.")] = None,
    epochs: Annotated[str | None, typer.Option(metavar="N", help="Passes over the training data.")] = None,
    batch_size: common.BatchSizeOption = None,
    learning_rate: Annotated[str | None, typer.Option(metavar="X", help="Of the optimizer.")] = None,
    split_seed: common.SplitSeedOption = None,
    validation_fraction: Annotated[
        str | None, typer.Option(metavar="X", help="The part of the training data to validate with after every epoch.")
    ] = None,
    patience: Annotated[
        str | None, typer.Option(metavar="N", help="Stop when N epochs in a row have brought nothing better.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="The model's file; with --checkpoint-every a folder. Default: RECIPE.safetensors, or RECIPE.",
        ),
    ] = None,
    plot: Annotated[
        str | None, typer.Option(metavar="FILE", help="Draw the course of the training: .png, .svg or .pdf.")
    ] = None,
    log: Annotated[str | None, typer.Option(metavar="FILE", help="A line an epoch: .csv or .jsonl.")] = None,
    tensorboard: Annotated[str | None, typer.Option(metavar="FOLDER", help="Event files for TensorBoard.")] = None,
    checkpoint_every: Annotated[
        str | None,
        typer.Option(metavar="N", help="Write down all of the training after N epochs, or as in 500steps."),
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Go on from the checkpoints in it; no recipe is named then.")
    ] = None,
    check_gradients: Annotated[
        bool,
        typer.Option("--check-gradients", help="Stop at gradients that are not finite too, and not at the loss alone."),
    ] = False,
    precision: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="bf16: products of copies in bfloat16, updates in float32. Or float32."),
    ] = None,
    matmul_precision: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of float32 products on a GPU: float32, tf32 or bf16.")
    ] = None,
    capture: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Whether steps become CUDA graphs: auto, on or off.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Check the recipe and its data, and train nothing.")] = False,
    as_json: common.JsonOption = False,
) -> None:
    """Train by a recipe, test on what was held out, save the model."""
    given = {
        "backend": backend,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "split_seed": split_seed,
        "validation_fraction": validation_fraction,
        "patience": patience,
        "out": out,
        "plot": plot,
        "log": log,
        "tensorboard": tensorboard,
        "checkpoint_every": checkpoint_every,
        "check_gradients": check_gradients or None,
        "precision": precision,
        "matmul_precision": matmul_precision,
        "capture": capture,
    }
    found = None
    if resume is not None:
        run, settings, found = resuming.prepared(resume, recipe, **given)
    elif recipe is not None:
        run, settings = _prepared(recipe, **given)
    else:
        raise ConfigError("name a recipe, as in `bpnet train digits`, or go on with --resume FOLDER")
    _announce(run)
    if found is not None:
        resuming.announce(found, run)
    if check:
        print(f"{recipe or run.recipe.name} can be trained; nothing was trained, since --check was given")
        if as_json:
            common.print_json(_what(run) | {"checked": True})
        return
    replaced = os.path.exists(settings.out or "")
    start = time.perf_counter()
    try:
        with resuming.notes():
            history = run.fit(
                callbacks=_loggers(settings),
                checkpoint=resuming.checkpoint(run, settings),
                resume=None if found is None else found.path,
            )
    except NonFiniteError as error:
        raise NonFiniteError(
            f"{error}{_bundled(error, run, settings)}. No model was saved; --learning-rate sets the learning rate"
        ) from error
    seconds = time.perf_counter() - start
    _save(run, history, str(settings.out))
    results = run.trainer.evaluate(run.test)
    _report(run, history, results, seconds)
    _say_saved(settings, run, history, replaced)
    if as_json:
        common.print_json(_summary(run, history, results, seconds, settings))
    if history.interrupted:
        sys.stdout.flush()
        print(
            f"bpnet: interrupted after {len(history)} of {run.recipe['training.epochs']} epochs; "
            f"the model as it was then is whole, in {settings.out}"
            f"{'' if settings.folder is None else f'; `bpnet train --resume {settings.folder}` goes on'}",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def _bundled(error: NonFiniteError, run: Run, settings: TrainSettings) -> str:
    """Write the step that failed beside the model's file, unless it is beside the checkpoints; say where."""
    if error.bundle is None or error.bundle_path is not None:
        return ""
    path = f"{os.path.splitext(str(settings.out))[0]}.bundle.safetensors"
    try:
        error.save_bundle(path, recipe=run.recipe.settings, recipe_name=run.recipe.name)
    except BpnetError as reason:
        return f". No bundle was written: {reason}"
    return f". That step is in {path!r}: `bpnet explain --bundle {path}`"


def _prepared(recipe: str, **given: Any) -> tuple[Run, TrainSettings]:
    """What is to be trained, and the options; ConfigError with every mistake in options, recipe and data."""
    labels = {key: f"--{option.replace('_', '-')}" for option, key in KEYS.items() if given[option] is not None}
    backend = given.pop("backend")
    try:
        name, tables, folder, file = recipes.open_recipe(recipe)
    except ConfigError as error:
        _, lines = collected(TrainSettings, recipe=recipe, **given)
        raise_all([*backend_mistake(backend), *lines])
        raise error
    out = given["out"]
    if given["checkpoint_every"] is None:
        given["out"] = f"{name}.safetensors" if out is None else out
    else:
        given |= {"out": None, "folder": name if out is None else out}
    settings, lines = collected(TrainSettings, recipe=recipe, **given)
    target = settings.folder
    if target is not None:
        settings = settings.model_copy(update={"out": os.path.join(target, resuming.MODEL)})
        if checkpoints_in(target):
            lines.append(
                f"--out: the folder {target!r} has checkpoints already; go on with `bpnet train --resume {target}`, or "
                "name another one"
            )
    overrides = {key: value for option, key in KEYS.items() if (value := getattr(settings, option, None)) is not None}
    if backend is not None:
        overrides[KEYS["backend"]] = backend
    draft = recipes.make_draft(recipes.with_overrides(tables, overrides), name=name, folder=folder, labels=labels)
    read = {"the recipe": file, "its data": "" if draft.data is None else draft.data.csv or draft.data.npz}
    lines += _same_files(settings, {what: path for what, path in read.items() if path})
    parts = examine(draft)
    raise_all([*lines, *draft.mistakes.lines], where=file if draft.mistakes.lines else "")
    return Run(draft, parts), settings


_OPTION = {"folder": "out"}  # settings that have another name than their option


def _same_files(settings: TrainSettings, read: Mapping[str, str]) -> list[str]:
    """A line for every two options that name one file, and for each that names a file which is read.

    read : what is read, for messages, and its path
    """
    named = [(option, getattr(settings, option, None)) for option in ("out", "folder", "plot", "log", "tensorboard")]
    places = [
        (f"--{_OPTION.get(option, option)}", os.path.realpath(path)) for option, path in named if path is not None
    ]
    clashes = [
        f"{first} and {second} name the same file, {path!r}"
        for index, (second, path) in enumerate(places)
        for first, other in places[:index]
        if path == other
    ]
    sources = {os.path.realpath(path): what for what, path in read.items()}
    return clashes + [
        f"{option} names the file of {sources[path]}, {path!r}, which it would replace; name another one"
        for option, path in places
        if path in sources
    ]


def _announce(run: Run) -> None:
    """Say what will be done, with what, where."""
    settings = run.recipe.settings
    shape = tuple(run.training.x.shape[1:])
    validation = "" if run.validation is None else f", {len(run.validation)} to validate with"
    optimizer = run.trainer.optimizer
    schedule = f", schedule {settings['schedule']['name']}" if "schedule" in settings else ""
    print(
        f"data      {run.training.name}: {len(run.training)} samples to train on{validation}, {len(run.test)} to test "
        f"on, shape {shape}"
    )
    print(f"backend   {common.where(run.model.backend)}")
    print(
        f"training  {settings['training']['epochs']} epochs of {run.steps_per_epoch} steps, batch size "
        f"{settings['training']['batch_size']}, {type(optimizer).__name__}, learning rate "
        f"{settings['optimizer']['learning_rate']:g}{schedule}, seed {settings['training']['seed']}{_precision(run)}"
    )
    print(f"\n{run.model.summary(shape)}\n", flush=True)


def _precision(run: Run) -> str:
    """In which precision products are, and by whom, where that is not float32."""
    trainer = run.trainer
    if trainer.precision == "float32":
        return ""
    return f", precision {trainer.precision}{'' if computes_bf16(run.model.backend) else ', emulated'}"


def _loggers(settings: TrainSettings) -> list[Callback]:
    """The callbacks that options ask for."""
    found: list[Callback] = []
    if settings.log is not None:
        found.append((JSONLogger if settings.log.lower().endswith(".jsonl") else CSVLogger)(settings.log))
    if settings.tensorboard is not None:
        found.append(TensorBoard(settings.tensorboard))
    return found


def _save(run: Run, history: History, path: str) -> None:
    """Write the model, with averaged parameters where the optimizer keeps such: they are what is evaluated."""
    settings = run.recipe.settings
    with run.trainer.averaged():
        run.model.save(
            path,
            data=run.training.name,
            split_seed=settings["data"]["split_seed"],
            classes=list(run.training.classes),
            loss=type(run.trainer.loss).__name__,
            epochs=len(history),
            batch_size=settings["training"]["batch_size"],
            learning_rate=settings["optimizer"]["learning_rate"],
            complete=not history.interrupted,
            recipe_name=run.recipe.name,
            recipe=settings,
        )


def _report(run: Run, history: History, results: dict[str, Any], seconds: float) -> None:
    """Print how the training went and what the test part says."""
    if sys.stdout.isatty() and len(history) > 1 and min(history["loss"]) >= 0:
        print(f"loss          {curve(history['loss'])}")
    if history.stopped:
        print(f"stopped after {len(history)} epochs: {history.stopped}")
    each = f" ({mean_seconds(history):.3g} s an epoch)" if len(history) else ""
    print(
        f"{common.as_results(results, 'test ')} ({len(run.test)} samples not trained on), after {seconds:.2f} s of "
        f"training{each}"
    )
    common.print_matrices(results)


def _say_saved(settings: TrainSettings, run: Run, history: History, replaced: bool) -> None:
    """Name the files that were written; draw the picture."""
    out = settings.out or ""
    hint = f"see `bpnet generate {out}`" if "vocabulary" in run.model.info else f"see `bpnet predict {out} --sample 0`"
    print(f"{'replaced' if replaced else 'saved'} {out} ({os.path.getsize(out):,} bytes); {hint}")
    if settings.plot is not None and len(history):
        history.plot(settings.plot)
        print(f"drew {settings.plot}")
    elif settings.plot is not None:
        common.note(f"no epoch is complete, so there is nothing to draw into {settings.plot}")
    for path in (settings.log, settings.tensorboard):
        if path is not None and len(history):
            print(f"logged to {path}")


def mean_seconds(history: History) -> float:
    """The mean duration of an epoch."""
    return float(sum(history["seconds"]) / len(history))


def _summary(
    run: Run, history: History, results: dict[str, Any], seconds: float, settings: TrainSettings
) -> dict[str, Any]:
    """The line of JSON."""
    last = history.rows[-1] if len(history) else {}
    names = list(results)
    return {
        **{f"test_{name}": results[name] for name in names},
        **{f"train_{name}": last.get(name) for name in names},
        **{f"val_{name}": last.get(f"val_{name}") for name in names if run.validation is not None},
        **_what(run),
        "epochs": len(history),
        "interrupted": history.interrupted,
        "stopped": history.stopped,
        "seconds": seconds,
        "seconds_per_epoch": mean_seconds(history) if len(history) else None,
        "model": settings.out,
        "plot": settings.plot,
        "log": settings.log,
        "tensorboard": settings.tensorboard,
    }


def _what(run: Run) -> dict[str, Any]:
    """What is trained, on what data, how and where: the part of the line of JSON that is known before."""
    tables = run.recipe.settings
    return {
        "recipe": run.recipe.name,
        "data": run.training.name,
        "split": run.test.split,
        "split_seed": tables["data"]["split_seed"],
        "n_train": len(run.training),
        "n_validation": 0 if run.validation is None else len(run.validation),
        "n_test": len(run.test),
        "backend": run.model.backend.name,
        "device": run.model.backend.describe()["device"],
        "seed": tables["training"]["seed"],
        "epochs_asked": tables["training"]["epochs"],
        "batch_size": tables["training"]["batch_size"],
        "learning_rate": tables["optimizer"]["learning_rate"],
        "precision": run.trainer.precision,
        "n_parameters": run.model.n_parameters,
        "versions": common.versions(run.model.backend),
    }


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
