"""What training may and may not change: freezing, penalties, and moving averages. The part of a Layer that optimizers
look at.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from bpnet import ops
from bpnet.dispatch import Array
from bpnet.errors import StateError
from bpnet.parameter import Statistic
from bpnet.store import AVERAGE, Store

if TYPE_CHECKING:
    from bpnet.parameter import Parameter


class Trained:
    """The methods of every layer that say what training does with its parameters."""

    if TYPE_CHECKING:

        def parameters(self) -> dict[str, Parameter]:
            """Of Layer."""

        @property
        def store(self) -> Store:
            """Of Layer."""

    def freeze(self) -> Self:
        """Let training leave all parameters of this layer, and of those below, as they are; return the layer.

        No gradient, weight decay or penalty reaches them. Gradients still pass through to the layers before.
        """
        for parameter in self.parameters().values():
            parameter.trainable = False
        return self

    def unfreeze(self) -> Self:
        """Let training change all that is learned in this layer, and in those below; return the layer."""
        for parameter in self.parameters().values():
            parameter.trainable = parameter.learned
        return self

    def statistics(self) -> dict[str, Statistic]:
        """Every statistic by path: the parameters that training changes without a gradient."""
        return {path: each for path, each in self.parameters().items() if isinstance(each, Statistic)}

    def penalty(self) -> Array | None:
        """l1 sum |w| + l2 sum w^2 over all parameters that are trained, a 0-d array; None where there is no penalty.

        `optimizer.step` adds its gradient; the loss that is minimized is the data's plus this.
        """
        found = [p for p in self.parameters().values() if p.trainable and (p.l1 or p.l2)]
        if not found:
            return None
        return ops.penalty(tuple(p.value for p in found), tuple(p.l1 for p in found), tuple(p.l2 for p in found))

    @contextmanager
    def averaged(self) -> Iterator[Self]:
        """In the block, all parameters of the model hold their moving averages: evaluate, predict or save there.

        Afterwards, also after an error, they are what they were. Steps, moves and a second block are refused within.
        Raises StateError where no step has made averages: give the optimizer `average=0.999`.
        """
        store = self._averages()
        store.swap_average()
        try:
            yield self
        finally:
            store.swap_average()
        if self.store is not store:
            raise StateError(
                "the model got other parameters in a `with model.averaged()` block: they hold averages now"
            )

    def use_average(self) -> Self:
        """Make the moving averages the parameters of the model, for good; return the layer."""
        store = self._averages()
        store.values[...] = store.slots[AVERAGE]
        store.refresh()
        return self

    def _averages(self) -> Store:
        store = self.store
        store.check()
        if AVERAGE not in store.slots:
            raise StateError(
                "there are no averages yet: give the optimizer average=0.999, say, and make at least one step with it"
            )
        return store
