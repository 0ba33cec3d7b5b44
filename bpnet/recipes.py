"""Recipes: for every data set that `bpnet train` knows, the model and the settings that train it well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bpnet.backend import Backend
from bpnet.errors import ConfigError, did_you_mean
from bpnet.layers import Dense, Dropout, Layer, ReLU, Sequential
from bpnet.losses import Loss, SoftmaxCrossEntropy
from bpnet.metrics import Accuracy
from bpnet.optimizers import Adam
from bpnet.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A model and how to train it on the data set named `data`, as a classifier, with Adam.

    make_model : returns a fresh model; loss : the class of the loss
    epochs, batch_size (samples), learning_rate : what is used unless something else is asked for
    """

    data: str
    make_model: Callable[[], Layer]
    epochs: int
    batch_size: int
    learning_rate: float
    loss: type[Loss] = SoftmaxCrossEntropy

    def trainer(
        self, *, seed: int = 0, backend: str | Backend | None = None, learning_rate: float | None = None
    ) -> Trainer:
        """Return a Trainer of a fresh model, initialized with `seed` on `backend`. Raises ConfigError, BackendError."""
        optimizer = Adam(learning_rate=self.learning_rate if learning_rate is None else learning_rate)
        return Trainer(self.make_model(), self.loss(), optimizer, metrics=[Accuracy()], seed=seed, backend=backend)


# Chosen on other splits of the digits than those that `python -m benchmarks.digits_accuracy` reports. The products of a
# step, 32 x 64 x 128 and smaller, stay just below the size from which OpenBLAS uses several threads (262,144
# multiplications): twice that size took up to 80 times as long where other programs were using the CPUs.
_DIGITS = Recipe(
    data="digits",
    make_model=lambda: Sequential(Dense(64, 128), ReLU(), Dropout(0.3), Dense(128, 10)),
    epochs=50,
    batch_size=32,
    learning_rate=3e-3,
)

_RECIPES = {recipe.data: recipe for recipe in (_DIGITS,)}


def available() -> list[str]:
    """The names that `find` knows."""
    return sorted(_RECIPES)


def find(name: str) -> Recipe:
    """Return the recipe for the data set `name`; ConfigError when there is none."""
    if name not in _RECIPES:
        hint = did_you_mean(name, available())
        raise ConfigError(f"no recipe for {name!r}; known are {', '.join(available())}{hint}")
    return _RECIPES[name]
