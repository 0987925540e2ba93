"""What `fit` returns: one value an epoch of everything that was measured."""

from __future__ import annotations


class History:
    """Results of a training, by name, one value an epoch.

    Attributes
    ----------
    history : dict of list of float
        ``"loss"``, ``"accuracy"`` (if the loss has it), ``"val_loss"``, ...
    """

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {}

    def append(self, values: dict[str, float]) -> None:
        """Add an epoch's values."""
        for name, value in values.items():
            self.history.setdefault(name, []).append(value)

    def __len__(self) -> int:
        """Epochs."""
        return max((len(values) for values in self.history.values()), default=0)

    def __repr__(self) -> str:
        """Last value of each."""
        last = ", ".join(f"{name}={v[-1]:.4g}" for name, v in self.history.items() if v)
        return f"History({len(self)} epochs{': ' + last if last else ''})"
