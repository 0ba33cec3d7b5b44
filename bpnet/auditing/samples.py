"""What a model is audited on where nothing is given: its recipe's data, or random samples of a shape that it takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from bpnet.backend import to_numpy
from bpnet.errors import BpnetError, ConfigError, MissingExtraError
from bpnet.layers.base import Layer
from bpnet.losses import Loss

if TYPE_CHECKING:
    from bpnet.recipes.recipe import Draft

SAMPLES = 8
WIDTHS = (4, 6, 3, 8, 2, 5, 1)


def of_recipe(model: Layer, n: int) -> tuple[Any, Any, Loss] | None:
    """n samples of the data that the model was trained on, and its loss; None where it does not know them.

    Where the data are not to be had, x and y are None.
    """
    tables = model.info.get("recipe")
    if not isinstance(tables, dict):
        return None
    from bpnet import recipes

    try:
        draft = recipes.make_draft(tables, name=str(model.info.get("recipe_name", "recipe")))
        draft.mistakes.raise_if_any()
    except (MissingExtraError, ConfigError):
        return None
    assert draft.loss is not None
    try:
        return first_samples(draft, n)
    except ConfigError:
        return None, None, draft.loss


def first_samples(draft: Draft, n: int) -> tuple[Any, Any, Loss]:
    """n samples of a draft's training part, and its loss; ConfigError where the data are not to be had."""
    from bpnet.recipes.mistakes import Mistakes
    from bpnet.recipes.sources import load_parts

    mistakes = Mistakes()
    parts = load_parts(draft.data, draft.loss, mistakes)
    mistakes.raise_if_any()
    assert parts is not None
    assert draft.loss is not None
    return parts[0].x[:n, ...], parts[0].y[:n, ...], draft.loss


def random_x(model: Layer, n: int, seed: int) -> Any:
    """n random samples of the first shape, made of the sizes of the model's parameters, that the model takes."""
    rng = np.random.default_rng([seed, 10])
    tried = []
    n_ids = model.input_ids
    for shape in dict.fromkeys(_shapes(model) if n_ids is None else _lengths(model)):
        x = rng.normal(size=(n, *shape)) if n_ids is None else rng.integers(0, n_ids, size=(n, *shape))
        tried.append(shape)
        try:
            with np.errstate(all="ignore"):
                model(model.asarray(x))
        except (BpnetError, ValueError, TypeError, IndexError):
            continue
        return x
    raise ConfigError(f"audit: the model takes samples of none of the shapes {', '.join(map(str, tried[:8]))}; give x")


def _lengths(model: Layer) -> Iterator[tuple[int, ...]]:
    """Shapes of samples that are ids."""
    yield (min(WIDTHS[1], model.max_positions or WIDTHS[1]),)
    yield ()
    yield from ((width,) for width in WIDTHS)


def _shapes(model: Layer) -> Iterator[tuple[int, ...]]:
    for _, layer in model.walk():
        for name in ("n_in", "n_inputs", "n_features"):
            if isinstance(size := getattr(layer, name, None), int):
                yield (size,)
                yield (min(WIDTHS[0], model.max_positions or WIDTHS[0]), size)  # a sequence
        for name, parameter in layer.parameters().items():
            if "." not in name:
                yield from ((size,) for size in parameter.shape)
                yield parameter.shape
    for width in WIDTHS:
        yield (width,)
    yield (3, 4)


def random_y(model: Layer, loss: Loss, x: Any, seed: int) -> Any:
    """Random targets that the loss takes for the model's predictions of x."""
    prediction = model(model.asarray(x))
    shape = tuple(prediction.shape)
    rng = np.random.default_rng([seed, 11])
    rows = rng.uniform(0.1, 1.0, size=shape)
    values = [
        rng.normal(size=shape),
        rng.integers(0, 2, size=shape).astype(np.float64),
        2.0 * rng.integers(0, 2, size=shape) - 1,
        rng.poisson(2.0, size=shape).astype(np.float64),
        rows / rows.sum(axis=-1, keepdims=True),
    ]
    labels = [rng.integers(0, shape[-1], size=shape[:-1]), rng.integers(0, 2, size=shape[:-1])]
    for target in [*labels, *values] if loss.targets == "labels" else [*values, *labels]:
        there = model.asarray(target)
        try:
            loss.check(prediction, there)
            loss.check_values(target, "y", shape[-1])
            if not np.all(np.isfinite(to_numpy(loss(prediction, there)))):
                continue
        except (BpnetError, ValueError, TypeError, IndexError):
            continue
        return target
    raise ConfigError(f"audit: no random targets were found that {loss!r} takes for predictions of {shape}; give it y")
