"""The commands of `bpnet`, one a module. Needs the extra `cli`.

Every error of bpnet becomes one message on standard error and an exit code: 2 for wrong use (a setting, the data, the
backend), 1 for a run that failed.
"""

from __future__ import annotations

import platform
import sys
from typing import Annotated, Any

import numpy as np
import typer
from typer.core import TyperGroup

import bpnet
from bpnet.commands.audit import audit
from bpnet.commands.data import app as data_app
from bpnet.commands.doctor import doctor
from bpnet.commands.evaluate import evaluate
from bpnet.commands.explain import explain
from bpnet.commands.export import export
from bpnet.commands.generate import generate
from bpnet.commands.memory import memory
from bpnet.commands.predict import predict
from bpnet.commands.recipes import recipes
from bpnet.commands.train import train
from bpnet.errors import (
    BackendError,
    BpnetError,
    ConfigError,
    DataError,
    DTypeError,
    MissingExtraError,
    ShapeError,
)

__all__ = ["app"]

WRONG_USE = (ConfigError, BackendError, MissingExtraError, DataError, DTypeError, ShapeError)


class _Commands(TyperGroup):
    """Runs a command and turns what it raises into a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BpnetError as error:
            message, code = str(error), 2 if isinstance(error, WRONG_USE) else 1
        except MemoryError as error:
            message, code = f"out of memory ({error}); a smaller --batch-size or model needs less", 1
        except BrokenPipeError:
            raise
        except OSError as error:
            message, code = f"cannot go on: {error}", 1
        except KeyboardInterrupt:
            message, code = "interrupted; nothing was saved", 1
        sys.stdout.flush()
        print(f"bpnet: {message}", file=sys.stderr)
        raise typer.Exit(code)


app = typer.Typer(
    name="bpnet",
    cls=_Commands,
    help="Train neural networks by explicit backpropagation, on any array backend.",
    epilog="Exit codes: 0; 1 for a run that failed or was interrupted; 2 for wrong use.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    # Plain help: no option's name is cut in a narrow terminal, and no flag looks as if it took a value.
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"bpnet {bpnet.__version__} (Python {platform.python_version()}, NumPy {np.__version__})")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.command()(train)
app.command()(evaluate)
app.command()(predict)
app.command()(generate)
app.command()(export)
app.command()(explain)
app.command()(audit)
app.command()(memory)
app.command()(doctor)
app.command()(recipes)
app.add_typer(data_app, name="data")
