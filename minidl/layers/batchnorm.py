"""BatchNorm1d."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from minidl import checks
from minidl.layers.base import Layer
from minidl.memory import Array, allocate

if TYPE_CHECKING:
    import numpy.typing as npt

    from minidl.lowering import Graph, Value


class BatchNorm1d(Layer):
    """Batch normalisation: y = gamma (x - mean) / sqrt(var + eps) + beta, feature by feature.

    Training uses the mean and biased variance of the batch, and moves the running averages:
    ``running = (1 - momentum) * running + momentum * batch``, with the unbiased variance.
    Evaluation uses the running averages. It stands between the affine map and the activation.
    A training batch needs at least two rows. Conventions are those of `torch.nn.BatchNorm1d`
    (Keras's momentum is one minus this one).

    Parameters
    ----------
    num_features : int
    eps : float, default 1e-5
        Added to the variance, inside the root: a constant feature is harmless.
    momentum : float or None, default 0.1
        Weight of the new batch in the running averages; None: all batches so far weigh the same.
    dtype : {"float32", "float64"}

    Attributes
    ----------
    weight, bias : ndarray of shape (num_features,)
        gamma and beta.
    running_mean, running_var : ndarray of shape (num_features,)
    num_batches_tracked : ndarray of int64, shape ()

    References
    ----------
    Ioffe and Szegedy, "Batch normalization", ICML 2015.

    Examples
    --------
    >>> import numpy as np
    >>> import minidl
    >>> y = minidl.BatchNorm1d(2)(np.array([[1.0, 10.0], [3.0, 10.0]]))
    >>> y.round(3).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """

    _checked: ClassVar[Mapping[str, checks.Check]] = {
        **Layer._checked,
        "eps": checks.bounds(0, open_low=True),
        "momentum": checks.optional(checks.bounds(0, 1)),
    }
    _fixed = (*Layer._fixed, "num_features", "num_batches_tracked")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        *,
        dtype: npt.DTypeLike = "float32",
    ) -> None:
        super().__init__(dtype)
        self.num_features = checks.size(num_features, "num_features")
        self.eps = eps
        self.momentum = momentum
        self.add_parameter("weight", np.ones(num_features))
        self.add_parameter("bias", np.zeros(num_features))
        self.add_parameter("running_mean", np.zeros(num_features), trainable=False)
        self.add_parameter("running_var", np.ones(num_features), trainable=False)
        self.num_batches_tracked: Array = allocate(8).view(np.int64).reshape(())

    def reset_parameters(self, rng: np.random.Generator) -> None:
        """Go back to gamma 1, beta 0, mean 0, variance 1."""
        self.weight, self.bias = np.ones(self.num_features), np.zeros(self.num_features)
        self.running_mean = np.zeros(self.num_features)
        self.running_var = np.ones(self.num_features)
        self.num_batches_tracked[...] = 0

    def _own_state(self) -> dict[str, Array]:
        return {**super()._own_state(), "num_batches_tracked": self.num_batches_tracked}

    @classmethod
    def state_shapes(cls, **arguments: Any) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the state."""
        shape = (checks.size(arguments["num_features"], "num_features"),)
        names = ("weight", "bias", "running_mean", "running_var")
        return {**dict.fromkeys(names, shape), "num_batches_tracked": ()}

    def lower(self, graph: Graph, x: Value) -> Value:
        """Write this layer's operations."""
        return graph.add("batchnorm", self, x, self.num_features)

    def in_features_or_none(self) -> int | None:
        """Columns that the input must have."""
        return self.num_features

    def extra_repr(self) -> str:
        """As PyTorch prints it."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine=True, "
            "track_running_stats=True"
        )

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {"num_features": self.num_features, "eps": self.eps, "momentum": self.momentum}
