"""Sequential: layers one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from minidl import checks
from minidl.layers.activations import Identity
from minidl.layers.base import Layer
from minidl.layers.container import Container
from minidl.layers.flatten import Flatten

if TYPE_CHECKING:
    import numpy.typing as npt

    from minidl.lowering import Graph, Value


class Sequential(Container):
    """Layers one after the other; layers may be Sequential themselves.

    Parameters
    ----------
    *layers : Layer
    dtype : {"float32", "float64"}, optional
        All layers are converted to it; default: that of the layers.
    seed : int, optional
        If given, all initial values are drawn anew from it.

    Examples
    --------
    >>> import minidl
    >>> model = minidl.Sequential(
    ...     minidl.Linear(64, 32), minidl.BatchNorm1d(32), minidl.ReLU(), minidl.Linear(32, 10),
    ...     seed=0)
    >>> model
    Sequential(
      (0): Linear(in_features=64, out_features=32, bias=True)
      (1): BatchNorm1d(32, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
      (2): ReLU()
      (3): Linear(in_features=32, out_features=10, bias=True)
    )
    """

    def __init__(
        self, *layers: Layer, dtype: npt.DTypeLike | None = None, seed: int | None = None
    ) -> None:
        super().__init__(layers, dtype)
        if seed is not None:
            self.reset_parameters(np.random.default_rng(checks.positive_int(seed, "seed", 0)))

    def _check_features(self) -> None:
        columns = None
        for name, layer in self.children():
            wanted = layer.in_features_or_none()
            if columns is not None and wanted is not None and wanted != columns:
                raise ValueError(
                    f"layers: layer {name} ({type(layer).__name__}) expects {wanted} "
                    f"features, the one before it gives {columns}"
                )
            columns = wanted if columns is None else columns
            columns = None if columns is None else layer.output_features(columns)

    def lower(self, graph: Graph, x: Value) -> Value:
        """Write the operations of the layers."""
        for layer in self._layers:
            x = layer.lower(graph, x)
        return x

    def in_features_or_none(self) -> int | None:
        """Columns that the first layer with a fixed number of them expects."""
        for layer in self._layers:
            found = layer.in_features_or_none()
            if found is not None:
                return found
            if type(layer).output_features is not Layer.output_features:
                return None
        return None

    def categories(self, first: int, columns: int) -> Iterator[tuple[int, int, int]]:
        """Those of the layers that see the input: the first, or one behind layers of no effect."""
        for layer in self._layers:
            yield from layer.categories(first, columns)
            if not isinstance(layer, (Flatten, Identity)):
                return

    def flattens(self) -> bool:
        """True if the first layer takes rows of any shape."""
        return bool(self._layers) and self._layers[0].flattens()

    def output_features(self, in_features: int) -> int:
        """Columns of the output."""
        for layer in self._layers:
            in_features = layer.output_features(in_features)
        return in_features
