"""`bpnet doctor`: what is here, what is not, and why."""

from __future__ import annotations

import typer

from bpnet.commands import common
from bpnet.doctor import diagnose, print_report


def doctor(backend: common.BackendOption = None, as_json: common.JsonOption = False) -> None:
    """Report on the backends, NumPy's BLAS and the packages. Exits with 2 when the selected backend cannot be used."""
    facts = diagnose(backend)
    print_report(facts)
    if as_json:
        common.print_json(facts)
    if not facts["ok"]:
        raise typer.Exit(2)
