"""LayerNorm, and what it shares with RMSNorm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from minidl import checks
from minidl.layers.base import Layer

if TYPE_CHECKING:
    import numpy.typing as npt

    from minidl.lowering import Graph, Value


class RowNorm(Layer):
    """Base of LayerNorm and RMSNorm: rows divided by their spread, then scaled column by column."""

    centered = True
    _checked: ClassVar[Mapping[str, checks.Check]] = {
        **Layer._checked, "eps": checks.optional(checks.bounds(0, open_low=True))
    }  # fmt: skip
    _fixed = (*Layer._fixed, "normalized_shape", "elementwise_affine")

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None,
        affine: bool,
        bias: bool,
        dtype: npt.DTypeLike,
    ) -> None:
        super().__init__(dtype)
        sizes = normalized_shape if isinstance(normalized_shape, (tuple, list)) else [
            normalized_shape
        ]  # fmt: skip
        if len(sizes) != 1:
            raise ValueError(
                f"normalized_shape: expected a number of columns, got {normalized_shape!r}"
            )
        self.normalized_shape = (checks.size(sizes[0], "normalized_shape"),)
        self.eps = eps
        self.elementwise_affine = checks.flag(affine, "elementwise_affine")
        bias = checks.flag(bias, "bias")
        if affine:
            self.add_parameter("weight", np.ones(self.normalized_shape))
        if affine and bias:
            self.add_parameter("bias", np.zeros(self.normalized_shape))

    def epsilon(self, dtype: np.dtype[np.floating]) -> float:
        """What is added to the mean square."""
        return float(np.finfo(dtype).eps) if self.eps is None else self.eps

    def reset_parameters(self, rng: np.random.Generator) -> None:
        """Go back to gamma 1, beta 0."""
        for name, parameter in self._parameters.items():
            parameter.array[...] = name == "weight"

    @classmethod
    def state_shapes(cls, **arguments: Any) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the state."""
        shape = (checks.size(arguments["normalized_shape"], "normalized_shape"),)
        names = ["weight", "bias"] if arguments.get("bias", cls.centered) else ["weight"]
        return dict.fromkeys(names, shape) if arguments.get("elementwise_affine", True) else {}

    def lower(self, graph: Graph, x: Value) -> Value:
        """Write this layer's operation."""
        return graph.add("layernorm", self, x, x.columns)

    def in_features_or_none(self) -> int | None:
        """Columns that the input must have."""
        return self.normalized_shape[0]

    def extra_repr(self) -> str:
        """As PyTorch prints it."""
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
        )

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            "normalized_shape": self.normalized_shape[0],
            "eps": self.eps,
            "elementwise_affine": self.elementwise_affine,
        }


class LayerNorm(RowNorm):
    """Layer normalisation: y = gamma (x - mean) / sqrt(var + eps) + beta, row by row.

    The mean and the biased variance are those of the row, so batches of any size, training and
    evaluation are alike.

    Parameters
    ----------
    normalized_shape : int or tuple of one int
        Columns of the input.
    eps : float, default 1e-5
        Added to the variance, inside the root: a constant row is harmless.
    elementwise_affine : bool, default True
        False: neither gamma nor beta.
    bias : bool, default True
        False: no beta.
    dtype : {"float32", "float64"}

    Attributes
    ----------
    weight, bias : ndarray of shape (normalized_shape,)
        gamma and beta, at first 1 and 0.

    Raises
    ------
    ValueError
        `normalized_shape` has several numbers or is no positive integer, or `eps` is not positive.

    References
    ----------
    Ba, Kiros and Hinton, "Layer normalization", 2016.

    Examples
    --------
    >>> import minidl
    >>> y = minidl.LayerNorm(2)([[1.0, 3.0], [10.0, 10.0]])
    >>> y.round(3).tolist()
    [[-1.0, 1.0], [0.0, 0.0]]
    """

    _checked: ClassVar[Mapping[str, checks.Check]] = {
        **Layer._checked, "eps": checks.bounds(0, open_low=True)
    }  # fmt: skip

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: npt.DTypeLike = "float32",
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine, bias, dtype)

    def extra_repr(self) -> str:
        """As PyTorch prints it."""
        return f"{super().extra_repr()}, bias={'bias' in self._parameters}"

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().config(), "bias": "bias" in self._parameters}
