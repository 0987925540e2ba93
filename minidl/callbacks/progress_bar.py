"""The progress bar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minidl import checks


class ProgressBar:
    """A tqdm bar over the epochs: text on a terminal, a widget in a notebook.

    Parameters
    ----------
    epochs : int
        How many there will be.
    """

    def __init__(self, epochs: int) -> None:
        from tqdm.auto import tqdm

        epochs = checks.count(epochs, "epochs")
        self.bar: Any = tqdm(total=epochs, unit="epoch", dynamic_ncols=True)

    @staticmethod
    def suits() -> bool:
        """Whether someone watches: on a terminal or in a notebook."""
        import sys

        return "ipykernel" in sys.modules or sys.stderr.isatty()

    @classmethod
    def wanted(cls, verbose: str | int) -> bool:
        """Whether `fit` is to show one."""
        return verbose == 1 or (verbose == "auto" and cls.suits())

    def update(self, epochs: int, logs: dict[str, float], text: str = "") -> None:
        """Show some more epochs and the last results, and a text before them."""
        epochs = checks.count(epochs, "epochs")
        if not isinstance(logs, Mapping):
            raise TypeError(f"logs: expected a dict of numbers by name, got {logs!r:.200}")
        if text:
            self.bar.set_description(text, refresh=False)
        if epochs:
            self.bar.set_postfix({k: f"{v:.4g}" for k, v in logs.items()}, refresh=False)
            self.bar.update(epochs)

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()
