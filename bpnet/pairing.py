"""Whether a model, a loss and metrics belong together: found before training, not by a bad result after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bpnet.errors import ConfigError
from bpnet.layers import Sequential, Sigmoid, Softmax
from bpnet.layers.base import Layer
from bpnet.losses import BinaryCrossEntropy, Loss, SoftmaxCrossEntropy
from bpnet.metrics import Metric, Perplexity


def last_layer(model: Layer) -> Layer:
    """The layer whose output is the model's, looking into Sequentials."""
    while type(model) is Sequential and len(model):
        model = model[len(model) - 1]
    return model


def check_pairing(model: Layer, loss: Loss, metrics: Sequence[Metric]) -> None:
    """Raise ConfigError where the model already applies what the loss applies, or a metric reads other outputs."""
    last = last_layer(model)
    if isinstance(loss, SoftmaxCrossEntropy) and isinstance(last, Softmax):
        raise ConfigError(
            "SoftmaxCrossEntropy applies the softmax itself, and the model ends in a Softmax: leave that out, or use "
            "CategoricalCrossEntropy()"
        )
    if isinstance(loss, BinaryCrossEntropy) and loss.from_logits and isinstance(last, Sigmoid):
        raise ConfigError(
            "BinaryCrossEntropy applies the sigmoid itself, and the model ends in a Sigmoid: leave that out, or "
            "use BinaryCrossEntropy(from_logits=False)"
        )
    if loss.wants in ("logits", "probabilities"):
        logits = loss.wants == "logits"
        for metric in metrics:
            matters = isinstance(loss, BinaryCrossEntropy) or isinstance(metric, Perplexity)
            if matters and getattr(metric, "from_logits", logits) != logits:
                raise ConfigError(
                    f"the loss takes {loss.wants}, the metric does not: use "
                    f"{type(metric).__name__}(from_logits={logits})"
                )


def check_probabilities(outputs: Any, loss: Loss) -> None:
    """Raise ConfigError unless the outputs, a host array, can be probabilities, for a loss that wants them."""
    if loss.wants != "probabilities" or not np.all(np.isfinite(outputs)):
        return
    inside = bool(np.all((outputs >= 0) & (outputs <= 1)))
    rows = loss.targets != "labels" or bool(np.all(np.abs(outputs.sum(axis=-1) - 1) < 1e-3))
    if not (inside and rows):
        layer, other = ("Softmax()", "SoftmaxCrossEntropy()") if loss.targets == "labels" else (
            "Sigmoid()", "BinaryCrossEntropy()"
        )  # fmt: skip
        raise ConfigError(
            f"{loss!r} wants probabilities, and the model's outputs lie between {outputs.min():.4g} and "
            f"{outputs.max():.4g}: end the model in {layer}, or use {other} on its logits"
        )


def plain_weights(loss: Loss) -> bool:
    """Whether the loss's weights are bpnet's own, made of shapes and by kernels: a plan would not see others change."""
    return type(loss).total_weight.__module__.startswith("bpnet.")
