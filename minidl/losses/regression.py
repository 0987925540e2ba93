"""Losses between numbers, element by element: the mean over rows and columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import checks
from minidl.kernels.loss import KINDS
from minidl.losses.base import Loss, Numbers
from minidl.memory import Array


class MSELoss(Loss):
    """mean((prediction - y)^2) over rows and columns. Targets (N, K), or (N,) for one column.

    Examples
    --------
    >>> import minidl
    >>> minidl.MSELoss()([[1.0], [2.0]], [1.0, 0.0])
    2.0
    """

    task = "regression"
    kind = KINDS["MSELoss"]


class L1Loss(Loss):
    """mean(abs(prediction - y)) over rows and columns. Targets (N, K), or (N,) for one column.

    The gradient is 0 where the prediction is right.

    Examples
    --------
    >>> import minidl
    >>> minidl.L1Loss()([[1.0], [2.0]], [1.0, 0.0])
    1.0
    """

    task = "regression"
    kind = KINDS["L1Loss"]

    def numbers(self) -> Numbers:
        """Twice the loss of the median."""
        return 0.5, 2.0, None


class HuberLoss(Loss):
    """Squared error near the target, absolute error far from it. Huber, 1964.

    With d = prediction - y: d^2 / 2 where abs(d) < delta, else delta (abs(d) - delta / 2); the mean
    over rows and columns.

    Parameters
    ----------
    delta : float > 0, default 1.0

    Examples
    --------
    >>> import minidl
    >>> minidl.HuberLoss(delta=0.5)([[1.0], [3.0]], [1.0, 0.0])
    0.6875
    """

    task = "regression"
    kind = KINDS["HuberLoss"]
    arguments = ("delta",)

    def __init__(self, delta: float = 1.0) -> None:
        self.delta = checks.number(delta, "delta", 0, open_low=True)

    def numbers(self) -> Numbers:
        """Delta, and the factor 1."""
        return self.delta, 1.0, None


class SmoothL1Loss(Loss):
    """Huber's loss over beta: its slope far from the target is 1. Girshick, 2015.

    With d = prediction - y: d^2 / (2 beta) where abs(d) < beta, else abs(d) - beta / 2; the mean
    over rows and columns.

    Parameters
    ----------
    beta : float >= 0, default 1.0
        0 makes it the `L1Loss`.

    Examples
    --------
    >>> import minidl
    >>> minidl.SmoothL1Loss(beta=0.5)([[1.0], [3.0]], [1.0, 0.0])
    1.375
    """

    task = "regression"
    arguments = ("beta",)

    def __init__(self, beta: float = 1.0) -> None:
        self.beta = checks.number(beta, "beta", 0)
        self.kind = KINDS["SmoothL1Loss" if self.beta else "L1Loss"]

    def numbers(self) -> Numbers:
        """Beta and 1 / beta, which float32 must hold; or those of `L1Loss`."""
        if not self.beta:
            return L1Loss().numbers()
        beta = max(self.beta, 2.0**-120)
        return beta, 1 / beta, None


class QuantileLoss(Loss):
    """The pinball loss, whose best prediction is a quantile. Koenker and Bassett, 1978.

    With d = y - prediction: max(q d, (q - 1) d), the mean over rows and columns. The gradient is 0
    where the prediction is right.

    Parameters
    ----------
    quantile : float or sequence of K floats in (0, 1), default 0.5
        One for all columns, or one for each. With a sequence, targets of one column, (N,) or
        (N, 1), serve all K: the network then predicts K quantiles of one number.

    Examples
    --------
    >>> import minidl
    >>> minidl.QuantileLoss([0.25, 0.75])([[0.0, 2.0], [0.0, 2.0]], [1.0, 1.0])
    0.25
    """

    task = "regression"
    kind = KINDS["QuantileLoss"]
    arguments = ("quantile",)

    def __init__(self, quantile: Any = 0.5) -> None:
        self.quantile = checks.number_or_vector(
            quantile, "quantile", 0, 1, open_low=True, open_high=True
        )

    def numbers(self) -> Numbers:
        """The quantile, or those of the columns."""
        if isinstance(self.quantile, float):
            return self.quantile, 1.0, None
        return 0.0, 1.0, self.quantile

    def check(
        self, y: Any, rows: int, outputs: int, dtype: np.dtype[Any], name: str = "y"
    ) -> Array:
        """Targets (N, K); one column stands for as many as there are quantiles."""
        if isinstance(self.quantile, float):
            return super().check(y, rows, outputs, dtype, name)
        checks.one_each(self.quantile, outputs, "quantile", "output")
        shape, _ = checks.shape_and_kind(y)
        if len(shape) == 1 or shape[1:] == (1,):
            one = checks.targets(y, rows, 1, dtype, name)
            return np.broadcast_to(one, (rows, outputs))
        return super().check(y, rows, outputs, dtype, name)


class PoissonNLLLoss(Loss):
    """Negative log-likelihood of counts whose rate is predicted, without log(y!).

    exp(prediction) - y prediction, or prediction - y log(prediction + eps) for ``log_input=False``;
    the mean over rows and columns. Targets are at least 0. A logarithm too large for its
    exponential gives an infinite loss, a rate below 0 gives NaN.

    Parameters
    ----------
    log_input : bool, default True
        The prediction is the logarithm of the rate.
    full : bool, default False
        Add Stirling's formula for log(y!), y log y - y + log(2 pi y) / 2, where y > 1.
    eps : float > 0, default 1e-8
        Keeps the logarithm of a rate of 0 finite.

    Examples
    --------
    >>> import minidl
    >>> minidl.PoissonNLLLoss()([[0.0], [0.0]], [2.0, 0.0])
    1.0
    """

    task = "regression"
    arguments = ("log_input", "full", "eps")

    def __init__(self, log_input: bool = True, full: bool = False, *, eps: float = 1e-8) -> None:
        self.log_input = checks.flag(log_input, "log_input")
        self.full = checks.flag(full, "full")
        self.eps = checks.number(eps, "eps", 0, open_low=True)
        self.kind = KINDS["PoissonNLLLoss" if self.log_input else "PoissonNLLLossRate"]

    def numbers(self) -> Numbers:
        """Whether Stirling's term is wanted, and eps."""
        return float(self.full), self.eps, None

    def check(
        self, y: Any, rows: int, outputs: int, dtype: np.dtype[Any], name: str = "y"
    ) -> Array:
        """Targets of at least 0."""
        array = super().check(y, rows, outputs, dtype, name)
        checks.at_least_0(array, name, "counts of at least 0")
        return array
