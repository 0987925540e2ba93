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
from minidl.layers.dropout import Dropout
from minidl.layers.linear import Linear
from minidl.layers.sequential import Sequential

__all__ = [
    "ELU", "GELU", "BatchNorm1d", "Dropout", "Identity", "Layer", "LeakyReLU", "Linear", "ReLU",
    "Sequential", "SiLU", "Sigmoid", "Softplus", "Tanh",
]  # fmt: skip
