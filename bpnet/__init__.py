"""bpnet: neural networks trained by explicit backpropagation, on any array backend."""

from bpnet import data, errors, initializers, ops, schedules
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
    CategoricalCrossEntropy,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
    SoftmaxCrossEntropy,
)
from bpnet.metrics import Accuracy, BinaryAccuracy, Metric
from bpnet.optimizers import SGD, Adagrad, Adam, AdamW, Group, Lion, Optimizer, RMSprop
from bpnet.parameter import Parameter, Stream
from bpnet.schedules import Constant, Cosine, Exponential, InverseTime, OneCycle, Schedule, StepDecay, WarmUp
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
    "Adagrad",
    "Adam",
    "AdamW",
    "Backend",
    "BackendError",
    "BinaryAccuracy",
    "BinaryCrossEntropy",
    "BpnetError",
    "CategoricalCrossEntropy",
    "CheckpointError",
    "Concatenate",
    "ConfigError",
    "Constant",
    "Cosine",
    "DTypeError",
    "DataError",
    "Dataset",
    "Dense",
    "Dropout",
    "Exponential",
    "Flatten",
    "Group",
    "Hardswish",
    "History",
    "InverseTime",
    "Layer",
    "LeakyReLU",
    "Lion",
    "LogSoftmax",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Metric",
    "Mish",
    "MissingExtraError",
    "NonFiniteError",
    "OneCycle",
    "Optimizer",
    "PReLU",
    "Parameter",
    "RMSprop",
    "ReLU",
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
    "Trainer",
    "WarmUp",
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
    "schedules",
    "to_numpy",
    "use_backend",
]
