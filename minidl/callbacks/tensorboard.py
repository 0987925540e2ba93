"""TensorBoard."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from minidl import checks
from minidl.callbacks.base import Callback
from minidl.extras import need
from minidl.memory import Array

BINS = 30  # of a histogram, as TensorBoard draws them


class TensorBoard(Callback):
    """Write what TensorBoard shows; needs the package tensorboard, and no TensorFlow.

    Runs and names are Keras's: ``epoch_loss`` and so on in the runs ``train`` and ``validation``,
    ``epoch_learning_rate`` in the first. Look at them with ``tensorboard --logdir LOG_DIR``. Of
    several ranks, rank 0 writes.

    Parameters
    ----------
    log_dir : str or path-like, default "logs"
    every : int, optional
        Write ``batch_loss`` and ``batch_learning_rate`` each time so many steps are made, too.
    histogram_freq : int, default 0
        Write histograms of the parameters each time so many epochs are made; 0: never.

    Raises
    ------
    ImportError
        tensorboard is not installed.
    ValueError
        An argument is out of range.

    Examples
    --------
    >>> import minidl
    >>> callbacks = [minidl.TensorBoard("logs", every=100)]  # doctest: +SKIP
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] = "logs",
        every: int | None = None,
        histogram_freq: int = 0,
    ) -> None:
        need("tensorboard", "tensorboard", "TensorBoard")
        self.log_dir = checks.path(log_dir, "log_dir")
        self.every = None if every is None else checks.count(every, "every", 1)
        self.histogram_freq = checks.positive_int(histogram_freq, "histogram_freq", 0)
        self._runs: dict[str, Any] = {}

    def writes_to(self) -> str:
        """The folder."""
        return self.log_dir

    def on_epoch_begin(self, epoch: int) -> None:
        """Look at the learning rate."""
        self._rate = self.trainer.lr

    def on_train_batch_end(self, step: int, logs: dict[str, float]) -> None:
        """Write the loss of the batch, and the rate of the next."""
        self._scalars("train", step, {"batch_loss": logs["loss"]})
        self._scalars("train", step, {"batch_learning_rate": self.trainer.lr})

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Write the results, and histograms if it is time."""
        train = {f"epoch_{k}": v for k, v in logs.items() if not k.startswith("val_")}
        train.pop("epoch_lr", None)
        self._scalars("train", epoch, {**train, "epoch_learning_rate": self._rate})
        validation = {f"epoch_{k[4:]}": v for k, v in logs.items() if k.startswith("val_")}
        if validation:
            self._scalars("validation", epoch, validation)
        if self.histogram_freq and epoch % self.histogram_freq == 0:
            self._write("train", epoch, self._histograms())
        for writer in self._runs.values():
            writer.flush()

    def on_train_end(self) -> None:
        """Close the files."""
        while self._runs:
            self._runs.popitem()[1].close()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write numbers of a step, by name, to the run ``train``; for other callbacks."""
        self._scalars("train", step, values)

    def _scalars(self, run: str, step: int, values: dict[str, float]) -> None:
        self._write(run, step, [{"tag": k, "simple_value": v} for k, v in values.items()])

    def _histograms(self) -> list[dict[str, Any]]:
        state = self.trainer.model.state_dict()
        return [
            {"tag": f"{name}/histogram", "histo": histogram(array)}
            for name, array in state.items()
            if array.size
        ]

    def _write(self, run: str, step: int, values: list[dict[str, Any]]) -> None:
        """One event with some values."""
        if self.trainer.rank > 0:
            return
        events = need("tensorboard.compat.proto.event_pb2", "tensorboard", "TensorBoard")
        if run not in self._runs:
            writers = need(
                "tensorboard.summary.writer.event_file_writer", "tensorboard", "TensorBoard"
            )
            self._runs[run] = writers.EventFileWriter(os.path.join(self.log_dir, run))
        event = events.Event(wall_time=time.time(), step=step, summary={"value": values})
        self._runs[run].add_event(event)


def histogram(array: Array) -> dict[str, Any]:
    """What TensorBoard wants to know of an array's values."""
    values = np.asarray(array, np.float64).ravel()
    counts, edges = np.histogram(values, BINS)
    return {
        "min": values.min(),
        "max": values.max(),
        "num": values.size,
        "sum": values.sum(),
        "sum_squares": (values**2).sum(),
        "bucket_limit": edges[1:].tolist(),
        "bucket": counts.tolist(),
    }
