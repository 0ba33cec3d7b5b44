"""`bpnet recipes`: what comes with bpnet, as a list and as files to start one's own from."""

from __future__ import annotations

from typing import Annotated

import typer

from bpnet import recipes as bundled
from bpnet.commands.saved import Saved
from bpnet.errors import ConfigError


def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Print this recipe, to start one of your own from.")
    ] = None,
    of: Annotated[
        str | None, typer.Option("--of", metavar="MODEL", help="Print the recipe that a saved model was trained by.")
    ] = None,
) -> None:
    """List the recipes that come with bpnet, or print one as a TOML file."""
    if name is not None and of is not None:
        raise ConfigError("give either NAME (a recipe of bpnet) or --of MODEL (that of a saved model)")
    if of is not None:
        saved = Saved(of, "numpy")
        if saved.recipe is None:
            raise ConfigError(f"{of!r} has no recipe; `bpnet train` keeps it in the models that it saves")
        print(saved.recipe.recipe().toml(), end="")
    elif name is not None:
        print(bundled.source(name), end="")
    else:
        width = max(map(len, bundled.available())) + 2
        for each in bundled.available():
            print(f"{each:<{width}}{bundled.describe(each)}")
