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
from bpnet.layers.attention import MultiHeadAttention
from bpnet.layers.base import Layer
from bpnet.layers.batch_norm import BatchNorm, GroupNorm
from bpnet.layers.containers import Concatenate, Recompute, Residual, Sequential
from bpnet.layers.convolution import Conv1d, Conv2d, ConvTranspose2d
from bpnet.layers.dense import Dense
from bpnet.layers.dropout import Dropout, Dropout2d
from bpnet.layers.embedding import Embedding, Unembedding
from bpnet.layers.flatten import Flatten, Reshape
from bpnet.layers.layer_norm import LayerNorm, RMSNorm
from bpnet.layers.normalize import Normalize
from bpnet.layers.parametric import GLU, PReLU, SwiGLU
from bpnet.layers.pooling import (
    AvgPool1d,
    AvgPool2d,
    GlobalAveragePool1d,
    GlobalAveragePool2d,
    GlobalMaxPool1d,
    GlobalMaxPool2d,
    MaxPool1d,
    MaxPool2d,
)
from bpnet.layers.positions import LearnedPositions, SinusoidalPositions
from bpnet.layers.recurrent import GRU, LSTM, RNN
from bpnet.layers.transformer import TransformerBlock

__all__ = [
    "ELU",
    "GELU",
    "GLU",
    "GRU",
    "LSTM",
    "RNN",
    "AvgPool1d",
    "AvgPool2d",
    "BatchNorm",
    "Concatenate",
    "Conv1d",
    "Conv2d",
    "ConvTranspose2d",
    "Dense",
    "Dropout",
    "Dropout2d",
    "Embedding",
    "Flatten",
    "GlobalAveragePool1d",
    "GlobalAveragePool2d",
    "GlobalMaxPool1d",
    "GlobalMaxPool2d",
    "GroupNorm",
    "Hardswish",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "LearnedPositions",
    "LogSoftmax",
    "MaxPool1d",
    "MaxPool2d",
    "Mish",
    "MultiHeadAttention",
    "Normalize",
    "PReLU",
    "RMSNorm",
    "ReLU",
    "Recompute",
    "Reshape",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SinusoidalPositions",
    "Softmax",
    "Softplus",
    "SwiGLU",
    "Tanh",
    "TransformerBlock",
    "Unembedding",
]
