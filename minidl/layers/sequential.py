"""Sequential: layers one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl import checks
from minidl.layers.base import Layer

if TYPE_CHECKING:
    import numpy.typing as npt

    from minidl.lowering import Graph, Value


class Sequential(Layer):
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
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(
                    f"layers: expected Layer objects, got {type(layer).__name__} at {i}"
                )
        dtypes = {p.store.dtype for layer in layers for _, p in layer.named_parameters()}
        if dtype is None and len(dtypes) > 1:
            raise ValueError("layers: expected one dtype, got float32 and float64; pass dtype=")
        super().__init__(dtype if dtype is not None else next(iter(dtypes), "float32"))
        self._layers = list(layers)
        seen: set[int] = set()
        for name, layer in self.layers():
            if layer._parameters and id(layer) in seen:
                raise ValueError(
                    f"layers: layer {name} ({type(layer).__name__}) is there twice; "
                    "sharing parameters is not supported"
                )
            seen.add(id(layer))
        self._check_features()
        for layer in layers:
            layer.set_dtype(self.dtype)
        if seed is not None:
            self.reset_parameters(np.random.default_rng(checks.positive_int(seed, "seed", 0)))
        self.store()

    def _check_features(self) -> None:
        columns = None
        for name, layer in self.layers():
            wanted = layer.in_features_or_none()
            if columns is not None and wanted is not None and wanted != columns:
                raise ValueError(
                    f"layers: layer {name} ({type(layer).__name__}) expects {wanted} "
                    f"features, the one before it gives {columns}"
                )
            columns = wanted if columns is None else columns
            columns = None if columns is None else layer.output_features(columns)

    def children(self) -> list[tuple[str, Layer]]:
        """The layers, named by their places."""
        return [(str(i), layer) for i, layer in enumerate(self._layers)]

    def layers(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """All layers that hold no others; none if there are none."""
        return super().layers(prefix) if self._layers else iter(())

    def __len__(self) -> int:
        """Number of layers."""
        return len(self._layers)

    def __getitem__(self, i: int) -> Layer:
        """Layer i."""
        return self._layers[i]

    def __iter__(self) -> Iterator[Layer]:
        """The layers in order."""
        return iter(self._layers)

    def reset_parameters(self, rng: np.random.Generator) -> None:
        """Draw new initial values for every layer."""
        for layer in self._layers:
            layer.reset_parameters(rng)

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

    def output_features(self, in_features: int) -> int:
        """Columns of the output."""
        for layer in self._layers:
            in_features = layer.output_features(in_features)
        return in_features

    def fuse(self) -> Sequential:
        """Make a model for prediction that has less to do.

        BatchNorm1d directly behind a Linear is folded into its weight and bias, in float64;
        Dropout and Identity are left out, nested Sequentials laid flat. All else is copied as it
        is, BatchNorm1d elsewhere too. Predictions agree to rounding.

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

    def summary(self, in_features: int | None = None) -> str:
        """A table of layers with output shapes and parameter counts, as a string.

        Parameters
        ----------
        in_features : int, optional
            Columns of the input, needed if no layer fixes it.
        """
        columns = self.in_features_or_none() if in_features is None else in_features
        if columns is None:
            raise ValueError("in_features: expected a number, since no layer fixes it")
        rows = [("layer", "output shape", "parameters")]
        total = fixed = 0
        for name, layer in self.layers():
            columns = layer.output_features(columns)
            count = sum(p.array.size for p in layer._parameters.values() if p.trainable)
            fixed += sum(p.array.size for p in layer._parameters.values() if not p.trainable)
            total += count
            rows.append((f"{name} ({type(layer).__name__})", f"(N, {columns})", f"{count:,}"))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]
        lines.insert(1, "-" * len(lines[0]))
        lines += [lines[1], f"{total:,} parameters, {fixed:,} running averages, {self.dtype}"]
        return "\n".join(lines)

    def config(self) -> dict[str, Any]:
        """The layers, each by its type and arguments."""
        return {
            "layers": [{"type": type(layer).__name__, **layer.config()} for layer in self._layers]
        }

    def __repr__(self) -> str:
        """As PyTorch prints it."""
        lines = [f"  ({i}): " + repr(layer).replace("\n", "\n  ") for i, layer in self.children()]
        return "\n".join(["Sequential(", *lines, ")"]) if lines else "Sequential()"
