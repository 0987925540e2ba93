"""Watching one of the results: its value, and which way is better."""

from __future__ import annotations

from minidl import checks

MODES = ("auto", "min", "max")
# Words of names that are better the larger they are: "val_accuracy", "top_5", "macro_f1".
LARGER = frozenset(
    ["accuracy", "acc", "auc", "dice", "f1", "fbeta", "iou", "precision", "r2", "recall", "top"]
)


class Monitor:
    """One of the results of an epoch, and what counts as an improvement.

    Parameters
    ----------
    name : str
    mode : {"auto", "min", "max"}, default "auto"
        "auto" goes by the name: "max" for accuracy, auc, f1, r2, precision, recall, top_k, their
        like, and names that end in "_score", as scikit-learn names them; else "min".
    min_delta : float, default 0
        A smaller change is no improvement.
    """

    def __init__(self, name: str, mode: str = "auto", min_delta: float = 0.0) -> None:
        if not isinstance(name, str):
            raise TypeError(f"monitor: expected a name, got {name!r}")
        checks.one_of(mode, MODES, "mode")
        self.name = name
        self.mode = _mode_of(name) if mode == "auto" else mode
        self.min_delta = checks.number(min_delta, "min_delta", 0)

    def value(self, logs: dict[str, float]) -> float:
        """The value in the results, or an error that names those there are."""
        if self.name not in logs:
            there = ", ".join(map(repr, logs)) or "nothing"
            hint = "; it needs validation_data" if self.name.startswith("val_") else ""
            raise ValueError(f"monitor: expected one of {there}, got {self.name!r}{hint}")
        return logs[self.name]

    def better(self, value: float, than: float | None) -> bool:
        """Whether a value improves on another, or is the first; NaN never does."""
        if than is None:
            return value == value
        if self.mode == "min":
            return value + self.min_delta < than
        return value - self.min_delta > than


def _mode_of(name: str) -> str:
    words = name.removeprefix("val_").lower().split("_")
    if words[-1] in ("loss", "error"):
        return "min"
    return "max" if words[-1] == "score" or LARGER.intersection(words) else "min"
