"""Writes chain-rule.html beside the built pages: the neuron of the front page, to be stepped through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bpnet as bp

NAME = "chain-rule.html"


def explanation() -> Any:
    """The chapter's neuron, explained."""
    model = bp.Sequential(bp.Dense(3, 1), bp.ReLU()).initialize(backend="numpy", dtype="float64")
    model[0].weight.value, model[0].bias.value = [[-3.0], [-1.0], [2.0]], [1.0]  # type: ignore[attr-defined]
    return bp.explain(model, [[1.0, -2.0, 3.0]], dvalues=[[1.0]])


def write(app: Any, exception: Exception | None) -> None:
    """Write the page when all others are."""
    if exception is None and app.builder.format == "html":
        explanation().page(Path(app.outdir) / NAME)


def setup(app: Any) -> dict[str, bool]:
    """Tell Sphinx."""
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
