"""Metrics: sums over samples that stay on the device until they are read."""

from bpnet.metrics.base import MeanMetric, Metric
from bpnet.metrics.classification import (
    F1,
    Accuracy,
    BinaryAccuracy,
    ConfusionMatrix,
    Perplexity,
    Precision,
    Recall,
    TopKAccuracy,
)
from bpnet.metrics.regression import MAE, MSE, R2, RMSE

__all__ = [
    "F1",
    "MAE",
    "MSE",
    "R2",
    "RMSE",
    "Accuracy",
    "BinaryAccuracy",
    "ConfusionMatrix",
    "MeanMetric",
    "Metric",
    "Perplexity",
    "Precision",
    "Recall",
    "TopKAccuracy",
]
