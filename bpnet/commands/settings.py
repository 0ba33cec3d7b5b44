"""What the commands may be told, checked at once: every mistake is reported, with its option and what is allowed."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from bpnet import recipes
from bpnet.backend import ENVIRONMENT_VARIABLE, FLOATING_DTYPES, get_backend, selection
from bpnet.data import named
from bpnet.errors import BackendError, ConfigError
from bpnet.files import check_writable
from bpnet.memory.report import bytes_of
from bpnet.random import MAX_SEED
from bpnet.recipes.mistakes import raise_all

PICTURES = (".png", ".svg", ".pdf")
LOGS = (".csv", ".jsonl")


def _recipe(name: str) -> str:
    recipes.open_recipe(name)
    return name


def _known_data(name: str) -> str:
    named.find(name)
    return name


def _shape(text: str) -> tuple[int, ...]:
    parts = str(text).replace("x", ",").split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise ValueError(f"the shape of one sample, as 64 or 28,28,1, got {text!r}")
    return tuple(int(part) for part in parts)


def _budget(text: str) -> str:
    try:
        bytes_of(text)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return text


def _writable(path: str) -> str:
    check_writable(path)
    return path


def _file_of_kind(path: str, endings: tuple[str, ...]) -> str:
    if os.path.splitext(path)[1].lower() not in endings:
        raise ValueError(f"its name must end in one of {', '.join(endings)}, got {path!r}")
    return _writable(path)


def _log(path: str) -> str:
    return _file_of_kind(path, LOGS)


def _picture(path: str) -> str:
    _file_of_kind(path, PICTURES)
    if find_spec("matplotlib") is None:
        raise ValueError('matplotlib draws it, which is missing: pip install "bpnet-xp[plot]"')
    return path


_EVERY = re.compile(r"([1-9][0-9]{0,11}) ?(epochs?|steps?|)")


def every(text: str) -> tuple[int, str]:
    """How many, and of what: "epochs" or "steps", of a text such as "2", "1epoch" or "500steps"; ValueError else."""
    found = _EVERY.fullmatch(text)
    if found is None:
        raise ValueError(f"a number of epochs, as 1, or of steps, as 500steps, at least 1; got {text!r}")
    return int(found[1]), "steps" if found[2].startswith("step") else "epochs"


def _every(text: str) -> str:
    every(text)
    return text


def _folder(path: str) -> str:
    if not path:
        raise ValueError("cannot make the folder '': name one")
    above = os.path.abspath(path)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        raise ValueError(f"cannot make the folder {path!r}: {above!r} is a file")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"cannot make the folder {path!r}: {above!r} may not be written to")
    return path


def no_model(path: str) -> str:
    """What to say of a path at which there is no model: what was meant, or how to make one."""
    meant = [each for each in (f"{path}.safetensors", os.path.join(path, "model.safetensors")) if os.path.isfile(each)]
    if meant:
        return f"there is no file {path!r}; did you mean {meant[0]!r}?"
    if os.path.isdir(path):
        return f"{path!r} is a folder, and no model is in it; `bpnet train digits --out digits.safetensors` makes one"
    return f"there is no file {path!r}; `bpnet train digits --out {path}` would make one"


def _model_file(path: str) -> str:
    if not os.path.isfile(path):
        raise ValueError(no_model(path))
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


def _named_shape(text: str) -> tuple[int | str, ...]:
    axes = [axis.strip() for axis in text.split(",")]
    found = tuple(int(axis) if re.fullmatch("[1-9][0-9]{0,8}", axis) else axis for axis in axes)
    wrong = [axis for axis in found if isinstance(axis, str) and (not axis.isidentifier() or axis == "batch")]
    if wrong:
        raise ValueError(
            "the shape of one sample, as 28,28,1, with a name in the place of a length that may change, as length,16; "
            f"got {text!r}"
        )
    return found


def _other_side(choice: str) -> str:
    if choice in ("eager", "planned", *FLOATING_DTYPES):
        return choice
    try:
        get_backend(choice)
    except BackendError as error:
        raise ValueError(f"must be eager, {', '.join(FLOATING_DTYPES)} or a backend: {error}") from error
    return choice


SEED = f"an integer in 0 ... 2^64 - 1 ({MAX_SEED})"
POSITIVE = "an integer of at least 1"
Usable = Annotated[Any, BeforeValidator(_usable_backend)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class _OnBackend(_Settings):
    backend: Usable = None


class TrainSettings(_Settings):
    """Of `bpnet train`, but for the backend, which may be the recipe's. None stands for the recipe's own."""

    recipe: Annotated[str, AfterValidator(_recipe)] | None = Field(None, title="RECIPE")
    epochs: int | None = Field(None, ge=0, description="an integer of at least 0")
    batch_size: int | None = Field(None, ge=1, description=POSITIVE)
    learning_rate: float | None = Field(None, gt=0, allow_inf_nan=False, description="a finite number above 0")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description=SEED)
    split_seed: int | None = Field(None, ge=0, le=MAX_SEED, description=SEED)
    validation_fraction: float | None = Field(None, ge=0, lt=1, description="a number of at least 0 and below 1")
    patience: int | None = Field(None, ge=1, description=POSITIVE)
    out: Annotated[str, AfterValidator(_writable)] | None = None
    plot: Annotated[str, AfterValidator(_picture)] | None = None
    log: Annotated[str, AfterValidator(_log)] | None = None
    tensorboard: Annotated[str, AfterValidator(_folder)] | None = None
    checkpoint_every: Annotated[str, AfterValidator(_every)] | None = None
    check_gradients: bool | None = None
    precision: str | None = Field(None, pattern="^(float32|bf16)$", description="float32 or bf16")
    matmul_precision: str | None = Field(None, pattern="^(float32|tf32|bf16)$", description="float32, tf32 or bf16")
    capture: str | None = Field(None, pattern="^(auto|on|off)$", description="auto, on or off")
    folder: Annotated[str, AfterValidator(_folder)] | None = Field(None, title="--out")


class EvaluateSettings(_OnBackend):
    """Of `bpnet evaluate`. None stands for what the model file says."""

    model: Annotated[str, AfterValidator(_model_file)] = Field(title="MODEL")
    data: Annotated[str, AfterValidator(_known_data)] | None = None
    split_seed: int | None = Field(None, ge=0, le=MAX_SEED, description=SEED)
    part: str = Field("test", pattern="^(test|train|validation)$", description="test, train or validation")
    batch_size: int = Field(256, ge=1, description=POSITIVE)


class PredictSettings(_OnBackend):
    """Of `bpnet predict`. None stands for what the model file says."""

    model: Annotated[str, AfterValidator(_model_file)] = Field(title="MODEL")
    input: Annotated[str, AfterValidator(_input_file)] | None = None
    sample: list[Annotated[int, Field(ge=0)]] = Field([], description="an integer of at least 0")


class GenerateSettings(_OnBackend):
    """Of `bpnet generate`."""

    model: Annotated[str, AfterValidator(_model_file)] = Field(title="MODEL")
    prompt: str | None = Field(None, min_length=1, description="a text that is not empty")
    length: int = Field(300, ge=0, description="an integer of at least 0")
    temperature: float = Field(1.0, ge=0, allow_inf_nan=False, description="a finite number of at least 0")
    top_k: int | None = Field(None, ge=1, description=POSITIVE)
    seed: int = Field(0, ge=0, le=MAX_SEED, description=SEED)


class ExportSettings(_Settings):
    """Of `bpnet export`. None stands for what the first layer takes, and for the model's own name."""

    model: Annotated[str, AfterValidator(_model_file)] = Field(title="MODEL")
    out: Annotated[str, AfterValidator(_writable)] | None = None
    input_shape: Annotated[tuple[int | str, ...], BeforeValidator(_named_shape)] | None = None
    opset: int = Field(18, ge=18, description="an integer of at least 18")


class ExplainSettings(_OnBackend):
    """Of `bpnet explain`."""

    model: str | None = Field(None, title="RECIPE|MODEL")
    bundle: Annotated[str, AfterValidator(_input_file)] | None = None
    sample: list[Annotated[int, Field(ge=0)]] = Field([], description="an integer of at least 0")
    neuron: list[Annotated[int, Field(ge=0)]] = Field([], description="an integer of at least 0")
    html: Annotated[str, AfterValidator(_writable)] | None = None


class RecipesSettings(_Settings):
    """Of `bpnet recipes`."""

    name: str | None = None
    of: Annotated[str, AfterValidator(_model_file)] | None = None


class MemorySettings(_Settings):
    """Of `bpnet memory`."""

    subject: str = Field(title="RECIPE")
    batch_size: int | None = Field(None, ge=1, description=POSITIVE)
    input_shape: Annotated[tuple[int, ...], BeforeValidator(_shape)] | None = None
    budget: Annotated[str, AfterValidator(_budget)] | None = None


class AuditAllSettings(_OnBackend):
    """Of `bpnet audit --all`."""

    samples: int = Field(8, ge=1, description=POSITIVE)
    seed: int = Field(0, ge=0, le=MAX_SEED, description=SEED)


class AuditSettings(AuditAllSettings):
    """Of `bpnet audit`."""

    subject: str = Field(title="RECIPE")
    against: Annotated[str, AfterValidator(_other_side)] | None = None


Known = TypeVar("Known", bound=_Settings)


def validated(kind: type[Known], **given: Any) -> Known:
    """Return the settings made of `given` (None: not given); ConfigError that names every mistake."""
    settings, lines = collected(kind, **given)
    raise_all(lines)
    return settings


def collected(kind: type[Known], **given: Any) -> tuple[Known, list[str]]:
    """The settings made of what is right of `given` (for required ones that are wrong, nothing), and the mistakes."""
    given = {name: value for name, value in given.items() if value is not None}
    try:
        return kind(**given), []
    except ValidationError as error:
        wrong = {str(each["loc"][0]): _mistake(kind, each, given.get("backend")) for each in error.errors()}
    right = {name: value for name, value in given.items() if name not in wrong}
    whole = not any(field.is_required() for field in kind.model_fields.values()) and "backend" not in wrong
    return kind(**right) if whole else kind.model_construct(**right), list(wrong.values())


def _mistake(kind: type[_Settings], error: Any, backend: str | None) -> str:
    name = str(error["loc"][0])
    field = kind.model_fields[name]
    label = field.title or "--" + name.replace("_", "-")
    if name == "backend" and selection(backend)[1] == ENVIRONMENT_VARIABLE:
        return str(error["ctx"]["error"])
    if error["type"] == "value_error":
        return f"{label}: {error['ctx']['error']}"
    return f"{label} must be {field.description}, got {str(error['input'])!r}"


def backend_mistake(choice: str | None) -> list[str]:
    """A line on the backend where it cannot be used; none where it can."""
    return collected(_OnBackend, backend=choice)[1]
