"""`audit`: every layer alone, the loss alone, the whole model, and the kernels, in one report."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from bpnet.auditing.copies import captured, copied, inner_first, said
from bpnet.auditing.kernels import kernel_rows
from bpnet.auditing.layers import layer_rows
from bpnet.auditing.losses import LossAlone, Whole
from bpnet.auditing.parting import Side, part, planned_against_eager
from bpnet.auditing.report import AuditReport, Row
from bpnet.auditing.samples import SAMPLES, of_recipe, random_x, random_y
from bpnet.backend import FLOATING_DTYPES, Backend, get_backend, to_numpy
from bpnet.door import Door
from bpnet.errors import BackendError, ConfigError
from bpnet.layers.base import Layer
from bpnet.losses import Loss
from bpnet.optimizers import SGD, Optimizer
from bpnet.random import check_seed
from bpnet.testing.layer_derivatives import reset
from bpnet.trainer import Trainer

EAGER, PLANNED = "eager", "planned"  # either means the one against the other
RATE = 0.01  # of the steps that are compared


def audit(
    model: Layer,
    loss: Loss | None = None,
    x: Any = None,
    y: Any = None,
    *,
    backend: str | Backend | None = None,
    against: str | Backend | None = None,
    optimizer: Optimizer | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> AuditReport:
    """Hold every derivative of a model to differences in float64, and its layers, loss and kernels to their promises.

    model     : a Layer, your own too; it is copied, and neither its values nor gradients nor counters change
    loss      : a Loss; without one the model alone is audited. A model that `bpnet train` saved knows its own
    x, y      : samples and targets; by default of the model's recipe, else random ones that model and loss take
    backend   : whose kernels are audited; by default the model's, or as `get_backend` selects
    against   : another backend, "float32", "float64", or "eager": the audit then is one training step on both sides,
                which finds the first tensor, direction and layer where they part ("eager", or "planned": steps from a
                plan and steps without one, bit for bit)
    optimizer : of that step, by default SGD(0.01)
    samples   : how many of x and y to take; by default all that are given, else 8
    seed      : of the random numbers

    Derivatives are differenced on a copy in float64: the whole Jacobian where an array has at most 200 elements, else
    16 random directions; kinks are stepped around, and counted. The kernels of one training step are held to their
    references on NumPy, in float32 and in float64. Raises ConfigError, BackendError and what the data are refused for.

    >>> import bpnet as bp
    >>> model = bp.Sequential(bp.Dense(4, 3), bp.Tanh(), bp.Dense(3, 2))
    >>> bp.audit(model, bp.SoftmaxCrossEntropy()).passed
    True
    """
    _check_kinds(model, loss, optimizer, samples)
    check_seed(seed)
    with np.errstate(all="ignore"):
        return _audited(model, loss, x, y, backend, against, optimizer, samples, seed)


def _audited(
    model: Layer,
    loss: Loss | None,
    x: Any,
    y: Any,
    backend: str | Backend | None,
    against: str | Backend | None,
    optimizer: Optimizer | None,
    samples: int | None,
    seed: int,
) -> AuditReport:
    place = _backend_of(model) if backend is None else get_backend(backend)
    wide = copied(model, place, "float64", seed)
    loss, x, y, origin = _samples(wide, copy.deepcopy(loss), x, y, samples, seed)
    if against is not None:
        return _against(model, loss, x, y, place, against, optimizer, seed)
    rows: list[Row] = []
    notes: list[str] = []
    subject = f"{_short(model)} on {place.name}, {len(x)} samples ({origin})"
    try:
        inputs, prediction = captured(wide, x)
    except Exception as error:
        row = Row("model", "forward", False, diagnosis=f"raised {said(error)}")
        return AuditReport(subject, (row,))
    for path, layer in inner_first(wide):
        if path not in inputs:
            notes.append(f"{path} {layer!r} is not called by forward; it was seen only within the layer that holds it")
            continue
        rows += layer_rows(wide, path, layer, inputs[path], place, seed, inner=bool(path) or loss is None)
    if loss is not None:
        target = Door(wide, loss, ()).y(y)
        rows += LossAlone(wide, loss, prediction, target, seed).rows()
        if loss.reduction == "none":
            notes.append(f"{loss!r} gives no one number, so the model and it are not audited together")
        else:
            rows += Whole(wide, loss, np.asarray(to_numpy(wide.asarray(x))), target, prediction.shape, seed).rows()
    for dtype in FLOATING_DTYPES:
        rows += kernel_rows(lambda dtype=dtype: _step(model, loss, x, y, place, dtype, seed), place.name, dtype)
    return AuditReport(subject, tuple(rows), tuple(notes))


def _check_kinds(model: Any, loss: Any, optimizer: Any, samples: Any) -> None:
    for given, kind, what in ((model, Layer, "model must be a Layer"), (loss, Loss, "loss must be a Loss or None"),
                              (optimizer, Optimizer, "optimizer must be an Optimizer or None")):  # fmt: skip
        if not isinstance(given, kind) and (given is not None or kind is Layer):
            hint = "; write its instance, with parentheses" if isinstance(given, type) else ""
            raise ConfigError(f"audit: {what}, got {given!r}{hint}")
    if samples is not None and (isinstance(samples, bool) or not isinstance(samples, int) or samples < 1):
        raise ConfigError(f"audit: samples must be an integer of at least 1, got {samples!r}")


def _backend_of(model: Layer) -> Backend:
    store = model.root._store
    return get_backend(None) if store is None else store.backend


def _samples(
    wide: Layer, loss: Loss | None, x: Any, y: Any, samples: int | None, seed: int
) -> tuple[Loss | None, Any, Any, str]:
    """The loss, x and y on the host, and where they are from."""
    n = SAMPLES if samples is None else samples
    if y is not None and (x is None or loss is None):
        raise ConfigError(f"audit: y is given without {'x' if x is None else 'a loss'}; give both")
    if x is not None:
        x, origin = np.asarray(to_numpy(x)), "given"
        x = x if samples is None else x[:samples]
        if not x.ndim or not len(x):
            raise ConfigError(f"audit: x must have some samples along its first axis, got shape {x.shape}")
    else:
        x, y, own = of_recipe(wide, n) or (None, None, None)
        if loss is not None and type(loss) is not type(own):
            y = None
        loss = own if loss is None else loss
        origin = "random" if x is None else "of its recipe"
        x = random_x(wide, n, seed) if x is None else np.asarray(to_numpy(x))
    if loss is None:
        return None, x, None, origin
    y = random_y(wide, loss, x, seed) if y is None else np.asarray(to_numpy(y))
    y = y if samples is None else y[:samples]
    if len(y) != len(x):
        raise ConfigError(f"audit: x has {len(x)} samples and y {len(y)}")
    return loss, x, y, origin


def _step(model: Layer, loss: Loss | None, x: Any, y: Any, place: Backend, dtype: str, seed: int) -> None:
    """One training step of a copy of the model; forward and backward where there is no loss."""
    twin = copied(model, place, dtype, seed)
    if loss is not None and loss.reduction != "none" and any(p.trainable for p in twin.parameters().values()):
        Trainer(twin, copy.deepcopy(loss), SGD(RATE), plan=False).step(x, y)
        return
    reset(twin)
    prediction = twin.forward(twin.asarray(x))
    dy = np.random.default_rng([seed, 2, 0]).normal(size=tuple(prediction.shape))
    twin.backward(twin.asarray(dy))


def _against(
    model: Layer,
    loss: Loss | None,
    x: Any,
    y: Any,
    place: Backend,
    against: str | Backend,
    optimizer: Optimizer | None,
    seed: int,
) -> AuditReport:
    if loss is None or loss.reduction == "none":
        raise ConfigError("audit: against compares training steps, which need a loss that gives one number; give one")
    store = model.root._store
    dtype = (model._origin[2] or "float32") if store is None else store.dtype
    optimizer = SGD(RATE) if optimizer is None else optimizer
    here = Side(place, dtype)
    if isinstance(against, str) and against in (EAGER, PLANNED):
        rows, first, why = planned_against_eager(model, loss, optimizer, x, y, here, seed)
        subject = f"{_short(model)} on {here.name}: planned steps against eager ones, {len(x)} samples"
        return AuditReport(subject, tuple(rows), (f"no plan was made: {why}",) if why else (), first)
    there = _other(here, against)
    if there.dtype == here.dtype and there.backend is here.backend:
        here = Side(place, "float64" if dtype == "float32" else "float32")
    rows, first = part(model, loss, optimizer, x, y, (here, there), seed)
    subject = f"{_short(model)}: a training step on ({here.name}) against ({there.name}), {len(x)} samples"
    return AuditReport(subject, tuple(rows), parting=first)


def _other(here: Side, against: str | Backend) -> Side:
    if isinstance(against, str) and against in FLOATING_DTYPES:
        return Side(here.backend, against)
    try:
        return Side(get_backend(against), here.dtype)
    except BackendError as error:
        if isinstance(against, str) and "unknown backend" in str(error):
            raise ConfigError(
                f"audit: against must be a backend, {', '.join(map(repr, FLOATING_DTYPES))} or {EAGER!r}: {error}"
            ) from error
        raise


def _short(model: Layer) -> str:
    text = repr(model)
    return text if len(text) <= 90 else f"{text[:87]}..."
