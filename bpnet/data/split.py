"""A part of a data set held out, by a seed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bpnet.backend import to_numpy
from bpnet.checks import flag
from bpnet.data.dataset import Dataset
from bpnet.errors import ConfigError
from bpnet.random import HostStream, check_seed


def split(dataset: Dataset, fraction: float = 0.2, *, seed: int = 0, stratify: bool = True) -> tuple[Dataset, Dataset]:
    """Return (the rest, the part held out) of a data set, for validation for instance.

    fraction : of the samples that the second part gets, between 0 and 1
    seed     : chooses them; both parts keep the data's order
    stratify : take the fraction of every class, rounded, where y holds integer labels (N,); values are taken as they
               come
    The samples are copied; those of a memory map come into memory, where slices such as dataset[:1000] stay on disk.
    Raises ConfigError when a setting cannot be, or when a part would be empty.
    """
    if not isinstance(dataset, Dataset):
        raise ConfigError(f"split needs a Dataset, got {type(dataset).__name__}; make one with Dataset(x, y)")
    number = isinstance(fraction, (int, float, np.floating)) and not isinstance(fraction, bool)
    if not (number and 0 < fraction < 1):
        raise ConfigError(f"fraction must be a number between 0 and 1, got {fraction!r}")
    labels = to_numpy(dataset.y) if flag("stratify", stratify) else np.zeros((len(dataset), 1))
    mask = held_out(labels, float(fraction), check_seed(seed), f"{dataset.name}/{dataset.split}")
    if mask.all() or not mask.any():
        raise ConfigError(
            f"fraction {fraction:g} of {len(dataset)} samples leaves a part empty; take another fraction"
            + (", or stratify=False" if labels.ndim == 1 else "")
        )
    how = f"{fraction:g} of {dataset.split or dataset.name}, seed {seed}"
    rest, part = dataset.subset(np.flatnonzero(~mask)), dataset.subset(np.flatnonzero(mask))
    rest.split, part.split = f"all but {how}", how
    return rest, part


def held_out(y: Any, fraction: float, seed: int, name: str) -> Any:
    """A bool mask that is True for `fraction` of every class, rounded, drawn from (seed, name).

    y : (N,) integer labels, or values of any other shape or dtype, of which the fraction is taken without classes
    """
    mask = np.zeros(len(y), dtype=bool)
    if y.ndim != 1 or y.dtype.kind not in "iu":
        order = HostStream(seed, f"split/{name}").permutation(len(y))
        mask[order[: _rounded(len(y), fraction)]] = True
        return mask
    for label in np.unique(y):
        members = np.flatnonzero(y == label)
        order = HostStream(seed, f"split/{name}/{label}").permutation(len(members))
        mask[members[order[: _rounded(len(members), fraction)]]] = True
    return mask


def _rounded(n: int, fraction: float) -> int:
    return math.floor(n * fraction + 0.5)
