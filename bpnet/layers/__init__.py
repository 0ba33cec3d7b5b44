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
from bpnet.layers.containers import Concatenate, Residual, Sequential
from bpnet.layers.dense import Dense
from bpnet.layers.dropout import Dropout
from bpnet.layers.embedding import Embedding, Unembedding
from bpnet.layers.flatten import Flatten
from bpnet.layers.layer_norm import LayerNorm, RMSNorm
from bpnet.layers.normalize import Normalize
from bpnet.layers.parametric import GLU, PReLU, SwiGLU
from bpnet.layers.positions import LearnedPositions, SinusoidalPositions
from bpnet.layers.transformer import TransformerBlock

__all__ = [
    "ELU",
    "GELU",
    "GLU",
    "Concatenate",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "Hardswish",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "LearnedPositions",
    "LogSoftmax",
    "Mish",
    "MultiHeadAttention",
    "Normalize",
    "PReLU",
    "RMSNorm",
    "ReLU",
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
