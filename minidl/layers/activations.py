"""Activations, one class each; the formulas are those of `kernels/activation.pxd`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from minidl import checks
from minidl.kernels.activation import KINDS
from minidl.layers.base import Layer

if TYPE_CHECKING:
    from minidl.lowering import Graph, Value


class Activation(Layer):
    """Base of the activations: a function of each element, with up to two parameters.

    Accepts any number of columns.
    """

    kind: int = KINDS["Identity"]

    def __init__(self) -> None:
        super().__init__()
        self.kind = KINDS.get(type(self).__name__, self.kind)

    def numbers(self) -> tuple[float, float]:
        """The parameters a and b of the formulas."""
        return 0.0, 0.0

    def lower(self, graph: Graph, x: Value) -> Value:
        """Write this layer's operation."""
        return graph.add("activation", self, x, x.columns)

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {}


class Identity(Activation):
    """y = x."""

    def lower(self, graph: Graph, x: Value) -> Value:
        """Nothing to do."""
        return x


class ReLU(Activation):
    """y = max(x, 0); the gradient at 0 is 0.

    Examples
    --------
    >>> import minidl
    >>> minidl.ReLU()([[-1.0, 2.0]]).tolist()
    [[0.0, 2.0]]
    """


class LeakyReLU(Activation):
    """y = x for x > 0, negative_slope * x otherwise (negative_slope >= 0, default 0.01)."""

    _checked: ClassVar[Mapping[str, checks.Check]] = {
        **Layer._checked, "negative_slope": checks.bounds(0)
    }  # fmt: skip

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = negative_slope

    def numbers(self) -> tuple[float, float]:
        """The parameters of the formula."""
        return self.negative_slope, 0.0

    def extra_repr(self) -> str:
        """As PyTorch prints it."""
        return f"negative_slope={self.negative_slope}"

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {"negative_slope": self.negative_slope}


class ELU(Activation):
    """y = x for x > 0, alpha (e^x - 1) otherwise (alpha >= 0, default 1). Clevert et al., 2015."""

    _checked: ClassVar[Mapping[str, checks.Check]] = {**Layer._checked, "alpha": checks.bounds(0)}

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = alpha

    def numbers(self) -> tuple[float, float]:
        """The parameters of the formula."""
        return self.alpha, 0.0

    def extra_repr(self) -> str:
        """As PyTorch prints it."""
        return f"alpha={self.alpha}"

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {"alpha": self.alpha}


class Tanh(Activation):
    """y = tanh(x)."""


class Sigmoid(Activation):
    """y = 1 / (1 + e^-x)."""


class SiLU(Activation):
    """y = x sigmoid(x), also called swish. Hendrycks and Gimpel, 2016."""


class GELU(Activation):
    """y = x Phi(x), Phi the normal distribution function. Hendrycks and Gimpel, 2016.

    Parameters
    ----------
    approximate : {"none", "tanh"}
        The exact form, or x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
    """

    _fixed = (*Layer._fixed, "approximate")

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        checks.one_of(approximate, ("none", "tanh"), "approximate")
        self.approximate = approximate
        self.kind = KINDS["GELUTanh" if approximate == "tanh" else "GELU"]

    def extra_repr(self) -> str:
        """As PyTorch prints it."""
        return f"approximate={self.approximate!r}"

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {"approximate": self.approximate}


class Softplus(Activation):
    """y = log(1 + e^(beta x)) / beta; linear where beta x > threshold (defaults 1 and 20)."""

    _checked: ClassVar[Mapping[str, checks.Check]] = {
        **Layer._checked, "beta": checks.bounds(0, open_low=True), "threshold": checks.bounds(0)
    }  # fmt: skip

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta = beta
        self.threshold = threshold

    def numbers(self) -> tuple[float, float]:
        """The parameters of the formula."""
        return self.beta, self.threshold

    def extra_repr(self) -> str:
        """As PyTorch prints it."""
        return f"beta={self.beta}, threshold={self.threshold}"

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {"beta": self.beta, "threshold": self.threshold}
