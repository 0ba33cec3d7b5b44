"""bpnet: neural networks trained by explicit backpropagation, on any array backend."""

from bpnet import callbacks, data, errors, initializers, metrics, ops
from bpnet.backend import Backend, backend_names, get_backend, register_backend, to_numpy, use_backend
from bpnet.callbacks import Callback
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
from bpnet.optimizers import SGD, Adam, AdamW, Optimizer
from bpnet.parameter import Parameter, Stream
from bpnet.trainer import Trainer

__version__ = "0.1.0"

load = Layer.load


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
    "Adam",
    "AdamW",
    "Backend",
    "BackendError",
    "BinaryAccuracy",
    "BinaryCrossEntropy",
    "BpnetError",
    "Callback",
    "CategoricalCrossEntropy",
    "CheckpointError",
    "Concatenate",
    "ConfigError",
    "ConfusionMatrix",
    "DTypeError",
    "DataError",
    "Dataset",
    "Dense",
    "Dropout",
    "Flatten",
    "Hardswish",
    "History",
    "Layer",
    "LeakyReLU",
    "LogSoftmax",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Metric",
    "Mish",
    "MissingExtraError",
    "NonFiniteError",
    "Optimizer",
    "PReLU",
    "Parameter",
    "Perplexity",
    "Precision",
    "ReLU",
    "Recall",
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
    "TopKAccuracy",
    "Trainer",
    "backend_names",
    "callbacks",
    "data",
    "errors",
    "get_backend",
    "initializers",
    "kernel",
    "load",
    "metrics",
    "namespace",
    "ops",
    "predict",
    "register_backend",
    "to_numpy",
    "use_backend",
]
