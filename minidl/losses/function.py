"""Losses that are functions of the user's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from minidl import checks
from minidl.losses.base import Loss
from minidl.memory import Array

if TYPE_CHECKING:
    import numpy.typing as npt

LossFunction: TypeAlias = "Callable[..., tuple[float, npt.ArrayLike]]"


class FunctionLoss(Loss):
    """A loss of the user's: a function ``(prediction, y) -> (loss, gradient)``.

    Targets of an integer dtype are given as they are (N,), others as (N, K). The trainer wraps a
    plain function by itself.

    A function that has an argument ``sample_weight=None`` can be used with sample weights. It gets
    them as float64 (N,), and returns the weighted mean sum(w l) / sum(w) and its gradient. It is
    not called for a batch whose weights are all 0.

    Examples
    --------
    >>> import numpy as np
    >>> import minidl
    >>> def absolute(prediction, y, sample_weight=None):
    ...     error = prediction - y
    ...     w = np.ones(len(y)) if sample_weight is None else sample_weight
    ...     w = w[:, None] / w.sum()
    ...     return float((w * abs(error)).sum()), w * np.sign(error)
    >>> minidl.FunctionLoss(absolute)([[1.0], [3.0]], [0.0, 0.0], sample_weight=[3, 1])
    1.5
    """

    arguments = ("function",)

    def __init__(self, function: LossFunction) -> None:
        if not callable(function) or isinstance(function, type):
            raise TypeError(f"function: expected a function, got {type(function).__name__}")
        self.function = function
        self._columns: int | None = None

    def config(self) -> dict[str, Any]:
        """A function is no part of a file: TypeError."""
        raise TypeError(f"{self!r}: a loss that is a function cannot be written to a file")

    def bound(self, y: Any, weighted: bool = False) -> Loss:
        """The form for integer labels if y is of an integer dtype and one-dimensional."""
        if weighted:
            _takes_weights(self.function)
        shape, kind = checks.shape_and_kind(y)
        form = FunctionLoss(self.function)
        form.weighted = weighted
        form.integer_labels = kind in "iu" and len(shape) == 1
        form._columns = shape[1] if len(shape) == 2 else 1
        return form

    def columns(self, outputs: int) -> int:
        """Columns of the targets: as the user gives them."""
        return self._columns if self._columns is not None else outputs

    def check(
        self, y: Any, rows: int, outputs: int, dtype: np.dtype[Any], name: str = "y"
    ) -> Array:
        """Finite labels or targets with one row for each row of X."""
        if self.integer_labels:
            return checks.labels(y, rows, int(np.max(y, initial=0)) + 1, name)
        return checks.targets(y, rows, self.columns(outputs), dtype, name)

    def call(
        self, prediction: Array, y: Array, sample_weight: Array | None = None
    ) -> tuple[float, npt.ArrayLike]:
        """Call the function and check what it returns."""
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        result = self.function(prediction, y, **weights)
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(f"loss: expected a pair (loss, gradient), got {type(result).__name__}")
        loss, gradient = result
        gradient = checks.real(gradient, "loss: gradient")
        if gradient.shape != prediction.shape:
            raise ValueError(
                f"loss: expected a gradient of shape {prediction.shape}, got {gradient.shape}"
            )
        return checks.measured(loss, "loss"), gradient

    def __repr__(self) -> str:
        """Name of the function."""
        return f"FunctionLoss({getattr(self.function, '__name__', self.function)!s})"


def _takes_weights(function: LossFunction) -> None:
    """An error if a function has no argument `sample_weight`."""
    import inspect

    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # compiled, and says nothing: it will see for itself
        return
    any_name = inspect.Parameter.VAR_KEYWORD in (p.kind for p in parameters.values())
    if "sample_weight" not in parameters and not any_name:
        raise TypeError(
            "loss: with sample_weight, expected a function (prediction, y, sample_weight=None), "
            f"got one of ({', '.join(parameters)})"
        )


def as_loss(loss: Loss | LossFunction) -> Loss:
    """A loss object, or a function made into one."""
    if isinstance(loss, Loss):
        return loss
    if callable(loss) and not isinstance(loss, type):
        return FunctionLoss(loss)
    raise TypeError(
        f"loss: expected a Loss or a function (prediction, y) -> (loss, gradient), got {loss!r}"
    )
