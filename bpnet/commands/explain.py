"""`bpnet explain`: the chain rule of a model, sample by sample, as text, JSON or a page."""

from __future__ import annotations

import os
from typing import Annotated, Any

import numpy as np
import typer

from bpnet import recipes
from bpnet.commands import common
from bpnet.commands.saved import Saved
from bpnet.commands.settings import ExplainSettings, validated
from bpnet.data import Dataset, load
from bpnet.errors import ConfigError, DataError
from bpnet.explain import explain as explained
from bpnet.layers import Layer
from bpnet.losses import Loss


def explain(
    model: Annotated[
        str, typer.Argument(metavar="RECIPE|MODEL", help="A recipe, whose model is then untrained, or a saved model.")
    ],
    sample: Annotated[
        list[str] | None, typer.Option(metavar="N", help="The N-th test sample; may be repeated. Default: 0.")
    ] = None,
    neuron: Annotated[
        list[str] | None, typer.Option(metavar="N", help="A neuron to show in every layer; may be repeated.")
    ] = None,
    html: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a page to step through; it needs no network.")
    ] = None,
    backend: common.BackendOption = None,
    as_json: common.JsonOption = False,
) -> None:
    """Show every value and every gradient of a model, down to single products, for test samples."""
    settings = validated(
        ExplainSettings, model=model, sample=sample or None, neuron=neuron or None, html=html, backend=backend
    )
    loaded, loss, test = _what(settings, None if backend is None else settings.backend)
    wrong = [number for number in settings.sample if number >= len(test)]
    if wrong:
        raise DataError(
            f"--sample must be in 0 ... {len(test) - 1}, the test part of {test.name}; got {', '.join(map(str, wrong))}"
        )
    rows = list(dict.fromkeys(settings.sample))
    x, y = np.asarray(test.x[rows]), np.asarray(test.y[rows])
    explanation = explained(loaded, x, loss, y, samples=range(len(rows)), neurons=settings.neuron or None)
    if html is not None:
        explanation.page(html)
        print(f"{html}: a page to step through")
    elif not as_json:
        print(explanation)
    numbered = ", ".join(f"{place} is {row}" for place, row in enumerate(rows))
    print(f"Of {test.name}, {test.split}: sample {numbered}.")
    if as_json:
        common.print_json({**explanation.json(), "data": test.name, "rows": rows})


def _what(settings: Any, asked: Any) -> tuple[Layer, Loss, Dataset]:
    """The model, its loss, and the test samples; asked : the backend that the option names, before a recipe's own."""
    if os.path.isfile(settings.model) and not settings.model.endswith(".toml"):
        saved = Saved(settings.model, settings.backend)
        if saved.recipe is not None and saved.recipe.loss is not None:
            return saved.model, saved.recipe.loss, saved.parts()[2]
        name = saved.data_name()
        return saved.model, saved.classifier_loss(), load(name, split_seed=saved.split_seed(name, None))[1]
    try:
        is_file = settings.model.endswith(".toml")
        recipe = recipes.read(settings.model) if is_file else recipes.find(settings.model)
    except ConfigError as error:
        if settings.model.endswith(".safetensors"):
            raise ConfigError(f"there is no file {settings.model!r}; `bpnet train` writes one") from error
        raise
    run = recipe.prepare(backend=asked)
    return run.model, run.trainer.loss, run.test
