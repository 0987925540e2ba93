"""Sequential: layers one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

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
            self.reset_parameters(checks.seeded(seed))

    def _check_features(self) -> None:
        columns, sees_input = None, True
        for name, layer in self.children():
            if not sees_input and any(layer.categories(0, 1)):
                raise ValueError(
                    f"layers: layer {name} ({type(layer).__name__}) takes category numbers, which "
                    "must be the data's own: expected it first, or in a branch of Parallel"
                )
            sees_input = sees_input and isinstance(layer, (Flatten, Identity))
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
        """Those of the first layer, and of one behind layers that do nothing."""
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

    def __str__(self) -> str:
        """The layers, and how they were trained if that is known."""
        record = self.__dict__.get("training_record")
        if not record:
            return repr(self)
        results = ", ".join(f"{name}={value:.4g}" for name, value in record["results"].items())
        lines = [f"{name}: {value}" for name, value in record.items() if name != "results"]
        lines = [checks.printable(line) for line in (*lines, f"last results: {results}")]
        return "\n".join([repr(self), "trained with", *(f"  {line}" for line in lines)])

    def fuse(self) -> Sequential:
        """Make a model for prediction that has less to do.

        BatchNorm1d directly behind a Linear is folded into its weight and bias, in float64;
        Dropout and Identity are left out, nested Sequentials laid flat; the same inside Residual,
        Concat and Parallel. All else is copied as it is, BatchNorm1d elsewhere too. Predictions
        agree to rounding.

        Returns
        -------
        model : Sequential
            In evaluation mode, with the model's dtype. This one is unchanged.

        Examples
        --------
        >>> import minidl
        >>> minidl.Sequential(
        ...     minidl.Linear(3, 2), minidl.BatchNorm1d(2), minidl.ReLU(), minidl.Dropout()
        ... ).fuse()
        Sequential(
          (0): Linear(in_features=3, out_features=2, bias=True)
          (1): ReLU()
        )
        """
        from minidl.fuse import fuse

        return fuse(self)
