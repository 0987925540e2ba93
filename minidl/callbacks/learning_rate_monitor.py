"""LearningRateMonitor."""

from __future__ import annotations

from minidl import checks
from minidl.callbacks.base import Callback


class LearningRateMonitor(Callback):
    """Add the learning rate at the beginning of each epoch to its results, as ``"lr"``.

    Callbacks that are to see it, such as a `CSVLogger`, stand behind this one.

    Parameters
    ----------
    every : int, optional
        Keep the rate each time so many steps are made, too.

    Attributes
    ----------
    steps : list of int
        Steps after which the rate was looked at.
    rates : list of float
        The rate of the step that follows each of them.

    Examples
    --------
    >>> import numpy as np
    >>> import minidl
    >>> model = minidl.Sequential(minidl.Linear(1, 1, seed=0))
    >>> trainer = minidl.Trainer(model, minidl.MSELoss(), minidl.SGD(lr=0.5))
    >>> rates = [minidl.LearningRateMonitor()]
    >>> trainer.fit(np.ones((4, 1)), np.ones((4, 1)), epochs=2, callbacks=rates).history["lr"]
    [0.5, 0.5]
    """

    def __init__(self, every: int | None = None) -> None:
        self.every = None if every is None else checks.count(every, "every", 1)
        self.steps: list[int] = []
        self.rates: list[float] = []

    def on_epoch_begin(self, epoch: int) -> None:
        """Look at the rate."""
        self._rate = self.trainer.lr

    def on_train_batch_end(self, step: int, logs: dict[str, float]) -> None:
        """Keep the rate."""
        self.steps.append(step)
        self.rates.append(self.trainer.lr)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Add the rate to the results."""
        logs["lr"] = self._rate
