"""The entries of optimizers, each with its paper's formula, for one parameter in float64."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

import bpnet as bp
from bpnet.errors import ConfigError
from bpnet.testing.cases.entries import BadArguments, BadInputs, Entry, OptimizerCase, all_cases


def sgd(steps: int, w: Any, grads: Any, decays: bool, decay: float = 0.0) -> Any:
    for g in grads[:steps]:
        w = w - 0.1 * (g + (decay * w if decays else 0))
    return w


def momentum(steps: int, w: Any, grads: Any, decays: bool) -> Any:
    v = 0 * w
    for g in grads[:steps]:
        v = 0.9 * v + g
        w = w - 0.1 * v
    return w


def nesterov(steps: int, w: Any, grads: Any, decays: bool) -> Any:
    v = 0 * w
    for g in grads[:steps]:
        g = g + (0.05 * w if decays else 0)
        v = 0.9 * v + g
        w = w - 0.1 * (g + 0.9 * v)
    return w


def adam(steps: int, w: Any, grads: Any, decays: bool, decay: float = 0.0) -> Any:
    m = v = 0 * w
    for t, g in enumerate(grads[:steps], start=1):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        w = w - 0.1 * (decay * w if decays else 0) - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return w


def amsgrad(steps: int, w: Any, grads: Any, decays: bool, decay: float = 0.0) -> Any:
    m = v = top = 0 * w
    for t, g in enumerate(grads[:steps], start=1):
        m = 0.9 * m + 0.1 * g
        v = 0.5 * v + 0.5 * g**2
        top = np.maximum(top, v)
        w = w - 0.1 * (decay * w if decays else 0) - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(top / (1 - 0.5**t)) + 1e-8)
    return w


def adagrad(steps: int, w: Any, grads: Any, decays: bool, decay: float = 0.0, initial: float = 0.0) -> Any:
    s = 0 * w + initial
    for g in grads[:steps]:
        g = g + (decay * w if decays else 0)
        s = s + g**2
        w = w - 0.1 * g / (np.sqrt(s) + 1e-10)
    return w


def rmsprop(
    steps: int, w: Any, grads: Any, decays: bool, decay: float = 0.0, mu: float = 0.0, centered: bool = False
) -> Any:
    s = mean = v = 0 * w
    for g in grads[:steps]:
        g = g + (decay * w if decays else 0)
        s = 0.9 * s + 0.1 * g**2
        mean = 0.9 * mean + 0.1 * g
        v = mu * v + g / (np.sqrt(s - mean**2 if centered else s) + 1e-8)
        w = w - 0.1 * v
    return w


def lion(steps: int, w: Any, grads: Any, decays: bool, decay: float = 0.0) -> Any:
    m = 0 * w
    for g in grads[:steps]:
        w = w - 0.1 * (np.sign(0.9 * m + 0.1 * g) + (decay * w if decays else 0))
        m = 0.99 * m + 0.01 * g
    return w


NO_MODEL = BadInputs(({},), "step takes the model, got dict", ConfigError)

OPTIMIZERS: dict[str, Entry[OptimizerCase]] = {
    "SGD": Entry(
        {
            "": OptimizerCase(lambda: bp.SGD(0.1), sgd),
            "with decay": OptimizerCase(lambda: bp.SGD(0.1, weight_decay=0.05), partial(sgd, decay=0.05)),
            "with momentum": OptimizerCase(lambda: bp.SGD(0.1, momentum=0.9), momentum),
            "with Nesterov and decay": OptimizerCase(
                lambda: bp.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.05), nesterov
            ),
        },
        (
            BadArguments(lambda: bp.SGD(momentum=1.0), r"momentum must lie in \[0, 1\)"),
            BadArguments(lambda: bp.SGD(nesterov=True), "give a momentum above 0"),
            BadArguments(lambda: bp.SGD(weight_decay=-1), "weight_decay must lie in"),
            BadArguments(lambda: bp.SGD(clip_norm=0), "clip_norm must be above 0 and finite, got 0"),
            BadArguments(lambda: bp.SGD(average=True), "average must be a number, got True"),
            BadArguments(
                lambda: bp.SGD(groups=bp.Group("*")),  # type: ignore[arg-type]
                r"groups must be a list of Groups, as in \[Group\(",
            ),
            BadArguments(lambda: bp.SGD(groups=["*"]), "groups must be a list of Groups"),  # type: ignore[list-item]
            BadArguments(
                lambda: bp.SGD(bp.Constant),  # type: ignore[arg-type]
                r"got the class Constant: write Constant\(\.\.\.\)",
            ),
        ),
        (NO_MODEL,),
    ),
    "Adam": Entry(
        {
            "": OptimizerCase(lambda: bp.Adam(0.1), adam),
            "AMSGrad": OptimizerCase(lambda: bp.Adam(0.1, beta2=0.5, amsgrad=True), amsgrad),
        },
        (
            BadArguments(lambda: bp.Adam(beta1=-0.1), "beta1 must lie in"),
            BadArguments(lambda: bp.Adam(beta2=1), "beta2 must lie in"),
            BadArguments(lambda: bp.Adam(epsilon=0), "epsilon must be above 0"),
            BadArguments(lambda: bp.Adam(clip_value=float("inf")), "clip_value must be above 0 and finite, got inf"),
        ),
        (NO_MODEL,),
    ),
    "AdamW": Entry(
        {
            "": OptimizerCase(lambda: bp.AdamW(0.1, weight_decay=0.05), partial(adam, decay=0.05)),
            "AMSGrad": OptimizerCase(
                lambda: bp.AdamW(0.1, beta2=0.5, amsgrad=True, weight_decay=0.05), partial(amsgrad, decay=0.05)
            ),
        },
        (BadArguments(lambda: bp.AdamW(weight_decay=float("nan")), "weight_decay must be a number"),),
        (NO_MODEL,),
    ),
    "Adagrad": Entry(
        {
            "": OptimizerCase(lambda: bp.Adagrad(0.1), adagrad),
            "with decay and an initial accumulator": OptimizerCase(
                lambda: bp.Adagrad(0.1, weight_decay=0.05, initial_accumulator=0.5),
                partial(adagrad, decay=0.05, initial=0.5),
            ),
        },
        (
            BadArguments(lambda: bp.Adagrad(initial_accumulator=-1), "initial_accumulator must lie in"),
            BadArguments(lambda: bp.Adagrad(epsilon=0), "epsilon must be above 0"),
        ),
        (NO_MODEL,),
    ),
    "RMSprop": Entry(
        {
            "": OptimizerCase(lambda: bp.RMSprop(0.1, rho=0.9), rmsprop),
            "with momentum and decay": OptimizerCase(
                lambda: bp.RMSprop(0.1, rho=0.9, momentum=0.5, weight_decay=0.05),
                partial(rmsprop, decay=0.05, mu=0.5),
            ),
            "centered": OptimizerCase(lambda: bp.RMSprop(0.1, rho=0.9, centered=True), partial(rmsprop, centered=True)),
            "centered, with momentum": OptimizerCase(
                lambda: bp.RMSprop(0.1, rho=0.9, centered=True, momentum=0.5),
                partial(rmsprop, centered=True, mu=0.5),
            ),
        },
        (
            BadArguments(lambda: bp.RMSprop(rho=1), "rho must lie in"),
            BadArguments(lambda: bp.RMSprop(momentum=-0.1), "momentum must lie in"),
        ),
        (NO_MODEL,),
    ),
    "Lion": Entry(
        {
            "": OptimizerCase(lambda: bp.Lion(0.1), lion),
            "with decoupled decay": OptimizerCase(lambda: bp.Lion(0.1, weight_decay=0.05), partial(lion, decay=0.05)),
        },
        (
            BadArguments(lambda: bp.Lion(beta1=1.5), "beta1 must lie in"),
            BadArguments(lambda: bp.Lion(average=1), r"average must lie in \[0, 1\), got 1"),
        ),
        (NO_MODEL,),
    ),
}
OPTIMIZER_CASES: dict[str, OptimizerCase] = all_cases(OPTIMIZERS)
