"""For which arguments compiled bodies are taken, and the words that they get."""

from bpnet_numpy.fused.variants import (
    activations,
    group_statistics,
    images,
    linear,
    losses,
    pointwise,
    pools,
    random,
    recurrent,
    regularization,
    sequences,
    smooth,
    update,
)

__all__ = [
    "activations",
    "group_statistics",
    "images",
    "linear",
    "losses",
    "pointwise",
    "pools",
    "random",
    "recurrent",
    "regularization",
    "sequences",
    "smooth",
    "update",
]
