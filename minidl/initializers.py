"""Initial weights, by the names of `torch.nn.init`.

An initializer is called with a shape (out_features, in_features) or (n,) and a generator, and
returns float64 values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from minidl import checks
from minidl.memory import Array, check_room

Initializer: TypeAlias = "Callable[[tuple[int, ...], np.random.Generator], Array]"


def _check(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """The arguments that all have, and that there is room for the values."""
    checks.generator(rng)
    if not isinstance(shape, (tuple, list)) or len(shape) not in (1, 2):
        raise ValueError(f"shape: expected (out_features, in_features) or (n,), got {shape!r}")
    for i, each in enumerate(shape):
        checks.size(each, f"shape[{i}]", 0)
    check_room(8 * math.prod(shape), f"initial values of shape {tuple(shape)}")


def _fans(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[int, int]:
    """(fan in, fan out) of a weight of shape (out, in); of a vector, its length twice."""
    _check(shape, rng)
    return (shape[1], shape[0]) if len(shape) == 2 else (shape[0], shape[0])


def _uniform(shape: tuple[int, ...], rng: np.random.Generator, bound: float) -> Array:
    return rng.uniform(-bound, bound, shape)


def _normal(shape: tuple[int, ...], rng: np.random.Generator, deviation: float) -> Array:
    return rng.normal(0.0, deviation, shape)


def zeros(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """All zeros."""
    _check(shape, rng)
    return np.zeros(shape)


def ones(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """All ones."""
    _check(shape, rng)
    return np.ones(shape)


def kaiming_uniform(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """U(-b, b), b = sqrt(6 / fan_in): for ReLU. He et al., ICCV 2015."""
    return _uniform(shape, rng, math.sqrt(6 / max(_fans(shape, rng)[0], 1)))


def kaiming_normal(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """N(0, 2 / fan_in): for ReLU. He et al., ICCV 2015."""
    return _normal(shape, rng, math.sqrt(2 / max(_fans(shape, rng)[0], 1)))


def xavier_uniform(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """U(-b, b), b = sqrt(6 / (fan_in + fan_out)): for tanh. Glorot and Bengio, AISTATS 2010."""
    return _uniform(shape, rng, math.sqrt(6 / max(sum(_fans(shape, rng)), 1)))


def xavier_normal(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """N(0, 2 / (fan_in + fan_out)): for tanh. Glorot and Bengio, AISTATS 2010."""
    return _normal(shape, rng, math.sqrt(2 / max(sum(_fans(shape, rng)), 1)))


def torch_linear(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """U(-b, b), b = 1 / sqrt(fan_in): the default of torch.nn.Linear, for its weight."""
    return _uniform(shape, rng, 1 / math.sqrt(max(_fans(shape, rng)[0], 1)))


NAMES: dict[str, Initializer] = {
    f.__name__: f
    for f in (zeros, ones, kaiming_uniform, kaiming_normal, xavier_uniform, xavier_normal,
              torch_linear)
}  # fmt: skip


def get(which: str | Initializer, name: str) -> Initializer:
    """The initializer of a name, or the function itself; `name` is the argument's, for errors."""
    if callable(which) and not isinstance(which, type):
        return which
    return NAMES[checks.known_name(which, NAMES, name)]
