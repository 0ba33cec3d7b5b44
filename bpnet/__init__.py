"""bpnet: neural networks trained by explicit backpropagation, on any array backend.

A name is imported when it is first used, so that `import bpnet` costs next to nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bpnet import callbacks, data, errors, initializers, metrics, ops, schedules
    from bpnet.auditing.audit import audit
    from bpnet.auditing.report import AuditReport
    from bpnet.backend import Backend, backend_names, get_backend, register_backend, to_numpy, use_backend
    from bpnet.bundle import Bundle, load_bundle
    from bpnet.callbacks import Callback
    from bpnet.checkpoint import Checkpoint
    from bpnet.contracts import strict
    from bpnet.costing import CostReport, cost
    from bpnet.data import Dataset
    from bpnet.dispatch import kernel, namespace
    from bpnet.errors import (
        BackendError,
        BpnetError,
        CheckpointError,
        ConfigError,
        ContractError,
        DataError,
        DTypeError,
        MissingExtraError,
        NonFiniteError,
        OutOfMemoryError,
        ShapeError,
        StateError,
    )
    from bpnet.explain import explain
    from bpnet.generation import generate
    from bpnet.history import History
    from bpnet.inference import predict
    from bpnet.layers import (
        ELU,
        GELU,
        GLU,
        GRU,
        LSTM,
        RNN,
        AvgPool1d,
        AvgPool2d,
        BatchNorm,
        Concatenate,
        Conv1d,
        Conv2d,
        ConvTranspose2d,
        Dense,
        Dropout,
        Dropout2d,
        Embedding,
        Flatten,
        GlobalAveragePool1d,
        GlobalAveragePool2d,
        GlobalMaxPool1d,
        GlobalMaxPool2d,
        GroupNorm,
        Hardswish,
        Layer,
        LayerNorm,
        LeakyReLU,
        LearnedPositions,
        LogSoftmax,
        MaxPool1d,
        MaxPool2d,
        Mish,
        MultiHeadAttention,
        Normalize,
        PReLU,
        Recompute,
        ReLU,
        Reshape,
        Residual,
        RMSNorm,
        Sequential,
        Sigmoid,
        SiLU,
        SinusoidalPositions,
        Softmax,
        Softplus,
        SwiGLU,
        Tanh,
        TransformerBlock,
        Unembedding,
    )
    from bpnet.losses import (
        BinaryCrossEntropy,
        BinaryFocalLoss,
        CategoricalCrossEntropy,
        ClassLoss,
        FocalLoss,
        Hinge,
        Huber,
        KLDivergence,
        LogCosh,
        Loss,
        MeanAbsoluteError,
        MeanSquaredError,
        MulticlassHinge,
        NegativeLogLikelihood,
        PoissonNLL,
        SoftmaxCrossEntropy,
    )
    from bpnet.memory import MemoryReport
    from bpnet.metrics import (
        F1,
        R2,
        Accuracy,
        BinaryAccuracy,
        ConfusionMatrix,
        Metric,
        Perplexity,
        Precision,
        Recall,
        TopKAccuracy,
    )
    from bpnet.optimizers import SGD, Adagrad, Adam, AdamW, Group, Lion, Optimizer, RMSprop
    from bpnet.parameter import Parameter, Statistic, Stream
    from bpnet.schedules import Constant, Cosine, Exponential, InverseTime, OneCycle, Schedule, StepDecay, WarmUp
    from bpnet.trainer import Trainer

    load = Layer.load

__version__ = "0.1.0"

_NAMES = {
    "bpnet.auditing.audit": "audit",
    "bpnet.auditing.report": "AuditReport",
    "bpnet.backend": "Backend backend_names get_backend register_backend to_numpy use_backend",
    "bpnet.bundle": "Bundle load_bundle",
    "bpnet.callbacks": "Callback",
    "bpnet.checkpoint": "Checkpoint",
    "bpnet.contracts": "strict",
    "bpnet.costing": "CostReport cost",
    "bpnet.memory": "MemoryReport",
    "bpnet.data": "Dataset",
    "bpnet.dispatch": "kernel namespace",
    "bpnet.errors": (
        "BackendError BpnetError CheckpointError ConfigError ContractError DTypeError DataError MissingExtraError "
        "NonFiniteError OutOfMemoryError ShapeError StateError"
    ),
    "bpnet.explain": "explain",
    "bpnet.generation": "generate",
    "bpnet.history": "History",
    "bpnet.inference": "predict",
    "bpnet.layers": (
        "AvgPool1d AvgPool2d BatchNorm Concatenate Conv1d Conv2d ConvTranspose2d Dense Dropout Dropout2d ELU "
        "Embedding Flatten GELU GLU GRU GlobalAveragePool1d GlobalAveragePool2d GlobalMaxPool1d GlobalMaxPool2d "
        "GroupNorm Hardswish LSTM Layer LayerNorm LeakyReLU LearnedPositions LogSoftmax MaxPool1d MaxPool2d Mish "
        "MultiHeadAttention Normalize PReLU RMSNorm RNN ReLU Recompute Reshape Residual Sequential SiLU Sigmoid "
        "SinusoidalPositions Softmax Softplus SwiGLU Tanh "
        "TransformerBlock Unembedding"
    ),
    "bpnet.losses": (
        "BinaryCrossEntropy BinaryFocalLoss CategoricalCrossEntropy ClassLoss FocalLoss Hinge Huber KLDivergence "
        "LogCosh Loss MeanAbsoluteError MeanSquaredError MulticlassHinge NegativeLogLikelihood PoissonNLL "
        "SoftmaxCrossEntropy"
    ),
    "bpnet.metrics": "Accuracy BinaryAccuracy ConfusionMatrix F1 Metric Perplexity Precision R2 Recall TopKAccuracy",
    "bpnet.optimizers": "Adagrad Adam AdamW Group Lion Optimizer RMSprop SGD",
    "bpnet.parameter": "Parameter Statistic Stream",
    "bpnet.schedules": "Constant Cosine Exponential InverseTime OneCycle Schedule StepDecay WarmUp",
    "bpnet.trainer": "Trainer",
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names.split()}


class _Package(ModuleType):
    """Keeps the function `explain` in the place where importing the module of that name would put the module."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name == "explain" and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "load":
            found = import_module("bpnet.layers").Layer.load
        elif name in _WHERE:
            found = getattr(import_module(_WHERE[name]), name)
        else:
            return _module(name)
        globals()[name] = found
        return found

    def _module(name: str) -> Any:
        if not name.startswith("_"):
            try:
                return import_module(f"bpnet.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"bpnet.{name}":
                    raise
        hint = "" if name.startswith("_") else import_module("bpnet.errors").missing_name(name, __all__)
        raise AttributeError(f"module 'bpnet' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


__all__ = [
    "ELU",
    "F1",
    "GELU",
    "GLU",
    "GRU",
    "LSTM",
    "R2",
    "RNN",
    "SGD",
    "Accuracy",
    "Adagrad",
    "Adam",
    "AdamW",
    "AuditReport",
    "AvgPool1d",
    "AvgPool2d",
    "Backend",
    "BackendError",
    "BatchNorm",
    "BinaryAccuracy",
    "BinaryCrossEntropy",
    "BinaryFocalLoss",
    "BpnetError",
    "Bundle",
    "Callback",
    "CategoricalCrossEntropy",
    "Checkpoint",
    "CheckpointError",
    "ClassLoss",
    "Concatenate",
    "ConfigError",
    "ConfusionMatrix",
    "Constant",
    "ContractError",
    "Conv1d",
    "Conv2d",
    "ConvTranspose2d",
    "Cosine",
    "CostReport",
    "DTypeError",
    "DataError",
    "Dataset",
    "Dense",
    "Dropout",
    "Dropout2d",
    "Embedding",
    "Exponential",
    "Flatten",
    "FocalLoss",
    "GlobalAveragePool1d",
    "GlobalAveragePool2d",
    "GlobalMaxPool1d",
    "GlobalMaxPool2d",
    "Group",
    "GroupNorm",
    "Hardswish",
    "Hinge",
    "History",
    "Huber",
    "InverseTime",
    "KLDivergence",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "LearnedPositions",
    "Lion",
    "LogCosh",
    "LogSoftmax",
    "Loss",
    "MaxPool1d",
    "MaxPool2d",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "MemoryReport",
    "Metric",
    "Mish",
    "MissingExtraError",
    "MultiHeadAttention",
    "MulticlassHinge",
    "NegativeLogLikelihood",
    "NonFiniteError",
    "Normalize",
    "OneCycle",
    "Optimizer",
    "OutOfMemoryError",
    "PReLU",
    "Parameter",
    "Perplexity",
    "PoissonNLL",
    "Precision",
    "RMSNorm",
    "RMSprop",
    "ReLU",
    "Recall",
    "Recompute",
    "Reshape",
    "Residual",
    "Schedule",
    "Sequential",
    "ShapeError",
    "SiLU",
    "Sigmoid",
    "SinusoidalPositions",
    "Softmax",
    "SoftmaxCrossEntropy",
    "Softplus",
    "StateError",
    "Statistic",
    "StepDecay",
    "Stream",
    "SwiGLU",
    "Tanh",
    "TopKAccuracy",
    "Trainer",
    "TransformerBlock",
    "Unembedding",
    "WarmUp",
    "audit",
    "backend_names",
    "callbacks",
    "cost",
    "data",
    "errors",
    "explain",
    "generate",
    "get_backend",
    "initializers",
    "kernel",
    "load",
    "load_bundle",
    "metrics",
    "namespace",
    "ops",
    "predict",
    "register_backend",
    "schedules",
    "strict",
    "to_numpy",
    "use_backend",
]
