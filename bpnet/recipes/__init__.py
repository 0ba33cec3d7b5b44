"""Recipes: what to train, on what data, and how, in a TOML file. Some come with bpnet.

    recipe = recipes.find("digits")            # or recipes.read("my.toml")
    run = recipe.prepare()                     # data, model and Trainer
    history = run.fit()
    run.trainer.evaluate(run.test)

Reading one needs pydantic, which the extra `cli` brings. docs/recipes.md has every key.
"""

from __future__ import annotations

import importlib
import os
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bpnet.errors import ConfigError, MissingExtraError, did_you_mean

if TYPE_CHECKING:
    from bpnet.recipes.recipe import Draft, Recipe
    from bpnet.recipes.run import Run

__all__ = ["Recipe", "Run", "available", "check", "describe", "find", "parse", "read", "source"]

ENDING = ".toml"


def available() -> list[str]:
    """The names of the recipes that come with bpnet."""
    names = (entry.name for entry in files("bpnet.recipes").iterdir())
    return sorted(name.removesuffix(ENDING) for name in names if name.endswith(ENDING))


def source(name: str) -> str:
    """The TOML text of a bundled recipe; ConfigError when there is none of that name."""
    if name not in available():
        hint = did_you_mean(name, available())
        raise ConfigError(
            f"no recipe is called {name!r}; there are {', '.join(available())}, and files of your own, as mine{ENDING}"
            f"{hint}"
        )
    return (files("bpnet.recipes") / f"{name}{ENDING}").read_text("utf-8")


def describe(name: str) -> str:
    """The line that a bundled recipe says of itself."""
    return str(tomllib.loads(source(name)).get("description", ""))


def find(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Return the bundled recipe `name`.

    overrides : values in the place of the recipe's own, by key, as {"training.epochs": 3}
    Raises ConfigError that names every mistake.
    """
    return parse(source(name), overrides, name=name)


def read(path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Return the recipe in a TOML file; paths in it are relative to its folder. See `find`."""
    where = os.fspath(path)
    name, text, folder = open_file(where)
    return _draft(load_toml(text, where), overrides, name, folder, where).recipe()


def check(name: str) -> list[str]:
    """Every mistake in a recipe, of bpnet's or in a file, alone and with its data; [] where it can be trained.

    Raises ConfigError where there is no such recipe, or it is no TOML.
    """
    title, tables, folder, _ = open_recipe(name)
    draft = make_draft(tables, name=title, folder=folder)
    _needing_pydantic("run").examine(draft)
    return draft.mistakes.lines


def parse(text: str, overrides: Mapping[str, Any] | None = None, *, name: str = "recipe") -> Recipe:
    """Return the recipe that is this TOML text. See `find`."""
    return _draft(load_toml(text, name), overrides, name, None, "").recipe()


def _draft(
    settings: dict[str, Any], overrides: Mapping[str, Any] | None, name: str, folder: str | None, where: str
) -> Draft:
    draft = make_draft(with_overrides(settings, overrides or {}), name=name, folder=folder)
    draft.mistakes.raise_if_any(where=where)
    return draft


def make_draft(settings: Mapping[str, Any], **more: Any) -> Draft:
    """Check settings; MissingExtraError where pydantic is not installed."""
    return _needing_pydantic("recipe").Draft(settings, **more)  # type: ignore[no-any-return]


def _needing_pydantic(module: str) -> ModuleType:
    try:
        return importlib.import_module(f"bpnet.recipes.{module}")
    except ModuleNotFoundError as error:
        if error.name != "pydantic":
            raise
        raise MissingExtraError('recipes need pydantic, which is missing: pip install "bpnet-xp[cli]"') from error


def __getattr__(name: str) -> Any:
    """Recipe and Run, imported when they are asked for."""
    if name not in ("Recipe", "Run"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_needing_pydantic(name.lower()), name)


def open_recipe(name: str) -> tuple[str, dict[str, Any], str | None, str]:
    """(name, tables, folder, file) of a bundled recipe, for which file is '', or of a file where `name` is a path.

    Raises ConfigError when there is none, or it is no TOML.
    """
    is_path = name.endswith(ENDING) or os.path.dirname(name) or (os.path.isfile(name) and name not in available())
    if not is_path:
        return name, load_toml(source(name), name), None, ""
    title, text, folder = open_file(name)
    return title, load_toml(text, name), folder, name


def open_file(path: str | os.PathLike[str]) -> tuple[str, str, str]:
    """(name, text, folder) of a recipe's file; ConfigError when it cannot be read."""
    path = os.fspath(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except OSError as error:
        raise ConfigError(f"cannot read the recipe {path!r}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        if path.endswith(".safetensors"):
            raise ConfigError(
                f"{path!r} is a saved model, not a recipe; `bpnet recipes --of {path} > mine{ENDING}` writes the "
                "recipe that it was trained by"
            ) from error
        raise ConfigError(f"cannot read the recipe {path!r}: it is no text in UTF-8 ({error.reason})") from error
    return os.path.splitext(os.path.basename(path))[0], text, os.path.dirname(os.path.abspath(path))


def load_toml(text: str, where: str) -> dict[str, Any]:
    """The tables of a TOML text; ConfigError with the file, the line and the column where it is none."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is no TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{where} is no TOML that can be read: it is nested too deeply") from None


def with_overrides(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with the values of `overrides`, whose keys are paths such as "training.epochs"."""
    result = dict(settings)
    for path, value in overrides.items():
        table, _, key = path.rpartition(".")
        if not table:
            result[key] = value
            continue
        inner = result.get(table, {})
        result[table] = {**inner, key: value} if isinstance(inner, Mapping) else inner
    return result
