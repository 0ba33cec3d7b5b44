"""What the modules of variants share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bpnet.dispatch import Kernel, Variant
from bpnet_numpy.fused.instruction import Program

NAME = "fused"


def fused(kernel: Kernel, *, allocate: Callable[..., Any], accepts: Callable[..., bool]) -> Callable[..., Variant]:
    """Decorate the `bind` of a compiled variant of `kernel`."""
    return kernel.register_bound(np.ndarray, allocate=allocate, accepts=accepts, name=NAME)


Bind = Callable[..., list[Program]]


def plain_number(x: Any) -> bool:
    """Whether `x` is an int or a float."""
    return isinstance(x, (int, float)) and not isinstance(x, bool)
