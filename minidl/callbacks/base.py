"""What a callback is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minidl import checks

if TYPE_CHECKING:
    from minidl.errors import NonFiniteError
    from minidl.loop import Loop
    from minidl.trainer import Trainer


class Callback:
    """Base class; override what you need.

    The methods are called in the order in which they stand here. Epochs and steps count over the
    trainer's whole life, epochs from 0. The model may be read and written at all these moments.

    Attributes
    ----------
    trainer : Trainer
        Set before `on_train_begin`. ``trainer.stop_training = True`` ends the training.
    every : int or None, default 1
        `on_train_batch_end`, if you define it, is called each time so many steps are made; None:
        never. The fewer calls, the longer the compiled program runs by itself.

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
    every: int | None = 1

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

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: without the trainer, which the next `fit` sets."""
        return {name: value for name, value in vars(self).items() if name != "trainer"}

    def writes_to(self) -> str | None:
        """Path of what it writes, if it writes anything: two trainings at once need two of them."""
        return None

    def _watch(self, loop: Loop) -> tuple[Any, ...] | None:
        """What looks at the steps of the loop's program from within: see `Program.watch`."""
        return None

    def _take_looks(self) -> None:
        """Take what it has seen, between two runs."""

    def looks_at_steps(self) -> bool:
        """Whether `on_train_batch_end` is to be called at all."""
        own = getattr(self.on_train_batch_end, "__func__", None)
        return self.every is not None and own is not Callback.on_train_batch_end


def as_callbacks(callbacks: Any) -> tuple[Callback, ...]:
    """Callbacks out of a list, or whatever gives them one by one.

    Raises
    ------
    TypeError
        It is no list, or holds something else.
    ValueError
        `every` is neither None nor a positive integer.
    """
    listed = hasattr(callbacks, "__iter__") and not hasattr(callbacks, "__array__")
    found = tuple(callbacks) if listed else (callbacks,)
    wrong = [each for each in found if not isinstance(each, Callback)]
    if wrong or not listed or isinstance(callbacks, (str, dict)):
        got = wrong[0] if wrong else callbacks
        raise TypeError(f"callbacks: expected a list of Callback objects, got {got!r}")
    for callback in found:
        if callback.every is not None:
            checks.count(callback.every, f"{type(callback).__name__}.every", 1)
    return found
