"""What becomes of numbers before they are multiplied: nothing, or they are rounded."""

from __future__ import annotations

from collections.abc import Callable

from bpnet.dispatch import Array

Factor = Callable[[Array], Array]
"""What a body does with a factor of its products that it has made itself."""


def exactly(x: Array) -> Array:
    """`x` as it is."""
    return x
