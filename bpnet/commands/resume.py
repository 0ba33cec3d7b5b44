"""`bpnet train --checkpoint-every` and `--resume`: what a checkpoint says of the command that writes it."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from typing import Any

from bpnet import recipes
from bpnet.checkpoint import Checkpoint, newest, steps
from bpnet.commands.common import note
from bpnet.commands.settings import TrainSettings, collected, every
from bpnet.errors import ConfigError
from bpnet.recipes.mistakes import raise_all
from bpnet.recipes.run import Run, examine
from bpnet.snapshot import Snapshot

MODEL = "model.safetensors"  # of the finished training, in the folder of its checkpoints
# What a training that is resumed has of its own.
FIXED = (
    "batch_size",
    "learning_rate",
    "seed",
    "split_seed",
    "validation_fraction",
    "patience",
    "out",
    "checkpoint_every",
    "check_gradients",
    "precision",
    "matmul_precision",
)


@contextlib.contextmanager
def notes() -> Iterator[None]:
    """Within it warnings are notes on standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", RuntimeWarning)
        show = warnings.showwarning

        def shown(message: Any, category: Any, *where: Any) -> None:
            if issubclass(category, RuntimeWarning):
                note(str(message))
            else:
                show(message, category, *where)

        warnings.showwarning = shown  # type: ignore[assignment]
        yield


def checkpoint(run: Run, settings: TrainSettings) -> Checkpoint | None:
    """The Checkpoint that the options ask for."""
    if settings.checkpoint_every is None:
        return None
    number, unit = every(settings.checkpoint_every)
    info = {
        "recipe": run.recipe.settings,
        "recipe_name": run.recipe.name,
        "checkpoint_every": settings.checkpoint_every,
        "log": None if settings.log is None else os.path.abspath(settings.log),
        "tensorboard": None if settings.tensorboard is None else os.path.abspath(settings.tensorboard),
    }
    in_epochs = unit == "epochs"
    return Checkpoint(
        str(settings.folder),
        every_epochs=number if in_epochs else None,
        every_steps=None if in_epochs else number,
        info=info,
    )


def prepared(folder: str, recipe: str | None, **given: Any) -> tuple[Run, TrainSettings, Snapshot]:
    """What goes on in a folder of checkpoints, the options, and where it stands.

    given : the options, None where not given
    Raises ConfigError with every mistake; CheckpointError where no checkpoint is whole.
    """
    lines = [] if recipe is None else [f"RECIPE and --resume: the checkpoint has its recipe; leave {recipe!r} out"]
    lines += [
        f"--{option.replace('_', '-')} cannot be changed in the middle of a training; leave it out"
        for option in FIXED
        if given.get(option) is not None
    ]
    if not steps(folder):
        missing = "has no checkpoint" if os.path.isdir(folder) else "is not there"
        lines.append(f"--resume: the folder {folder!r} {missing}; `bpnet train RECIPE --checkpoint-every 1` writes one")
    raise_all(lines)
    with notes():
        snapshot = newest(folder)
    info = snapshot.position.info
    tables, name = info.get("recipe"), info.get("recipe_name")
    if not isinstance(tables, dict) or not isinstance(name, str):
        raise ConfigError(
            f"--resume: the checkpoints in {folder!r} were not written by `bpnet train`; go on in Python, with "
            "trainer.fit(..., resume=...)"
        )
    overrides = {"training.backend": given["backend"]} if given["backend"] is not None else {}
    settings, lines = collected(
        TrainSettings,
        epochs=given["epochs"],
        capture=given["capture"],
        plot=given["plot"],
        log=given["log"] or info.get("log"),
        tensorboard=given["tensorboard"] or info.get("tensorboard"),
        checkpoint_every=info.get("checkpoint_every"),
        folder=folder,
        out=os.path.join(folder, MODEL),
    )
    if settings.epochs is not None:
        overrides["training.epochs"] = settings.epochs
    if settings.capture is not None:
        overrides["training.capture"] = settings.capture
    draft = recipes.make_draft(recipes.with_overrides(tables, overrides), name=name)
    parts = examine(draft)
    raise_all([*lines, *draft.mistakes.lines], where=snapshot.path if draft.mistakes.lines else "")
    return Run(draft, parts), settings, snapshot


def announce(snapshot: Snapshot, run: Run) -> None:
    """Say where it goes on."""
    position = snapshot.position
    print(f"resumed   after {len(position.rows)} epochs and {position.done} steps, from {snapshot.path}\n", flush=True)
