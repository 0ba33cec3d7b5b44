"""What a layer says of sequences: whether it takes ids, how long they may be, and how it goes on from a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bpnet.dispatch import Array
from bpnet.errors import StateError

if TYPE_CHECKING:
    from bpnet.backend import Backend
    from bpnet.store import Store


class OnSequences:
    """The methods of every layer that are about ids and about positions.

    positionwise : whether each position of (N, T, D) is treated by itself, as Dense does over the last axis
    """

    positionwise: bool = False

    if TYPE_CHECKING:

        @property
        def store(self) -> Store:
            """Of Layer."""

        @property
        def backend(self) -> Backend:
            """Of Layer."""

        def __call__(self, x: Array) -> Array:
            """Of Layer."""

    @property
    def input_ids(self) -> int | None:
        """How many ids x may name, where x is integers 0 ... input_ids - 1; None where x is numbers.

        A model takes what its first layer takes. Data are then checked at the door, and moved as int64.
        """
        return None

    @property
    def input_dtype(self) -> str:
        """The dtype that x has on its way into the model: the model's, or int64 for ids."""
        return "int64" if self.input_ids is not None else self.store.dtype

    def blank(self, input_shape: tuple[int, ...]) -> Array:
        """One sample of zeros, as this layer takes them: numbers, or ids."""
        return self.backend.zeros((1, *input_shape), self.input_dtype)

    @property
    def max_positions(self) -> int | None:
        """How many positions a sequence may have; None: any number."""
        return None

    @property
    def can_step(self) -> bool:
        """Whether `step` is defined: position for position, or from a cache of the positions before."""
        return self.positionwise

    def step(self, x: Array, cache: Any = None) -> tuple[Array, Any]:
        """Inference of further positions of sequences: (y, cache) for x (N, T, ...) and the cache of those before.

        cache : None at the start of the sequences, then what the step before returned; it is not changed. What the
                steps give, joined along the axis of positions, is what `layer(x)` gives for all positions at once.
        Raises StateError where a layer's output depends on later positions, or it does not say how to go on.
        """
        if not self.positionwise:
            raise StateError(f"{self!r} has no step: it does not say how to go on from the positions before")
        return self(x), None
