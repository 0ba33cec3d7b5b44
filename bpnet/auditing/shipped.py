"""Everything that bpnet ships, audited on one backend: layers, losses, kernels, and the models of the recipes.

What is looked at are the entries of `bpnet.testing.cases`, so nothing public can be left out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import numpy as np

from bpnet import recipes
from bpnet.auditing.audit import EAGER, audit
from bpnet.auditing.report import AuditReport, Row
from bpnet.auditing.samples import SAMPLES
from bpnet.backend import FLOATING_DTYPES, Backend, get_backend
from bpnet.costing import cost
from bpnet.errors import ConfigError, MissingExtraError
from bpnet.layers.activations import Tanh
from bpnet.layers.base import Layer
from bpnet.layers.containers import Sequential
from bpnet.layers.dense import Dense
from bpnet.losses import Loss
from bpnet.random import check_seed
from bpnet.testing.kernels import check_kernel, shipped_kernels
from bpnet.testing.layers import LayerCheck

FEATURES, OUTPUTS = 4, 4  # of the networks that losses end; the entries weigh four classes
LARGE, FEW = 10**7, 2  # a recipe whose forward makes more operations a sample is looked at with this many
LAYER = "derivatives, promises, planned steps"
GRADIENTS, PLANNED = "gradients", "planned against eager"


def audit_shipped(
    *,
    backend: str | Backend | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    tell: Callable[[Row], object] | None = None,
) -> AuditReport:
    """Hold everything that bpnet ships to differences in float64, and its planned steps to its eager ones.

    backend : where; by default as `get_backend` selects
    samples : of every layer, loss and recipe; two of a recipe that makes more than 10 million operations a sample
    seed    : of the random numbers
    tell    : called with every row as soon as it is known

    The report has a row for each case of each layer (its derivatives, its promises, and a planned step beside an eager
    one, bit for bit), two for each network that a loss ends and for each bundled recipe (all gradients; planned steps
    beside eager ones), and two for each kernel (its body for this backend beside the reference on NumPy, in float32 and
    in float64). Recipes whose data are not on this machine are in the notes. Raises ConfigError and BackendError.
    """
    check_seed(seed)
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ConfigError(f"audit: samples must be an integer of at least 1, got {samples!r}")
    place = get_backend(backend)
    rows: list[Row] = []
    notes: list[str] = []
    with np.errstate(all="ignore"):
        for row in chain(
            _layers(place, samples, seed),
            _losses(place, samples, seed),
            _kernels(place),
            _recipes(place, samples, seed, notes),
        ):
            rows.append(row)
            if tell is not None:
                tell(row)
    return AuditReport(f"everything that bpnet ships, on {place.name}", tuple(rows), tuple(notes))


def _layers(place: Backend, samples: int, seed: int) -> Iterator[Row]:
    from bpnet.testing.cases.layers import LAYER_CASES

    for name, case in LAYER_CASES.items():
        for inputs in case.inputs:
            n = max(samples, inputs.fewest)
            check = LayerCheck(case.make, inputs, n, place, seed=seed)
            shapes = ", ".join(str(each.shape) for each in (*check.args, *check.side.values()))
            yield _held(f"layer {name}", LAYER, shapes, check.run)


def _losses(place: Backend, samples: int, seed: int) -> Iterator[Row]:
    from bpnet.testing.cases.objectives import LOSSES

    for name, entry in LOSSES.items():
        for which, fit in entry.fits.items():
            rng = np.random.default_rng([seed, 20])
            layers = Dense(FEATURES, 5), Tanh(), Dense(5, OUTPUTS, weight_l2=0.01), *(each() for each in fit.last)
            x, y = rng.normal(size=(samples, FEATURES)), fit.targets(rng, samples, OUTPUTS)
            where = f"loss {name}" + (f", {which}" if which else "")
            yield from _both(where, Sequential(*layers), fit.make(), x, y, place, seed)


def _kernels(place: Backend) -> Iterator[Row]:
    for op in shipped_kernels():
        for dtype in FLOATING_DTYPES:
            yield _held(f"kernel {op.name}", dtype, "reference on NumPy", lambda: check_kernel(op, place, dtype))  # noqa: B023


def _recipes(place: Backend, samples: int, seed: int, notes: list[str]) -> Iterator[Row]:
    for name in recipes.available():
        try:
            run = recipes.find(name).prepare(backend=place)
        except (ConfigError, MissingExtraError) as error:
            notes.append(f"the recipe {name} was not audited: {' '.join(str(error).split())[:200]}")
            continue
        n = min(samples, FEW) if cost(run.model, run.training.x[:1, ...]).forward.flops > LARGE else samples
        x, y = run.training.x[:n, ...], run.training.y[:n, ...]
        yield from _both(f"recipe {name}", run.model, run.trainer.loss, x, y, place, seed)


def _both(where: str, model: Layer, loss: Loss, x: Any, y: Any, place: Backend, seed: int) -> Iterator[Row]:
    """The rows of a model with its loss: all of its gradients, and its planned steps."""
    yield _summed(where, GRADIENTS, audit(copy.deepcopy(model), copy.deepcopy(loss), x, y, backend=place, seed=seed))
    compared = audit(model, loss, x, y, backend=place, against=EAGER, seed=seed)
    yield _summed(where, PLANNED, compared)


def _summed(where: str, what: str, report: AuditReport) -> Row:
    """A whole report as one row."""
    errors = [row.error for row in report.rows if row.error is not None]
    notes = "; ".join(report.notes)
    diagnosis = notes
    if not report.passed:
        first = report.failures[0]
        diagnosis = f"{len(report.failures)} of {len(report.rows)} rows; {first.where}, {first.what}: {first.diagnosis}"
    how = f"{len(report.rows)} rows"
    return Row(where, what, report.passed, max(errors, default=None), None, diagnosis, report.kinks, how)


def _held(where: str, what: str, how: str, check: Callable[[], None]) -> Row:
    """The row of a check that raises AssertionError where something is wrong."""
    try:
        check()
    except AssertionError as error:
        return Row(where, what, False, diagnosis=" ".join(str(error).split()), how=how)
    return Row(where, what, True, how=how)
