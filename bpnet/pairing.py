"""Whether a model, a loss and metrics belong together: found before training, not by a bad result after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bpnet.errors import ConfigError
from bpnet.layers import Sequential, Sigmoid, Softmax
from bpnet.layers.base import Layer
from bpnet.losses import (
    BinaryCrossEntropy,
    BinaryFocalLoss,
    ClassLoss,
    Hinge,
    KLDivergence,
    Loss,
    MulticlassHinge,
    NegativeLogLikelihood,
    SoftmaxCrossEntropy,
)
from bpnet.metrics import Metric, Perplexity


def last_layer(model: Layer) -> Layer:
    """The layer whose output is the model's, looking into Sequentials."""
    while type(model) is Sequential and len(model):
        model = model[len(model) - 1]
    return model


def check_pairing(model: Layer, loss: Loss, metrics: Sequence[Metric]) -> None:
    """Raise ConfigError where the model already applies what the loss applies, or a metric reads other outputs."""
    last = last_layer(model)
    name = type(loss).__name__
    if loss.wants == "logits":
        if isinstance(loss, ClassLoss) and isinstance(last, Softmax):
            if isinstance(loss, MulticlassHinge):
                raise ConfigError(f"{name} takes scores of any size, and the model ends in a Softmax: leave that out")
            other = ", or use CategoricalCrossEntropy()" if isinstance(loss, SoftmaxCrossEntropy) else ""
            raise ConfigError(
                f"{name} applies the softmax itself, and the model ends in a Softmax: leave that out{other}"
            )
        if isinstance(loss, (BinaryCrossEntropy, BinaryFocalLoss)) and isinstance(last, Sigmoid):
            other = ", or use BinaryCrossEntropy(from_logits=False)" if isinstance(loss, BinaryCrossEntropy) else ""
            raise ConfigError(
                f"{name} applies the sigmoid itself, and the model ends in a Sigmoid: leave that out{other}"
            )
    if isinstance(loss, (NegativeLogLikelihood, KLDivergence)) and isinstance(last, Softmax):
        raise ConfigError(
            f"{name} wants log-probabilities, and the model ends in a Softmax: end it in LogSoftmax() instead"
        )
    for metric in metrics:
        logits = loss.wants == "logits"
        known = logits or loss.wants == "probabilities"
        if known and isinstance(metric, Perplexity) and metric.from_logits != logits:
            raise ConfigError(f"the loss takes {loss.wants}, the metric does not: use Perplexity(from_logits={logits})")
    if isinstance(loss, (BinaryCrossEntropy, BinaryFocalLoss, Hinge)):
        from_logits = loss.wants != "probabilities"
        takes = "scores around 0" if isinstance(loss, Hinge) else loss.wants
        for metric in metrics:
            if getattr(metric, "from_logits", from_logits) != from_logits:
                raise ConfigError(
                    f"the loss takes {takes}, the metric does not: use "
                    f"{type(metric).__name__}(from_logits={from_logits})"
                )


def check_probabilities(outputs: Any, loss: Loss) -> None:
    """Raise ConfigError unless the outputs, a host array, can be what a loss of (log-)probabilities wants."""
    if loss.wants not in ("probabilities", "log-probabilities"):
        return
    logarithms = loss.wants == "log-probabilities"
    if np.any(np.isnan(outputs)) or not (logarithms or np.all(np.isfinite(outputs))):
        return
    with np.errstate(over="ignore"):
        p = np.exp(outputs) if logarithms else outputs
    inside = bool(np.all((p >= 0) & (p <= 1 + 1e-3 * logarithms)))
    rows = not loss.by_row or bool(np.all(np.abs(p.sum(axis=-1) - 1) < 1e-3))
    if not (inside and rows):
        layer = "LogSoftmax()" if logarithms else "Softmax()" if loss.by_row else "Sigmoid()"
        other = "SoftmaxCrossEntropy()" if loss.by_row else "BinaryCrossEntropy()"
        raise ConfigError(
            f"{loss!r} wants {loss.wants}, and the model's outputs lie between {outputs.min():.4g} and "
            f"{outputs.max():.4g}: end the model in {layer}, or use {other} on its logits"
        )


def plain_weights(loss: Loss) -> bool:
    """Whether the loss's weights are bpnet's own, made of shapes and by kernels: a plan would not see others change."""
    return type(loss).total_weight.__module__.startswith("bpnet.")
