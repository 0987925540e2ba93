"""EarlyStopping."""

from __future__ import annotations

import warnings
from typing import Any

from minidl import checks
from minidl.callbacks.base import Callback
from minidl.callbacks.monitor import Monitor
from minidl.memory import Array


class EarlyStopping(Callback):
    """Stop when a result has not improved for some epochs.

    As Keras's, with its defaults; but a result that is not there is an error, NaN is never the
    best, and the best weights come back however training ends.

    Parameters
    ----------
    monitor : str, default "val_loss"
    min_delta : float, default 0
        A smaller change is no improvement.
    patience : int, default 0
        Epochs without improvement after which training stops.
    mode : {"auto", "min", "max"}, default "auto"
        Which way is better; "auto" goes by the name.
    baseline : float, optional
        Improvements count against the patience until they pass this value too.
    restore_best_weights : bool, default False
        Give the model the weights of its best epoch when training ends: after the patience, the
        last epoch, Ctrl-C or an exception.
    start_from_epoch : int, default 0
        Epochs before this one are not looked at.

    Attributes
    ----------
    stopped_epoch : int or None
        The epoch after which this callback stopped the training; None if it did not.
    best : float or None
        The best value.
    best_epoch : int or None
        Its epoch, from 0.
    wait : int
        Epochs since the last improvement.

    Raises
    ------
    ValueError
        An argument is out of range, or, after the first epoch, there is no such result.

    Examples
    --------
    >>> import numpy as np
    >>> import minidl
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(100, 3)); y = rng.integers(0, 2, 100)  # nothing to learn
    >>> model = minidl.Sequential(minidl.Linear(3, 2, seed=0))
    >>> stop = minidl.EarlyStopping(patience=3, restore_best_weights=True)
    >>> history = minidl.Trainer(model, optimizer=minidl.SGD(lr=1.0)).fit(
    ...     X[:50], y[:50], epochs=200, seed=0, validation_data=(X[50:], y[50:]), callbacks=[stop])
    >>> stop.stopped_epoch == stop.best_epoch + 3 == len(history) - 1
    True
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        self.monitor = monitor
        self._monitor = Monitor(monitor, mode, min_delta)
        self.patience = checks.positive_int(patience, "patience", 0)
        if baseline is not None:
            baseline = checks.number(baseline, "baseline", -float("inf"))
        self.baseline = baseline
        self.restore_best_weights = checks.flag(restore_best_weights, "restore_best_weights")
        self.start_from_epoch = checks.positive_int(start_from_epoch, "start_from_epoch", 0)
        self._reset()

    def _reset(self) -> None:
        self.wait = 0
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.stopped_epoch: int | None = None
        self._best_weights: dict[str, Array] | None = None
        self._resumed = False  # the best epoch was before the checkpoint that was loaded

    def on_train_begin(self) -> None:
        """Begin anew, unless a state has just been loaded."""
        if not self._resumed:
            self._reset()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Look at the result; keep the weights, wait, or stop."""
        value = self._monitor.value(logs)
        if epoch < self.start_from_epoch:
            return
        self.wait += 1
        if self._monitor.better(value, self.best):
            self.best, self.best_epoch, self._resumed = value, epoch, False
            if self.restore_best_weights:
                self._best_weights = self.trainer.model.state_dict()
            if self._monitor.better(value, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.trainer.stop_training = True

    def on_train_end(self) -> None:
        """Give the model its best weights, if asked to."""
        if self._best_weights is not None:
            self.trainer.model.load_state_dict(self._best_weights)
        elif self.restore_best_weights and self._resumed and self.best_epoch is not None:
            warnings.warn(
                f"EarlyStopping: the best epoch, {self.best_epoch}, lies before the checkpoint "
                "that training went on from; the model keeps its last weights",
                RuntimeWarning,
                stacklevel=2,
            )
        self._best_weights, self._resumed = None, False

    def state(self) -> dict[str, Any]:
        """The wait and the best value; not the best weights."""
        return {"wait": self.wait, "best": self.best, "best_epoch": self.best_epoch}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave, in the next training."""
        checks.same_keys(state, self.state(), "state")
        wait = checks.count(state["wait"], "wait")
        best = checks.optional(checks.measured)(state["best"], "best")
        best_epoch = checks.optional(checks.count)(state["best_epoch"], "best_epoch")
        self._reset()
        self.wait, self.best, self.best_epoch = wait, best, best_epoch
        self._resumed = True
