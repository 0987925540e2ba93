"""A model for prediction alone: BatchNorm inside the Linear before it, nothing idle."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minidl.layers.activations import Identity
from minidl.layers.base import Layer
from minidl.layers.batchnorm import BatchNorm1d
from minidl.layers.dropout import Dropout
from minidl.layers.linear import Linear
from minidl.layers.sequential import Sequential


def fuse(model: Sequential) -> Sequential:
    """The method `Sequential.fuse`."""
    from copy import deepcopy

    layers: list[Layer] = []
    for layer in _at_work(model):
        before = layers[-1] if layers else None
        if type(layer) is BatchNorm1d and type(before) is Linear:
            layers[-1] = _folded(before, layer)
        else:
            layers.append(deepcopy(layer))
    fused = Sequential(*layers, dtype=model.dtype)
    if "metadata" in model.__dict__:
        fused.__dict__["metadata"] = deepcopy(model.__dict__["metadata"])
    fused.eval()
    return fused


def _at_work(model: Sequential) -> Iterator[Layer]:
    """The layers that do something in evaluation, those of nested Sequentials in their place."""
    for layer in model:
        if isinstance(layer, Sequential):
            yield from _at_work(layer)
        elif type(layer) not in (Dropout, Identity):
            yield layer


def _folded(linear: Linear, norm: BatchNorm1d) -> Linear:
    """One Linear for both, computed in float64.

    gamma (W x + b - mean) / sigma + beta = (s W) x + (s (b - mean) + beta), with s = gamma / sigma
    and sigma = sqrt(var + eps).
    """
    gamma, beta, mean, var = (
        getattr(norm, name).astype(np.float64)
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(var + norm.eps)
    bias = linear.bias if linear.has_bias else 0.0
    folded = Linear(linear.in_features, linear.out_features, dtype=linear.dtype)
    folded.weight = scale[:, None] * linear.weight
    folded.bias = scale * (bias - mean) + beta
    return folded
