"""Schedules that multiply the optimizer's rate: steps, powers, lines and polynomials."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidl import checks
from minidl.schedulers.base import Rates, Scheduler, Times, increasing


class StepLR(Scheduler):
    """The rate times gamma every `step_size` epochs: base gamma^floor(t / step_size).

    Parameters
    ----------
    step_size : int
    gamma : float, default 0.1
        At least 0.
    interval : {"epoch", "step"}, default "epoch"
        What t counts.

    Raises
    ------
    ValueError
        An argument is out of bounds.

    Examples
    --------
    >>> import minidl
    >>> minidl.StepLR(step_size=10).rate(0.5, t=10)
    0.05
    """

    arguments = ("step_size", "gamma")
    multiplies = True

    def __init__(self, step_size: int, gamma: float = 0.1, *, interval: str | None = None) -> None:
        super().__init__(interval)
        self.step_size = checks.count(step_size, "step_size", 1)
        self.gamma = checks.number(gamma, "gamma", 0)

    def at(self, base: float, t: Times) -> Rates:
        """The formula: rates at the times t."""
        return base * np.power(self.gamma, t // self.step_size)


class MultiStepLR(Scheduler):
    """The rate times gamma at each milestone.

    Parameters
    ----------
    milestones : sequence of int
        Increasing, from 1.
    gamma : float, default 0.1
        At least 0.
    interval : {"epoch", "step"}, default "epoch"
        What t counts.

    Raises
    ------
    ValueError, TypeError
        An argument is out of bounds.

    Examples
    --------
    >>> import minidl
    >>> minidl.MultiStepLR([2, 3], gamma=0.5).rates(1.0, first=0, count=5)
    array([1.  , 1.  , 0.5 , 0.25, 0.25])
    """

    arguments = ("milestones", "gamma")
    multiplies = True

    def __init__(
        self, milestones: Sequence[int], gamma: float = 0.1, *, interval: str | None = None
    ) -> None:
        super().__init__(interval)
        self.milestones = increasing(milestones, "milestones")
        if not self.milestones:
            raise ValueError("milestones: expected at least one, got none")
        self.gamma = checks.number(gamma, "gamma", 0)

    @property
    def length(self) -> int:
        """The last milestone."""
        return self.milestones[-1]

    def at(self, base: float, t: Times) -> Rates:
        """The formula: rates at the times t."""
        return base * np.power(self.gamma, np.searchsorted(self.milestones, t, "right"))


class ExponentialLR(Scheduler):
    """The rate times gamma each epoch: base gamma^t.

    Parameters
    ----------
    gamma : float
        At least 0.
    interval : {"epoch", "step"}, default "epoch"
        What t counts.

    Raises
    ------
    ValueError
        An argument is out of bounds.

    Examples
    --------
    >>> import minidl
    >>> minidl.ExponentialLR(gamma=0.5).rates(1.0, first=0, count=3)
    array([1.  , 0.5 , 0.25])
    """

    arguments = ("gamma",)
    multiplies = True

    def __init__(self, gamma: float, *, interval: str | None = None) -> None:
        super().__init__(interval)
        self.gamma = checks.number(gamma, "gamma", 0)

    def at(self, base: float, t: Times) -> Rates:
        """The formula: rates at the times t."""
        return base * np.power(self.gamma, t)


class _Finite(Scheduler):
    """A schedule of `total_iters` epochs or steps."""

    multiplies = True

    def __init__(self, total_iters: int, interval: str | None) -> None:
        super().__init__(interval)
        self.total_iters = checks.count(total_iters, "total_iters", 1)

    @property
    def length(self) -> int:
        """`total_iters`."""
        return self.total_iters

    def _share(self, t: Times) -> Rates:
        """The share of the schedule that is over."""
        return np.minimum(t, self.total_iters) / self.total_iters


class LinearLR(_Finite):
    """A factor that goes from `start_factor` to `end_factor` on a line, and stays: a warm-up.

    Parameters
    ----------
    start_factor : float in (0, 1], default 1/3
    end_factor : float in [0, 1], default 1.0
    total_iters : int, default 5
        Epochs or steps until the factor is `end_factor`.
    interval : {"epoch", "step"}, default "epoch"
        What t counts.

    Raises
    ------
    ValueError
        An argument is out of bounds.

    Examples
    --------
    >>> import minidl
    >>> minidl.LinearLR(start_factor=0.5, total_iters=2).rates(1.0, first=0, count=4)
    array([0.5 , 0.75, 1.  , 1.  ])
    """

    arguments = ("start_factor", "end_factor", "total_iters")

    def __init__(
        self,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        *,
        interval: str | None = None,
    ) -> None:
        super().__init__(total_iters, interval)
        self.start_factor = checks.number(start_factor, "start_factor", 0, 1, open_low=True)
        self.end_factor = checks.number(end_factor, "end_factor", 0, 1)

    def at(self, base: float, t: Times) -> Rates:
        """The formula: rates at the times t."""
        share = self._share(t)
        return base * (self.start_factor * (1 - share) + self.end_factor * share)


class ConstantLR(_Finite):
    """A factor for the first `total_iters` epochs, and the rate itself after them.

    Parameters
    ----------
    factor : float in [0, 1], default 1/3
    total_iters : int, default 5
    interval : {"epoch", "step"}, default "epoch"
        What t counts.

    Raises
    ------
    ValueError
        An argument is out of bounds.

    Examples
    --------
    >>> import minidl
    >>> minidl.ConstantLR(factor=0.5, total_iters=2).rates(1.0, first=0, count=4)
    array([0.5, 0.5, 1. , 1. ])
    """

    arguments = ("factor", "total_iters")

    def __init__(
        self, factor: float = 1 / 3, total_iters: int = 5, *, interval: str | None = None
    ) -> None:
        super().__init__(total_iters, interval)
        self.factor = checks.number(factor, "factor", 0, 1)

    def at(self, base: float, t: Times) -> Rates:
        """The formula: rates at the times t."""
        return base * np.where(t < self.total_iters, self.factor, 1.0)


class PolynomialLR(_Finite):
    """Down to 0 in `total_iters` epochs: base (1 - t / total_iters)^power.

    Parameters
    ----------
    total_iters : int, default 5
    power : float, default 1.0
        At least 0.
    interval : {"epoch", "step"}, default "epoch"
        What t counts.

    Raises
    ------
    ValueError
        An argument is out of bounds.

    Examples
    --------
    >>> import minidl
    >>> minidl.PolynomialLR(total_iters=4, power=2.0).rates(1.0, first=0, count=5)
    array([1.    , 0.5625, 0.25  , 0.0625, 0.    ])
    """

    arguments = ("total_iters", "power")

    def __init__(
        self, total_iters: int = 5, power: float = 1.0, *, interval: str | None = None
    ) -> None:
        super().__init__(total_iters, interval)
        self.power = checks.number(power, "power", 0)

    def at(self, base: float, t: Times) -> Rates:
        """The formula: rates at the times t."""
        return base * np.power(1 - self._share(t), self.power)
