"""Callbacks of `Trainer.fit`, in Keras's manner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minidl.trainer import Trainer


class Callback:
    """Base class; override what you need.

    ``trainer`` is set before `on_train_begin`. Set ``trainer.stop_training = True`` to stop after
    the epoch.
    """

    trainer: Trainer

    def on_train_begin(self) -> None:
        """Before the first epoch."""

    def on_epoch_begin(self, epoch: int) -> None:
        """Before each epoch; the first is 0."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """After each epoch, with its results."""

    def on_train_end(self) -> None:
        """At the end, however training ends."""


class ProgressBar:
    """A tqdm bar over the epochs."""

    def __init__(self, epochs: int) -> None:
        from tqdm import tqdm

        self.bar: Any = tqdm(total=epochs, unit="epoch", dynamic_ncols=True)

    def update(self, epochs: int, logs: dict[str, float]) -> None:
        """Show some more epochs and the last results."""
        if epochs:
            self.bar.set_postfix({k: f"{v:.4g}" for k, v in logs.items()}, refresh=False)
            self.bar.update(epochs)

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()
