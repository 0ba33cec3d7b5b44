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
from bpnet.layers.containers import Concatenate, Residual, Sequential
from bpnet.layers.dense import Dense
from bpnet.layers.dropout import Dropout
from bpnet.layers.flatten import Flatten
from bpnet.layers.normalize import Normalize
from bpnet.layers.parametric import GLU, PReLU
from bpnet.layers.recurrent import GRU, LSTM, RNN

__all__ = [
    "ELU",
    "GELU",
    "GLU",
    "GRU",
    "LSTM",
    "RNN",
    "Concatenate",
    "Dense",
    "Dropout",
    "Flatten",
    "Hardswish",
    "Layer",
    "LeakyReLU",
    "LogSoftmax",
    "Mish",
    "Normalize",
    "PReLU",
    "ReLU",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
]
