"""Optimizers, with PyTorch's names, defaults and formulas; the update itself is compiled."""

from __future__ import annotations

from typing import Any

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
    known = {own.lower(): own for own in ALL}
    if not isinstance(name, str) or name.lower() not in known:
        from difflib import get_close_matches

        near = get_close_matches(str(name).lower(), known, 1, 0)[0]
        raise ValueError(
            f"name: expected one of {', '.join(ALL)}, got {name!r}; did you mean {known[near]!r}?"
        )
    return ALL[known[name.lower()]](**arguments)


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
