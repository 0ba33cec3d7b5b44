"""Data sets by name."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from bpnet.checks import flag
from bpnet.data import mnist
from bpnet.data.dataset import Dataset
from bpnet.data.sources import FileSet
from bpnet.data.split import held_out
from bpnet.data.text import CHARACTERS, topics
from bpnet.errors import ConfigError, did_you_mean
from bpnet.random import HostStream, check_seed

FIFTH = "fifth"
OFFICIAL = mnist.OFFICIAL
GENERATED = "generated"


@dataclass(frozen=True)
class Named:
    """A data set that bpnet knows.

    what, licence : for people
    split   : "fifth" (a fifth is held out by the seed), "official" (the seed changes nothing) or "generated" (the seed
              draws the samples)
    read    : read(seed, **options) returns (train, test); classes : their names, () for values
    files   : what it is read from, where that does not come with bpnet
    """

    name: str
    what: str
    licence: str
    split: str
    read: Callable[..., tuple[Dataset, Dataset]]
    classes: tuple[str, ...] = ()
    files: Callable[[], FileSet] | None = None


def available() -> list[str]:
    """The names that `load` knows."""
    return sorted(_SETS)


def find(name: str) -> Named:
    """Return what is known of the data set `name`, without reading it; ConfigError when there is none."""
    if name not in _SETS:
        hint = did_you_mean(name, available())
        raise ConfigError(f"unknown data {name!r}; known are {', '.join(available())}{hint}")
    return _SETS[name]


def load(name: str, *, split_seed: int = 0, **options: Any) -> tuple[Dataset, Dataset]:
    """Return (train, test) of the named data set.

    "digits"        : 1,797 real 8x8 images of handwritten digits (UCI, CC BY 4.0), x (N, 64) float32 in [0, 1],
                      y (N,) int64; `split_seed` chooses the stratified fifth that is `test`; flat=False: x (N, 8, 8)
    "mnist",
    "fashion-mnist" : 60,000 and 10,000 images of digits or of clothes, the official split, x (N, 784) float32 in
                      [0, 1], y (N,) int64; flat=False: x (N, 28, 28); path= the folder of the IDX files; download=True
                      fetches them into the user's cache where they are found nowhere
    "spiral"        : points on noisy arms, drawn by `split_seed`: x (N, 2) float32, y (N,) int64; samples=100 a class,
                      classes=3, noise=0.2
    "diabetes"      : 442 patients (Efron et al. 2004), x (N, 10) float32, y (N, 1) float32; `split_seed` chooses the
                      fifth that is `test`
    "topics"        : the text of Python's help, some 500,000 characters, different in every version of Python; x, y
                      (N, length) int64, length=64: rows of characters as ids, and those that follow each. The last
                      tenth is `test`; model.info["vocabulary"] = "".join(train.classes) lets `generate` write text
    Raises ConfigError when the name or an option is unknown; DataError when files are missing or damaged, with every
    place that was tried and the commands that get them.
    """
    found = find(name)
    seed = check_seed(split_seed)
    known = [p.name for p in inspect.signature(found.read).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise ConfigError(f"the data {name!r} have no option {option!r}; {takes}{did_you_mean(option, known)}")
        if option in ("flat", "download"):
            flag(f"{name}: {option}", options[option])
    return found.read(seed, **options)


def _bundled(name: str) -> Any:
    with np.load(str(files("bpnet.data") / name), allow_pickle=False) as archive:
        return dict(archive)


def _parts(x: Any, y: Any, test: Any, name: str, kind: str, classes: tuple[str, ...]) -> tuple[Dataset, Dataset]:
    return (
        Dataset(x[~test], y[~test], name=name, split=f"train of {kind}", classes=classes),
        Dataset(x[test], y[test], name=name, split=f"test of {kind}", classes=classes),
    )


def _digits(seed: int, *, flat: bool = True) -> tuple[Dataset, Dataset]:
    arrays = _bundled("digits.npz")
    x = arrays["images"].astype(np.float32) / np.float32(16)
    y = arrays["labels"].astype(np.int64)
    test = held_out(y, 1 / 5, seed, "digits")
    x = x if flat else x.reshape(-1, 8, 8)
    return _parts(x, y, test, "digits", f"stratified-fifth, seed {seed}", mnist.DIGITS)


def _diabetes(seed: int) -> tuple[Dataset, Dataset]:
    arrays = _bundled("diabetes.npz")
    x = arrays["features"].astype(np.float32)
    y = arrays["progression"].astype(np.float32)[:, None]
    test = held_out(y, 1 / 5, seed, "diabetes")
    return _parts(x, y, test, "diabetes", f"random-fifth, seed {seed}", ())


def _mnist(
    seed: int, *, flat: bool = True, path: str | os.PathLike[str] | None = None, download: bool = False
) -> tuple[Dataset, Dataset]:
    return mnist.load_images(mnist.MNIST, mnist.DIGITS, path=path, download=download, flat=flat)


def _fashion(
    seed: int, *, flat: bool = True, path: str | os.PathLike[str] | None = None, download: bool = False
) -> tuple[Dataset, Dataset]:
    return mnist.load_images(mnist.FASHION, mnist.CLOTHES, path=path, download=download, flat=flat)


def _spiral(seed: int, *, samples: int = 100, classes: int = 3, noise: float = 0.2) -> tuple[Dataset, Dataset]:
    for name, value, least in (("samples", samples, 1), ("classes", classes, 2)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ConfigError(f"spiral: {name} must be an integer of at least {least}, got {value!r}")
    if isinstance(noise, bool) or not isinstance(noise, (int, float)) or not 0 <= noise < math.inf:
        raise ConfigError(f"spiral: noise must be a finite number of at least 0, got {noise!r}")
    return _arms(seed, "train", samples, classes, noise), _arms(seed, "test", samples, classes, noise)


def _arms(seed: int, part: str, samples: int, classes: int, noise: float) -> Dataset:
    """Points at radius r = 0 ... 1 and angle 2.5 (4 (k + r) + noise z) of arm k, z standard normal.

    [Kinsley & Kukiela 2020, "Neural Networks from Scratch", after the spiral of Stanford's course CS231n]
    """
    radius = np.linspace(0, 1, samples)
    z = HostStream(seed, f"spiral/{part}").normal((classes, samples))
    angle = 2.5 * (4 * (np.arange(classes)[:, None] + radius) + noise * z)
    x = np.stack((radius * np.sin(angle), radius * np.cos(angle)), axis=-1).reshape(-1, 2)
    return Dataset(
        x.astype(np.float32),
        np.repeat(np.arange(classes, dtype=np.int64), samples),
        name="spiral",
        split=f"{part}, generated by seed {seed}",
        classes=tuple(str(k) for k in range(classes)),
    )


_SETS = {
    each.name: each
    for each in (
        Named(
            "digits",
            "1,797 images of handwritten digits, 8x8; comes with bpnet",
            "CC BY 4.0",
            FIFTH,
            _digits,
            mnist.DIGITS,
        ),
        Named(
            "mnist",
            "70,000 images of handwritten digits, 28x28 (LeCun, Cortes, Burges)",
            "none stated",
            OFFICIAL,
            _mnist,
            mnist.DIGITS,
            lambda: mnist.MNIST,
        ),
        Named(
            "fashion-mnist",
            "70,000 images of clothes, 28x28 (Xiao, Rasul, Vollgraf 2017)",
            "MIT",
            OFFICIAL,
            _fashion,
            mnist.CLOTHES,
            lambda: mnist.FASHION,
        ),
        Named(
            "spiral",
            "points on the noisy arms of a spiral; generated",
            "needs none",
            GENERATED,
            _spiral,
            ("0", "1", "2"),
        ),
        Named(
            "topics",
            "the text of Python's help, by characters (pydoc_data.topics); comes with Python",
            "PSF-2.0",
            OFFICIAL,
            topics,
            tuple(CHARACTERS),
        ),
        Named(
            "diabetes",
            "442 patients, 10 measurements, the progression after a year (Efron et al. 2004); comes with bpnet",
            "BSD 3-Clause, as in scikit-learn",
            FIFTH,
            _diabetes,
        ),
    )
}
