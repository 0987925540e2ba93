"""Flatten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minidl.layers.base import Layer

if TYPE_CHECKING:
    from minidl.lowering import Graph, Value


class Flatten(Layer):
    """Rows of any shape become rows of columns, in C order; as the first layer of a model.

    Elsewhere rows are flat already, and nothing is done.

    Examples
    --------
    >>> import numpy as np
    >>> import minidl
    >>> minidl.Sequential(minidl.Flatten(), minidl.Linear(6, 2)).predict(np.zeros((5, 2, 3))).shape
    (5, 2)
    """

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
