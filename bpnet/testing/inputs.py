"""What a layer is called with in its checks: arrays of any number of samples, drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Draw = Callable[[Any, int], Any]
"""Called with a NumPy random generator and the number of samples; returns a NumPy array."""


@dataclass(frozen=True)
class SampleInputs:
    """The arrays that a layer takes: x, further ones after it, and side inputs by keyword.

    shape  : of one sample of x, without the axis of the batch
    below  : x holds the integers 0 ... below - 1, and has no derivative; None: normal numbers
    others : the arrays after x, in order
    side   : a function (random generator, number of samples) for every side input, such as a mask
    fewest : samples that the layer needs in training: 2 where it looks at how they spread
    """

    shape: tuple[int, ...]
    below: int | None = None
    others: tuple[SampleInputs, ...] = ()
    side: Mapping[str, Draw] = field(default_factory=dict)
    fewest: int = 1

    @classmethod
    def of(cls, given: SampleInputs | tuple[int, ...] | int) -> SampleInputs:
        """`given`, or a shape as the inputs of one floating x."""
        if isinstance(given, SampleInputs):
            return given
        return cls((given,) if isinstance(given, int) else tuple(given))

    @property
    def plain(self) -> bool:
        """Whether there is nothing but one floating x."""
        return self.below is None and not self.others and not self.side

    def draw(self, n_samples: int, seed: int | list[int] = 0) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arrays of a batch, in order, and the side inputs by name; floating ones in float64."""
        rng = np.random.default_rng(seed)
        args = tuple(each._array(rng, n_samples) for each in (self, *self.others))
        return args, {name: make(rng, n_samples) for name, make in self.side.items()}

    def _array(self, rng: Any, n_samples: int) -> Any:
        shape = (n_samples, *self.shape)
        if self.below is not None:
            return rng.integers(0, self.below, shape)
        x = rng.normal(size=shape)
        return x + np.where(np.abs(x) < 1e-3, 0.01, 0)  # away from a kink at 0
