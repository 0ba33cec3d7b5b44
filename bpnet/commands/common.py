"""What the commands share: their options, the line of JSON, and what a model file says of itself."""

from __future__ import annotations

import json
import platform
import sys
from typing import Annotated, Any

import numpy as np
import typer

import bpnet
from bpnet.backend import Backend
from bpnet.history import as_text

# Numbers arrive as text: `bpnet.commands.settings` reads them, so that all mistakes are reported together.
BackendOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Where to compute: numpy, cupy, cupy:1, torch, ... Default: BPNET_BACKEND."),
]
BatchSizeOption = Annotated[str | None, typer.Option(metavar="N", help="Samples a step.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the results as JSON in the last line.")]
SplitSeedOption = Annotated[str | None, typer.Option(metavar="N", help="Chooses the part that is held out.")]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A file that `bpnet train` or model.save wrote.")]


def print_json(results: dict[str, Any]) -> None:
    """Print `results` as one line of JSON; a number that is not finite becomes null."""
    plain = json.loads(json.dumps(results), parse_constant=lambda name: None)
    print(json.dumps(plain), flush=True)


def note(text: str) -> None:
    """Say something on standard error that is no error."""
    sys.stdout.flush()
    print(f"bpnet: note: {text}", file=sys.stderr)


def as_results(results: dict[str, Any], prefix: str = "") -> str:
    """What an evaluation found, for people, the loss last: "test accuracy 0.9777, test loss 0.0853"."""
    texts = {name: as_text(name, results[name]) for name in [*(n for n in results if n != "loss"), "loss"]}
    return ", ".join(f"{prefix}{name} {text}" for name, text in texts.items() if text)


def print_matrices(results: dict[str, Any]) -> None:
    """Print what does not fit into a line, such as a confusion matrix: its rows below its name."""
    for name, value in results.items():
        if isinstance(value, list) and value and isinstance(value[0], list):
            width = max(len(str(each)) for row in value for each in row)
            print(f"{name}, a row for each label:")
            for row in value:
                print("  " + " ".join(f"{each:>{width}}" for each in row))


def versions(backend: Backend) -> dict[str, str]:
    """The versions that a result depends on."""
    found = {"bpnet": bpnet.__version__, "python": platform.python_version(), "numpy": np.__version__}
    return found | {backend.name.partition(":")[0]: backend.describe()["version"]}


def where(backend: Backend) -> str:
    """The backend for people: "numpy 2.4.6 on cpu"."""
    about = backend.describe()
    return f"{backend.name} {about['version']} on {about['device']}"
