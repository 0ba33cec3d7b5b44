"""What made a step's numbers infinite or NaN: the step again on the host, every kernel's result looked at.

Loaded when a fit has stopped. Nothing is noted while it runs: the batch is a function of (seed, epoch, position), and
the parameters are those before the step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bpnet.auditing.copies import copied, patched
from bpnet.backend import get_backend, to_numpy
from bpnet.beside import divided
from bpnet.contracts import all_finite
from bpnet.data.dataset import epoch_order
from bpnet.dispatch import Kernel, recording
from bpnet.layers.base import Layer
from bpnet.step import Step
from bpnet.trace import flat, is_array

if TYPE_CHECKING:
    from bpnet.fitting import Fit
    from bpnet.losses import Loss

Inputs = tuple[Any, Any, Any, dict[str, Any]]
"""x, y, weights or None, and the side inputs by name."""

ROWS = 4096  # of a batch whose losses are looked at one by one


@dataclass(frozen=True)
class Finding:
    """The first kernel that made a number infinite or NaN out of finite ones.

    where     : the layer, as "Dense(64, 10) at '3'", the loss, or the penalties; or a parameter that was not finite
                before the step, by an update
    direction : "forward", "backward" or "update"
    kernel    : its name; index : of the first such number in the result; value : that number
    largest   : the largest absolute value among the kernel's arguments
    sample    : its row in the whole data, or None where the number belongs to no one sample
    exact     : the same number in float64, or None where the step went another way there
    path      : of the layer, or None where it is not in a layer; shape : of the result
    row, part : the sample's row in the batch, and the number of the micro-batch
    """

    where: str
    direction: str
    kernel: str
    index: tuple[int, ...]
    value: float
    largest: float
    sample: int | None = None
    exact: float | None = None
    path: str | None = None
    shape: tuple[int, ...] = ()
    row: int | None = None
    part: int = 0

    def __str__(self) -> str:
        if self.direction == "update":
            return (
                f"{self.where} is {self.value} at index {self.index} already before that step: the update before it "
                f"made it so, by {self.kernel}, and not the batch. Clip gradients by clip_norm or clip_value, or take "
                "a smaller learning rate"
            )
        sample = "" if self.sample is None else f", which is sample {self.sample} of the data"
        if self.sample is not None and not self.index:
            sample = f", because of sample {self.sample} of the data"
        text = (
            f"the first such number is made by {self.where}, {self.direction}: {self.kernel} gives {self.value} at "
            f"index {self.index}{sample}, from numbers of up to {self.largest:.4g}"
        )
        if self.exact is not None and np.isfinite(self.exact):
            return f"{text}; in float64 it is {self.exact:.6g}, which the model's dtype cannot hold"
        return text


@dataclass(frozen=True)
class Failure:
    """A step that failed.

    x, y, weight : its batch on the host, as the model takes it; weight is None where there is none
    side         : its side inputs by name
    rows         : (N,) which samples of the data these are; finding : who made the number, where that could be told
    """

    x: Any
    y: Any
    weight: Any
    side: dict[str, Any]
    rows: Any
    finding: Finding | None


class _Watch:
    """Sees every kernel call of one step, and which layer it belongs to."""

    def __init__(self) -> None:
        self.active: list[tuple[str, str, Layer | Loss | None, str | None]] = []
        self.calls = 0
        self.found: tuple[int, Finding] | None = None
        self.wanted: tuple[int, tuple[int, ...]] | None = None
        self.exact: float | None = None
        self.part, self.first, self.rows = 0, 0, 0  # of the present micro-batch: number, first row, number of rows

    def run(self, kernel: Kernel, args: tuple[Any, ...]) -> Any:
        """Make the call, and look at its result."""
        before = [np.array(each) for each in flat(args) if is_array(each)]
        result = kernel.choose(args).body(*args)
        number = self.calls
        self.calls += 1
        results = [each for each in flat(result if result is not None else args[0]) if is_array(each)]
        if self.wanted is not None and number == self.wanted[0]:
            self.exact = self._at(results, self.wanted[1])
        if self.found is None and self.active and all(all_finite(each) for each in before):
            for place, each in enumerate(results):
                if not all_finite(each):
                    of_samples = result is not None and not place
                    self.found = (number, self._finding(kernel, each, before, of_samples))
                    break
        return result

    def _finding(self, kernel: Kernel, result: Any, before: list[Any], of_samples: bool) -> Finding:
        where, direction, owner, path = self.active[-1]
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(result))[0])
        largest = max((float(np.abs(a).max()) for a in before if a.size and a.dtype.kind == "f"), default=0.0)
        if isinstance(owner, Layer):  # a parameter's gradient has no axis of samples, whatever its length
            of_samples = of_samples and all(p.shape != result.shape for p in owner.parameters().values())
        row = self.first + index[0] if of_samples and index and result.shape[0] == self.rows else None
        return Finding(
            where, direction, kernel.name, index, float(result[index]), largest,
            path=path, shape=tuple(result.shape), row=row, part=self.part,
        )  # fmt: skip

    @staticmethod
    def _at(results: list[Any], index: tuple[int, ...]) -> float | None:
        for each in results:
            if each.ndim == len(index) and all(i < n for i, n in zip(index, each.shape, strict=True)):
                return float(each[index])
        return None

    def within(self, where: str, owner: Any, path: str | None, name: str) -> Callable[..., Any]:
        """The owner's method `name`, with what it does put down to `where`."""
        method = getattr(owner, name)
        direction = "backward" if name == "backward" else "forward"

        def told(*args: Any, **keywords: Any) -> Any:
            self.active.append((where, direction, owner, path))
            try:
                return method(*args, **keywords)
            finally:
                self.active.pop()

        return told

    def next_part(self, rows: int) -> None:
        """A micro-batch begins."""
        self.part, self.first, self.rows = self.part + bool(self.rows), self.first + self.rows, rows

    def blame(self, row: int) -> None:
        """The number that was found is because of this row of the present micro-batch."""
        assert self.found is not None
        self.found = (self.found[0], replace(self.found[1], row=self.first + row))


def find(fit: Fit, done: int) -> Failure:
    """The step after `done` steps of the present epoch, and what went wrong in it.

    Raises whatever a model that cannot be copied raises.
    """
    trainer = fit.trainer
    epoch = {"seed": trainer.seed, "epoch": trainer.epoch, "shuffle": fit.shuffle}
    batches = trainer._door.batches(fit.data, fit.batch_size, skip=done, **epoch)
    batch = next(batches)
    batches.close()
    names = tuple(fit.data.side)
    x, y, *more = (np.array(to_numpy(each)) for each in trainer._door.batch(*batch, side=names))
    order = epoch_order(len(fit.data), trainer.seed, trainer.epoch) if fit.shuffle else np.arange(len(fit.data))
    rows = np.array(order[done * fit.batch_size :][: len(x)], dtype=np.int64)
    inputs = x, y, *divided(tuple(more), names)
    return Failure(*inputs, rows, _finding(fit, inputs, rows))


def _finding(fit: Fit, inputs: Inputs, rows: Any) -> Finding | None:
    dtype = fit.trainer.model.store.dtype
    if (updated := _not_finite_before(fit)) is not None:
        return updated
    watch = _replay(fit, inputs, dtype, None)
    if watch.found is None:
        return None
    number, finding = watch.found
    exact = _replay(fit, inputs, "float64", (number, finding.index)).exact if dtype != "float64" else None
    sample = None if finding.row is None else int(rows[finding.row])
    return replace(finding, sample=sample, exact=exact)


def _not_finite_before(fit: Fit) -> Finding | None:
    """The first parameter that is not finite: then no kernel of the step has made the number."""
    for path, parameter in fit.trainer.model.parameters().items():
        value = to_numpy(parameter.value)
        if not all_finite(value):
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
            name, number = type(fit.trainer.optimizer).__name__, float(value[index])
            return Finding(f"the parameter {path!r}", "update", name, index, number, 0.0, shape=tuple(value.shape))
    return None


def _replay(fit: Fit, inputs: Inputs, dtype: str, wanted: tuple[int, tuple[int, ...]] | None) -> _Watch:
    """Forward, loss and backward of a copy on NumPy in `dtype`, with the same masks."""
    trainer = fit.trainer
    twin = copied(trainer.model, get_backend("numpy"), dtype, trainer.model.store.seed)
    twin.store.counters[...] = to_numpy(trainer.model.store.counters)
    loss = copy.deepcopy(trainer.loss)
    x, y, w, side = inputs
    x = np.asarray(x, dtype) if x.dtype.kind == "f" else x
    side = {name: np.asarray(each, dtype) if each.dtype.kind == "f" else each for name, each in side.items()}
    y = y if y.dtype.kind in "iu" else np.asarray(y, dtype)
    w = None if w is None else np.asarray(w, dtype)
    watch = _Watch()
    watch.wanted = wanted
    methods: list[tuple[Any, str, Any]] = [
        (each, name, watch.within(_described(each, path), each, path, name))
        for path, each in twin.walk()
        for name in ("forward", "backward")
    ]
    methods += [(loss, name, watch.within(repr(loss), loss, None, name)) for name in ("forward", "backward")]
    methods.append(
        (twin, "penalty", watch.within("the penalties, l1 and l2, of the parameters", twin, None, "penalty"))
    )
    total: Any = None
    with patched(methods), np.errstate(all="ignore"), recording(watch):
        step = Step(trainer, fit.micro_batch_size, counted=True, side=tuple(side))
        for part_x, part_y, part_w, *beside in step.parts(x, y, w, *side.values()):
            watch.next_part(len(part_x))
            prediction = twin.forward(part_x, **dict(zip(side, beside, strict=True)))
            if total is None:
                total = loss.total_weight((len(x), *prediction.shape[1:]), y, w)
            before = watch.found
            loss.forward(prediction, part_y, total, part_w)
            twin.backward(loss.backward(), need_dx=False)
            if watch.found is not None and before is None and watch.found[1].path is None and not watch.found[1].shape:
                row = _guilty_row(loss, prediction, part_y, total, part_w)
                if row is not None:
                    watch.blame(row)
        if watch.found is None:
            twin.penalty()
    return watch


def _guilty_row(loss: Loss, prediction: Any, y: Any, total: Any, weight: Any) -> int | None:
    """The first row whose own loss is not finite; None where only their sum is not."""
    for row in range(min(len(prediction), ROWS)):
        own = slice(row, row + 1)
        value = type(loss).forward(loss, prediction[own], y[own], total, None if weight is None else weight[own])
        if not all_finite(to_numpy(value)):
            return row
    return None


def _described(layer: Layer, path: str) -> str:
    return f"{layer!r} at {path!r}" if path else type(layer).__name__
