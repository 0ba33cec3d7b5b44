"""Sequences that a model makes: one id after the other, each chosen by the scores of what may come next."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from bpnet.backend import to_numpy
from bpnet.data.checks import check_ids
from bpnet.data.text import check_vocabulary, decode, encode
from bpnet.errors import ConfigError, DataError, NonFiniteError, ShapeError
from bpnet.layers.base import Layer
from bpnet.layers.tree import is_number
from bpnet.random import HostStream, check_seed


def generate(
    model: Layer,
    prompt: Any,
    *,
    length: int = 100,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> Any:
    """Return `prompt` with `length` ids, or characters, behind it, each drawn from what the model says of the next.

    model       : takes ids (N, T) and gives scores (N, T, V), the logits of the id that follows each
    prompt      : a text, where model.info["vocabulary"] is the text of all characters by id; or ids (T,) or (N, T)
    temperature : the scores are divided by it; 0 takes the largest, the first of equal ones
    top_k       : only the k largest scores may be drawn; None: all
    seed        : of the draws; the same seed gives the same sequence
    Returns a text for a text, else ids (T + length,) or (N, T + length), NumPy int64.
    Where the model can (`can_step`), each id is computed from a cache of those before. Behind its longest sequence
    (`max_positions`) only the latest ids are looked at.
    Raises ConfigError, DataError, ShapeError; NonFiniteError where a score is NaN or infinite.
    """
    temperature, top_k = _check_choice(temperature, top_k)
    if isinstance(length, bool) or not isinstance(length, (int, np.integer)) or length < 0:
        raise ConfigError(f"generate: length must be an integer of at least 0, got {length!r}")
    stream = HostStream(check_seed(seed), "generate")
    vocabulary = _vocabulary(model) if isinstance(prompt, str) else ""
    ids = (
        encode(prompt, vocabulary)
        if vocabulary
        else np.asarray(to_numpy(prompt) if hasattr(prompt, "shape") else prompt)
    )
    rows = _as_rows(model, ids)
    found = [rows]
    for scores in _scores(model, found, int(length)):
        found.append(_choose(scores, temperature, top_k, stream)[:, None])
    result = np.concatenate(found, axis=1)
    if vocabulary:
        return decode(result, vocabulary)
    return result[0] if ids.ndim == 1 else result


def _check_choice(temperature: Any, top_k: Any) -> tuple[float, int | None]:
    if not is_number(temperature) or not 0 <= temperature < math.inf:
        raise ConfigError(f"generate: temperature must be a number of at least 0, got {temperature!r}")
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, (int, np.integer)) or top_k < 1):
        raise ConfigError(f"generate: top_k must be None or an integer of at least 1, got {top_k!r}")
    return float(temperature), None if top_k is None else int(top_k)


def _vocabulary(model: Layer) -> str:
    vocabulary = model.info.get("vocabulary")
    if vocabulary is None:
        raise ConfigError(
            'generate: the model does not know its characters: set model.info["vocabulary"] to a text of all of them, '
            "in the order of their ids, or give ids as prompt"
        )
    return check_vocabulary(vocabulary)


def _as_rows(model: Layer, ids: Any) -> Any:
    """The prompt as (N, T) int64, checked."""
    if model.input_ids is None:
        raise ConfigError(f"generate: the model must take ids, so begin with an Embedding; it is {model!r}")
    if ids.ndim not in (1, 2):
        raise ShapeError(f"generate: a prompt of ids must have shape (T,) or (N, T), got {ids.shape}")
    if not ids.size:
        raise DataError("generate: the prompt is empty; it must have something that the model can go on from")
    check_ids(ids, model.input_ids, "the prompt")
    return ids.astype(np.int64).reshape(-1, ids.shape[-1])


def _scores(model: Layer, found: list[Any], length: int) -> Iterator[Any]:
    """The scores of the next id, (N, V) float64, `length` times; the caller appends its choice to `found`."""
    longest = model.max_positions
    cache: Any = None
    seen = 0  # ids that the cache knows
    for _ in range(length):
        ids = np.concatenate(found, axis=1) if len(found) > 1 else found[0]
        fits = longest is None or ids.shape[1] <= longest
        if model.can_step and fits:
            outputs, cache = model.step(model.asarray(ids[:, seen:]), cache)
            seen = ids.shape[1]
        else:
            outputs = model(model.asarray(ids if fits else ids[:, -int(longest or 0) :]))
        if outputs.ndim != 3 or outputs.shape[0] != len(ids):
            raise ShapeError(
                f"generate: the model must give scores (N, T, V) for ids (N, T), got {tuple(outputs.shape)} for "
                f"{tuple(ids.shape)}"
            )
        scores = np.asarray(to_numpy(outputs[:, -1, :]), dtype=np.float64)
        if not np.isfinite(scores).all():
            raise NonFiniteError("generate: the model's scores are NaN or infinite: its parameters are, or too large")
        yield scores


def _choose(scores: Any, temperature: float, top_k: int | None, stream: HostStream) -> Any:
    """An id a row, (N,) int64: the largest score's, or one drawn from the softmax of scores / temperature."""
    n_samples, n_ids = scores.shape
    if temperature == 0:
        return np.argmax(scores, axis=1)
    scores = scores - scores.max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):  # what is divided by a tiny temperature is then never drawn
        weights = np.exp(scores / temperature)
    if top_k is not None and top_k < n_ids:
        order = np.argsort(-scores, axis=1, kind="stable")
        np.put_along_axis(weights, order[:, top_k:], 0.0, axis=1)
    bounds = np.cumsum(weights, axis=1)
    points = stream.uniform((n_samples, 1)) * bounds[:, -1:]
    return np.minimum(np.sum(bounds <= points, axis=1), n_ids - 1)
