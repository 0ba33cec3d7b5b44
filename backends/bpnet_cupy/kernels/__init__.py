"""Bodies of the hot ops that launch the kernels of the .cu files, one family a file, as in bpnet_numpy.

Each is a `bind`: it gets the place of the result and the arguments and returns prepared launches. Memory that they
need beside the arguments is taken when they are bound; a prepared call allocates nothing and reads nothing on the
host, so it can be captured in a CUDA graph. `accepts` refuses what a kernel cannot take: other dtypes, arrays that are
not contiguous, empty ones; the reference body then runs on the array library.
"""

from __future__ import annotations

from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels import (
    activations,
    also_bf16,
    arrays,
    attention,
    axes,
    bfloat16,
    convolution,
    convolution_bf16,
    counting,
    features,
    linear,
    losses,
    metrics,
    norms,
    optimizers,
    pooling,
    random,
    rates,
    recurrent,
    regularization,
    rows,
    single_losses,
    tables,
    weighting,
)

FAMILIES = (
    activations,
    also_bf16,
    arrays,
    attention,
    axes,
    convolution,
    convolution_bf16,
    bfloat16,
    counting,
    features,
    linear,
    losses,
    metrics,
    norms,
    optimizers,
    pooling,
    random,
    rates,
    recurrent,
    regularization,
    rows,
    single_losses,
    tables,
    weighting,
)


def register(array_type: type, driver: Driver) -> None:
    """Register all bodies for arrays of `array_type`, which launch by `driver`."""
    for family in FAMILIES:
        family.register(array_type, driver)
