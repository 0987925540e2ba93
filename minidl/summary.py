"""The table of a model's layers: `Layer.summary`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from minidl.tables import Line, Table

if TYPE_CHECKING:
    from minidl.layers.base import Layer


class Row(NamedTuple):
    """A layer; those that hold others have no parameters of their own, and no count."""

    name: str
    depth: int
    columns: int
    parameters: int | None

    def cells(self) -> tuple[str, str, str]:
        """As the table shows them."""
        count = "" if self.parameters is None else f"{self.parameters:,}"
        return self.name, f"(N, {self.columns})", count


class Summary(Table):
    """What `Layer.summary` returns: a table of layers, output shapes and parameters.

    ``str()`` is plain text, `print` draws it on a terminal, notebooks show it as a table.

    Attributes
    ----------
    rows : list of Row
        Each has ``name``, ``depth``, ``columns`` and ``parameters``.
    parameters : int
        All that are trained.
    running_averages : int
        Numbers that are saved, but not trained.
    dtype : str

    Examples
    --------
    >>> import minidl
    >>> model = minidl.Sequential(minidl.Linear(4, 8), minidl.ReLU(), minidl.Linear(8, 2))
    >>> model.summary()
    layer       output shape  parameters
    ------------------------------------
    0 (Linear)  (N, 8)                40
    1 (ReLU)    (N, 8)                 0
    2 (Linear)  (N, 2)                18
    ------------------------------------
    58 parameters, 0 running averages, float32
    """

    _header = ("layer", "output shape", "parameters")
    _left = 2

    def __init__(self, layer: Layer, in_features: int) -> None:
        self.rows = list(_rows(layer, in_features))
        sizes = [(p.array.size, p.trainable) for _, p in layer.named_parameters()]
        self.parameters = sum(size for size, trainable in sizes if trainable)
        self.running_averages = sum(size for size, trainable in sizes if not trainable)
        self.dtype = str(layer.dtype)

    @property
    def total(self) -> str:
        """The last line."""
        return (
            f"{self.parameters:,} parameters, {self.running_averages:,} running averages, "
            f"{self.dtype}"
        )

    def _lines(self) -> Iterator[Line]:
        return (Line(row.cells(), row.depth, row.parameters is None) for row in self.rows)

    def _foot(self) -> list[str]:
        return [self.total]


def _rows(layer: Layer, in_features: int, name: str = "", depth: int = 0) -> Iterator[Row]:
    """The layers in order, each before those inside it; the outermost only if it holds none."""
    children = layer.children()
    if depth or not children:
        title = f"{name} ({type(layer).__name__})" if name else type(layer).__name__
        own = None if children else _count(layer)
        yield Row(title, max(depth - 1, 0), layer.output_features(in_features), own)
    inputs = layer.inputs_of_children(in_features)
    for (child, inner), columns in zip(children, inputs, strict=True):
        yield from _rows(inner, columns, f"{name}.{child}" if name else child, depth + 1)


def _count(layer: Layer) -> int:
    """Trained parameters of a layer itself."""
    return sum(p.array.size for p in layer._parameters.values() if p.trainable)
