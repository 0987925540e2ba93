"""Schedules that go up and down: cosines, and one cycle."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from minidl import checks
from minidl.schedulers.base import Rates, Scheduler, Times


def _cosine(base: float, eta_min: float, share: Rates) -> Rates:
    """From `base` to `eta_min` as share goes from 0 to 1, and back as it goes on to 2."""
    return eta_min + (base - eta_min) * (1 + np.cos(np.pi * share)) / 2


def _steps(total_steps: Any, epochs: Any, steps_per_epoch: Any) -> int:
    """Steps of a cycle, given in one way or the other."""
    if epochs is None and steps_per_epoch is None:
        if total_steps is None:
            raise ValueError("total_steps: expected an integer, or epochs and steps_per_epoch")
        return checks.count(total_steps, "total_steps", 1)
    of_epoch = checks.positive_int(steps_per_epoch, "steps_per_epoch")
    steps = checks.positive_int(epochs, "epochs") * of_epoch
    if total_steps is not None:
        raise ValueError(
            f"total_steps: expected None, since epochs and steps_per_epoch are given, got "
            f"{total_steps!r}"
        )
    return steps


class CosineAnnealingLR(Scheduler):
    """From the optimizer's rate to `eta_min` in `T_max` epochs, as half a cosine.

    Afterwards the rate goes up again, and on as the cosine does. Loshchilov and Hutter, ICLR 2017,
    without restarts.

    Parameters
    ----------
    T_max : int
    eta_min : float, default 0.0
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
    >>> minidl.CosineAnnealingLR(T_max=2).rates(1.0, first=0, count=4).round(3)
    array([1. , 0.5, 0. , 0.5])
    """

    arguments = ("T_max", "eta_min")

    def __init__(self, T_max: int, eta_min: float = 0.0, *, interval: str | None = None) -> None:
        super().__init__(interval)
        self.T_max = checks.count(T_max, "T_max", 1)
        self.eta_min = checks.number(eta_min, "eta_min", 0)
        self.multiplies = self.eta_min == 0

    @property
    def length(self) -> int:
        """`T_max`."""
        return self.T_max

    def at(self, base: float, t: Times) -> Rates:
        """The formula: rates at the times t."""
        return _cosine(base, self.eta_min, t % (2 * self.T_max) / self.T_max)


class CosineAnnealingWarmRestarts(Scheduler):
    """Half a cosine from the optimizer's rate to `eta_min`, again and again.

    Loshchilov and Hutter, ICLR 2017.

    Parameters
    ----------
    T_0 : int
        Epochs of the first cosine.
    T_mult : int, default 1
        Each one is so many times as long as the one before.
    eta_min : float, default 0.0
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
    >>> schedule = minidl.CosineAnnealingWarmRestarts(T_0=1, T_mult=2)
    >>> schedule.rates(1.0, first=0, count=4).round(3)
    array([1. , 1. , 0.5, 1. ])
    """

    arguments = ("T_0", "T_mult", "eta_min")

    def __init__(
        self, T_0: int, T_mult: int = 1, eta_min: float = 0.0, *, interval: str | None = None
    ) -> None:
        super().__init__(interval)
        self.T_0 = checks.count(T_0, "T_0", 1)
        self.T_mult = checks.count(T_mult, "T_mult", 1)
        self.eta_min = checks.number(eta_min, "eta_min", 0)

    def at(self, base: float, t: Times) -> Rates:
        """The formula: rates at the times t."""
        if self.T_mult == 1 or not len(t):
            return _cosine(base, self.eta_min, t % self.T_0 / self.T_0)
        starts = [0]
        length = self.T_0
        while starts[-1] + length <= t[-1]:
            starts.append(starts[-1] + length)
            length *= self.T_mult
        start = np.array(starts)
        cycle = np.searchsorted(start, t, "right") - 1
        lengths = self.T_0 * self.T_mult ** np.arange(len(starts), dtype=np.float64)
        return _cosine(base, self.eta_min, (t - start[cycle]) / lengths[cycle])


class OneCycleLR(Scheduler):
    """Up to `max_lr` and down to almost 0 in one cycle, the momentum the other way.

    The optimizer's own rate is not used. After the last step rate and momentum stay. Smith and
    Topin, 2018, in the form of fastai and PyTorch.

    Parameters
    ----------
    max_lr : float
        Greater than 0.
    total_steps : int, optional
        Steps of the cycle: those of the whole training.
    epochs, steps_per_epoch : int, optional
        In place of `total_steps`, their product.
    pct_start : float in [0, 1], default 0.3
        The share of the steps in which the rate goes up.
    anneal_strategy : {"cos", "linear"}, default "cos"
    cycle_momentum : bool, default True
        Whether momentum of SGD and beta1 of Adam go from `max_momentum` to `base_momentum` while
        the rate goes up, and back; the optimizer's own are then not used.
    base_momentum, max_momentum : float in [0, 1), default 0.85, 0.95
    div_factor : float, default 25.0
        The cycle begins at ``max_lr / div_factor``.
    final_div_factor : float, default 1e4
        And ends at this share of where it began.
    three_phase : bool, default False
        Go back to where the cycle began as fast as up, and only then further down.
    interval : {"step", "epoch"}, default "step"
        What t counts.

    Raises
    ------
    ValueError
        An argument is out of bounds.

    Examples
    --------
    >>> import minidl
    >>> schedule = minidl.OneCycleLR(1.0, total_steps=5, pct_start=0.6, div_factor=4.0)
    >>> schedule.rates(0.0, first=0, count=5).round(3)
    array([0.25 , 0.625, 1.   , 0.5  , 0.   ])
    >>> schedule.momenta(first=0, count=5).round(3)
    array([0.95, 0.9 , 0.85, 0.9 , 0.95])
    """

    arguments = (
        "max_lr", "total_steps", "pct_start", "anneal_strategy", "cycle_momentum", "base_momentum",
        "max_momentum", "div_factor", "final_div_factor", "three_phase",
    )  # fmt: skip
    unit = "step"

    def __init__(
        self,
        max_lr: float,
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        *,
        interval: str | None = None,
    ) -> None:
        super().__init__(interval)
        self.max_lr = checks.number(max_lr, "max_lr", 0, open_low=True)
        self.total_steps = _steps(total_steps, epochs, steps_per_epoch)
        self.pct_start = checks.number(pct_start, "pct_start", 0, 1)
        checks.one_of(anneal_strategy, ("cos", "linear"), "anneal_strategy")
        self.anneal_strategy = anneal_strategy
        self.cycle_momentum = checks.flag(cycle_momentum, "cycle_momentum")
        self.base_momentum = checks.number(base_momentum, "base_momentum", 0, 1, open_high=True)
        self.max_momentum = checks.number(max_momentum, "max_momentum", 0, 1, open_high=True)
        self.div_factor = checks.number(div_factor, "div_factor", 0, open_low=True)
        self.final_div_factor = checks.number(
            final_div_factor, "final_div_factor", 0, open_low=True
        )
        self.three_phase = checks.flag(three_phase, "three_phase")

    @property
    def length(self) -> int:
        """`total_steps`."""
        return self.total_steps

    def at(self, base: float, t: Times) -> Rates:
        """The formula: rates at the times t."""
        low = self.max_lr / self.div_factor
        middle = (low,) if self.three_phase else ()
        return self._through((low, self.max_lr, *middle, low / self.final_div_factor), t)

    def momenta_at(self, t: Times) -> Rates | None:
        """Momentum of SGD and beta1 of Adam at the times t."""
        if not self.cycle_momentum:
            return None
        high = (self.max_momentum,) * (2 if self.three_phase else 1)
        return self._through((self.max_momentum, self.base_momentum, *high), t)

    def _ends(self) -> list[float]:
        """The last step of each phase; PyTorch's, which need not be whole."""
        up = self.pct_start * self.total_steps
        back = [2 * up - 2] if self.three_phase else []
        return [up - 1, *back, self.total_steps - 1]

    def _through(self, values: tuple[float, ...], t: Times) -> Rates:
        """From each value to the next in the phases."""
        t = np.minimum(t, self.total_steps - 1)
        ends = self._ends()
        phases = []
        for i, (start, end) in enumerate(pairwise((0.0, *ends))):
            share = np.ones(len(t))  # a phase that begins and ends at one step is at its end
            if end != start:
                share = np.minimum(np.maximum((t - start) / (end - start), 0), 1)
            phases.append(self._between(values[i], values[i + 1], share))
        return np.select([t <= end for end in ends[:-1]], phases[:-1], phases[-1])

    def _between(self, start: float, end: float, share: Rates) -> Rates:
        """From start to end as share goes from 0 to 1."""
        if self.anneal_strategy == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2 * (1 + np.cos(np.pi * share))
