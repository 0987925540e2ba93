"""Flatten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minidl import checks
from minidl.layers.base import Layer

if TYPE_CHECKING:
    from minidl.lowering import Graph, Value


class Flatten(Layer):
    """Rows of any shape become rows of columns, in C order; as the first layer of a model.

    Elsewhere rows are flat already, and nothing is done. It may stand in a branch of `Parallel`,
    whose inputs are then given as a tuple.

    Parameters
    ----------
    start_dim, end_dim : int, default 1 and -1
        As in PyTorch; no others.

    Raises
    ------
    ValueError
        Another dimension is asked for.

    Examples
    --------
    >>> import numpy as np
    >>> import minidl
    >>> minidl.Sequential(minidl.Flatten(), minidl.Linear(6, 2)).predict(np.zeros((5, 2, 3))).shape
    (5, 2)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        checks.one(start_dim, 1, "start_dim")
        checks.one(end_dim, -1, "end_dim")

    def flattens(self) -> bool:
        """Rows of any shape."""
        return True

    def lower(self, graph: Graph, x: Value) -> Value:
        """Nothing to do: rows are flattened on their way in."""
        return x

    def extra_repr(self) -> str:
        """As PyTorch prints it."""
        return "start_dim=1, end_dim=-1"

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {}
