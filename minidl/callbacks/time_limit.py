"""TimeLimit."""

from __future__ import annotations

import time

from minidl import checks
from minidl.callbacks.base import Callback


class TimeLimit(Callback):
    """Stop when the training has taken a number of seconds.

    The clock is looked at every 16 steps and after each epoch; training stops there.

    Parameters
    ----------
    seconds : float

    Attributes
    ----------
    stopped : bool
        Whether the time was up.

    Examples
    --------
    >>> import numpy as np
    >>> import minidl
    >>> model = minidl.Sequential(minidl.Linear(1, 1))
    >>> limit = minidl.TimeLimit(0.05)
    >>> history = minidl.Trainer(model, minidl.MSELoss()).fit(
    ...     np.zeros((4, 1)), np.zeros((4, 1)), epochs=10**6, callbacks=[limit])
    >>> limit.stopped
    True
    """

    every: int | None = 16

    def __init__(self, seconds: float) -> None:
        self.seconds = checks.number(seconds, "seconds", 0)
        self.stopped = False

    def on_train_begin(self) -> None:
        """Start the clock."""
        self._end = time.monotonic() + self.seconds
        self.stopped = False

    def on_train_batch_end(self, step: int, logs: dict[str, float]) -> None:
        """Look at the clock."""
        if time.monotonic() >= self._end:
            self.stopped = self.trainer.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Look at the clock."""
        self.on_train_batch_end(epoch, logs)
