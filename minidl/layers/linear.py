"""Linear: the affine map of a dense layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from minidl import checks, initializers
from minidl.layers.base import Layer

if TYPE_CHECKING:
    import numpy.typing as npt

    from minidl.lowering import Graph, Value


class Linear(Layer):
    """y = x W^T + b.

    Parameters
    ----------
    in_features, out_features : int
        Columns of the input and of the output.
    bias : bool, default True
    weight_init : str or function, default PyTorch's U(-b, b), b = 1 / sqrt(in_features)
        A name or function of `minidl.initializers`.
    bias_init : str or function, optional
        Likewise; default PyTorch's, the same range as for the weight.
    dtype : {"float32", "float64"}
    seed : int, optional
        Seed of the initial values; default: fresh entropy.

    Attributes
    ----------
    weight : ndarray of shape (out_features, in_features)
    bias : ndarray of shape (out_features,)

    Examples
    --------
    >>> import numpy as np
    >>> import minidl
    >>> layer = minidl.Linear(3, 2)
    >>> layer(np.zeros((5, 3))).shape
    (5, 2)
    """

    _checked: ClassVar[Mapping[str, checks.Check]] = {
        **Layer._checked,
        "weight_init": initializers.get,
        "bias_init": checks.optional(initializers.get),
    }
    _fixed = (*Layer._fixed, "in_features", "out_features", "has_bias")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        weight_init: str | initializers.Initializer = "torch_linear",
        bias_init: str | initializers.Initializer | None = None,
        dtype: npt.DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        super().__init__(dtype)
        self.in_features = checks.size(in_features, "in_features", 0)
        self.out_features = checks.size(out_features, "out_features")
        self.has_bias = checks.flag(bias, "bias")
        self.weight_init: Any = weight_init
        self.bias_init: Any = bias_init
        zeros = np.broadcast_to(0.0, (out_features, in_features))
        self.add_parameter("weight", zeros, layout="weight")
        if bias:
            self.add_parameter("bias", np.zeros(out_features))
        self.reset_parameters(checks.seeded(seed))

    def reset_parameters(self, rng: np.random.Generator) -> None:
        """Draw new initial values."""
        checks.generator(rng)
        self.weight = self.weight_init((self.out_features, self.in_features), rng)
        if self.has_bias and self.bias_init is not None:
            self.bias = self.bias_init((self.out_features,), rng)
        elif self.has_bias:
            bound = 1 / np.sqrt(max(self.in_features, 1))
            self.bias = rng.uniform(-bound, bound, self.out_features)

    @classmethod
    def state_shapes(cls, **arguments: Any) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the state."""
        inputs = checks.size(arguments["in_features"], "in_features", 0)
        outputs = checks.size(arguments["out_features"], "out_features")
        shapes: dict[str, tuple[int, ...]] = {"weight": (outputs, inputs)}
        return {**shapes, "bias": (outputs,)} if arguments.get("bias", True) else shapes

    def lower(self, graph: Graph, x: Value) -> Value:
        """Write this layer's operations."""
        return graph.add("linear", self, x, self.out_features)

    def output_features(self, in_features: int) -> int:
        """Columns of the output."""
        return self.out_features

    def in_features_or_none(self) -> int | None:
        """Columns that the input must have."""
        return self.in_features

    def extra_repr(self) -> str:
        """As PyTorch prints it."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.has_bias}"
        )

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.has_bias,
        }
