"""`bpnet audit --all`: everything that ships is in it, passes, and what is broken is named."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import bpnet as bp
from bpnet import ops, recipes
from bpnet.auditing import Row, audit_shipped
from bpnet.commands import app
from bpnet.errors import ConfigError
from bpnet.testing.cases import registry
from bpnet.testing.cases.layers import LAYER_CALLS, LAYER_CASES, LAYERS
from bpnet.testing.cases.objectives import LOSSES
from bpnet.testing.kernels import shipped_kernels


def only(monkeypatch: pytest.MonkeyPatch, layers: tuple[str, ...], losses: tuple[str, ...], kernels: int) -> None:
    """Cut what is audited down to these."""
    monkeypatch.setattr("bpnet.testing.cases.layers.LAYER_CASES", {name: LAYER_CASES[name] for name in layers})
    monkeypatch.setattr("bpnet.testing.cases.objectives.LOSSES", {name: LOSSES[name] for name in losses})
    monkeypatch.setattr("bpnet.auditing.shipped.shipped_kernels", lambda: shipped_kernels()[:kernels])
    monkeypatch.setattr(recipes, "available", list)


def test_everything_passes_and_nothing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "available", lambda: ["spiral"])
    told: list[Row] = []
    report = audit_shipped(backend="numpy", samples=3, tell=told.append)
    assert report.passed, str(report)
    assert tuple(told) == report.rows
    kinds = Counter(row.where.split()[0] for row in report.rows)
    fits = sum(len(entry.fits) for entry in LOSSES.values())
    expected = {"layer": len(LAYER_CALLS), "loss": 2 * fits, "kernel": 2 * len(shipped_kernels()), "recipe": 2}
    assert kinds == expected
    found = [row.where.partition(",")[0].split() for row in report.rows]
    layers = {name for kind, name in found if kind == "layer"}
    assert layers == set(LAYERS) == {name for base, name in registry.public_classes() if base is bp.Layer}
    losses = {name for kind, name in found if kind == "loss"}
    assert losses == {name for base, name in registry.public_classes() if base is bp.Loss}
    assert all(row.error is not None for row in report.rows if row.what == "gradients")


def test_it_runs_on_the_backend_that_is_asked_for(backend: bp.Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, ("Dense", "Dropout"), ("MeanSquaredError",), 3)
    report = audit_shipped(backend=backend, samples=2)
    assert report.passed, str(report)
    assert report.subject == f"everything that bpnet ships, on {backend.name}"
    assert len(report.rows) == len(LAYER_CASES["Dense"].inputs) + len(LAYER_CASES["Dropout"].inputs) + 2 + 6


@pytest.mark.lenient
def test_a_broken_derivative_is_named_in_every_row_that_it_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, ("Dense", "Tanh"), ("MeanSquaredError",), 0)
    right = ops.tanh_backward.choose((np.ones(2), np.ones(2))).body
    monkeypatch.setattr(ops.tanh_backward, "choose", lambda args: _Wrong(right))
    report = audit_shipped(backend="numpy", samples=3)
    wrong = {(row.where, row.what) for row in report.failures}
    assert wrong == {("layer Tanh", "derivatives, promises, planned steps"), ("loss MeanSquaredError", "gradients")}
    assert all("2.000x too large" in row.diagnosis for row in report.failures)
    assert report.conclusion.startswith("FAILED: 3 of ")


class _Wrong:
    """A variant whose results are doubled."""

    def __init__(self, right: Any) -> None:
        self.body = lambda *args: 2 * right(*args)
        self.name = "wrong"


def test_a_recipe_without_its_data_is_named_and_nothing_is_passed_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, ("ReLU",), (), 0)
    monkeypatch.setattr(recipes, "available", lambda: ["mnist"])
    monkeypatch.setenv("XDG_CACHE_HOME", "/nowhere")
    monkeypatch.setattr("bpnet.auditing.shipped.recipes.find", _no_data)
    report = audit_shipped(backend="numpy", samples=2)
    assert {row.where for row in report.rows} == {"layer ReLU"}
    assert report.notes == ("the recipe mnist was not audited: mnist was not found. Looked at: nowhere",)


def _no_data(name: str) -> Any:
    raise ConfigError(f"{name} was not found.\n  Looked at: nowhere")


def test_wrong_samples_and_seeds_are_refused_before_anything_runs() -> None:
    for samples in (0, True, 2.5):
        with pytest.raises(ConfigError, match="audit: samples must be an integer of at least 1"):
            audit_shipped(samples=samples)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="seed"):
        audit_shipped(seed=-1)


# --- the command ---


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["audit", *arguments])


@pytest.mark.parametrize("name", ["numpy", "strict", "strict:device1"])
def test_the_command_prints_a_line_for_each_and_a_conclusion(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, ("ReLU",), ("MeanSquaredError",), 1)
    done = invoke("--all", "--backend", name, "--samples", "2", "--json")
    assert done.exit_code == 0, done.output
    *lines, last = done.stdout.splitlines()
    rows = len(LAYER_CASES["ReLU"].inputs) + 2 + 2
    assert lines[-1].startswith(f"everything that bpnet ships, on {name}: passed: {rows} rows")
    assert sum(line.endswith("ok") or "kink" in line for line in lines[:-1]) == rows
    assert json.loads(last)["passed"] is True


@pytest.mark.lenient
def test_the_command_exits_with_1_where_something_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, ("Tanh",), (), 0)
    right = ops.tanh_backward.choose((np.ones(2), np.ones(2))).body
    monkeypatch.setattr(ops.tanh_backward, "choose", lambda args: _Wrong(right))
    done = invoke("--all", "--samples", "2", "--backend", "numpy")
    assert done.exit_code == 1, done.output
    assert "WRONG" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "RECIPE is missing: name a recipe, a .toml file or a saved model, or write --all"),
        (("digits", "--all"), "--all audits everything that bpnet ships, planned steps too; leave out RECIPE 'digits'"),
        (("--all", "--against", "eager"), "leave out --against"),
        (("--all", "--samples", "0"), "--samples must be an integer of at least 1, got '0'"),
        (("--all", "--backend", "strickt"), "--backend: unknown backend 'strickt'"),
    ],
)
def test_wrong_use_is_refused_with_2(arguments: tuple[str, ...], message: str) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.output.split())
