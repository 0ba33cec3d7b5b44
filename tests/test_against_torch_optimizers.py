"""Optimizers, schedules, clipping and averages against PyTorch's, over 50 steps in float64 to 1e-9.

An optional test: `pip install torch` beside bpnet. Both sides minimize one quadratic, each with the gradients at its
own values, so that an error of one step grows with the next. torch.optim has no Lion: tests/test_optimizers.py holds it
to its paper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bpnet as bp

torch = pytest.importorskip("torch", reason="PyTorch is not installed (an optional test: pip install torch)")

STEPS = 50
RNG = np.random.default_rng(0)
SHAPES = {"0.weight": (3, 4), "0.bias": (4,), "2.weight": (4, 2), "2.bias": (2,)}
START = {path: RNG.normal(size=shape) for path, shape in SHAPES.items()}
CURVATURE = {path: RNG.uniform(0.5, 3, size=shape) for path, shape in SHAPES.items()}
TARGET = {path: RNG.normal(size=shape) for path, shape in SHAPES.items()}
NOISE = [{path: 0.3 * RNG.normal(size=shape) for path, shape in SHAPES.items()} for _ in range(STEPS)]


def gradient(path: str, value: Any, step: int) -> Any:
    return CURVATURE[path] * (value - TARGET[path]) + NOISE[step][path]


def ours(make: Callable[[], bp.Optimizer]) -> tuple[bp.Layer, list[float]]:
    """The model after 50 steps, and the learning rates of the steps."""
    model = bp.Sequential(bp.Dense(3, 4), bp.Tanh(), bp.Dense(4, 2)).initialize(dtype="float64")
    optimizer, rates = make(), []
    for path, parameter in model.parameters().items():
        parameter.value = START[path]
    for step in range(STEPS):
        for path, parameter in model.parameters().items():
            parameter.accumulate(gradient(path, parameter.value, step))
        rates.append(optimizer.learning_rate)
        optimizer.step(model)
    return model, rates


class Theirs:
    """The same in PyTorch. Weight decay is set for weights and not for biases, as bpnet does it."""

    def __init__(self, make: Callable[[Any], Any], decay: float = 0.0) -> None:
        self.parameters = {path: torch.nn.Parameter(torch.tensor(value)) for path, value in START.items()}
        weights = [p for path, p in self.parameters.items() if path.endswith("weight")]
        biases = [p for path, p in self.parameters.items() if path.endswith("bias")]
        self.optimizer = make([{"params": weights, "weight_decay": decay}, {"params": biases, "weight_decay": 0.0}])

    def run(
        self,
        scheduler: Any = None,
        clip: Callable[[Any], Any] = lambda parameters: None,
        after: Callable[[], Any] = lambda: None,
    ) -> list[float]:
        rates = []
        for step in range(STEPS):
            for path, parameter in self.parameters.items():
                parameter.grad = torch.tensor(gradient(path, parameter.detach().numpy(), step))
            clip(list(self.parameters.values()))
            rates.append(self.optimizer.param_groups[0]["lr"])
            self.optimizer.step()
            if scheduler is not None:
                scheduler.step()
            after()
        return rates


def assert_equal(model: bp.Layer, parameters: dict[str, Any]) -> None:
    for path, parameter in model.parameters().items():
        np.testing.assert_allclose(parameter.value, parameters[path].detach().numpy(), rtol=1e-9, atol=1e-9)


PAIRS: dict[str, tuple[Callable[[], bp.Optimizer], Callable[[Any], Any], float]] = {
    "SGD": (lambda: bp.SGD(0.05), lambda p: torch.optim.SGD(p, lr=0.05), 0.0),
    "SGD, decay": (lambda: bp.SGD(0.05, weight_decay=0.1), lambda p: torch.optim.SGD(p, lr=0.05), 0.1),
    "SGD, momentum, decay": (
        lambda: bp.SGD(0.05, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
        0.1,
    ),
    "SGD, Nesterov": (
        lambda: bp.SGD(0.05, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
        0.0,
    ),
    "Adam": (lambda: bp.Adam(0.05), lambda p: torch.optim.Adam(p, lr=0.05), 0.0),
    "Adam, other settings": (
        lambda: bp.Adam(0.05, beta1=0.5, beta2=0.9, epsilon=1e-3),
        lambda p: torch.optim.Adam(p, lr=0.05, betas=(0.5, 0.9), eps=1e-3),
        0.0,
    ),
    "AMSGrad": (
        lambda: bp.Adam(0.05, beta2=0.9, amsgrad=True),
        lambda p: torch.optim.Adam(p, lr=0.05, betas=(0.9, 0.9), amsgrad=True),
        0.0,
    ),
    "AdamW": (lambda: bp.AdamW(0.05, weight_decay=0.1), lambda p: torch.optim.AdamW(p, lr=0.05), 0.1),
    "AdamW, AMSGrad": (
        lambda: bp.AdamW(0.05, weight_decay=0.1, beta2=0.9, amsgrad=True),
        lambda p: torch.optim.AdamW(p, lr=0.05, betas=(0.9, 0.9), amsgrad=True),
        0.1,
    ),
    "Adagrad, decay": (lambda: bp.Adagrad(0.3, weight_decay=0.1), lambda p: torch.optim.Adagrad(p, lr=0.3), 0.1),
    "Adagrad, initial accumulator": (
        lambda: bp.Adagrad(0.3, initial_accumulator=0.1, epsilon=1e-3),
        lambda p: torch.optim.Adagrad(p, lr=0.3, initial_accumulator_value=0.1, eps=1e-3),
        0.0,
    ),
    # PyTorch's lr_decay is a schedule of ours
    "Adagrad, falling rate": (
        lambda: bp.Adagrad(bp.InverseTime(0.3, decay=0.05)),
        lambda p: torch.optim.Adagrad(p, lr=0.3, lr_decay=0.05),
        0.0,
    ),
    # their alpha is our rho
    "RMSprop": (lambda: bp.RMSprop(0.02), lambda p: torch.optim.RMSprop(p, lr=0.02), 0.0),
    "RMSprop, momentum, decay": (
        lambda: bp.RMSprop(0.02, rho=0.9, momentum=0.8, weight_decay=0.1),
        lambda p: torch.optim.RMSprop(p, lr=0.02, alpha=0.9, momentum=0.8),
        0.1,
    ),
    # we keep the variance at least 0; here it is above that anyway
    "RMSprop, centered": (
        lambda: bp.RMSprop(0.02, rho=0.9, centered=True, epsilon=1e-3),
        lambda p: torch.optim.RMSprop(p, lr=0.02, alpha=0.9, centered=True, eps=1e-3),
        0.0,
    ),
    "RMSprop, centered, momentum, decay": (
        lambda: bp.RMSprop(0.02, centered=True, momentum=0.5, weight_decay=0.1),
        lambda p: torch.optim.RMSprop(p, lr=0.02, centered=True, momentum=0.5),
        0.1,
    ),
}


@pytest.mark.parametrize(("make", "their_make", "decay"), PAIRS.values(), ids=PAIRS)
def test_optimizers_agree(make: Callable[[], bp.Optimizer], their_make: Callable[[Any], Any], decay: float) -> None:
    theirs = Theirs(their_make, decay)
    theirs.run()
    assert_equal(ours(make)[0], theirs.parameters)


SCHEDULERS = torch.optim.lr_scheduler
SCHEDULES: dict[str, tuple[bp.Schedule, Callable[[Any], Any]]] = {
    "constant": (bp.Constant(0.1), lambda o: SCHEDULERS.LambdaLR(o, lambda step: 1.0)),
    "inverse time": (
        bp.InverseTime(0.1, decay=0.2),
        lambda o: SCHEDULERS.LambdaLR(o, lambda step: 1 / (1 + 0.2 * step)),
    ),
    "step": (bp.StepDecay(0.1, every=7, factor=0.5), lambda o: SCHEDULERS.StepLR(o, step_size=7, gamma=0.5)),
    "exponential": (bp.Exponential(0.1, factor=0.95), lambda o: SCHEDULERS.ExponentialLR(o, gamma=0.95)),
    "exponential over 10 steps": (
        bp.Exponential(0.1, factor=0.5, every=10),
        lambda o: SCHEDULERS.ExponentialLR(o, gamma=0.5**0.1),
    ),
    "cosine": (
        bp.Cosine(0.1, STEPS, final=0.01),
        lambda o: SCHEDULERS.CosineAnnealingLR(o, T_max=STEPS, eta_min=0.01),
    ),
    # our warm-up of W steps begins with 1 / (W + 1) of the rate, so that no step is made with rate 0
    "cosine with warm-up": (
        bp.Cosine(0.1, STEPS, warmup=10, final=0.01),
        lambda o: SCHEDULERS.SequentialLR(
            o,
            [
                SCHEDULERS.LinearLR(o, start_factor=1 / 11, total_iters=10),
                SCHEDULERS.CosineAnnealingLR(o, T_max=STEPS - 10, eta_min=0.01),
            ],
            milestones=[10],
        ),
    ),
    "warm-up before an exponential": (
        bp.WarmUp(bp.Exponential(0.1, factor=0.9), 5),
        lambda o: SCHEDULERS.SequentialLR(
            o,
            [SCHEDULERS.LinearLR(o, start_factor=1 / 6, total_iters=5), SCHEDULERS.ExponentialLR(o, gamma=0.9)],
            milestones=[5],
        ),
    ),
    # their cycle_momentum has no counterpart
    "one cycle": (
        bp.OneCycle(0.1, STEPS + 1),
        lambda o: SCHEDULERS.OneCycleLR(o, max_lr=0.1, total_steps=STEPS + 1, cycle_momentum=False),
    ),
    "one cycle, other settings": (
        bp.OneCycle(0.1, STEPS + 1, rise=0.45, start=0.1, final=0.001),
        lambda o: SCHEDULERS.OneCycleLR(
            o,
            max_lr=0.1,
            total_steps=STEPS + 1,
            pct_start=0.45,
            div_factor=10,
            final_div_factor=100,
            cycle_momentum=False,
        ),
    ),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")  # their SequentialLR warns of itself
@pytest.mark.parametrize(("schedule", "scheduler"), SCHEDULES.values(), ids=SCHEDULES)
def test_schedules_agree(schedule: bp.Schedule, scheduler: Callable[[Any], Any]) -> None:
    theirs = Theirs(lambda p: torch.optim.AdamW(p, lr=0.1), 0.1)
    their_rates = theirs.run(scheduler(theirs.optimizer))
    model, rates = ours(lambda: bp.AdamW(schedule, weight_decay=0.1))
    np.testing.assert_allclose(rates, their_rates, rtol=1e-12)
    np.testing.assert_allclose([schedule(step) for step in range(STEPS)], their_rates, rtol=1e-12)
    assert_equal(model, theirs.parameters)


@pytest.mark.parametrize("limit", [0.5, 3.0, 1e6])
def test_clipping_by_norm_agrees(limit: float) -> None:
    def clip(parameters: list[Any]) -> None:
        # clip_grad_norm_ divides by norm + 1e-6, we by the norm itself: take that away from the norm it is told
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm - 1e-6)

    theirs = Theirs(lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9))
    theirs.run(clip=clip)
    assert_equal(ours(lambda: bp.SGD(0.05, momentum=0.9, clip_norm=limit))[0], theirs.parameters)
    plain = Theirs(lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9))
    plain.run(clip=lambda p: torch.nn.utils.clip_grad_norm_(p, limit))
    for path, parameter in plain.parameters.items():
        np.testing.assert_allclose(parameter.detach(), theirs.parameters[path].detach(), rtol=1e-4, atol=1e-4)


def test_clipping_by_value_agrees() -> None:
    theirs = Theirs(lambda p: torch.optim.RMSprop(p, lr=0.05))
    theirs.run(clip=lambda p: torch.nn.utils.clip_grad_value_(p, 0.4))
    assert_equal(ours(lambda: bp.RMSprop(0.05, clip_value=0.4))[0], theirs.parameters)


def test_averages_agree() -> None:
    theirs = Theirs(lambda p: torch.optim.AdamW(p, lr=0.05), 0.1)
    module = torch.nn.ParameterDict({path.replace(".", "_"): p for path, p in theirs.parameters.items()})
    averaged = torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    theirs.run(after=lambda: averaged.update_parameters(module))
    model, _ = ours(lambda: bp.AdamW(0.05, weight_decay=0.1, average=0.9))
    assert_equal(model, theirs.parameters)
    with model.averaged():
        assert_equal(model, {path: averaged.module[path.replace(".", "_")] for path in SHAPES})


def test_groups_agree() -> None:
    theirs = Theirs(lambda p: torch.optim.AdamW(p, lr=0.05))
    p = theirs.parameters
    theirs.optimizer = torch.optim.AdamW(
        [
            {"params": [p["0.weight"]], "lr": 0.005, "weight_decay": 0.3},
            {"params": [p["0.bias"]], "lr": 0.005, "weight_decay": 0.0},
            {"params": [p["2.weight"]], "lr": 0.05, "weight_decay": 0.1},
            {"params": [p["2.bias"]], "lr": 0.05, "weight_decay": 0.0},
        ]
    )
    theirs.run()
    groups = [bp.Group("0.*", learning_rate_scale=0.1, weight_decay=0.3)]
    assert_equal(ours(lambda: bp.AdamW(0.05, weight_decay=0.1, groups=groups))[0], p)
