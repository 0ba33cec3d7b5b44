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
    from bpnet.callbacks import Callback
    from bpnet.checkpoint import Checkpoint
    from bpnet.contracts import strict
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
        ShapeError,
        StateError,
    )
    from bpnet.explain import explain
    from bpnet.history import History
    from bpnet.inference import predict
    from bpnet.layers import (
        ELU,
        GELU,
        GLU,
        Concatenate,
        Dense,
        Dropout,
        Flatten,
        Hardswish,
        Layer,
        LeakyReLU,
        LogSoftmax,
        Mish,
        Normalize,
        PReLU,
        ReLU,
        Residual,
        Sequential,
        Sigmoid,
        SiLU,
        Softmax,
        Softplus,
        Tanh,
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
    from bpnet.parameter import Parameter, Stream
    from bpnet.schedules import Constant, Cosine, Exponential, InverseTime, OneCycle, Schedule, StepDecay, WarmUp
    from bpnet.trainer import Trainer

    load = Layer.load

__version__ = "0.1.0"

_NAMES = {
    "bpnet.auditing.audit": "audit",
    "bpnet.auditing.report": "AuditReport",
    "bpnet.backend": "Backend backend_names get_backend register_backend to_numpy use_backend",
    "bpnet.callbacks": "Callback",
    "bpnet.checkpoint": "Checkpoint",
    "bpnet.contracts": "strict",
    "bpnet.data": "Dataset",
    "bpnet.dispatch": "kernel namespace",
    "bpnet.errors": (
        "BackendError BpnetError CheckpointError ConfigError ContractError DTypeError DataError MissingExtraError "
        "NonFiniteError ShapeError StateError"
    ),
    "bpnet.explain": "explain",
    "bpnet.history": "History",
    "bpnet.inference": "predict",
    "bpnet.layers": (
        "Concatenate Dense Dropout ELU Flatten GELU GLU Hardswish Layer LeakyReLU LogSoftmax Mish Normalize PReLU "
        "ReLU Residual Sequential SiLU Sigmoid Softmax Softplus Tanh"
    ),
    "bpnet.losses": (
        "BinaryCrossEntropy BinaryFocalLoss CategoricalCrossEntropy ClassLoss FocalLoss Hinge Huber KLDivergence "
        "LogCosh Loss MeanAbsoluteError MeanSquaredError MulticlassHinge NegativeLogLikelihood PoissonNLL "
        "SoftmaxCrossEntropy"
    ),
    "bpnet.metrics": "Accuracy BinaryAccuracy ConfusionMatrix F1 Metric Perplexity Precision R2 Recall TopKAccuracy",
    "bpnet.optimizers": "Adagrad Adam AdamW Group Lion Optimizer RMSprop SGD",
    "bpnet.parameter": "Parameter Stream",
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
        raise AttributeError(f"module 'bpnet' has no attribute {name!r}", name=name, obj=sys.modules[__name__])


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


__all__ = [
    "ELU",
    "F1",
    "GELU",
    "GLU",
    "R2",
    "SGD",
    "Accuracy",
    "Adagrad",
    "Adam",
    "AdamW",
    "AuditReport",
    "Backend",
    "BackendError",
    "BinaryAccuracy",
    "BinaryCrossEntropy",
    "BinaryFocalLoss",
    "BpnetError",
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
    "Cosine",
    "DTypeError",
    "DataError",
    "Dataset",
    "Dense",
    "Dropout",
    "Exponential",
    "Flatten",
    "FocalLoss",
    "Group",
    "Hardswish",
    "Hinge",
    "History",
    "Huber",
    "InverseTime",
    "KLDivergence",
    "Layer",
    "LeakyReLU",
    "Lion",
    "LogCosh",
    "LogSoftmax",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Metric",
    "Mish",
    "MissingExtraError",
    "MulticlassHinge",
    "NegativeLogLikelihood",
    "NonFiniteError",
    "Normalize",
    "OneCycle",
    "Optimizer",
    "PReLU",
    "Parameter",
    "Perplexity",
    "PoissonNLL",
    "Precision",
    "RMSprop",
    "ReLU",
    "Recall",
    "Residual",
    "Schedule",
    "Sequential",
    "ShapeError",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "SoftmaxCrossEntropy",
    "Softplus",
    "StateError",
    "StepDecay",
    "Stream",
    "Tanh",
    "TopKAccuracy",
    "Trainer",
    "WarmUp",
    "audit",
    "backend_names",
    "callbacks",
    "data",
    "errors",
    "explain",
    "get_backend",
    "initializers",
    "kernel",
    "load",
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
