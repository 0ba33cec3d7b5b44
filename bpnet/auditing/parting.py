"""One training step on two sides from one state: the first tensor in which they part, and which side is nearer to the
truth, a third run in float64 on NumPy.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpnet.auditing.copies import copied, named, on_host, patched
from bpnet.auditing.report import Row
from bpnet.backend import Backend, get_backend, to_numpy
from bpnet.dispatch import Kernel, recording
from bpnet.layers.base import Layer
from bpnet.losses import Loss
from bpnet.optimizers import Optimizer
from bpnet.testing.layer_derivatives import same_bits
from bpnet.trace import flat, is_array, mapped
from bpnet.trainer import Trainer

TOLERANCE = {"float32": 1e-4, "float64": 1e-10}  # of the largest value of a tensor
PLANNED_STEPS = 5


@dataclass(frozen=True)
class Parting:
    """The first tensor in which two sides part.

    direction : "forward", "backward" or "update"; where : the layer, the loss, or the parameter
    tensor    : which tensor: the kernel that made it, or the parameter's value
    relative  : the largest difference as a part of the largest value; ulps : the same difference in units in the last
                place of the coarser side
    index     : of the element that is furthest apart; values : what each side has there, the truth last
    nearer    : the side that is nearer to float64 on NumPy; '' where that is not known
    """

    direction: str
    where: str
    tensor: str
    sides: tuple[str, str]
    relative: float
    ulps: float
    index: tuple[int, ...]
    values: tuple[float, ...]
    nearer: str = ""

    def __str__(self) -> str:
        a, b = self.sides
        near = f"; {self.nearer} is nearer to float64 on NumPy, {self.values[2]:.9g}" if self.nearer else ""
        return (
            f"{a} and {b} part first in the {self.direction} of {self.where}, in {self.tensor} at {self.index}: "
            f"{self.values[0]:.9g} and {self.values[1]:.9g}, {self.ulps:.3g} ulp, {self.relative:.2g} of the largest "
            f"value{near}"
        )


@dataclass(frozen=True)
class Side:
    """One of the two: where, and in which dtype."""

    backend: Backend
    dtype: str

    @property
    def name(self) -> str:
        """As "torch, float32"."""
        return f"{self.backend.name}, {self.dtype}"


@dataclass(frozen=True)
class _Tensor:
    direction: str
    where: str
    name: str
    array: Any


class _Recorder:
    """Keeps the results of every kernel call, with the layer and the direction that it belongs to.

    reference : whether kernels run by their references, and not by the variants of a backend
    """

    def __init__(self, reference: bool) -> None:
        self.reference = reference
        self.tensors: list[_Tensor] = []
        self.place: list[tuple[str, str]] = []

    def labelled(self, direction: str, where: str, method: Any) -> Any:
        def call(*args: Any, **keywords: Any) -> Any:
            self.place.append((direction, where))
            try:
                return method(*args, **keywords)
            finally:
                self.place.pop()

        return call

    def run(self, kernel: Kernel, args: tuple[Any, ...]) -> Any:
        result = (kernel.reference if self.reference else kernel.choose(args)).body(*args)
        if self.place and self.place[-1][0] != "update":
            results = result if result is not None else (args[0],)
            for index, each in enumerate(flat(mapped(on_host, results))):
                if is_array(each):
                    several = isinstance(results, tuple) and len(results) > 1
                    name = f"the result {index} of {kernel.name}" if several else f"the result of {kernel.name}"
                    self.tensors.append(_Tensor(*self.place[-1], name, each))
        return result


def one_step(
    model: Layer, loss: Loss, optimizer: Optimizer, x: Any, y: Any, side: Side, seed: int, *, reference: bool = False
) -> list[_Tensor]:
    """Every tensor of one training step of a copy of the model, in order, and the parameters after it."""
    recorder = _Recorder(reference)
    twin, loss, optimizer = copied(model, side.backend, side.dtype, seed), copy.deepcopy(loss), copy.deepcopy(optimizer)
    trainer = Trainer(twin, loss, optimizer, plan=False)
    places: list[tuple[Layer | Loss, str]] = [(layer, named(path, layer)) for path, layer in twin.walk()]
    places.append((loss, type(loss).__name__))
    patches: list[tuple[Any, str, Any]] = [
        (each, name, recorder.labelled(name, where, getattr(each, name)))
        for each, where in places
        for name in ("forward", "backward")
    ]
    patches.append((optimizer, "step", recorder.labelled("update", "", optimizer.step)))
    with patched(patches), recording(recorder):
        trainer.step(x, y)
    after = [_Tensor("update", path, "its value", on_host(each.value)) for path, each in twin.parameters().items()]
    return [*recorder.tensors, *after]


def part(
    model: Layer, loss: Loss, optimizer: Optimizer, x: Any, y: Any, sides: tuple[Side, Side], seed: int
) -> tuple[list[Row], Parting | None]:
    """A row for every layer and direction, and the first tensor in which the sides part."""
    names = sides[0].name, sides[1].name
    truth_side = Side(get_backend("numpy"), "float64")
    runs = [one_step(model, loss, optimizer, x, y, side, seed) for side in sides]
    rounded_side = Side(truth_side.backend, "float32")
    runs += [one_step(model, loss, optimizer, x, y, each, seed, reference=True) for each in (truth_side, rounded_side)]
    kinds = [[(each.direction, each.where, each.name, each.array.shape) for each in run] for run in runs]
    if kinds[0] != kinds[1] or kinds[0] != kinds[2]:
        other = kinds[1] if kinds[0] != kinds[1] else kinds[2]
        index = next((i for i, (a, b) in enumerate(zip(kinds[0], other, strict=False)) if a != b), -1)
        direction, where, name, _ = kinds[0][index]
        text = f"the sides make other calls from the {direction} of {where} on, at {name}"
        return [Row("a training step", f"{names[0]} and {names[1]}", False, diagnosis=text)], None
    dtype = "float32" if "float32" in (sides[0].dtype, sides[1].dtype) else "float64"
    rows: dict[tuple[str, str], list[Parting]] = {}
    first: Parting | None = None
    parted: dict[tuple[str, str], Parting] = {}
    for a, b, truth, rounded in zip(*runs, strict=True):
        found, place = _compared(a, b, truth, names, dtype), (a.where, a.direction)
        rows.setdefault(place, []).append(found)
        if found.relative > TOLERANCE[dtype] + _lost_anyhow(truth, rounded, dtype):
            parted.setdefault(place, found)
            first = found if first is None else first
    return [_row(place, found, parted.get(place)) for place, found in rows.items()], first


def _lost_anyhow(truth: _Tensor, rounded: _Tensor, dtype: str) -> float:
    """What rounding makes of this tensor, as a part of its largest value: much, where large terms cancel.

    It is seen in float32, and smaller in float64 as the unit in the last place is.
    """
    x, y = (np.asarray(each.array, dtype=np.float64) for each in (truth, rounded))
    largest = float(np.max(np.abs(y[np.isfinite(y)]), initial=0.0))
    off = float(np.max(np.abs(x - y), initial=0.0)) if x.size else 0.0
    if not largest or not np.isfinite(off):
        return 0.0
    return 16 * off / largest * float(np.finfo(dtype).eps) / float(np.finfo("float32").eps)


def _row(place: tuple[str, str], found: list[Parting], parting: Parting | None) -> Row:
    worst = parting or max(found, key=lambda each: each.relative)
    how = f"{len(found)} {'tensor' if len(found) == 1 else 'tensors'}, {worst.ulps:.3g} ulp"
    return Row(*place, parting is None, worst.relative, diagnosis="" if parting is None else str(parting), how=how)


def _compared(a: _Tensor, b: _Tensor, truth: _Tensor, names: tuple[str, str], dtype: str) -> Parting:
    x, y, z = (np.asarray(each.array, dtype=np.float64) for each in (a, b, truth))
    with np.errstate(invalid="ignore"):
        off = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y))
        off = np.where(np.isnan(off), np.inf, off)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(off)), off.shape)) if off.size else ()
    if not off.size:
        return Parting(a.direction, a.where, a.name, names, 0.0, 0.0, (), ())
    largest = max(float(np.max(np.abs(each[np.isfinite(each)]), initial=0.0)) for each in (x, y))
    values = float(x[index]), float(y[index]), float(z[index])
    difference = float(off[index])
    relative = difference / largest if largest else (0.0 if not difference else float("inf"))
    unit = float(np.spacing(np.asarray(max(abs(values[0]), abs(values[1])), dtype=dtype)))
    ulps = difference / unit if np.isfinite(unit) and unit else (0.0 if not difference else float("inf"))
    distances = [abs(value - values[2]) for value in values[:2]]
    nearer = "" if distances[0] == distances[1] else names[int(distances[1] < distances[0])]
    return Parting(a.direction, a.where, a.name, names, relative, ulps, index, values, nearer)


def planned_against_eager(
    model: Layer, loss: Loss, optimizer: Optimizer, x: Any, y: Any, side: Side, seed: int
) -> tuple[list[Row], Parting | None, str]:
    """A row a step: whether planned steps give every bit of eager ones; the first difference; why there is no plan."""

    def trainer(plan: bool) -> Trainer:
        twin = copied(model, side.backend, side.dtype, seed)
        return Trainer(twin, copy.deepcopy(loss), copy.deepcopy(optimizer), plan=plan)

    eager, planned = trainer(False), trainer(True)
    rows: list[Row] = []
    first: Parting | None = None
    for step in range(1, PLANNED_STEPS + 1):
        values = eager.step(x, y), planned.step(x, y)
        differing = [] if first is not None else list(_differing(eager, planned, *values))
        if differing:
            first = differing[0]
        text = "; ".join(f"{each.tensor} of {each.where} differs by {each.ulps:.3g} ulp" for each in differing[:3])
        parted = bool(text) or first is not None
        rows.append(
            Row(
                f"step {step}",
                "planned and eager",
                not parted,
                diagnosis=text or ("after a difference" if parted else ""),
                how="bitwise",
            )
        )
    report = planned.plan_report()
    return rows, first, report if "eager, because" in report else ""


def _differing(eager: Trainer, planned: Trainer, value: Any, other: Any) -> Iterator[Parting]:
    """What differs after a step, in the order in which a step makes it."""
    names = ("eager", "planned")
    dtype = eager.model.store.dtype
    pairs = [("forward", "the loss", "its value", value, other)]
    both = list(zip(eager.model.parameters().items(), planned.model.parameters().values(), strict=True))
    pairs += [("backward", path, "the gradient", a.grad, b.grad) for (path, a), b in reversed(both)]
    pairs += [("update", path, "the value", a.value, b.value) for (path, a), b in both]
    state = eager.model.store.arrays(), planned.model.store.arrays()
    pairs += [("update", "the store", name, state[0][name], state[1].get(name)) for name in state[0]]
    for direction, where, name, a, b in pairs:
        if b is None or not same_bits(a, b):
            x, y = (np.asarray(to_numpy(each), dtype=np.float64) for each in (a, a if b is None else b))
            left, right = (_Tensor(direction, where, name, each) for each in (x, y))
            found = _compared(left, right, left, names, dtype)
            yield Parting(direction, where, name, names, found.relative, found.ulps, found.index, found.values[:2])
