"""`bpnet data`: the data sets that bpnet knows, where they are, and how to get them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bpnet.commands import common
from bpnet.data.named import GENERATED, available, find
from bpnet.data.sources import fetch, read_files
from bpnet.errors import ConfigError, DataError

app = typer.Typer(no_args_is_help=True, help="Show the data sets that bpnet knows, or get one.")


@app.command("list")
def list_(as_json: common.JsonOption = False) -> None:
    """Show every data set, its licence, and where it is. For those that are missing, how to get them."""
    rows = []
    for name in available():
        known = find(name)
        where, get = located(name)
        rows.append({"name": name, "what": known.what, "licence": known.licence, "where": where, "get": get})
        print(f"{name:<15}{known.what}")
        print(f"{'':<15}licence: {known.licence}")
        if known.files is not None:
            print(f"{'':<15}" + (f"found in {where}" if where else f"missing; get it with: {'  or  '.join(get)}"))
    if as_json:
        common.print_json({"data": rows})


def located(name: str) -> tuple[str | None, list[str]]:
    """Where the data set is, None where it is missing, and the commands that get it."""
    known = find(name)
    if known.files is None:
        return "generated" if known.split == GENERATED else "bpnet", []
    files = known.files()
    try:
        return read_files(files)[1], list(files.commands)
    except DataError:
        return None, list(files.commands)


@app.command()
def get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that `bpnet data list` shows.")],
    source: Annotated[
        str | None, typer.Option("--from", metavar="FOLDER", help="Take the files from there; nothing is fetched.")
    ] = None,
    as_json: common.JsonOption = False,
) -> None:
    """Bring a data set into the user's cache. It comes from its mirrors or a folder; checksums are compared."""
    where, fetched = _brought(name, source)
    if as_json:
        common.print_json({"name": name, "where": where, "fetched": fetched})


def _brought(name: str, source: str | None) -> tuple[str | None, bool]:
    """Get the data set unless it is here, and say so; returns where it is, and whether it was fetched."""
    known = find(name)
    if known.files is None:
        if source is not None:
            raise ConfigError(f"{name} needs no files; --from is for data that bpnet does not bring along")
        how = "is generated" if known.split == GENERATED else "comes with bpnet"
        print(f"{name}: there is nothing to get; it {how}")
        return located(name)[0], False
    files: Any = known.files()
    present = None if source is not None else located(name)[0]
    if present is not None:
        print(f"{name} is here already: {present}")
        return present, False
    print(f"{name}: {known.what}; licence: {known.licence}", flush=True)
    folder = str(fetch(files, source))
    print(f"{name} is now in {folder}")
    return folder, True
