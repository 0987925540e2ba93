"""Schedules made of schedules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.schedulers.base import Rates, Scheduler, Times, increasing
from minidl.schedulers.function import as_scheduler
from minidl.schedulers.plateau import ReduceLROnPlateau

DEEPEST = 8  # schedules inside each other: each asks its parts twice


class _Composed(Scheduler):
    """Several schedules, which count what the outer one counts."""

    def __init__(self, schedulers: Sequence[Any], interval: str | None) -> None:
        super().__init__(interval)
        if not isinstance(schedulers, (list, tuple)):
            raise TypeError(f"schedulers: expected a list of schedules, got {schedulers!r}")
        if not schedulers:
            raise ValueError("schedulers: expected at least one, got none")
        found = tuple(as_scheduler(one, f"schedulers[{i}]") for i, one in enumerate(schedulers))
        for i, one in enumerate(found):
            self._admit(one, f"schedulers[{i}]")
        self.depth = 1 + max(one.depth for one in found)
        if self.depth > DEEPEST:
            raise ValueError(f"schedulers: expected at most {DEEPEST} inside each other")
        self.schedulers = found

    def _admit(self, one: Scheduler, name: str) -> None:
        """Raise if a schedule cannot be a part."""
        outer = type(self).__name__
        if isinstance(one, ReduceLROnPlateau):
            raise ValueError(
                f"{name}: expected a function of time, got {one!r}, which follows what is measured"
            )
        if one.interval_given not in (None, self.interval):
            raise ValueError(
                f"{name}: expected interval {self.interval!r}, that of the {outer}, got "
                f"{one.interval_given!r}"
            )

    def config(self) -> dict[str, Any]:
        """Constructor arguments, as JSON can hold them; schedules as ``{"type": ..., ...}``."""
        parts = [{"type": type(one).__name__, **one.config()} for one in self.schedulers]
        return super().config() | {"schedulers": parts}


class SequentialLR(_Composed):
    """One schedule after another, each of which counts from 0 when its turn comes.

    Parameters
    ----------
    schedulers : list of Scheduler or function
        They count what this one counts: an interval of their own that is another is an error.
    milestones : sequence of int
        When the second takes over, the third, ...: increasing, from 1.
    interval : {"epoch", "step"}, default "epoch"
        What t counts.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit.

    Examples
    --------
    >>> import minidl
    >>> warm_up = minidl.LinearLR(start_factor=0.5, total_iters=2)
    >>> schedule = minidl.SequentialLR([warm_up, minidl.ExponentialLR(0.5)], milestones=[2])
    >>> schedule.rates(1.0, first=0, count=5)
    array([0.5 , 0.75, 1.  , 0.5 , 0.25])
    """

    arguments = ("schedulers", "milestones")

    def __init__(
        self,
        schedulers: Sequence[Any],
        milestones: Sequence[int],
        *,
        interval: str | None = None,
    ) -> None:
        super().__init__(schedulers, interval)
        self.milestones = increasing(milestones, "milestones")
        if len(self.milestones) != len(self.schedulers) - 1:
            raise ValueError(
                f"milestones: expected {len(self.schedulers) - 1}, one less than schedulers, got "
                f"{len(self.milestones)}"
            )

    @property
    def length(self) -> int | None:
        """The last milestone and the length of the last schedule."""
        last = self.schedulers[-1].length
        return None if last is None else last + (self.milestones or (0,))[-1]

    def at(self, base: float, t: Times) -> Rates:
        """The formula: rates at the times t."""
        return self._joined(t, lambda one, t: one.at(base, t))

    def momenta_at(self, t: Times) -> Rates | None:
        """Momentum of SGD and beta1 of Adam at the times t; NaN: the optimizer's own."""
        if all(one.momenta_at(t[:0]) is None for one in self.schedulers):
            return None
        return self._joined(t, lambda one, t: one.momenta_at(t))

    def _joined(self, t: Times, values: Any) -> Rates:
        """Values of the schedule whose turn it is; NaN where it gives none."""
        found = np.full(len(t), np.nan)
        turn = np.searchsorted(self.milestones, t, "right")
        for i, (one, start) in enumerate(zip(self.schedulers, (0, *self.milestones), strict=True)):
            here = turn == i
            its = values(one, t[here] - start)
            if its is not None:
                found[here] = its
        return found


class ChainedScheduler(_Composed):
    """Several schedules at once: the optimizer's rate times the factor of each.

    It takes schedules that multiply the rate: `StepLR` and its like, functions, `CosineAnnealingLR`
    with ``eta_min=0``, and chains of them. (PyTorch chains others, too, but some of those then
    undo what the others did. So do its `LambdaLR`, and its `CosineAnnealingLR` after `T_max`; here
    it is a product always.)

    Parameters
    ----------
    schedulers : list of Scheduler or function
        They count what this one counts: an interval of their own that is another is an error.
    interval : {"epoch", "step"}, default "epoch"
        What t counts.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit.

    Examples
    --------
    >>> import minidl
    >>> warm_up = minidl.ConstantLR(factor=0.5, total_iters=2)
    >>> schedule = minidl.ChainedScheduler([warm_up, minidl.ExponentialLR(0.5)])
    >>> schedule.rates(1.0, first=0, count=4)
    array([0.5  , 0.25 , 0.25 , 0.125])
    """

    arguments = ("schedulers",)
    multiplies = True

    def __init__(self, schedulers: Sequence[Any], *, interval: str | None = None) -> None:
        super().__init__(schedulers, interval)

    def _admit(self, one: Scheduler, name: str) -> None:
        """Raise if a schedule cannot be a part."""
        super()._admit(one, name)
        if not one.multiplies:
            raise ValueError(
                f"{name}: expected a schedule that multiplies the optimizer's rate, got {one!r}"
            )

    @property
    def length(self) -> int | None:
        """The longest of those that have an end."""
        lengths = [one.length for one in self.schedulers]
        return max((length for length in lengths if length is not None), default=None)

    def at(self, base: float, t: Times) -> Rates:
        """The formula: rates at the times t."""
        rates = np.full(len(t), base)
        for one in self.schedulers:
            rates *= one.at(1.0, t)
        return rates
