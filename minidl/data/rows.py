"""Data of a known number of rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from copy import copy

import numpy as np

from minidl.data.blocks import Block, Buffers, batches_in, block_bytes, count_batches, cuts, parts
from minidl.data.source import ArrayRows, Source, loaded
from minidl.memory import Array


class Data:
    """What `open_data` returns.

    Attributes
    ----------
    rows : int or None
        None for iterables.
    in_memory : bool
        If so, `x`, `y` and `weight` are all there is to know.
    columns : list of int or None
        Of each input; None where neither model nor data tell.
    x : list of ndarray
        The inputs in memory, (N, columns) in the dtype, in any layout.
    y : ndarray or None
        If it lies in memory: as the user has it. May be set, to what a loss makes of it.
    y_like : ndarray or None
        No rows, but the other dimensions and the dtype of y, wherever it lies; None for iterables.
    weight : ndarray or None
        If it lies in memory: (N,), float64.
    chosen : ndarray of intp or None
        Numbers of the only rows that are gone through, in this order; None: all. `rows` counts
        these, the arrays have all.
    """

    rows: int | None = None
    in_memory: bool = False
    columns: list[int | None]
    x: list[Array]
    y: Array | None = None
    y_like: Array | None = None
    weight: Array | None = None
    chosen: Array | None = None
    start = 0  # as a block's

    def pick(self, array: Array) -> Array:
        """What an array with an element for each row in memory has for the chosen ones."""
        return array if self.chosen is None else array[self.chosen]

    def batches(self, batch_size: int, last: str = "merge") -> int | None:
        """Batches of an epoch; None if nobody knows."""
        raise NotImplementedError

    def load(self) -> None:
        """Read all rows into memory.

        Raises
        ------
        TypeError
            It is an iterable of batches.
        ValueError
            A value is not what it should be.
        """
        raise NotImplementedError

    def blocks(
        self,
        order: Array | None,
        batch_size: int,
        *,
        start_batch: int = 0,
        last: str = "merge",
        group: int = 1,
        depth: int = 1,
        size: int | None = None,
    ) -> Iterator[Block]:
        """The rows of an epoch.

        Parameters
        ----------
        order : ndarray of intp, optional
            Numbers of the rows to visit; default: all, in order.
        batch_size : int
        start_batch : int, default 0
            Batches to leave out at the beginning, whole groups of them.
        last : {"merge", "keep", "drop"}
            What becomes of a smaller last batch: a single row joins the batch before it; it stays;
            it is left out.
        group : int, default 1
            Batches that belong together; every block but the last holds whole groups.
        depth : int, default 1
            A block keeps its values until `depth` more blocks have been made.
        size : int, optional
            Bytes of X in a block, which holds at least one group; default: some megabytes.

        Iterables have an order and batches of their own: `order` and `batch_size` are ignored, and
        so is `last` but for "merge"; a change in the size of the batches ends a block and a group.
        """
        raise NotImplementedError


class RowData(Data):
    """Data of a known number of rows."""

    def __init__(self, x: list[Source], y: Source | None, weight: Source | None) -> None:
        self.all_rows = self.rows = self._rows = x[0].shape[0]  # the first counts all, ever after
        self.columns = [source.shape[1] for source in x]
        self._take(x, y, weight)
        if y is not None:
            self.y_like = np.empty((0, *y.shape[1:]), y.to)

    def part(self, chosen: Array | None, weight: Source | None) -> RowData:
        """These rows alone, with weights of all rows; no row is copied."""
        data = copy(self)
        data._take(self._x, self._y, weight)
        if chosen is not None:
            data.chosen, data.rows, data._rows = chosen, len(chosen), len(chosen)
        return data

    def _take(self, x: list[Source], y: Source | None, weight: Source | None) -> None:
        self._x, self._y, self._weight = x, y, weight
        self.x = [source.array for source in x if isinstance(source, ArrayRows)]
        self.weight = weight.array if isinstance(weight, ArrayRows) else None
        self.in_memory = all(isinstance(source, ArrayRows) for source in self._sources())

    def load(self) -> None:
        """See `Data.load`."""
        y, weight = (None if s is None else loaded(s) for s in (self._y, self._weight))
        self._take([loaded(source) for source in self._x], y, weight)

    def _sources(self) -> list[Source]:
        return [source for source in (*self._x, self._y, self._weight) if source is not None]

    @property
    def y(self) -> Array | None:
        """Targets in memory."""
        return self._y.array if isinstance(self._y, ArrayRows) else None

    @y.setter
    def y(self, array: Array | None) -> None:
        self._y = None if array is None else ArrayRows("y", array, checked=True)

    def targets(self) -> Array:
        """All targets, as the user has them, or as they were last set; read if need be."""
        assert self._y is not None
        return loaded(self._y).array

    def batches(self, batch_size: int, last: str = "merge") -> int | None:
        """Batches of an epoch."""
        return count_batches(self._rows, batch_size, last)

    def blocks(
        self,
        order: Array | None,
        batch_size: int,
        *,
        start_batch: int = 0,
        last: str = "merge",
        group: int = 1,
        depth: int = 1,
        size: int | None = None,
    ) -> Iterator[Block]:
        """See `Data.blocks`."""
        if self.chosen is not None:
            order = self.chosen if order is None else self.chosen[order]
        rows = self._rows if order is None else len(order)
        if size is None:
            size = block_bytes(self._x, order is None)
        per_block = batches_in(size, self._x, batch_size, group)
        buffers = Buffers(depth + 1)
        with ExitStack() as stack:
            sources = [stack.enter_context(source.opened()) for source in self._sources()]
            forward = any(source.forward for source in sources)
            for start, stop, batches in cuts(rows, batch_size, last, start_batch, per_block):
                room = buffers.take(min(rows, per_block * batch_size + 1), sources)
                arrays = [array[: stop - start] for array in room]
                numbers = start if order is None else order[start:stop]
                places = None if order is None or not forward else np.argsort(order[start:stop])
                for source, array in zip(sources, arrays, strict=True):
                    source.fill(numbers, places, array)
                yield Block(
                    *parts(arrays, len(self._x), self._y is not None),
                    start, batch_size, batches, numbers,
                )  # fmt: skip
