"""`bpnet generate`: text that a saved model writes."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from bpnet.commands import common
from bpnet.commands.saved import Saved
from bpnet.commands.settings import GenerateSettings, validated
from bpnet.errors import ConfigError
from bpnet.generation import generate as generated


def generate(
    model: common.ModelArgument,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="What the text begins with.")] = None,
    length: Annotated[str | None, typer.Option(metavar="N", help="Characters to write (default 300).")] = None,
    temperature: Annotated[
        str | None, typer.Option(metavar="T", help="Below 1 bolder, above 1 more varied; 0 takes the likeliest.")
    ] = None,
    top_k: Annotated[str | None, typer.Option(metavar="K", help="Draw from the K likeliest only.")] = None,
    seed: Annotated[str | None, typer.Option(metavar="N", help="Of the draws (default 0).")] = None,
    backend: common.BackendOption = None,
    as_json: common.JsonOption = False,
) -> None:
    """Print text that a saved model of characters writes."""
    settings = validated(
        GenerateSettings,
        model=model,
        prompt=prompt,
        length=length,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
        backend=backend,
    )
    saved = Saved(settings.model, settings.backend)
    loaded = saved.model
    vocabulary = saved.info.get("vocabulary")
    if loaded.input_ids is None or not isinstance(vocabulary, str):
        raise ConfigError(
            f"{settings.model!r} is no model of characters; `bpnet train char-gpt` makes one, and `bpnet predict` "
            "tells what others say of samples"
        )
    begin = settings.prompt if settings.prompt is not None else ("\n" if "\n" in vocabulary else vocabulary[0])
    start = time.perf_counter()
    text = generated(
        loaded,
        begin,
        length=settings.length,
        temperature=settings.temperature,
        top_k=settings.top_k,
        seed=settings.seed,
    )
    seconds = time.perf_counter() - start
    print(text if settings.prompt is not None else text[len(begin) :])
    if as_json:
        common.print_json(
            {
                "prompt": begin,
                "text": text[len(begin) :],
                "length": settings.length,
                "temperature": settings.temperature,
                "top_k": settings.top_k,
                "seed": settings.seed,
                "seconds": seconds,
                "model": settings.model,
                "backend": loaded.backend.name,
                "device": loaded.backend.describe()["device"],
                "versions": common.versions(loaded.backend),
            }
        )
