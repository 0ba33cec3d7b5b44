"""`bpnet memory`: what training by a recipe, or training a saved model, takes of memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bpnet import recipes
from bpnet.commands import common
from bpnet.commands.saved import Saved
from bpnet.commands.settings import MemorySettings, no_model, validated
from bpnet.errors import ConfigError
from bpnet.layers import Layer
from bpnet.recipes.run import examine, fitted_model

if TYPE_CHECKING:
    from bpnet.recipes.recipe import Draft

ENDING = ".safetensors"
BATCH_SIZE = 32  # the Trainer's


def memory(
    subject: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe of bpnet, a .toml file, or a saved model (.safetensors).")
    ],
    batch_size: common.BatchSizeOption = None,
    input_shape: Annotated[
        str | None, typer.Option(metavar="N,...", help="Of one sample, as 28,28,1, where a saved model does not say.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="BYTES", help='Find the largest batch in it, such as "2 GiB".')
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Of the explicit loop, not of a Trainer's fit.")] = False,
    as_json: common.JsonOption = False,
) -> None:
    """Say what training takes of memory, without training. It is said by layer, and at its peak."""
    settings = validated(MemorySettings, subject=subject, batch_size=batch_size, input_shape=input_shape, budget=budget)
    model, keywords = _subject(settings)
    report = model.memory(budget=settings.budget, planned=not loop, **keywords)
    print(report)
    if as_json:
        common.print_json(report.as_dict())


def _subject(settings: MemorySettings) -> tuple[Layer, dict[str, Any]]:
    """The model, and what else its file or recipe says of its training."""
    name = settings.subject
    if not name.endswith(ENDING) and not (os.path.isfile(name) and not name.endswith(recipes.ENDING)):
        title, tables, folder, file = recipes.open_recipe(name)
        draft: Draft = recipes.make_draft(tables, name=title, folder=folder)
        parts = examine(draft)
        draft.mistakes.raise_if_any(where=file)
        assert parts is not None
        return fitted_model(draft, parts[0]), {
            "batch_size": settings.batch_size or draft.training.batch_size,
            "input_shape": settings.input_shape or tuple(parts[0].x.shape[1:]),
            "loss": draft.loss,
            "optimizer": draft.optimizer,
            "dtype": draft.training.dtype,
            "precision": draft.training.precision,
        }
    if not os.path.isfile(name):
        raise ConfigError(f"RECIPE: {no_model(name)}")
    saved = Saved(name, None)
    found: dict[str, Any] = {"batch_size": settings.batch_size or BATCH_SIZE, "loss": saved.loss}
    shape = settings.input_shape
    if saved.recipe is not None:
        found["optimizer"] = saved.recipe.optimizer
        found["batch_size"] = settings.batch_size or saved.recipe.training.batch_size
        found["precision"] = saved.recipe.training.precision
        shape = shape or tuple(saved.parts()[0].x.shape[1:])
    return saved.model, found | {"input_shape": shape}
