"""Concat and Parallel: layers side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from minidl import checks
from minidl.layers.base import Layer
from minidl.layers.container import Container

if TYPE_CHECKING:
    from minidl.lowering import Graph, Value


class Concat(Container):
    """Branches that all read the same input; their outputs side by side.

    Parameters
    ----------
    *branches : Layer

    Examples
    --------
    >>> import minidl
    >>> wide_and_deep = minidl.Concat(
    ...     minidl.Identity(),
    ...     minidl.Sequential(minidl.Linear(3, 8), minidl.ReLU()), )
    >>> wide_and_deep([[1.0, 2.0, 3.0]]).shape
    (1, 11)
    """

    def __init__(self, *branches: Layer) -> None:
        if not branches:
            raise ValueError("branches: expected at least one layer")
        super().__init__(branches)

    def _check_features(self) -> None:
        wanted = {b.in_features_or_none() for b in self._layers} - {None}
        if len(wanted) > 1:
            raise ValueError(
                f"branches: expected all to take the same columns, got {sorted(map(int, wanted))}"  # type: ignore[arg-type]
            )

    def in_features_or_none(self) -> int | None:
        """Columns that the branches expect."""
        wanted = (branch.in_features_or_none() for branch in self._layers)
        return next((columns for columns in wanted if columns is not None), None)

    def output_features(self, in_features: int) -> int:
        """Columns of all branches."""
        return sum(branch.output_features(in_features) for branch in self._layers)

    def inputs_of_children(self, in_features: int) -> list[int]:
        """All columns for each branch."""
        return [in_features] * len(self._layers)

    def categories(self, first: int, columns: int) -> Iterator[tuple[int, int, int]]:
        """Those of all branches."""
        for branch in self._layers:
            yield from branch.categories(first, columns)

    def lower(self, graph: Graph, x: Value) -> Value:
        """Write the branches' operations, and put their outputs side by side."""
        parts = tuple(branch.lower(graph, x) for branch in self._layers)
        return graph.add("concat", self, parts, sum(part.columns for part in parts))


class Parallel(Container):
    """Branches that each read columns of their own; their outputs side by side.

    The first branch has the first columns of the input, and so on. `fit` and `predict` take the
    input as one array, or as a tuple of arrays that are put side by side: one for each branch, say.

    Parameters
    ----------
    *branches : Layer
    columns : sequence of int, optional
        Columns that each branch reads; default: as many as it expects.

    Examples
    --------
    Eight measurements, and a category in a column of its own:

    >>> import minidl
    >>> model = minidl.Sequential(
    ...     minidl.Parallel(minidl.Linear(8, 16), minidl.Identity(), columns=[8, 1]),
    ...     minidl.ReLU(), minidl.Linear(17, 1), seed=0)
    >>> model.in_features_or_none()
    9
    """

    _fixed = (*Container._fixed, "columns")

    def __init__(self, *branches: Layer, columns: Sequence[int] | None = None) -> None:
        if not branches:
            raise ValueError("branches: expected at least one layer")
        given: Any = [None] * len(branches) if columns is None else columns
        if len(checks.shape_and_kind(given)[0]) != 1 or len(given) != len(branches):
            raise ValueError(
                f"columns: expected {len(branches)} numbers, one for each branch, got {columns!r}"
            )
        self.columns = [
            self._columns_of(i, branch, number)
            for i, (branch, number) in enumerate(zip(branches, given, strict=True))
        ]
        super().__init__(branches)

    @staticmethod
    def _columns_of(i: int, branch: Layer, number: int | None) -> int:
        wanted = branch.in_features_or_none() if isinstance(branch, Layer) else 1
        if number is None and wanted is None:
            raise ValueError(
                f"columns: expected a number for each branch, since branch {i} "
                f"({type(branch).__name__}) takes any number of columns"
            )
        if number is None:
            return int(wanted or 0)
        number = checks.size(number, f"columns[{i}]")
        if wanted is not None and wanted != number:
            raise ValueError(f"columns[{i}]: expected {wanted}, as the branch has it, got {number}")
        return number

    def in_features_or_none(self) -> int | None:
        """Columns of all branches."""
        return sum(self.columns)

    def output_features(self, in_features: int) -> int:
        """Columns of all outputs."""
        pairs = zip(self._layers, self.columns, strict=True)
        return sum(branch.output_features(columns) for branch, columns in pairs)

    def inputs_of_children(self, in_features: int) -> list[int]:
        """Columns of each branch."""
        return self.columns

    def categories(self, first: int, columns: int) -> Iterator[tuple[int, int, int]]:
        """Those of the branches, each in its own columns."""
        for branch, own in zip(self._layers, self.columns, strict=True):
            yield from branch.categories(first, own)
            first += own

    def lower(self, graph: Graph, x: Value) -> Value:
        """Write the branches' operations, and put their outputs side by side."""
        parts, first = [], 0
        for branch, columns in zip(self._layers, self.columns, strict=True):
            parts.append(branch.lower(graph, graph.columns(self, x, first, columns)))
            first += columns
        return graph.add("concat", self, tuple(parts), sum(part.columns for part in parts))

    def extra_repr(self) -> str:
        """The columns."""
        return f"columns={self.columns}"

    def config(self) -> dict[str, Any]:
        """The branches, and their columns."""
        return {**super().config(), "columns": self.columns}
