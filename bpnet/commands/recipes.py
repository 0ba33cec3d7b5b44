"""`bpnet recipes`: what comes with bpnet, as a list and as files to start one's own from."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bpnet import recipes as bundled
from bpnet.commands import common
from bpnet.commands.saved import Saved
from bpnet.commands.settings import RecipesSettings, validated
from bpnet.errors import ConfigError


def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Print this recipe, to start one of your own from.")
    ] = None,
    of: Annotated[
        str | None, typer.Option("--of", metavar="MODEL", help="Print the recipe that a saved model was trained by.")
    ] = None,
    as_json: common.JsonOption = False,
) -> None:
    """List the recipes that come with bpnet, or print one as TOML."""
    if name is not None and of is not None:
        raise ConfigError("give either NAME (a recipe of bpnet) or --of MODEL (that of a saved model)")
    validated(RecipesSettings, name=name, of=of)
    results: dict[str, Any]
    if of is not None:
        saved = Saved(of, "numpy")
        if saved.recipe is None:
            raise ConfigError(f"{of!r} has no recipe; `bpnet train` keeps it in the models that it saves")
        found = saved.recipe.recipe()
        text, results = found.toml(), {"model": of, "recipe": found.name, "settings": found.settings}
    elif name is not None:
        text, results = bundled.source(name), {"recipe": name, "settings": bundled.find(name).settings}
    else:
        rows = {each: bundled.describe(each) for each in bundled.available()}
        width = max(map(len, rows)) + 2
        text = "".join(f"{each:<{width}}{what}\n" for each, what in rows.items())
        results = {"recipes": [{"name": each, "description": what} for each, what in rows.items()]}
    print(text, end="")
    if as_json:
        common.print_json(results)
