"""The table of a model's layers: plain, with rich, and as HTML."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from minidl.extras import need

if TYPE_CHECKING:
    from minidl.layers.base import Layer

HEADER = ("layer", "output shape", "parameters")


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


class Summary:
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

    def __str__(self) -> str:
        """Plain text."""
        rows = [HEADER, *(("  " * r.depth + r.cells()[0], *r.cells()[1:]) for r in self.rows)]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]
        line = "-" * len(lines[0])
        lines = [lines[0], line, *lines[1:], line, self.total]
        return "\n".join(text.rstrip() for text in lines)

    __repr__ = __str__

    def print(self) -> None:
        """Draw the table on the terminal; needs rich."""
        need("rich", "cli", "Summary.print").print(self)

    def __rich__(self) -> Any:
        """For rich: a table."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, caption=self.total, caption_justify="left")
        table.add_column(HEADER[0], overflow="fold")
        table.add_column(HEADER[1], no_wrap=True)
        table.add_column(HEADER[2], no_wrap=True, justify="right")
        for row in self.rows:
            name, shape, count = row.cells()
            style = "bold" if row.parameters is None else ""
            table.add_row(Text("  " * row.depth + name, style), Text(shape), Text(count))
        return table

    def _repr_html_(self) -> str:
        """For notebooks: a table."""
        from html import escape

        left, right = ' style="text-align:left"', ' style="text-align:right"'
        head = "".join(
            f"<th{right if i == 2 else left}>{name}</th>" for i, name in enumerate(HEADER)
        )
        body = []
        for row in self.rows:
            name, shape, count = (escape(cell) for cell in row.cells())
            indent = f' style="text-align:left;padding-left:{0.5 + 1.5 * row.depth}em"'
            body.append(
                f"<tr><td{indent}>{name}</td><td{left}>{shape}</td><td{right}>{count}</td></tr>"
            )
        return (
            f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
            f'<tfoot><tr><td colspan="3"{left}>{escape(self.total)}</td></tr></tfoot></table>'
        )


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
