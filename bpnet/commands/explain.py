"""`bpnet explain`: the chain rule of a model, sample by sample, as text, JSON or a page."""

from __future__ import annotations

import os
from typing import Annotated, Any

import numpy as np
import typer

from bpnet import recipes
from bpnet.bundle import load_bundle
from bpnet.commands import common
from bpnet.commands.saved import Saved
from bpnet.commands.settings import ExplainSettings, collected
from bpnet.data import Dataset, load
from bpnet.errors import ConfigError, DataError
from bpnet.explain import Explanation
from bpnet.explain import explain as explained
from bpnet.layers import Layer
from bpnet.losses import Loss
from bpnet.recipes.mistakes import raise_all


def explain(
    model: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE|MODEL", help="A recipe, whose model is then untrained, or a saved model."),
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="In its place: the step at which a training stopped, as `bpnet train` wrote it."
        ),
    ] = None,
    sample: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N",
            help="The N-th test sample; may be repeated. Default: 0. Of a bundle, the N-th of the training data; "
            "default: the one that failed.",
        ),
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
    """Show every value and gradient of a model, or of a failed step. It goes down to single products."""
    settings, lines = collected(
        ExplainSettings,
        model=model,
        bundle=bundle,
        sample=sample or None,
        neuron=neuron or None,
        html=html,
        backend=backend,
    )
    if model is not None and bundle is not None:
        lines.append(f"RECIPE|MODEL and --bundle: the bundle has its model; leave {model!r} out")
    if model is None and bundle is None:
        lines.append("name a recipe or a model, as in `bpnet explain digits`, or a failed step with --bundle FILE")
    if bundle is not None and backend is not None:
        lines.append("--backend: a bundle is run on NumPy; leave it out")
    raise_all(lines)
    if bundle is not None:
        _explain_bundle(settings, as_json)
        return
    settings = settings.model_copy(update={"sample": settings.sample or [0]})
    loaded, loss, test = _what(settings, None if backend is None else settings.backend)
    wrong = [number for number in settings.sample if number >= len(test)]
    if wrong:
        raise DataError(
            f"--sample must be in 0 ... {len(test) - 1}, the test part of {test.name}; got {', '.join(map(str, wrong))}"
        )
    rows = list(dict.fromkeys(settings.sample))
    x, y = np.asarray(test.x[rows]), np.asarray(test.y[rows])
    explanation = explained(loaded, x, loss, y, samples=range(len(rows)), neurons=settings.neuron or None)
    _show(explanation, html, as_json)
    numbered = ", ".join(f"{place} is {row}" for place, row in enumerate(rows))
    print(f"Of {test.name}, {test.split}: sample {numbered}.")
    if as_json:
        common.print_json({**explanation.json(), "data": test.name, "rows": rows})


def _show(explanation: Explanation, html: str | None, as_json: bool) -> None:
    if html is not None:
        explanation.page(html)
        print(f"{html}: a page to step through")
    elif not as_json:
        print(explanation)


def _explain_bundle(settings: ExplainSettings, as_json: bool) -> None:
    """Say what failed, and explain that step."""
    bundle = load_bundle(str(settings.bundle))
    print(f"{bundle}\n", flush=True)
    explanation = bundle.explain(samples=settings.sample or None, neurons=settings.neuron or None)
    _show(explanation, settings.html, as_json)
    if as_json:
        common.print_json({**explanation.json(), "bundle": bundle.json()})


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
