"""What is printed as a table: plain text, drawn by rich, and HTML for notebooks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

from minidl.extras import need


class Line(NamedTuple):
    """A row of a table: its cells, how far the first is indented, and whether it is a heading."""

    cells: tuple[str, ...]
    depth: int = 0
    strong: bool = False


class Table:
    """Base of what is printed as a table.

    ``str()`` is plain text, `print` draws it on a terminal, notebooks show it as a table.
    """

    _header: ClassVar[tuple[str, ...]]
    _left: ClassVar[int] = 1  # columns that stand to the left; the others are numbers

    def _lines(self) -> Iterator[Line]:
        """The rows."""
        raise NotImplementedError

    def _foot(self) -> list[str]:
        """What stands below them."""
        return []

    def __str__(self) -> str:
        """Plain text."""
        rows = [self._header]
        rows += [("  " * line.depth + line.cells[0], *line.cells[1:]) for line in self._lines()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if i < self._left else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        ruler = "-" * len(lines[0])
        lines = [lines[0], ruler, *lines[1:], ruler, *self._foot()]
        return "\n".join(text.rstrip() for text in lines)

    def __repr__(self) -> str:
        """The table."""
        return str(self)

    def print(self) -> None:
        """Draw the table on the terminal; needs rich."""
        need("rich", "cli", f"{type(self).__name__}.print").print(self)

    def __rich__(self) -> Any:
        """For rich: a table."""
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(
            box=box.SIMPLE_HEAD, caption="\n".join(self._foot()), caption_justify="left"
        )
        table.add_column(self._header[0], overflow="fold")
        for i, name in enumerate(self._header[1:], 1):
            table.add_column(name, no_wrap=True, justify="left" if i < self._left else "right")
        for line in self._lines():
            style = "bold" if line.strong else ""
            first = Text("  " * line.depth + line.cells[0], style)
            table.add_row(first, *map(Text, line.cells[1:]))
        return table

    def _repr_html_(self) -> str:
        """For notebooks: a table."""
        from html import escape

        left, right = ' style="text-align:left"', ' style="text-align:right"'
        sides = [left if i < self._left else right for i in range(len(self._header))]
        head = "".join(
            f"<th{side}>{escape(name)}</th>" for side, name in zip(sides, self._header, strict=True)
        )
        body = []
        for line in self._lines():
            indent = f' style="text-align:left;padding-left:{0.5 + 1.5 * line.depth}em"'
            cells = "".join(
                f"<td{side}>{escape(cell)}</td>"
                for side, cell in zip([indent, *sides[1:]], line.cells, strict=True)
            )
            body.append(f"<tr>{cells}</tr>")
        foot = "<br/>".join(map(escape, self._foot()))
        return (
            f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
            f'<tfoot><tr><td colspan="{len(self._header)}"{left}>{foot}</td></tr></tfoot></table>'
        )


def number(value: float) -> str:
    """A measured number in few characters; nothing where there is none."""
    return "" if math.isnan(value) else f"{value:.3g}"


def share(value: float) -> str:
    """A share as a percentage; nothing where there is none."""
    return "" if math.isnan(value) else f"{100 * value:.3g} %"
