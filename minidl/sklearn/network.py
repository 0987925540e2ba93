"""The network of an estimator: its layers, the initial weights, and the weights as users see them.

Weights begin as scikit-learn's do, with the same numbers for the same `random_state`: uniform in
[-b, b], b = sqrt(6 / (fan in + fan out)), or sqrt(2 / ...) for the logistic activation, biases too.
Glorot and Bengio, AISTATS 2010.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any

import numpy as np

from minidl import checks, layers
from minidl.layers import BatchNorm1d, Dropout, Layer, Linear, Sequential, Sigmoid
from minidl.memory import Array

ALIASES = {"logistic": "Sigmoid"}  # scikit-learn's name for a layer of minidl


def activation_layers(activation: Any, count: int) -> list[Layer]:
    """One activation for each of so many layers, from one or from as many."""
    each = list(activation) if isinstance(activation, (list, tuple)) else [activation] * count
    if len(each) != count:
        raise ValueError(
            f"activation: expected one, or one for each of the {count} hidden layers, got "
            f"{len(each)}"
        )
    return [_activation(one) for one in each]


def _activation(value: Any) -> Layer:
    if isinstance(value, Layer):
        return deepcopy(value)
    return layers.activation(ALIASES.get(value, value))


def build(
    units: Sequence[int],
    activation: Any,
    *,
    dtype: np.dtype[Any],
    batch_norm: bool,
    dropout: float,
    random_state: np.random.RandomState,
) -> Sequential:
    """A network of layers with so many units, the input first; weights are drawn first."""
    hidden = activation_layers(activation, len(units) - 2)
    # The output's range goes by the activation too: the last one, or the only one there is.
    every = [*hidden, hidden[-1] if hidden else _activation(activation or "identity")]
    linear = [
        _linear(fan_in, fan_out, isinstance(function, Sigmoid), random_state)
        for (fan_in, fan_out), function in zip(pairwise(units), every, strict=True)
    ]
    parts: list[Layer] = []
    for affine, function in zip(linear, hidden, strict=False):
        parts.append(affine)
        if batch_norm:
            parts.append(BatchNorm1d(affine.out_features))
        parts.append(function)
        if dropout > 0:
            parts.append(Dropout(dropout, seed=int(random_state.randint(2**31 - 1))))
    return Sequential(*parts, linear[-1], dtype=dtype)


def _linear(
    fan_in: int, fan_out: int, logistic: bool, random_state: np.random.RandomState
) -> Linear:
    layer = Linear(fan_in, fan_out, weight_init="zeros", bias_init="zeros", dtype="float64")
    bound = np.sqrt((2.0 if logistic else 6.0) / (fan_in + fan_out))
    layer.weight = random_state.uniform(-bound, bound, (fan_in, fan_out)).T
    layer.bias = random_state.uniform(-bound, bound, fan_out)
    return layer


def linear_layers(model: Sequential) -> list[Linear]:
    """The layers that hold `coefs_` and `intercepts_`."""
    return [layer for _, layer in model.children() if isinstance(layer, Linear)]


class Arrays(list[Array]):
    """Views of the network's arrays; to put another array in a place copies its values there."""

    def __init__(self, views: Iterable[Array], name: str) -> None:
        super().__init__(views)
        self.name = name

    def __setitem__(self, place: Any, value: Any) -> None:
        """Copy values in."""
        places = range(len(self))[place]
        if isinstance(places, int):
            checks.same_shape(value, self[places].shape, f"{self.name}[{places}]")
            self[places][...] = value
            return
        values = list(value)
        if len(values) != len(places):
            raise ValueError(f"{self.name}: expected {len(places)} arrays, got {len(values)}")
        for own, one in zip(places, values, strict=True):
            checks.same_shape(one, self[own].shape, f"{self.name}[{own}]")
        for own, one in zip(places, values, strict=True):
            self[own][...] = one

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles and copies are plain lists of arrays of their own."""
        return list, ([array.copy() for array in self],)


def coefs(model: Sequential) -> Arrays:
    """Weights, (fan in, fan out) each."""
    return Arrays((layer.weight.T for layer in linear_layers(model)), "coefs_")


def intercepts(model: Sequential) -> Arrays:
    """Biases."""
    return Arrays((layer.bias for layer in linear_layers(model)), "intercepts_")


class Penalty:
    """scikit-learn's L2 penalty: alpha / 2 times the sum of the squares of all weights.

    Biases, and the parameters of BatchNorm, are no weights.
    """

    def __init__(self, model: Sequential, alpha: float) -> None:
        self.alpha = alpha
        self._model = model
        self._views: list[Array] = []
        self._store: Any = None

    def _weights(self) -> list[Array]:
        """The weights with their padding, which is zero, as flat views."""
        store = self._model.store()
        if store is not self._store:
            self._store, self._views = store, [self.part(store.values, p) for p in self.parameters]
        return self._views

    @property
    def parameters(self) -> list[Any]:
        """The parameters that it counts."""
        return [p for _, p in self._model.named_parameters() if p.trainable and len(p.shape) > 1]

    def part(self, flat: Array, parameter: Any) -> Array:
        """A parameter's part of a flat vector of the model."""
        start = parameter.store.offsets[id(parameter)]
        return flat[start : start + parameter.length(flat.itemsize)]

    def value(self) -> float:
        """The penalty of the weights as they are."""
        if self.alpha == 0:
            return 0.0
        # No BLAS: its threads would be in the way of the program's for a while after.
        return 0.5 * self.alpha * float(sum(np.einsum("i,i->", w, w) for w in self._weights()))

    def add_gradient(self, gradient: Array, share: float) -> None:
        """Add `share` times the penalty's gradient to a vector parallel to the parameters."""
        for parameter, weights in zip(self.parameters, self._weights(), strict=True):
            self.part(gradient, parameter)[...] += (self.alpha * share) * weights
