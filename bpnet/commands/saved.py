"""What a model file says of itself: the recipe it was trained by, its data, its loss. Old files say less."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bpnet import losses, recipes
from bpnet.backend import Backend
from bpnet.commands.common import note
from bpnet.data.named import FIFTH, OFFICIAL, find
from bpnet.errors import CheckpointError, ConfigError
from bpnet.layers import Layer, Softmax
from bpnet.losses import Loss
from bpnet.pairing import last_layer
from bpnet.recipes.mistakes import Mistakes
from bpnet.recipes.sources import Parts, load_parts

if TYPE_CHECKING:
    from bpnet.recipes.recipe import Draft


class Saved:
    """A model from a file.

    recipe : what it was trained by, read and checked, or None where the file does not say
    Raises CheckpointError, with what to do, when the file is not a whole one; ConfigError when its recipe is none.
    """

    def __init__(self, path: str, backend: Backend | str | None) -> None:
        self.path = path
        try:
            self.model: Layer = Layer.load(path, backend=backend)
        except CheckpointError as error:
            raise CheckpointError(
                f"{error}. Give a model that `bpnet train` or model.save wrote, or write it anew"
            ) from error
        self.info: dict[str, Any] = self.model.info
        self.recipe: Draft | None = None
        tables = self.info.get("recipe")
        if isinstance(tables, dict):
            self.recipe = recipes.make_draft(tables, name=str(self.info.get("recipe_name", "recipe")))
            self.recipe.mistakes.raise_if_any(where=f"the recipe in {path!r}")

    @property
    def loss(self) -> Loss | None:
        """The loss that the model was trained with; None where the file names none."""
        if self.recipe is not None:
            return self.recipe.loss
        found = getattr(losses, str(self.info.get("loss")), None)
        return found() if isinstance(found, type) and issubclass(found, Loss) else None

    def classifier_loss(self) -> Loss:
        """The loss or, where the file names none, the one that the last layer asks for.

        Raises ConfigError when the model was trained with a loss that takes no labels.
        """
        if self.info.get("loss") is None:
            return losses.CategoricalCrossEntropy() if self.ends_in_softmax else losses.SoftmaxCrossEntropy()
        loss = self.loss
        if loss is None or loss.targets != "labels":
            raise ConfigError(
                f"the model was trained with the loss {self.info['loss']!r}; only classifiers can be evaluated here"
            )
        return loss

    @property
    def ends_in_softmax(self) -> bool:
        """Whether the model's outputs are probabilities of classes."""
        return isinstance(last_layer(self.model), Softmax)

    def data_name(self) -> str:
        """The name of the data that the model was trained on; ConfigError when its file does not say."""
        name = self.info.get("data")
        if not isinstance(name, str):
            raise ConfigError(
                f"{self.path!r} does not say what data it was trained on; `bpnet evaluate` takes --data digits, "
                "`bpnet predict` takes --input FILE"
            )
        return name

    def split_seed(self, data: str, asked: int | None, kind: str = "") -> int:
        """The split to take; says on standard error when it is not the one that the model was trained on.

        kind : how the data are split; by default as the named set `data` is
        """
        kind = kind or find(data).split
        if kind == OFFICIAL:
            if asked is not None:
                note(f"{data} has an official split, which --split-seed {asked} does not change")
            asked = None
        known = self.info.get("split_seed") if self.info.get("data") == data else None
        if known is None or asked in (None, known) or kind != FIFTH:
            return int(known or 0) if asked is None else asked
        note(
            f"the model was trained on the split with seed {known}; it has seen most test samples of the split with "
            f"seed {asked}"
        )
        return asked

    def parts(self, asked_seed: int | None = None) -> Parts:
        """(training, validation, test) of the recipe's data; ConfigError when they are not to be had."""
        assert self.recipe is not None
        data = self.recipe.data
        kind = "" if data.name is not None else FIFTH
        seed = self.split_seed(data.name or self.data_name(), asked_seed, kind)
        mistakes = Mistakes()
        parts = load_parts(data.model_copy(update={"split_seed": seed}), self.recipe.loss, mistakes)
        mistakes.raise_if_any(where=f"the recipe in {self.path!r}")
        assert parts is not None
        return parts
