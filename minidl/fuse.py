"""A model for prediction alone: BatchNorm inside the Linear before it, nothing idle."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import numpy as np

from minidl.layers.activations import Identity
from minidl.layers.base import Layer
from minidl.layers.batchnorm import BatchNorm1d
from minidl.layers.branches import Concat, Parallel
from minidl.layers.dropout import Dropout
from minidl.layers.linear import Linear
from minidl.layers.residual import Residual
from minidl.layers.sequential import Sequential


def fuse(model: Sequential) -> Sequential:
    """The method `Sequential.fuse`."""
    fused = Sequential(*_fused(model), dtype=model.dtype)
    for name in ("metadata", "training_record"):
        if name in model.__dict__:
            fused.__dict__[name] = deepcopy(model.__dict__[name])
    fused.eval()
    return fused


def _fused(layer: Layer) -> list[Layer]:
    """New layers that do the work of one."""
    layers: list[Layer] = []
    for part in _at_work(layer):
        before = layers[-1] if layers else None
        if type(part) is BatchNorm1d and type(before) is Linear:
            layers[-1] = _folded(before, part)
        else:
            layers.append(_copy(part))
    return layers


def _is_sequential(layer: Layer) -> bool:
    """True for classes derived from Sequential too, unless they compute something else."""
    return isinstance(layer, Sequential) and type(layer).lower is Sequential.lower


def _at_work(layer: Layer) -> Iterator[Layer]:
    """The layers that do something in evaluation, those of nested Sequentials in their place."""
    if _is_sequential(layer):
        for _, child in layer.children():
            yield from _at_work(child)
    elif type(layer) not in (Dropout, Identity):
        yield layer


def _copy(layer: Layer) -> Layer:
    """The same layer; what stands in branches is fused."""
    if type(layer) not in (Residual, Concat, Parallel):
        return deepcopy(layer)
    branches = [
        Sequential(*_fused(branch)) if _is_sequential(branch) else _copy(branch)
        for _, branch in layer.children()
    ]
    if isinstance(layer, Parallel):
        return Parallel(*branches, columns=layer.columns)
    return type(layer)(*branches)


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
