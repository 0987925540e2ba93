"""What all schedules share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from minidl import checks

if TYPE_CHECKING:
    import numpy.typing as npt

Times: TypeAlias = "npt.NDArray[np.int64]"
Rates: TypeAlias = "npt.NDArray[np.float64]"

UNITS = {"epoch": "epochs", "step": "steps"}


class Scheduler:
    """Base of the schedules: the learning rate as a function of time.

    Time t counts epochs or steps (updates) from 0, over all calls of `fit`. A schedule is a
    description: it keeps no state, so several trainers may share one, and its arguments are
    attributes that cannot be changed.

    Attributes
    ----------
    interval : {"epoch", "step"}
        What t counts.
    length : int or None
        Epochs or steps after which the schedule is complete; None if it has no end.
    """

    arguments: tuple[str, ...] = ()  # names of those of the constructor
    depth = 0  # schedules inside each other
    unit = "epoch"  # the interval, unless another is given
    multiplies = False  # True if the rate is the base rate times a factor: what can be chained

    def __init__(self, interval: str | None = None) -> None:
        if interval is not None:
            checks.one_of(interval, tuple(UNITS), "interval")
        self.interval_given = interval
        self.interval = interval or self.unit

    @property
    def length(self) -> int | None:
        """Epochs or steps after which the schedule is complete; None if it has no end."""
        return None

    def at(self, base: float, t: Times) -> Rates:
        """The formula: rates at the times t."""
        raise NotImplementedError

    def momenta_at(self, t: Times) -> Rates | None:
        """Momentum of SGD and beta1 of Adam at the times t; NaN: the optimizer's own."""
        return None

    def rates(self, base: float, first: int, count: int) -> Rates:
        """Rates of `count` times in a row.

        Parameters
        ----------
        base : float
            The optimizer's rate.
        first : int
            The first time.
        count : int

        Returns
        -------
        ndarray of shape (count,), float64

        Raises
        ------
        ValueError
            A rate is not finite.

        Examples
        --------
        >>> import minidl
        >>> minidl.StepLR(step_size=2, gamma=0.5).rates(1.0, first=0, count=5)
        array([1.  , 1.  , 0.5 , 0.5 , 0.25])
        """
        base = checks.number(base, "base", 0)
        t = _times(first, count)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            values = self.at(base, t)
        if not np.isfinite(values).all():
            i = int((~np.isfinite(values)).argmax())
            raise ValueError(
                f"scheduler: expected finite rates, got {values[i]} from {self!r} in "
                f"{self.interval} {t[i]}"
            )
        return values

    def rate(self, base: float, t: int) -> float:
        """The rate at the time t, as `rates` has it to the bit."""
        return float(self.rates(base, checks.count(t, "t"), 1)[0])

    def momenta(self, first: int, count: int) -> Rates | None:
        """Momentum of SGD and beta1 of Adam for `count` times in a row.

        Returns
        -------
        ndarray of shape (count,), float64, or None
            None if the schedule leaves them alone; NaN where it does.
        """
        return self.momenta_at(_times(first, count))

    def momentum(self, t: int) -> float | None:
        """The momentum at the time t; None: the optimizer's own."""
        values = self.momenta(checks.count(t, "t"), 1)
        return None if values is None or np.isnan(values[0]) else float(values[0])

    def check(self, total: int) -> None:
        """Raise ValueError if the schedule is longer than a training of `total` epochs or steps."""
        total = checks.positive_int(total, "total", 0)
        if self.length is not None and self.length > total:
            name, units = type(self).__name__, UNITS[self.interval]
            raise ValueError(
                f"scheduler: {name} takes {self.length} {units}, the training has {total}; make it "
                "shorter, or, if this is the first part of a longer training, give fit "
                "total_epochs="
            )

    def config(self) -> dict[str, Any]:
        """Constructor arguments, as JSON can hold them."""
        values = ((name, getattr(self, name)) for name in self.arguments)
        found = {k: list(v) if isinstance(v, tuple) else v for k, v in values}
        return found | ({"interval": self.interval_given} if self.interval_given else {})

    def __setattr__(self, name: str, value: Any) -> None:
        """A schedule stays as it is."""
        if name in self.__dict__:
            raise AttributeError(f"{name}: cannot be changed; make a new {type(self).__name__}")
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        """The constructor call, without arguments that have their default."""
        from inspect import signature

        defaults = {k: p.default for k, p in signature(type(self)).parameters.items()}
        values = {name: getattr(self, name) for name in self.arguments}
        values |= {"interval": self.interval_given} if self.interval_given else {}
        shown = (
            f"{k}={list(v) if isinstance(v, tuple) else v!r}"
            for k, v in values.items()
            if v != defaults[k]
        )
        return f"{type(self).__name__}({', '.join(shown)})"


def _times(first: int, count: int) -> Times:
    """Some times in a row."""
    first = checks.count(first, "first")
    return np.arange(first, first + checks.size(count, "count", 0))


def increasing(values: Any, name: str) -> tuple[int, ...]:
    """Integers from 1, each greater than the one before."""
    kinds = (list, tuple, range, np.ndarray)
    if not isinstance(values, kinds) or len(checks.shape_and_kind(values)[0]) != 1:
        raise TypeError(f"{name}: expected a list of integers, got {values!r}")
    found: list[int] = []
    for i, value in enumerate(values):
        least = found[-1] + 1 if found else 1
        found.append(checks.count(value, f"{name}[{i}]", least))
    return tuple(found)
