"""The layers; one file a layer, activations in one."""

from __future__ import annotations

from typing import Any

from minidl import checks
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

ACTIVATIONS: dict[str, type[Layer]] = {
    c.__name__: c
    for c in (ELU, GELU, Identity, LeakyReLU, PReLU, ReLU, SiLU, Sigmoid, Softmax, Softplus, Tanh)
}


def activation(name: str, **arguments: Any) -> Layer:
    """The activation of a name, in capitals or not.

    Raises
    ------
    ValueError
        There is none of that name; the error says which is nearest.

    Examples
    --------
    >>> from minidl.layers import activation
    >>> activation("relu")
    ReLU()
    """
    return ACTIVATIONS[checks.known_name(name, ACTIVATIONS, "activation")](**arguments)


__all__ = [
    "ELU", "GELU", "BatchNorm1d", "Concat", "Dropout", "Embedding", "Flatten", "Identity", "Layer",
    "LayerNorm", "LeakyReLU", "Linear", "PReLU", "Parallel", "RMSNorm", "ReLU", "Residual",
    "Sequential", "SiLU", "Sigmoid", "Softmax", "Softplus", "Tanh",
]  # fmt: skip
