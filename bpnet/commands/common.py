"""What the commands share: their options, the line of JSON, and what a model file says of itself."""

from __future__ import annotations

import json
import platform
import sys
from typing import Annotated, Any

import numpy as np
import typer

import bpnet
from bpnet import losses
from bpnet.backend import Backend
from bpnet.errors import CheckpointError, ConfigError
from bpnet.layers import Layer, Softmax
from bpnet.losses import Loss
from bpnet.pairing import last_layer

# Numbers arrive as text: `bpnet.commands.settings` reads them, so that all mistakes are reported together.
BackendOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Where to compute: numpy, cupy, cupy:1, torch, ... Default: BPNET_BACKEND."),
]
BatchSizeOption = Annotated[str | None, typer.Option(metavar="N", help="Samples a step.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the results as JSON in the last line.")]
SplitSeedOption = Annotated[str | None, typer.Option(metavar="N", help="Chooses the fifth that is held out.")]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A file that `bpnet train` or model.save wrote.")]


def print_json(results: dict[str, Any]) -> None:
    """Print `results` as one line of JSON; a number that is not finite becomes null."""
    plain = json.loads(json.dumps(results), parse_constant=lambda name: None)
    print(json.dumps(plain), flush=True)


def note(text: str) -> None:
    """Say something on standard error that is no error."""
    sys.stdout.flush()
    print(f"bpnet: note: {text}", file=sys.stderr)


def versions(backend: Backend) -> dict[str, str]:
    """The versions that a result depends on."""
    found = {"bpnet": bpnet.__version__, "python": platform.python_version(), "numpy": np.__version__}
    return found | {backend.name.partition(":")[0]: backend.describe()["version"]}


def where(backend: Backend) -> str:
    """The backend for people: "numpy 2.4.6 on cpu"."""
    about = backend.describe()
    return f"{backend.name} {about['version']} on {about['device']}"


def open_model(path: str, backend: Backend) -> Layer:
    """Read a model; CheckpointError, with what to do, when the file is not a whole one."""
    try:
        return Layer.load(path, backend=backend)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}. Give a model that `bpnet train` or model.save wrote, or write it anew"
        ) from error


def classifier_loss(model: Layer) -> Loss:
    """The loss that `model` was trained with or, where its file does not say, the one that its last layer asks for.

    Raises ConfigError when it was trained with a loss that takes no labels.
    """
    name = model.info.get("loss")
    if name is None:
        return losses.CategoricalCrossEntropy() if ends_in_softmax(model) else losses.SoftmaxCrossEntropy()
    found = getattr(losses, str(name), None)
    if not (isinstance(found, type) and issubclass(found, Loss) and found.targets == "labels"):
        raise ConfigError(f"the model was trained with the loss {name!r}; only classifiers can be evaluated here")
    return found()


def ends_in_softmax(model: Layer) -> bool:
    """Whether the model's outputs are probabilities of classes."""
    return isinstance(last_layer(model), Softmax)
