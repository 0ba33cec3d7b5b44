"""What the commands may be told, checked at once: every mistake is reported, with its option and what is allowed."""

from __future__ import annotations

import os
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from bpnet import recipes
from bpnet.backend import ENVIRONMENT_VARIABLE, get_backend, selection
from bpnet.data import named
from bpnet.errors import BackendError, ConfigError
from bpnet.files import check_writable
from bpnet.random import MAX_SEED


def _has_recipe(name: str) -> str:
    recipes.find(name)
    return name


def _known_data(name: str) -> str:
    named.find(name)
    return name


def _writable(path: str) -> str:
    check_writable(path)
    return path


def _model_file(path: str) -> str:
    if not os.path.isfile(path):
        raise ValueError(f"there is no file {path!r}; `bpnet train digits --out {path}` would make one")
    return path


def _input_file(path: str) -> str:
    if not os.path.isfile(path):
        raise ValueError(f"there is no file {path!r}")
    return path


def _usable_backend(choice: str | None) -> Any:
    try:
        return get_backend(choice)
    except BackendError as error:
        raise ValueError(str(error)) from error


SEED = f"an integer in 0 ... 2^64 - 1 ({MAX_SEED})"
Usable = Annotated[Any, BeforeValidator(_usable_backend)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    backend: Usable = None


class TrainSettings(_Settings):
    """Of `bpnet train`. None stands for the recipe's own."""

    data: Annotated[str, AfterValidator(_has_recipe)] = Field(title="DATA")
    epochs: int | None = Field(None, ge=0, description="an integer of at least 0")
    batch_size: int | None = Field(None, ge=1, description="an integer of at least 1")
    learning_rate: float | None = Field(None, gt=0, allow_inf_nan=False, description="a finite number above 0")
    seed: int = Field(0, ge=0, le=MAX_SEED, description=SEED)
    split_seed: int = Field(0, ge=0, le=MAX_SEED, description=SEED)
    out: Annotated[str, AfterValidator(_writable)]


class EvaluateSettings(_Settings):
    """Of `bpnet evaluate`. None stands for what the model file says."""

    model: Annotated[str, AfterValidator(_model_file)] = Field(title="MODEL")
    data: Annotated[str, AfterValidator(_known_data)] | None = None
    split_seed: int | None = Field(None, ge=0, le=MAX_SEED, description=SEED)
    part: str = Field("test", pattern="^(test|train)$", description="test or train")
    batch_size: int = Field(256, ge=1, description="an integer of at least 1")


class PredictSettings(_Settings):
    """Of `bpnet predict`. None stands for what the model file says."""

    model: Annotated[str, AfterValidator(_model_file)] = Field(title="MODEL")
    input: Annotated[str, AfterValidator(_input_file)] | None = None
    sample: list[Annotated[int, Field(ge=0)]] = Field([], description="an integer of at least 0")


Known = TypeVar("Known", bound=_Settings)


def validated(kind: type[Known], **given: Any) -> Known:
    """Return the settings made of `given` (None: not given); ConfigError that names every mistake."""
    given = {name: value for name, value in given.items() if value is not None}
    try:
        return kind(**given)
    except ValidationError as error:
        lines = [_mistake(kind, each, given.get("backend")) for each in error.errors()]
    raise ConfigError(lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} settings cannot be used:", *lines]))


def _mistake(kind: type[_Settings], error: Any, backend: str | None) -> str:
    name = str(error["loc"][0])
    field = kind.model_fields[name]
    label = field.title or "--" + name.replace("_", "-")
    if name == "backend" and selection(backend)[1] == ENVIRONMENT_VARIABLE:
        return str(error["ctx"]["error"])
    if error["type"] == "value_error":
        return f"{label}: {error['ctx']['error']}"
    return f"{label} must be {field.description}, got {str(error['input'])!r}"
