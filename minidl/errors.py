"""Exceptions of minidl."""

from __future__ import annotations


class NonFiniteError(FloatingPointError):
    """Training met NaN or infinity and was stopped.

    The model holds the parameters of the last good epoch, and the optimizer its state.

    Attributes
    ----------
    epoch, step : int
        Where it happened: epoch of this `fit`, and step since the trainer was made, from 0.
    layer : str or None
        The first layer concerned, as in ``"3 (Linear)"``; None if it was the loss itself.
    """

    def __init__(self, message: str, epoch: int, step: int, layer: str | None) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.step = step
        self.layer = layer

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle with all arguments."""
        return type(self), (self.args[0], self.epoch, self.step, self.layer)
