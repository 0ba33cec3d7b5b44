"""`bpnet audit`: the derivatives of a recipe, of a saved model, or of all that bpnet ships, held to differences."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bpnet import recipes
from bpnet.auditing import audit as audited
from bpnet.auditing.report import AuditReport, Row
from bpnet.auditing.samples import SAMPLES, first_samples
from bpnet.auditing.shipped import audit_shipped
from bpnet.commands import common
from bpnet.commands.saved import Saved
from bpnet.commands.settings import AuditAllSettings, AuditSettings, no_model, validated
from bpnet.errors import ConfigError
from bpnet.layers import Layer
from bpnet.losses import Loss
from bpnet.testing.strict import STRICT, register

if TYPE_CHECKING:
    from bpnet.recipes.recipe import Draft

ENDING = ".safetensors"


def audit(
    subject: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="A recipe of bpnet, a .toml file, or a saved model (.safetensors)."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Audit everything that bpnet ships, in place of a RECIPE.")
    ] = False,
    backend: common.BackendOption = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Compare a step with another backend, float32, float64, or eager."),
    ] = None,
    samples: Annotated[str | None, typer.Option(metavar="N", help=f"Samples to look at. Default: {SAMPLES}.")] = None,
    seed: Annotated[str | None, typer.Option(metavar="N", help="Of the random numbers. Default: 0.")] = None,
    as_json: common.JsonOption = False,
) -> None:
    """Hold every derivative of a model to differences in float64. Layers, loss and kernels are held to their promises.

    Exits with 1 where something is wrong.
    """
    if everything:
        _audit_all(subject, backend, against, samples, seed, as_json)
        return
    if subject is None:
        raise ConfigError("RECIPE is missing: name a recipe, a .toml file or a saved model, or write --all")
    settings = validated(AuditSettings, subject=subject, backend=backend, against=against, samples=samples, seed=seed)
    model, loss, x, y = _subject(settings)
    report = audited(model, loss, x, y, backend=settings.backend, against=settings.against, seed=settings.seed)
    print(report)
    _end(report, as_json)


def _end(report: AuditReport, as_json: bool) -> None:
    if as_json:
        common.print_json(report.json())
    if not report.passed:
        raise typer.Exit(1)


def _audit_all(
    subject: str | None,
    backend: str | None,
    against: str | None,
    samples: str | None,
    seed: str | None,
    as_json: bool,
) -> None:
    if subject is not None or against is not None:
        more = f"RECIPE {subject!r}" if subject is not None else "--against"
        raise ConfigError(f"--all audits everything that bpnet ships, planned steps too; leave out {more}")
    if (backend or "").partition(":")[0] == STRICT:
        register()
    settings = validated(AuditAllSettings, backend=backend, samples=samples, seed=seed)
    report = audit_shipped(backend=settings.backend, samples=settings.samples, seed=settings.seed, tell=_print_row)
    for line in report.notes:
        print(f"note: {line}")
    print(f"{report.subject}: {report.conclusion}")
    _end(report, as_json)


def _print_row(row: Row) -> None:
    error = "" if row.error is None else f"{row.error:.1e}"
    print(f"{row.where:<46} {row.what:<37} {error:<8} {row.how:<22} {row.verdict}".rstrip(), flush=True)


def _subject(settings: AuditSettings) -> tuple[Layer, Loss | None, Any, Any]:
    """The model, its loss, and samples of its data; None for those that a file does not know."""
    name = settings.subject
    if not name.endswith(ENDING) and not (os.path.isfile(name) and not name.endswith(recipes.ENDING)):
        title, tables, folder, file = recipes.open_recipe(name)
        draft: Draft = recipes.make_draft(tables, name=title, folder=folder)
        draft.mistakes.raise_if_any(where=file)
        run = draft.recipe().prepare(backend=settings.backend)
        x, y = run.training.x[: settings.samples, ...], run.training.y[: settings.samples, ...]
        return run.model, run.trainer.loss, x, y
    if not os.path.isfile(name):
        raise ConfigError(f"RECIPE: {no_model(name)}")
    saved = Saved(name, settings.backend)
    if saved.recipe is None:
        return saved.model, saved.loss, None, None
    x, y, loss = first_samples(saved.recipe, settings.samples)
    return saved.model, loss, x, y
