"""Residual: a block that adds to what it is given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from minidl.layers.base import Layer
from minidl.layers.container import Container

if TYPE_CHECKING:
    from minidl.lowering import Graph, Value


class Residual(Container):
    """y = x + block(x). He et al., "Deep residual learning", CVPR 2016.

    The gradient of x is that of y plus what comes through the block, so it does not vanish however
    many of them follow each other.

    Parameters
    ----------
    block : Layer
        Gives as many columns as it takes; mostly a `Sequential`.

    Examples
    --------
    >>> import minidl
    >>> block = minidl.Sequential(minidl.Linear(8, 8), minidl.ReLU(), minidl.Linear(8, 8))
    >>> model = minidl.Sequential(
    ...     minidl.Linear(4, 8), minidl.Residual(block), minidl.Linear(8, 2), seed=0)
    >>> model([[0.0, 1.0, 2.0, 3.0]]).shape
    (1, 2)
    """

    def __init__(self, block: Layer) -> None:
        super().__init__([block])

    def _check_features(self) -> None:
        columns = self.in_features_or_none()
        if columns is not None and self._layers[0].output_features(columns) != columns:
            raise ValueError(
                f"block: expected one that gives as many columns as it takes, got {columns} "
                f"columns in, {self._layers[0].output_features(columns)} out"
            )

    def children(self) -> list[tuple[str, Layer]]:
        """The block."""
        return [("block", self._layers[0])]

    def in_features_or_none(self) -> int | None:
        """Columns that the block expects."""
        return self._layers[0].in_features_or_none()

    def categories(self, first: int, columns: int) -> Iterator[tuple[int, int, int]]:
        """Those of the block."""
        return self._layers[0].categories(first, columns)

    def lower(self, graph: Graph, x: Value) -> Value:
        """Write the block's operations, and the sum."""
        y = self._layers[0].lower(graph, x)
        if y.columns != x.columns:
            raise ValueError(f"Residual: the block gives {y.columns} columns for {x.columns}")
        return graph.add("add", self, (x, y), x.columns)

    def config(self) -> dict[str, object]:
        """The block."""
        return {"block": super().config()["layers"][0]}
