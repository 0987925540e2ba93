"""Softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minidl import checks
from minidl.layers.base import Layer

if TYPE_CHECKING:
    from minidl.lowering import Graph, Value


class Softmax(Layer):
    """y = e^x / sum(e^x), row by row: numbers above 0 that sum to 1.

    `CrossEntropyLoss` has a softmax inside: before it this layer is one too many. Accepts any
    number of columns.

    Parameters
    ----------
    dim : {1, -1}, default 1
        The dimension whose sum is 1; rows have no other than that of the columns.

    Raises
    ------
    ValueError
        `dim` is neither 1 nor -1.

    Examples
    --------
    >>> import minidl
    >>> minidl.Softmax()([[0.0, 0.0], [1000.0, 0.0]]).tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """

    _fixed = (*Layer._fixed, "dim")

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        checks.one_of(dim, (1, -1), "dim")
        self.dim = dim

    def lower(self, graph: Graph, x: Value) -> Value:
        """Write this layer's operation."""
        return graph.add("softmax", self, x, x.columns)

    def extra_repr(self) -> str:
        """As PyTorch prints it."""
        return f"dim={self.dim}"

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {"dim": self.dim}
