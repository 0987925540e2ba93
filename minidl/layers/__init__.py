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
from minidl.layers.flatten import Flatten
from minidl.layers.linear import Linear
from minidl.layers.residual import Residual
from minidl.layers.sequential import Sequential

__all__ = [
    "ELU", "GELU", "BatchNorm1d", "Concat", "Dropout", "Flatten", "Identity", "Layer", "LeakyReLU",
    "Linear", "Parallel", "ReLU", "Residual", "Sequential", "SiLU", "Sigmoid", "Softplus", "Tanh",
]  # fmt: skip
