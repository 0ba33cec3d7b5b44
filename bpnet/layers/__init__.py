"""Layers and containers."""

from bpnet.layers.activations import (
    ELU,
    GELU,
    Hardswish,
    LeakyReLU,
    LogSoftmax,
    Mish,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from bpnet.layers.base import Layer
from bpnet.layers.batch_norm import BatchNorm, GroupNorm
from bpnet.layers.containers import Concatenate, Recompute, Residual, Sequential
from bpnet.layers.convolution import Conv1d, Conv2d, ConvTranspose2d
from bpnet.layers.dense import Dense
from bpnet.layers.dropout import Dropout, Dropout2d
from bpnet.layers.flatten import Flatten, Reshape
from bpnet.layers.normalize import Normalize
from bpnet.layers.parametric import GLU, PReLU
from bpnet.layers.pooling import AvgPool2d, GlobalAveragePool2d, GlobalMaxPool2d, MaxPool2d

__all__ = [
    "ELU",
    "GELU",
    "GLU",
    "AvgPool2d",
    "BatchNorm",
    "Concatenate",
    "Conv1d",
    "Conv2d",
    "ConvTranspose2d",
    "Dense",
    "Dropout",
    "Dropout2d",
    "Flatten",
    "GlobalAveragePool2d",
    "GlobalMaxPool2d",
    "GroupNorm",
    "Hardswish",
    "Layer",
    "LeakyReLU",
    "LogSoftmax",
    "MaxPool2d",
    "Mish",
    "Normalize",
    "PReLU",
    "ReLU",
    "Recompute",
    "Reshape",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
]
