"""ModelCheckpoint."""

from __future__ import annotations

import os
from typing import Any

from minidl import checks
from minidl.callbacks.base import Callback
from minidl.callbacks.monitor import Monitor
from minidl.serialization import save


class ModelCheckpoint(Callback):
    """Save the model as training goes; of several ranks, rank 0 does.

    A checkpoint holds the states of all callbacks: this one then stands last, behind those that
    are to have seen the epoch.

    Parameters
    ----------
    filepath : str or path-like
        Fields are filled in as Keras does: ``{epoch}``, which counts from 1 here, and results, as
        in ``"{epoch:03d}-{val_loss:.4f}.safetensors"``; with a number for `save_freq` also
        ``{step}``. Folders are made.
    monitor : str, default "val_loss"
        The result that `save_best_only` goes by.
    save_best_only : bool, default False
        Save only when the result has improved.
    mode : {"auto", "min", "max"}, default "auto"
        Which way is better; "auto" goes by the name.
    save_freq : "epoch" or int, default "epoch"
        After each epoch, or each time so many steps are made; ``"loss"`` of the last batch is then
        the only result.
    checkpoint : bool, default False
        Write what the trainer needs to go on from there (``trainer.save_checkpoint``), not the
        model alone (``minidl.save``).

    Attributes
    ----------
    best : float or None
        The best value so far, with `save_best_only`.
    last_path : str or None
        The file written last.

    Raises
    ------
    ValueError
        An argument is out of range; at the first save: a field or the result is not there.
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import minidl
    >>> X = np.linspace(-1, 1, 64)[:, None]
    >>> model = minidl.Sequential(minidl.Linear(1, 1, seed=0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     saver = minidl.ModelCheckpoint(f"{folder}/{{epoch:02d}}.safetensors")
    ...     history = minidl.Trainer(model, minidl.MSELoss()).fit(
    ...         X, X, epochs=3, callbacks=[saver])
    ...     saver.last_path[-14:], minidl.load(saver.last_path)
    ('03.safetensors', Sequential(
      (0): Linear(in_features=1, out_features=1, bias=True)
    ))
    """

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        save_best_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        *,
        checkpoint: bool = False,
    ) -> None:
        self.filepath = checks.path(filepath, "filepath")
        _check_fields(self.filepath)
        self.monitor = monitor
        self._monitor = Monitor(monitor, mode)
        self.save_best_only = checks.flag(save_best_only, "save_best_only")
        if isinstance(save_freq, str) and save_freq != "epoch":
            raise ValueError(f"save_freq: expected 'epoch' or a number of steps, got {save_freq!r}")
        self.save_freq = save_freq
        by_epoch = isinstance(save_freq, str)
        self.every = None if by_epoch else checks.count(save_freq, "save_freq", 1)
        self.checkpoint = checks.flag(checkpoint, "checkpoint")
        self.best: float | None = None
        self.last_path: str | None = None

    def writes_to(self) -> str:
        """The file."""
        return self.filepath

    def on_train_batch_end(self, step: int, logs: dict[str, float]) -> None:
        """Save, if `save_freq` is a number of steps and none of the parameters is infinite.

        Training finds that by the loss of the next step, and goes back to the last good epoch.
        """
        if all(map(checks.is_finite, self.trainer.model.state().values())):
            self._save(logs, epoch=self.trainer.epoch + 1, step=step)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Save, if `save_freq` is "epoch"."""
        if self.every is None:
            self._save(logs, epoch=epoch + 1)

    def _save(self, logs: dict[str, float], **counts: int) -> None:
        value = None
        if self.save_best_only:
            value = self._monitor.value(logs)
            if not self._monitor.better(value, self.best):
                return
        fields = {**logs, **counts}
        try:
            path = self.filepath.format(**fields)
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            raise ValueError(
                f"filepath: expected the fields {', '.join(fields)}, got {self.filepath!r}"
            ) from error
        before, self.best = self.best, value  # a checkpoint holds the new best
        try:
            self._write(path)
        except BaseException:
            self.best = before
            raise
        self.last_path = path

    def _write(self, path: str) -> None:
        if self.trainer.rank > 0:
            return
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        if self.checkpoint:
            self.trainer.save_checkpoint(path)
        else:
            model: Any = self.trainer.model
            save(model, path)

    def state(self) -> dict[str, Any]:
        """The best value."""
        return {"best": self.best}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        checks.same_keys(state, self.state(), "state")
        self.best = checks.optional(checks.measured)(state["best"], "best")


def _check_fields(filepath: str) -> None:
    """A string whose fields all have names."""
    from string import Formatter

    try:
        names = [name for _, name, _, _ in Formatter().parse(filepath) if name is not None]
    except ValueError as error:
        raise ValueError(f"filepath: {error}, in {filepath!r}") from error
    if not all(name.isidentifier() for name in names):
        raise ValueError(
            f"filepath: expected a path with fields such as {{epoch}}, got {filepath!r}"
        )
