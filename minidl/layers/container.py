"""What layers that hold other layers have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl.layers.base import Layer

if TYPE_CHECKING:
    import numpy.typing as npt


class Container(Layer):
    """Base of the layers that hold others, in an order that gives them their names.

    All are converted to one dtype: that of the layers, unless `dtype` names another.
    """

    def __init__(self, layers: Sequence[Layer], dtype: npt.DTypeLike | None = None) -> None:
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
        self.set_dtype(self.dtype)

    def _check_features(self) -> None:
        """Raise if the layers do not fit together."""

    def children(self) -> list[tuple[str, Layer]]:
        """The layers, named by their places."""
        return [(str(i), layer) for i, layer in enumerate(self._layers)]

    def layers(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """All layers that hold no others; none if there are none."""
        return super().layers(prefix) if self._layers else iter(())

    def flattens(self) -> bool:
        """True if a branch takes rows of any shape."""
        return any(layer.flattens() for layer in self._layers)

    def __len__(self) -> int:
        """Number of layers."""
        return len(self._layers)

    def __getitem__(self, i: int) -> Layer:
        """Layer i; from the end for negative ones."""
        if isinstance(i, bool) or not isinstance(i, (int, np.integer)):
            raise TypeError(f"i: expected an integer, got {i!r}")
        if not -len(self) <= i < len(self):
            raise IndexError(f"i: expected the number of one of {len(self)} layers, got {i}")
        return self._layers[i]

    def __iter__(self) -> Iterator[Layer]:
        """The layers in order."""
        return iter(self._layers)

    def reset_parameters(self, rng: np.random.Generator) -> None:
        """Draw new initial values for every layer."""
        for layer in self._layers:
            layer.reset_parameters(rng)

    def config(self) -> dict[str, Any]:
        """The layers, each by its type and arguments."""
        return {
            "layers": [{"type": type(layer).__name__, **layer.config()} for layer in self._layers]
        }

    def __repr__(self) -> str:
        """As PyTorch prints it."""
        name = type(self).__name__
        lines = [f"  ({i}): " + repr(layer).replace("\n", "\n  ") for i, layer in self.children()]
        return "\n".join([f"{name}({self.extra_repr()}", *lines, ")"]) if lines else f"{name}()"
