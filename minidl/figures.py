"""Figures of matplotlib's that need neither a display nor pyplot, and their colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minidl import checks
from minidl.extras import need

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Apart for the colour-blind too, and in grey: they differ in brightness.
BLUE, ORANGE, GREEN, GREY = "#4878a8", "#d1702f", "#2f8f6b", "#808080"


def new_figure(what: str, figsize: Any, usual: tuple[float, float]) -> Figure:
    """An empty figure, which notebooks show.

    `what` needs it, for the message where matplotlib is missing; `figsize` is what the user has
    given, None stands for the `usual` one.
    """
    need("matplotlib", "plot", what)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Shown(Figure):
        """A figure that notebooks show, though pyplot does not know it."""

        def _repr_png_(self) -> bytes:
            from io import BytesIO

            file = BytesIO()
            self.savefig(file, format="png")
            return file.getvalue()

    size = usual if figsize is None else _inches(figsize)
    figure = Shown(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _inches(figsize: Any) -> tuple[float, float]:
    """Width and height."""
    if not isinstance(figsize, (tuple, list)) or len(figsize) != 2:
        raise ValueError(f"figsize: expected (width, height) in inches, got {figsize!r}")
    width, height = (
        checks.number(each, f"figsize[{i}]", 0, 1000, open_low=True)
        for i, each in enumerate(figsize)
    )
    return width, height


def plain(axes: Any) -> None:
    """A grid that does not disturb, and no frame."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
