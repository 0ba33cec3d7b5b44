"""The loss as the last nodes of a drawing: its derivative by one output of the model, in words with numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bpnet.explain.parts import Node, Row, plain
from bpnet.explain.record import Record
from bpnet.losses import CategoricalCrossEntropy, Loss, MeanSquaredError, NegativeLogLikelihood, SoftmaxCrossEntropy


def is_plain(record: Record) -> bool:
    """Whether rows of labels count alike: no weights, no ignored label, no smoothing."""
    loss = record.loss
    weighs = any(getattr(loss, name, None) for name in ("class_weight", "label_smoothing"))
    weighs = weighs or getattr(loss, "ignore_index", None) is not None or record.sample_weight is not None
    return not weighs and loss is not None and loss.reduction != "none"


def is_labels(record: Record) -> bool:
    """Whether the targets are integer labels."""
    return record.target is not None and np.issubdtype(record.target.dtype, np.integer)


def total_weight(record: Record) -> float:
    """What the sum of single losses is divided by, where nothing weighs."""
    assert record.loss is not None
    if record.normalizer is not None:
        return float(record.normalizer)
    return float(record.loss.total_weight(record.y.shape, record.target))


def softmax_of(row: Any) -> Any:
    """The probabilities of a row of logits."""
    e = np.exp(row - row.max())
    return e / e.sum()


def loss_nodes(record: Record, sample: int, index: tuple[int, ...]) -> list[Node]:
    """The nodes between the model's output at `index` of one sample and the loss; [] where there is no loss."""
    loss = record.loss
    if loss is None:
        return []
    gradient = float(record.dy[sample][index])
    total = float(np.sum(record.value))
    if type(loss) is SoftmaxCrossEntropy and is_plain(record) and is_labels(record):
        found = _softmax_and_log(record, sample, index, gradient, total)
        if found:
            return found
    forward, backward = _words(record, loss, sample, index, gradient)
    row = Row("", gradient, 1.0, gradient)
    return [Node(type(loss).__name__, "loss", total, 1.0, (row,), gradient, forward, backward)]


def _softmax_and_log(record: Record, sample: int, index: tuple[int, ...], gradient: float, total: float) -> list[Node]:
    """Softmax and the logarithm apart, as the chapter has them first; [] where a probability is too near 0 for that."""
    at, label = index[-1], int(record.target[sample][index[:-1]])
    p = softmax_of(record.y[sample][index[:-1]])
    if not p[label] > 1e-30:
        return []
    count = total_weight(record)
    upstream = np.zeros_like(p)
    upstream[label] = -1 / (p[label] * count)
    onehot = np.zeros_like(p)
    onehot[at] = 1
    local = p * (onehot - p[at])
    rows = tuple(
        Row(f"p[{k}]", float(local[k]), float(upstream[k]), float(local[k] * upstream[k])) for k in range(len(p))
    )
    short = f"({plain(float(p[at]))} - {int(at == label)}) / {plain(count)} = {plain(gradient)}"
    mean = f" The loss is the mean over {plain(count)}: {plain(total)}." if count > 1 else ""
    softmax = Node(
        "softmax", "loss", float(p[at]), float(upstream[at]), rows, gradient,
        f"Softmax makes probabilities of the logits: p[{at}] = {plain(float(p[at]))}. The label is {label}, with "
        f"p[{label}] = {plain(float(p[label]))}.",
        "Every probability depends on every logit: the products of all rows are added. Together with the logarithm "
        f"that simplifies to (p - onehot) / N = {short}, which is how bpnet computes it.",
    )  # fmt: skip
    by_p = Row("", float(upstream[at]), 1.0, float(upstream[at]))
    is_label = at == label
    log = Node(
        "loss", "loss", total, 1.0, (by_p,), float(upstream[at]),
        f"The loss of this sample is -log p[{label}] = -log {plain(float(p[label]))} = "
        f"{plain(-math.log(float(p[label])))}.{mean}",
        f"The derivative of -log p by the label's p is -1 / p, over {plain(count)}: {plain(float(upstream[label]))}."
        + ("" if is_label else f" {at} is not the label, so its own is 0."),
    )  # fmt: skip
    return [softmax, log]


def _words(record: Record, loss: Loss, sample: int, index: tuple[int, ...], gradient: float) -> tuple[str, str]:
    out, total, slope = float(record.y[sample][index]), plain(float(np.sum(record.value))), plain(gradient)
    name = type(loss).__name__
    labels = is_labels(record)
    if labels and is_plain(record) and type(loss) in (CategoricalCrossEntropy, NegativeLogLikelihood):
        label, count = int(record.target[sample][index[:-1]]), total_weight(record)
        p = float(record.y[sample][(*index[:-1], label)])
        logarithm = type(loss) is NegativeLogLikelihood
        own = -p if logarithm else -math.log(max(p, float(np.finfo(record.y.dtype).tiny)))
        text = f"log p[{label}]" if logarithm else f"log p[{label}] = -log {plain(p)}"
        mean = f" The loss is the mean over {plain(count)}: {total}." if count > 1 else ""
        forward = f"The loss of this sample is -{text} = {plain(own)}.{mean}"
        if index[-1] != label:
            return (
                forward,
                f"{index[-1]} is not the label {label}: the loss does not depend on it, its derivative is 0.",
            )
        rule = "-1" if logarithm else f"-1 / {plain(p)}"
        return forward, f"The derivative by the label's output is {rule}, over {plain(count)}: {slope}."
    if labels:
        label = int(record.target[sample][index[:-1]])
        if label == getattr(loss, "ignore_index", None):
            return f"{name}: the label {label} is ignored; the loss of the batch is {total}.", (
                f"The label {label} is ignored, so the loss does not depend on this output."
            )
        forward = (
            f"{name} of this output, {plain(out)}, and of the others, with the label {label}: {total} for the batch."
        )
        return forward, f"The derivative of {name} by this output is {slope}."
    target = float(record.target[sample][index])
    forward = f"{name} of {plain(out)} against {plain(target)}: the loss of the batch is {total}."
    if type(loss) is MeanSquaredError and is_plain(record):
        number = plain(total_weight(record))
        return (
            forward,
            f"The derivative of (y - t)^2 / {number} is 2 ({plain(out)} - {plain(target)}) / {number} = {slope}.",
        )
    return forward, f"The derivative of {name} by this output is {slope}."
