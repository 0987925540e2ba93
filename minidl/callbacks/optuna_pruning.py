"""OptunaPruning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minidl import checks
from minidl.callbacks.base import Callback
from minidl.callbacks.monitor import Monitor
from minidl.extras import need

if TYPE_CHECKING:
    from minidl.errors import NonFiniteError

DIRECTIONS = {"min": "MINIMIZE", "max": "MAXIMIZE"}


class OptunaPruning(Callback):
    """Report a result to a trial of Optuna's after each epoch, and end the trial if it is hopeless.

    What is hopeless, the study's pruner decides; `fit` then raises ``optuna.TrialPruned``, which
    ``study.optimize`` takes for a pruned trial. So does a training that meets NaN or infinity, as
    some of a search do. The model keeps its last weights, and callbacks that come later in the list
    do not see the epoch. Needs the package optuna (extra `optuna`).

    Parameters
    ----------
    trial : optuna.trial.BaseTrial
        What the objective is given; of a study with one objective.
    monitor : str, default "val_loss"
    mode : {"auto", "min", "max"}, default "auto"
        Which way is better; "auto" goes by the name. It must be the study's direction.
    interval : int, default 1
        Epochs from report to report. Each is a write to the study's storage, which may take longer
        than an epoch.

    Raises
    ------
    ImportError
        optuna is not installed.
    TypeError
        `trial` is no trial.
    ValueError
        An argument is out of range, the study goes the other way or has several objectives, or,
        after an epoch, there is no such result.
    optuna.TrialPruned
        From `fit`.

    Examples
    --------
    >>> import numpy as np
    >>> import optuna
    >>> import minidl
    >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 2)); y = (X[:, 0] > X[:, 1]).astype(int)
    >>> def objective(trial):
    ...     lr = trial.suggest_float("lr", 1e-5, 1.0, log=True)
    ...     layers = minidl.Linear(2, 16), minidl.ReLU(), minidl.Linear(16, 2)
    ...     trainer = minidl.Trainer(
    ...         minidl.Sequential(*layers, seed=0), optimizer=minidl.Adam(lr=lr))
    ...     history = trainer.fit(
    ...         X[:150], y[:150], epochs=10, seed=0, validation_data=(X[150:], y[150:]),
    ...         callbacks=[minidl.OptunaPruning(trial)])
    ...     return history.history["val_loss"][-1]
    >>> study = optuna.create_study(
    ...     sampler=optuna.samplers.RandomSampler(seed=0), pruner=optuna.pruners.MedianPruner())
    >>> study.optimize(objective, n_trials=20)
    >>> study.best_value < 0.2, len(study.get_trials(states=[optuna.trial.TrialState.PRUNED])) > 3
    (True, True)
    """

    def __init__(
        self, trial: Any, monitor: str = "val_loss", mode: str = "auto", interval: int = 1
    ) -> None:
        optuna = need("optuna", "optuna", "OptunaPruning")
        if not isinstance(trial, optuna.trial.BaseTrial):
            raise TypeError(f"trial: expected a trial of Optuna's, got {trial!r}")
        self.trial, self.monitor = trial, monitor
        self._monitor = Monitor(monitor, mode)
        self.interval = checks.count(interval, "interval", 1)
        self._pruned = optuna.TrialPruned
        study = getattr(trial, "study", None)  # a fixed trial has none
        if study is not None:
            self._check_direction([direction.name for direction in study.directions])

    def _check_direction(self, directions: list[str]) -> None:
        """Pruning the wrong way would end the best trials."""
        if len(directions) != 1:
            raise ValueError(
                f"trial: expected one of a study with one objective, got {len(directions)}"
            )
        if directions[0] != DIRECTIONS[self._monitor.mode]:
            raise ValueError(
                f"mode: expected the direction of the study, {directions[0]}, got "
                f"{self._monitor.mode!r} for {self.monitor!r}"
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Report, and prune."""
        value = self._monitor.value(logs)
        if (epoch + 1) % self.interval:
            return
        self.trial.report(value, epoch)
        if self.trial.should_prune():
            raise self._pruned(f"pruned after epoch {epoch}, {self.monitor} {value:g}")

    def on_not_finite(self, error: NonFiniteError) -> bool:
        """Prune."""
        raise self._pruned(str(error)) from error
