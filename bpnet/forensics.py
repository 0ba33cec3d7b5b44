"""What made a step's numbers infinite or NaN: the step again on the host, every kernel's result looked at.

Loaded when a fit has stopped. Nothing is noted while it runs: the batch is a function of (seed, epoch, position), and
the parameters are those before the step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bpnet.auditing.copies import copied, patched
from bpnet.backend import get_backend, to_numpy
from bpnet.contracts import all_finite
from bpnet.data.dataset import epoch_order
from bpnet.dispatch import Kernel, recording
from bpnet.step import Step
from bpnet.trace import flat, is_array

if TYPE_CHECKING:
    from bpnet.fitting import Fit
    from bpnet.layers.base import Layer


@dataclass(frozen=True)
class Finding:
    """The first kernel that made a number infinite or NaN out of finite ones.

    where : the layer, as "Dense(64, 10) at '3'", or the loss; direction : "forward" or "backward"
    kernel : its name; index : of the first such number in the result; value : that number
    sample : its row in the whole data, or None where the result has no axis of samples
    exact  : the same number in float64, or None where the step went another way there
    largest : the largest absolute value among the kernel's arguments
    """

    where: str
    direction: str
    kernel: str
    index: tuple[int, ...]
    value: float
    largest: float
    sample: int | None = None
    exact: float | None = None

    def __str__(self) -> str:
        sample = "" if self.sample is None else f", which is sample {self.sample} of the data"
        text = (
            f"the first such number is made by {self.where}, {self.direction}: {self.kernel} gives {self.value} at "
            f"index {self.index}{sample}, from numbers of up to {self.largest:.4g}"
        )
        if self.exact is not None and np.isfinite(self.exact):
            return f"{text}; in float64 it is {self.exact:.6g}, which the model's dtype cannot hold"
        return text


class _Watch:
    """Sees every kernel call of one step, and which layer it belongs to."""

    def __init__(self) -> None:
        self.active: list[tuple[str, str]] = []
        self.calls = 0
        self.found: tuple[int, Finding] | None = None
        self.wanted: tuple[int, tuple[int, ...]] | None = None
        self.exact: float | None = None
        self.first_row = 0  # of the present micro-batch, in the batch

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
            for each in results:
                if not all_finite(each):
                    index = tuple(int(i) for i in np.argwhere(~np.isfinite(each))[0])
                    largest = max(
                        (float(np.abs(a).max()) for a in before if a.size and a.dtype.kind == "f"), default=0.0
                    )
                    where, direction = self.active[-1]
                    finding = Finding(where, direction, kernel.name, index, float(each[index]), largest)
                    self.found = (number, finding)
                    break
        return result

    @staticmethod
    def _at(results: list[Any], index: tuple[int, ...]) -> float | None:
        for each in results:
            if each.ndim == len(index) and all(i < n for i, n in zip(index, each.shape, strict=True)):
                return float(each[index])
        return None

    def within(self, where: str, direction: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method, with what it does put down to `where`."""

        def told(*args: Any, **keywords: Any) -> Any:
            self.active.append((where, direction))
            try:
                return method(*args, **keywords)
            finally:
                self.active.pop()

        return told


def find(fit: Fit, done: int) -> Finding | None:
    """What went wrong in the step after `done` steps of the present epoch; None where the replay shows nothing.

    Raises whatever a model that cannot be copied raises.
    """
    trainer = fit.trainer
    epoch = {"seed": trainer.seed, "epoch": trainer.epoch, "shuffle": fit.shuffle}
    batches = trainer._door.batches(fit.data, fit.batch_size, skip=done, **epoch)
    batch = next(batches)
    batches.close()
    dtype = trainer.model.store.dtype
    watch = _replay(fit, batch, dtype, None)
    if watch.found is None:
        return None
    number, finding = watch.found
    exact = _replay(fit, batch, "float64", (number, finding.index)).exact if dtype != "float64" else None
    sample = None
    if finding.index and finding.kernel != "linear_backward":
        rows = epoch_order(len(fit.data), trainer.seed, trainer.epoch) if fit.shuffle else np.arange(len(fit.data))
        first = done * fit.batch_size + watch.first_row
        sample = int(rows[first + finding.index[0]]) if first + finding.index[0] < len(rows) else None
    return Finding(**{**vars(finding), "sample": sample, "exact": exact})


def _replay(fit: Fit, batch: tuple[Any, ...], dtype: str, wanted: tuple[int, tuple[int, ...]] | None) -> _Watch:
    """Forward, loss and backward of a copy on NumPy in `dtype`, with the same masks."""
    trainer = fit.trainer
    twin = copied(trainer.model, get_backend("numpy"), dtype, trainer.model.store.seed)
    twin.store.counters[...] = to_numpy(trainer.model.store.counters)
    loss = copy.deepcopy(trainer.loss)
    x, y, *weight = (to_numpy(each) for each in trainer._door.batch(*batch))
    x = x if twin.input_ids is not None else np.asarray(x, dtype)
    y = y if y.dtype.kind in "iu" else np.asarray(y, dtype)
    w = np.asarray(weight[0], dtype) if weight else None
    watch = _Watch()
    watch.wanted = wanted
    methods: list[tuple[Any, str, Any]] = [
        (each, name, watch.within(_described(each, path), name, getattr(each, name)))
        for path, each in twin.walk()
        for name in ("forward", "backward")
    ]
    methods += [(loss, name, watch.within(repr(loss), name, getattr(loss, name))) for name in ("forward", "backward")]
    total: Any = None
    with patched(methods), np.errstate(all="ignore"), recording(watch):
        for part_x, part_y, part_w in Step(trainer, fit.micro_batch_size, counted=True).parts(x, y, w):
            prediction = twin.forward(part_x)
            if total is None:
                total = loss.total_weight((len(x), *prediction.shape[1:]), y, w)
            loss.forward(prediction, part_y, total, part_w)
            twin.backward(loss.backward(), need_dx=False)
            if watch.found is None:
                watch.first_row += len(part_x)
    return watch


def _described(layer: Layer, path: str) -> str:
    return f"{layer!r} at {path!r}" if path else type(layer).__name__
