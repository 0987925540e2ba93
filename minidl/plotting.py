"""The figure of a training: `History.plot`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from minidl.callbacks.monitor import Monitor
from minidl.figures import BLUE, GREY, ORANGE, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minidl.history import History

TRAINING, VALIDATION = BLUE, ORANGE
PANEL = (4.4, 3.2)  # inches
NAMES = {
    "lr": "learning rate", "auc": "AUC", "f1": "F1", "mae": "MAE", "rmse": "RMSE", "r2": "R²",
}  # fmt: skip


def draw(
    history: History, metrics: Sequence[str] | None, figsize: tuple[float, float] | None
) -> Figure:
    """See `History.plot`."""
    names = _names(history, metrics)
    columns = len(names) if len(names) <= 3 else 2 if len(names) == 4 else 3
    rows = -(-len(names) // columns)
    figure = new_figure("History.plot", figsize, (PANEL[0] * columns, PANEL[1] * rows))
    for i, name in enumerate(names):
        _panel(figure.add_subplot(rows, columns, i + 1), history, name)
    return figure


def _names(history: History, metrics: Sequence[str] | None) -> list[str]:
    """What to draw: the loss first, the learning rate last, unless the user has an order."""
    there = list(dict.fromkeys(name.removeprefix("val_") for name in history.history))
    if not len(history):
        raise ValueError("plot: expected at least one epoch, got an empty history")
    if metrics is None:
        return sorted(there, key=lambda name: (name != "loss", name == "lr"))
    if not isinstance(metrics, (list, tuple)) or not metrics:
        raise ValueError(f"metrics: expected a list of names of results, got {metrics!r}")
    for name in metrics:
        if not isinstance(name, str) or name not in there:
            known = ", ".join(map(repr, there))
            raise ValueError(f"metrics: expected some of {known}, got {name!r}")
    return list(metrics)


def _panel(axes: Any, history: History, name: str) -> None:
    """One result: its curves, and the best of the validation."""
    training, validation = _points(history, name), _points(history, f"val_{name}")
    for points, label, color in (
        (training, "training", GREY if name == "lr" else TRAINING),
        (validation, "validation", VALIDATION),
    ):
        marker = "o" if len(points) == 1 else None
        if points:
            x, values = zip(*points, strict=True)
            axes.plot(x, values, color=color, label=label, linewidth=1.6, marker=marker)
    if name == "lr":
        axes.set_ylim(bottom=0)
    _mark_best(axes, validation, name)
    if name == "loss" and _is_wide([value for _, value in training + validation]):
        axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.set_ylabel(NAMES.get(name, name.replace("_", " ")))
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    plain(axes)
    if name != "lr" and (training or validation):
        axes.legend(frameon=False)


def _points(history: History, name: str) -> list[tuple[int, float]]:
    """Epochs and values that can be drawn."""
    values = history.history.get(name, [])
    return [(e, v) for e, v in zip(history.epochs, values, strict=False) if math.isfinite(v)]


def _mark_best(axes: Any, points: list[tuple[int, float]], name: str) -> None:
    """A ring around the best value, the first of equals."""
    if len(points) > 1:
        choose = min if Monitor(name).mode == "min" else max
        epoch, value = choose(points, key=lambda point: point[1])
        label = f"best: {value:.4g} in epoch {epoch}"
        axes.plot(epoch, value, "o", color=VALIDATION, markerfacecolor="white",
                  markeredgewidth=1.6, label=label)  # fmt: skip


def _is_wide(values: list[float]) -> bool:
    """Whether values are positive and span more than two powers of ten."""
    return bool(values) and min(values) > 0 and max(values) > 100 * min(values)
