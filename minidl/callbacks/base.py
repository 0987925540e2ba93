"""What a callback is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minidl.errors import NonFiniteError
    from minidl.trainer import Trainer


class Callback:
    """Base class; override what you need.

    The methods are called in the order in which they stand here. Epochs and steps count over the
    trainer's whole life, epochs from 0. The model may be read and written at all these moments.

    Attributes
    ----------
    trainer : Trainer
        Set before `on_train_begin`. ``trainer.stop_training = True`` ends the training.
    every : int or None, default None
        `on_train_batch_end` is called each time so many steps are made; None: never, which lets
        whole epochs run without a word in between.

    Examples
    --------
    >>> import numpy as np
    >>> import minidl
    >>> class Enough(minidl.Callback):
    ...     def on_epoch_end(self, epoch, logs):
    ...         self.trainer.stop_training = logs["loss"] < 0.01
    >>> X = np.linspace(-1, 1, 64)[:, None]
    >>> model = minidl.Sequential(minidl.Linear(1, 1, seed=0))
    >>> trainer = minidl.Trainer(model, minidl.MSELoss(), minidl.SGD(lr=0.1))
    >>> history = trainer.fit(X, 2 * X, epochs=100, seed=0, callbacks=[Enough()])
    >>> len(history) < 100, history.history["loss"][-1] < 0.01
    (True, True)
    """

    trainer: Trainer
    every: int | None = None

    def on_train_begin(self) -> None:
        """Before the first epoch."""

    def on_epoch_begin(self, epoch: int) -> None:
        """Before each epoch; the first is 0."""

    def on_train_batch_end(self, step: int, logs: dict[str, float]) -> None:
        """After every `every` steps, with the ``"loss"`` of the last batch."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """After each epoch, with its results; what is added to `logs` goes into the history."""

    def on_not_finite(self, error: NonFiniteError) -> bool:
        """Training met NaN or infinity; return True to end it without raising the error."""
        return False

    def on_train_end(self) -> None:
        """At the end, however training ends."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of this callback, as JSON can hold it."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
