"""All that bpnet says of its own: an entry for every public layer, loss, optimizer, schedule, metric and kernel.

The generic tests run every contract over every entry on every backend; what has none is named by `without_entry`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import bpnet as bp
from bpnet.dispatch import Kernel, kernels
from bpnet.testing.cases import CASES
from bpnet.testing.cases.entries import Entry
from bpnet.testing.cases.layers import LAYERS
from bpnet.testing.cases.metrics import METRICS
from bpnet.testing.cases.objectives import LOSSES
from bpnet.testing.cases.optimizers import OPTIMIZERS
from bpnet.testing.cases.schedules import SCHEDULES

BASES: dict[type, Mapping[str, Entry[Any]]] = {
    bp.Layer: LAYERS,
    bp.Loss: LOSSES,
    bp.Optimizer: OPTIMIZERS,
    bp.Schedule: SCHEDULES,
    bp.Metric: METRICS,
}
"""The registry, by the base of the classes in it."""

ABSTRACT = (bp.Layer, bp.Loss, bp.ClassLoss, bp.Optimizer, bp.Schedule, bp.Metric, bp.metrics.MeanMetric)
"""Public classes that are there to be derived from."""


def entries() -> Iterator[tuple[type, str, Entry[Any]]]:
    """(class, name, entry) of every entry."""
    for base, family in BASES.items():
        for name, entry in family.items():
            yield public_classes()[base, name], name, entry


def public_classes(*modules: ModuleType) -> dict[tuple[type, str], type]:
    """The public classes of the five kinds, by base and name: those of bpnet, or of these modules."""
    found: dict[tuple[type, str], type] = {}
    for module in modules or (bp, bp.metrics, bp.schedules):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) and value not in ABSTRACT:
                found |= {(base, value.__name__): value for base in BASES if issubclass(value, base)}
    return found


def without_entry(*modules: ModuleType) -> list[str]:
    """What is public and has no entry, or one that leaves something out, and why."""
    found = []
    for (base, name), cls in public_classes(*modules).items():
        entry = BASES[base].get(name)
        if entry is None:
            found.append(f"{name}: a public {base.__name__} without an entry in bpnet.testing.cases")
            continue
        if not entry.cases:
            found.append(f"{name}: its entry has no case")
        if inspect.signature(cls).parameters and not entry.bad_arguments:
            found.append(f"{name}: it takes arguments, and its entry no bad ones")
        if not entry.bad_inputs:
            found.append(f"{name}: its entry has no bad inputs")
    return found + [f"{op.name}: {lacks}" for op in own_kernels() for lacks in lacking(op)]


def lacking(op: Kernel) -> list[str]:
    """What the entry of a kernel leaves out: sample arguments, or what it costs."""
    found = [] if op.name in CASES else ["a kernel without sample arguments in CASES"]
    return found if op.flops is not None else [*found, "a kernel that does not declare its cost, @kernel(flops=...)"]


def own_kernels() -> list[Kernel]:
    """bpnet's own kernels."""
    return [each for each in kernels() if each.__module__.startswith("bpnet.")]
