"""What operations cost: declared formulas against counting arrays, against formulas of the literature, and by layer."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from bpnet.dispatch import Kernel, kernels
from bpnet.ops.costs import kernel_flops
from bpnet.testing.cases import CASES
from bpnet.testing.counting import count_flops

SHIPPED = [k for k in kernels() if k.__module__.startswith("bpnet.")]
SINGLE = 24  # what a call may do with single numbers, such as powers of a step, is that little
every_kernel = pytest.mark.parametrize("op", SHIPPED, ids=lambda k: k.name)


def samples(op: Kernel) -> list[tuple[Any, ...]]:
    return list(CASES[op.name](np.random.default_rng(0), "float32"))


@every_kernel
def test_the_declared_operations_are_those_that_the_reference_makes(op: Kernel) -> None:
    """Of every sample, to the last element; only single numbers, a few a call, are left out."""
    assert op.flops is not None, f"say what {op.name} costs: @kernel(flops=...)"
    for args in samples(op):
        declared, counted = kernel_flops(op, args), count_flops(op.reference.body, copy.deepcopy(args))
        shapes = [getattr(arg, "shape", arg) for arg in args]
        at_most = counted.arrays + counted.numbers
        assert counted.arrays <= declared <= at_most, f"{op.name}{shapes}: declared {declared}, {counted}"
        assert counted.numbers <= SINGLE or not any(getattr(arg, "size", 0) > SINGLE for arg in args)
