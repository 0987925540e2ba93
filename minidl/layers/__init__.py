"""The layers; one file a layer, activations in one."""

from minidl.layers.activations import (
    ELU,
    GELU,
    Identity,
    LeakyReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from minidl.layers.base import Layer
from minidl.layers.batchnorm import BatchNorm1d
from minidl.layers.branches import Concat, Parallel
from minidl.layers.dropout import Dropout
from minidl.layers.embedding import Embedding
from minidl.layers.flatten import Flatten
from minidl.layers.layernorm import LayerNorm
from minidl.layers.linear import Linear
from minidl.layers.prelu import PReLU
from minidl.layers.residual import Residual
from minidl.layers.rmsnorm import RMSNorm
from minidl.layers.sequential import Sequential
from minidl.layers.softmax import Softmax

__all__ = [
    "ELU", "GELU", "BatchNorm1d", "Concat", "Dropout", "Embedding", "Flatten", "Identity", "Layer",
    "LayerNorm", "LeakyReLU", "Linear", "PReLU", "Parallel", "RMSNorm", "ReLU", "Residual",
    "Sequential", "SiLU", "Sigmoid", "Softmax", "Softplus", "Tanh",
]  # fmt: skip
