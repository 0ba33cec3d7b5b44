"""One training step: what happens on a batch that is in place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bpnet import ops
from bpnet.dispatch import Array

if TYPE_CHECKING:
    from bpnet.trainer import Trainer


class Step:
    """Forward, loss, backward, update.

    micro_batch_size : samples at a time, None for all
    counted          : whether the loss and the metrics are added to the epoch's sums. In a fit, where they are, the
                       flag `ok` stays down once it is; else every batch is judged by itself.
    """

    def __init__(self, trainer: Trainer, micro_batch_size: int | None, *, counted: bool) -> None:
        self.trainer = trainer
        self.size = micro_batch_size
        self.counted = counted
        parts = "" if micro_batch_size is None else f", {micro_batch_size} at a time"
        self.name = f"{'counted step' if counted else 'step'}{parts}"

    def __call__(self, x: Array, y: Array, weight: Array | None = None) -> Array:
        """Train on one batch; return its loss, a 0-d array."""
        trainer, loss = self.trainer, self.trainer.loss
        model, store, totals = trainer.model, trainer.model.store, trainer.totals
        if not self.counted:
            ops.fill_(store.ok, True)
        value: Array = None
        total: Any = None
        for part in self.parts(x, y, weight):
            prediction = model.forward(part[0])
            if total is None:
                total = loss.total_weight((x.shape[0], *prediction.shape[1:]), y, weight)
            part_value = loss.forward(prediction, part[1], total, part[2])
            value = part_value if value is None else ops.add(value, part_value)
            model.backward(loss.backward(), need_dx=False)
            if self.counted and totals is not None:
                totals.count(prediction, part[1])
        penalty = model.penalty()
        if penalty is not None:
            value = ops.add(value, penalty)
        ops.check_finite_(store.ok, value)
        if trainer.check_gradients:
            trainer.optimizer.step(model, check_gradients=True)
        else:
            trainer.optimizer.step(model)
        if self.counted and totals is not None:
            totals.count_loss(value, total)
        return value

    def parts(self, x: Array, y: Array, weight: Array | None) -> Iterator[tuple[Array, Array, Array | None]]:
        """The micro-batches of a batch, in order."""
        n, size = x.shape[0], self.size
        if size is None or size >= n:
            yield x, y, weight
            return
        for start in range(0, n, size):
            stop = min(start + size, n)
            cut = [None if each is None else ops.rows(each, start, stop) for each in (x, y, weight)]
            yield cut[0], cut[1], cut[2]
