"""Data sets by name."""

from __future__ import annotations

from importlib.resources import files

import numpy as np

from bpnet.data.dataset import Dataset
from bpnet.errors import ConfigError, did_you_mean
from bpnet.random import HostStream, check_seed

SPLIT = "stratified-fifth"


def available() -> list[str]:
    """The names that `load` knows."""
    return sorted(_LOADERS)


def load(name: str, *, split_seed: int = 0) -> tuple[Dataset, Dataset]:
    """Return (train, test) of the named data set. `test` is the stratified fifth that `split_seed` holds out.

    "digits" : 1,797 real 8x8 images of handwritten digits (UCI, CC BY 4.0), x (N, 64) float32 in [0, 1], y (N,) int64
    Raises ConfigError when the name is unknown.
    """
    if name not in _LOADERS:
        hint = did_you_mean(name, available())
        raise ConfigError(f"unknown data {name!r}; known are {', '.join(available())}{hint}")
    return _LOADERS[name](check_seed(split_seed))


def stratified_fifth(y: np.ndarray, seed: int, name: str) -> np.ndarray:
    """A bool mask that is True for one fifth of every class, rounded, drawn from (seed, name)."""
    held_out = np.zeros(len(y), dtype=bool)
    for label in np.unique(y):
        members = np.flatnonzero(y == label)
        order = HostStream(seed, f"split/{name}/{label}").permutation(len(members))
        held_out[members[order[: round(len(members) / 5)]]] = True
    return held_out


def _digits(seed: int) -> tuple[Dataset, Dataset]:
    with np.load(str(files("bpnet.data") / "digits.npz"), allow_pickle=False) as archive:
        images, labels = archive["images"], archive["labels"]
    x = images.astype(np.float32) / np.float32(16)
    y = labels.astype(np.int64)
    test = stratified_fifth(y, seed, "digits")
    classes = tuple("0123456789")
    split = f"{SPLIT}, seed {seed}"
    return (
        Dataset(x[~test], y[~test], name="digits", split=f"train of {split}", classes=classes),
        Dataset(x[test], y[test], name="digits", split=f"test of {split}", classes=classes),
    )


_LOADERS = {"digits": _digits}
