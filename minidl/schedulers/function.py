"""A function of yours as a schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import checks
from minidl.schedulers.base import Rates, Scheduler, Times


class LambdaLR(Scheduler):
    """The rate times what a function of t returns.

    Parameters
    ----------
    lr_lambda : function
        Takes t, an int, and returns a finite factor of at least 0. The same t must give the same
        factor: functions are called ahead, and as often as it takes.
    interval : {"epoch", "step"}, default "epoch"
        What t counts.

    Raises
    ------
    TypeError
        It is not a function.

    Examples
    --------
    >>> import minidl
    >>> minidl.LambdaLR(lambda t: 1 / (1 + t)).rates(1.0, first=0, count=4).round(3)
    array([1.   , 0.5  , 0.333, 0.25 ])
    """

    arguments = ("lr_lambda",)
    multiplies = True

    def __init__(self, lr_lambda: Callable[[int], float], *, interval: str | None = None) -> None:
        super().__init__(interval)
        if not _is_function(lr_lambda):
            raise TypeError(f"lr_lambda: expected a function of t, got {lr_lambda!r}")
        self.lr_lambda = lr_lambda

    def at(self, base: float, t: Times) -> Rates:
        """The formula: rates at the times t."""
        name = getattr(self.lr_lambda, "__name__", "lr_lambda")
        factors = [checks.number(self.lr_lambda(i), f"{name}({i})", 0) for i in t.tolist()]
        return base * np.array(factors, np.float64)

    def config(self) -> dict[str, Any]:
        """Raise TypeError: a function is no part of a file."""
        raise TypeError("scheduler: LambdaLR holds a function, which cannot be written to a file")


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type)


def as_scheduler(value: Any, name: str = "scheduler") -> Scheduler:
    """A schedule; a function becomes a `LambdaLR`."""
    if isinstance(value, Scheduler):
        return value
    if _is_function(value):
        return LambdaLR(value)
    raise TypeError(f"{name}: expected a Scheduler or a function of the epoch, got {value!r}")
