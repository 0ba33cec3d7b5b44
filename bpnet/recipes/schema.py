"""The keys of a recipe and what each may be, checked by pydantic. Imported only where a recipe is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bpnet.errors import did_you_mean
from bpnet.random import MAX_SEED
from bpnet.recipes.mistakes import Mistakes

SEED = f"an integer in 0 ... 2^64 - 1 ({MAX_SEED})"
POSITIVE = "an integer of at least 1"
TEXT = "a text that is not empty"
Text = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A table of a recipe. Strict: a number in quotes is no number. A key's description says what it may be."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Data(Section):
    """What to train on: a named data set (with its options), or a file of one's own."""

    model_config = ConfigDict(extra="allow")

    name: Text | None = Field(None, description="the name of a data set")
    csv: Text | None = Field(None, description="the path of a .csv file")
    npz: Text | None = Field(None, description="the path of an .npz file")
    target: Text | int | None = Field(None, description="the name of a column, or its number from 0 (-1: the last)")
    drop: list[Text | int] | None = Field(None, description="a list of columns, by name or number")
    class_names: list[Text] | None = Field(None, description="a list of names, each once, in the order of their labels")
    delimiter: Text | None = Field(None, description="one character")
    test_fraction: float | None = Field(None, gt=0, lt=1, description="a number above 0 and below 1")
    validation_fraction: float = Field(0.0, ge=0, lt=1, description="a number of at least 0 and below 1")
    split_seed: int = Field(0, ge=0, le=MAX_SEED, description=SEED)
    normalize: bool = Field(False, description="true or false")
    reconstruct: bool = Field(False, description="true or false")


class Model(Section):
    """The layers, in sequence."""

    layers: list[Any] = Field(min_length=1, description='a list of layers such as ["Dense(64, 10)"]')


class Named(Section):
    """A loss, an optimizer or a schedule: its class by name, and the arguments of that class as keys."""

    model_config = ConfigDict(extra="allow")

    name: Text = Field(description="the name of a class")


class Training(Section):
    """How to train."""

    seed: int = Field(0, ge=0, le=MAX_SEED, description=SEED)
    epochs: int = Field(10, ge=0, description="an integer of at least 0")
    batch_size: int = Field(32, ge=1, description=POSITIVE)
    micro_batch_size: int | None = Field(None, ge=1, description=POSITIVE)
    metrics: list[Any] | None = Field(None, description='a list of metrics such as ["Accuracy()"]')
    patience: int | None = Field(None, ge=1, description=POSITIVE)
    monitor: Text | None = Field(None, description="the name of a number of every epoch, such as val_loss")
    backend: Text | None = Field(None, description='the name of a backend, such as "numpy" or "cupy:1"')
    check_gradients: bool = Field(False, description="true or false")
    dtype: Literal["float32", "float64"] = Field("float32", description='"float32" or "float64"')
    precision: Literal["float32", "bf16"] = Field("float32", description='"float32" or "bf16"')
    matmul_precision: Literal["float32", "tf32", "bf16"] = Field("float32", description='"float32", "tf32" or "bf16"')
    capture: Literal["auto", "on", "off"] = Field("auto", description='"auto", "on" or "off"')


SECTIONS: dict[str, type[Section]] = {
    "data": Data,
    "model": Model,
    "loss": Named,
    "optimizer": Named,
    "schedule": Named,
    "training": Training,
}
OF_OPTIMIZERS = ("learning_rate", "weight_decay", "momentum", "clip_norm", "clip_value", "average")
REQUIRED = ("data", "model", "loss")
TOP = ("description", *SECTIONS)


def read_section(name: str, given: Any, mistakes: Mistakes) -> Any:
    """The section that a recipe has under `name`, without the keys that are wrong; those are noted.

    None where it cannot be made at all: it is no table, or lacks a key that must be there.
    """
    kind = SECTIONS[name]
    if not isinstance(given, Mapping):
        mistakes.must_be((name,), f"a table, [{name}]", given)
        return None
    right = dict(given)
    try:
        return kind.model_validate(right)
    except ValidationError as error:
        for key, each in {str(each["loc"][0]): each for each in reversed(error.errors())}.items():
            _note(name, key, each, mistakes)
            right.pop(key, None)
    try:
        return kind.model_validate(right)
    except ValidationError:
        return None


def _note(name: str, key: str, error: Any, mistakes: Mistakes) -> None:
    kind = SECTIONS[name]
    if error["type"] == "extra_forbidden":
        mistakes.add((name, key), unknown_key(name, key, kind.model_fields))
        return
    allowed = kind.model_fields[key].description or ""
    if error["type"] == "missing":
        mistakes.add((name, key), f"is missing; it must be {allowed}")
    else:
        mistakes.must_be((name, key), allowed, error["input"])


def unknown_key(section: str, key: str, known: Any) -> str:
    """What to say of a key that `section` does not have ('' for the top of the recipe)."""
    homes = [name for name, kind in SECTIONS.items() if name != section and key in kind.model_fields and key != "name"]
    near = did_you_mean(key, known)
    if key in OF_OPTIMIZERS:
        homes, near = ["optimizer"], ""
    if homes and not near:
        near = f"; it belongs into [{homes[0]}]"
    return f"unknown key; {f'[{section}] takes' if section else 'a recipe has'} {', '.join(known)}{near}"
