"""Optimizers, with PyTorch's names, defaults and formulas; the update itself is compiled."""

from __future__ import annotations

from typing import Any

from minidl import checks
from minidl.optimizers.adam import Adam, AdamW, NAdam, RAdam
from minidl.optimizers.base import Optimizer, OptimizerState
from minidl.optimizers.descent import SGD, Adagrad, Lion, RMSprop

ALL: dict[str, type[Optimizer]] = {
    c.__name__: c for c in (SGD, Adam, AdamW, NAdam, RAdam, RMSprop, Adagrad, Lion)
}


def by_name(name: str, **arguments: Any) -> Optimizer:
    """The optimizer of a name, in capitals or not.

    Parameters
    ----------
    name : str
        ``"sgd"``, ``"adamw"``, ...
    **arguments
        Those of its constructor; ``by_name("Adam", **adam.config())`` makes another `adam`.

    Returns
    -------
    Optimizer

    Raises
    ------
    ValueError
        There is no such optimizer, or an argument does not fit.

    Examples
    --------
    >>> from minidl.optimizers import by_name
    >>> by_name("sgd", lr=0.1).lr
    0.1
    """
    return ALL[checks.known_name(name, ALL, "optimizer")](**arguments)


__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Lion",
    "NAdam",
    "Optimizer",
    "OptimizerState",
    "RAdam",
    "RMSprop",
    "by_name",
]
