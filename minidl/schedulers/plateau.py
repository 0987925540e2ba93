"""ReduceLROnPlateau: the one schedule that follows what is measured."""

from __future__ import annotations

from math import inf, isfinite
from typing import Any

from minidl import checks
from minidl.schedulers.base import Rates, Scheduler, Times


class Plateau:
    """What a trainer keeps for its `ReduceLROnPlateau`.

    Attributes
    ----------
    best : float or None
        The best value so far.
    bad : int
        Epochs in a row without a better one.
    cooldown : int
        Epochs left in which they are not counted.
    reductions : int
        Times the rate was lowered.
    """

    def __init__(self, scheduler: ReduceLROnPlateau) -> None:
        self._scheduler = scheduler
        self.best: float | None = None
        self.bad = self.cooldown = self.reductions = 0

    def step(self, value: float) -> None:
        """Note the value of an epoch; NaN is no better than any."""
        scheduler, value = self._scheduler, checks.measured(value, "value")
        self.bad += 1
        if scheduler.better(value, self.best):
            self.best, self.bad = value, 0
        if self.cooldown > 0:
            self.cooldown -= 1
            self.bad = 0
        if self.bad > scheduler.patience:
            self.reductions += 1
            self.cooldown, self.bad = scheduler.cooldown, 0

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON can hold it: an infinite best as text."""
        best = self.best if self.best is None or isfinite(self.best) else str(self.best)
        names = ("bad", "cooldown", "reductions")
        return {"best": best} | {name: getattr(self, name) for name in names}

    def from_dict(self, values: dict[str, Any]) -> None:
        """Take what `to_dict` has given."""
        checks.same_keys(values, self.to_dict(), "plateau")
        counts = {
            name: checks.positive_int(values[name], name, 0)
            for name in ("bad", "cooldown", "reductions")
        }
        best = values["best"]
        self.__dict__.update(counts, best=None if best is None else float(best))


class ReduceLROnPlateau(Scheduler):
    """Lower the rate when what is measured each epoch no longer improves.

    Parameters
    ----------
    mode : {"min", "max"}, default "min"
        Whether less is better or more.
    factor : float in [0, 1), default 0.1
        What the rate is multiplied by.
    patience : int, default 10
        Epochs without improvement that are borne; the next one lowers the rate.
    threshold : float, default 1e-4
        What counts as an improvement, at least 0.
    threshold_mode : {"rel", "abs"}, default "rel"
        Whether that is a share of the best value or a difference from it.
    cooldown : int, default 0
        Epochs after lowering in which nothing is counted.
    min_lr : float, default 0.0
        The rate goes no lower.
    eps : float, default 1e-8
        The rate stays if it would change by no more than this.
    monitor : str, default "val_loss"
        What is followed: a name in the trainer's history.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit.

    Examples
    --------
    >>> import minidl
    >>> schedule = minidl.ReduceLROnPlateau(patience=1, factor=0.5)
    >>> plateau = schedule.start()
    >>> for loss in (1.0, 0.9, 0.9, 0.9):
    ...     plateau.step(loss)
    >>> schedule.rate_after(0.1, plateau)
    0.05
    """

    arguments = (
        "mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lr", "eps",
        "monitor",
    )  # fmt: skip

    def __init__(
        self,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
        monitor: str = "val_loss",
    ) -> None:
        super().__init__()
        checks.one_of(mode, ("min", "max"), "mode")
        self.mode = mode
        self.factor = checks.number(factor, "factor", 0, 1, open_high=True)
        self.patience = checks.positive_int(patience, "patience", 0)
        self.threshold = checks.number(threshold, "threshold", 0)
        checks.one_of(threshold_mode, ("rel", "abs"), "threshold_mode")
        self.threshold_mode = threshold_mode
        self.cooldown = checks.positive_int(cooldown, "cooldown", 0)
        self.min_lr = checks.number(min_lr, "min_lr", 0)
        self.eps = checks.number(eps, "eps", 0)
        if not isinstance(monitor, str):
            raise TypeError(f"monitor: expected a name, got {monitor!r}")
        self.monitor = monitor

    def start(self) -> Plateau:
        """The state at the beginning of a training."""
        return Plateau(self)

    def better(self, value: float, best: float | None) -> bool:
        """True if a value is an improvement, as PyTorch has it."""
        value = checks.measured(value, "value")
        best = None if best is None else checks.measured(best, "best")
        sign = 1.0 if self.mode == "min" else -1.0
        best = sign * inf if best is None else best
        if self.threshold_mode == "rel":
            return sign * value < sign * best * (1 - sign * self.threshold)
        return sign * value < sign * best - self.threshold

    def rate_after(self, base: float, state: Plateau | None) -> float:
        """The rate in a state; None is the beginning."""
        if state is not None and not isinstance(state, Plateau):
            raise TypeError(f"state: expected what start() gives, got {type(state).__name__}")
        rate = checks.number(base, "base", 0)
        for _ in range(0 if state is None else state.reductions):
            lower = max(rate * self.factor, self.min_lr)
            if rate - lower <= self.eps:
                break
            rate = lower
        return rate

    def at(self, base: float, t: Times) -> Rates:
        """Raise TypeError: the rate is no function of time."""
        raise TypeError("scheduler: ReduceLROnPlateau follows what is measured, not the time")
