"""Losses: where the backward pass starts.

`loss.forward(prediction, target)` returns a 0-d array that stays on the device; `loss.backward()` returns its
derivative with respect to the prediction. The loss divides by its normalizer, by default its own total weight, and
nothing else in bpnet does.
"""

from bpnet.losses.base import Loss
from bpnet.losses.binary import BinaryCrossEntropy, BinaryFocalLoss, Hinge
from bpnet.losses.classification import (
    CategoricalCrossEntropy,
    ClassLoss,
    FocalLoss,
    KLDivergence,
    MulticlassHinge,
    NegativeLogLikelihood,
    SoftmaxCrossEntropy,
)
from bpnet.losses.regression import Huber, LogCosh, MeanAbsoluteError, MeanSquaredError, PoissonNLL

__all__ = [
    "BinaryCrossEntropy",
    "BinaryFocalLoss",
    "CategoricalCrossEntropy",
    "ClassLoss",
    "FocalLoss",
    "Hinge",
    "Huber",
    "KLDivergence",
    "LogCosh",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "MulticlassHinge",
    "NegativeLogLikelihood",
    "PoissonNLL",
    "SoftmaxCrossEntropy",
]
