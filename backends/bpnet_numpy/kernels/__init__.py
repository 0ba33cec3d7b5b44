"""NumPy bodies of the hot ops: few ufunc calls, each told where to write, prepared once and made again.

Most functions here are a `bind`: it gets the place of the result and the arguments, and returns the calls. What calls
need beside them (ones to sum with, a mask) is made when it is bound. The rules that keep these equal in meaning to
their references:
- a masked derivative is selected, not multiplied: 0 * inf would be NaN. A float's bits are and-ed with 0
  or -1 instead, or multiplied with 0 or 1;
- labels index only after they were found in range; one out of range matches no class;
- an elementwise body may be told to write over its first argument.
"""

from bpnet_numpy import fused
from bpnet_numpy.kernels import (
    activations,
    adaptive,
    attention,
    bfloat16,
    convolution,
    counting,
    group_norm,
    group_statistics,
    gru,
    layer_norm,
    linear,
    losses,
    lstm,
    pooling,
    random,
    recurrent,
    regularization,
    sequences,
    smooth,
    update,
    weighting,
)

__all__ = [
    "activations",
    "adaptive",
    "attention",
    "bfloat16",
    "convolution",
    "counting",
    "group_norm",
    "group_statistics",
    "gru",
    "layer_norm",
    "linear",
    "losses",
    "lstm",
    "pooling",
    "random",
    "recurrent",
    "regularization",
    "sequences",
    "smooth",
    "update",
    "weighting",
]

fused.install()  # asked first, because registered last
