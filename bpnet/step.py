"""One training step: what happens on a batch that is in place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bpnet import ops
from bpnet.beside import divided
from bpnet.data.checks import check_lengths
from bpnet.dispatch import Array
from bpnet.errors import ShapeError

if TYPE_CHECKING:
    from bpnet.trainer import Trainer


class Step:
    """Forward, loss, backward, update.

    micro_batch_size : samples at a time, None for all
    side             : the names of the side inputs, which stand behind x, y and the weights, in this order
    counted          : whether the loss and the metrics are added to the epoch's sums. In a fit, where they are, the
                       flag `ok` stays down once it is; else every batch is judged by itself.
    """

    def __init__(
        self, trainer: Trainer, micro_batch_size: int | None, *, counted: bool, side: tuple[str, ...] = ()
    ) -> None:
        self.trainer = trainer
        self.side = side
        self.size = micro_batch_size
        self.counted = counted
        parts = "" if micro_batch_size is None else f", {micro_batch_size} at a time"
        given = f" with {', '.join(side)}" if side else ""
        self.name = f"{'counted step' if counted else 'step'}{parts}{given}"

    def labels(self, n: int) -> tuple[str, ...]:
        """What the inputs of a step are, where there are n of them."""
        weighted = n - len(self.side) > 2
        return ("x", "y", *(("weight",) if weighted else ()), *self.side)

    def __call__(self, x: Array, y: Array, *more: Array) -> Array:
        """Train on one batch; return its loss, a 0-d array. more : the weights, where there are any, the side inputs"""
        weight, side = divided(more, self.side)
        if weight is not None and weight.shape != x.shape[:1]:
            raise ShapeError(
                f"sample_weight must have shape ({x.shape[0]},), one weight a sample of x, got {tuple(weight.shape)}"
            )
        trainer, loss = self.trainer, self.trainer.loss
        model, store, totals = trainer.model, trainer.model.store, trainer.totals
        if not self.counted:
            ops.fill_(store.ok, True)
        value: Array = None
        total: Any = None
        for part in self.parts(x, y, weight, *side.values()):
            prediction = model.forward(part[0], **dict(zip(side, part[3:], strict=True)))
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

    def parts(self, x: Array, *others: Array | None) -> Iterator[tuple[Any, ...]]:
        """The micro-batches of a batch, in order; ShapeError unless all have as many rows, which parts would hide."""
        n, size = x.shape[0], self.size
        if size is None or size >= n:
            yield x, *others
            return
        for name, each in zip(("y", "sample_weight", *self.side), others, strict=True):
            if each is not None:
                check_lengths(x, each, name_y=name)
        for start in range(0, n, size):
            stop = min(start + size, n)
            yield tuple(None if each is None else ops.rows(each, start, stop) for each in (x, *others))
