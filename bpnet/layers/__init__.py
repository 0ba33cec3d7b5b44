"""Layers and containers."""

from bpnet.layers.activations import LeakyReLU, ReLU, Sigmoid, Softmax, Tanh
from bpnet.layers.base import Layer
from bpnet.layers.containers import Concatenate, Residual, Sequential
from bpnet.layers.dense import Dense
from bpnet.layers.dropout import Dropout
from bpnet.layers.flatten import Flatten

__all__ = [
    "Concatenate",
    "Dense",
    "Dropout",
    "Flatten",
    "Layer",
    "LeakyReLU",
    "ReLU",
    "Residual",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Tanh",
]
