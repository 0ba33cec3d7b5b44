"""bpnet: neural networks trained by explicit backpropagation, on any array backend."""

from bpnet import data, errors, initializers, ops
from bpnet.backend import Backend, backend_names, get_backend, register_backend, to_numpy, use_backend
from bpnet.data import Dataset
from bpnet.dispatch import kernel, namespace
from bpnet.errors import (
    BackendError,
    BpnetError,
    CheckpointError,
    ConfigError,
    DataError,
    DTypeError,
    MissingExtraError,
    NonFiniteError,
    ShapeError,
    StateError,
)
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
from bpnet.metrics import Accuracy, BinaryAccuracy, Metric
from bpnet.optimizers import SGD, Adam, AdamW, Optimizer
from bpnet.parameter import Parameter, Stream
from bpnet.trainer import Trainer

__version__ = "0.1.0"

load = Layer.load


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


__all__ = [
    "ELU",
    "GELU",
    "GLU",
    "SGD",
    "Accuracy",
    "Adam",
    "AdamW",
    "Backend",
    "BackendError",
    "BinaryAccuracy",
    "BinaryCrossEntropy",
    "BinaryFocalLoss",
    "BpnetError",
    "CategoricalCrossEntropy",
    "CheckpointError",
    "Concatenate",
    "ConfigError",
    "DTypeError",
    "DataError",
    "Dataset",
    "Dense",
    "Dropout",
    "Flatten",
    "FocalLoss",
    "Hardswish",
    "Hinge",
    "History",
    "Huber",
    "KLDivergence",
    "Layer",
    "LeakyReLU",
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
    "Optimizer",
    "PReLU",
    "Parameter",
    "PoissonNLL",
    "ReLU",
    "Residual",
    "Sequential",
    "ShapeError",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "SoftmaxCrossEntropy",
    "Softplus",
    "StateError",
    "Stream",
    "Tanh",
    "Trainer",
    "backend_names",
    "data",
    "errors",
    "get_backend",
    "initializers",
    "kernel",
    "load",
    "namespace",
    "ops",
    "predict",
    "register_backend",
    "to_numpy",
    "use_backend",
]
