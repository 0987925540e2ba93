"""Rows of one argument, read on demand; those of arrays, in memory or mapped from a file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from minidl import checks
from minidl.memory import Array, empty

PIECE = 1 << 18  # bytes that are read at once on their way to a block


class Source:
    """Rows of an argument.

    `read` and `gather` write rows to `out`, an array of their shape in C order, converted to its
    dtype.
    """

    checked = False  # known to be what it should be
    forward = True  # quickest to read by ascending numbers of rows
    positive = False  # no number may be negative
    labels: Sequence[str] | None = None  # names of the columns

    def __init__(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.name = name
        self.shape = shape
        self.dtype = dtype.newbyteorder("=")
        self.to = self.dtype  # of the rows in a block

    def opened(self) -> AbstractContextManager[Source]:
        """The source, ready to be read by one thread."""
        return nullcontext(self)

    def read(self, start: int, stop: int, out: Array) -> None:
        """Rows from start to stop."""
        raise NotImplementedError

    def fetch(self, rows: Array, to: np.dtype[Any]) -> Array:
        """A piece of rows by ascending number, in `to` or in the source's own dtype."""
        raise NotImplementedError

    def piece(self, out: Array) -> int:
        """How many rows to fetch at once: what stays in cache."""
        return max(1, PIECE // max(1, out.strides[0]))

    def gather(self, rows: Array, places: Array | None, out: Array) -> None:
        """Rows in any order, which `places` sorts: reading goes forward through the source."""
        if places is None:
            places = np.argsort(rows)
        size = self.piece(out)
        for start in range(0, len(rows), size):
            part = places[start : start + size]
            out[part] = self.fetch(rows[part], out.dtype)

    def fill(self, numbers: Array | int, places: Array | None, out: Array) -> None:
        """Checked rows: by their numbers, or in order from a number on."""
        if self.checked:
            self._copy(numbers, places, out)
            return
        with np.errstate(over="ignore"):
            self._copy(numbers, places, out)
        self._check(numbers, out)

    def _copy(self, numbers: Array | int, places: Array | None, out: Array) -> None:
        if isinstance(numbers, int):
            self.read(numbers, numbers + len(out), out)
        else:
            self.gather(numbers, places, out)

    def _check(self, numbers: Array | int, out: Array) -> None:
        """What was read is finite, and positive if it must be."""
        if self.dtype.kind == "f" and not checks.is_finite(out):
            bad = ~np.isfinite(out).reshape(len(out), -1).all(axis=1)
            first = int(bad.argmax())
            row = numbers + first if isinstance(numbers, int) else int(numbers[first])
            original = np.empty((1, *self.shape[1:]), self.dtype)
            self.read(row, row + 1, original)
            checks.finite(original, self.name, row, self.labels)
            checks.finite(out, f"{self.name} as {out.dtype}", numbers, self.labels)
        if self.positive:
            checks.at_least_0(out, self.name, "weights of at least 0", numbers)


class MappedRows(Source):
    """Rows of an array that a file holds."""

    def __init__(self, name: str, array: Array) -> None:
        super().__init__(name, array.shape, array.dtype)
        self.array = array

    def read(self, start: int, stop: int, out: Array) -> None:
        """A copy."""
        out[...] = self.array[start:stop]

    def fetch(self, rows: Array, to: np.dtype[Any]) -> Array:
        """A copy."""
        return self.array[rows]


class ArrayRows(MappedRows):
    """Rows of an array in memory."""

    forward = False

    def __init__(self, name: str, array: Array, *, checked: bool = False) -> None:
        super().__init__(name, array)
        self.checked = checked

    def gather(self, rows: Array, places: Array | None, out: Array) -> None:
        """A copy."""
        size = self.piece(out)
        for start in range(0, len(rows), size):
            out[start : start + size] = self.array[rows[start : start + size]]


def loaded(source: Source) -> ArrayRows:
    """All rows of a source, in memory."""
    if isinstance(source, ArrayRows):
        return source
    out = empty(source.shape, source.to, source.name)
    with source.opened() as ready:
        ready.fill(0, None, out)
    return ArrayRows(source.name, out, checked=True)
