"""PReLU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minidl import checks
from minidl.layers.base import Layer

if TYPE_CHECKING:
    import numpy.typing as npt

    from minidl.lowering import Graph, Value


class PReLU(Layer):
    """y = x for x > 0, weight * x otherwise, with a weight that is learned.

    Parameters
    ----------
    num_parameters : int, default 1
        1: one weight for all columns, however many there are; else one for each column.
    init : float, default 0.25
        Initial value.
    dtype : {"float32", "float64"}

    Attributes
    ----------
    weight : ndarray of shape (num_parameters,)
        Weight decay draws it towards 0, where it is a ReLU.

    Raises
    ------
    ValueError
        `num_parameters` is no positive integer, or `init` is not finite.

    References
    ----------
    He et al., "Delving deep into rectifiers", ICCV 2015.

    Examples
    --------
    >>> import minidl
    >>> minidl.PReLU()([[-1.0, 2.0]]).tolist()
    [[-0.25, 2.0]]
    """

    _fixed = (*Layer._fixed, "num_parameters", "init")

    def __init__(
        self, num_parameters: int = 1, init: float = 0.25, *, dtype: npt.DTypeLike = "float32"
    ) -> None:
        super().__init__(dtype)
        largest = float(np.finfo(self.dtype).max)
        self.num_parameters = checks.size(num_parameters, "num_parameters")
        self.init = checks.number(init, "init", -largest, largest)
        self.add_parameter("weight", np.full(num_parameters, self.init))

    def reset_parameters(self, rng: np.random.Generator) -> None:
        """Go back to `init`."""
        self.weight = np.full(self.num_parameters, self.init)

    @classmethod
    def state_shapes(cls, **arguments: Any) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the state."""
        return {"weight": (checks.size(arguments.get("num_parameters", 1), "num_parameters"),)}

    def lower(self, graph: Graph, x: Value) -> Value:
        """Write this layer's operation."""
        return graph.add("prelu", self, x, x.columns)

    def in_features_or_none(self) -> int | None:
        """Columns that the input must have, if each has a weight."""
        return None if self.num_parameters == 1 else self.num_parameters

    def extra_repr(self) -> str:
        """As PyTorch prints it."""
        return f"num_parameters={self.num_parameters}"

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {"num_parameters": self.num_parameters, "init": self.init}
