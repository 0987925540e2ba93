"""Rows of an .npy file, read without mapping it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minidl.data.npy import NpyFile
from minidl.data.source import Source
from minidl.memory import Array

REACH = 8192  # bytes a row that reading all between the first and the last may cost


class NpyRows(Source):
    """Rows of an .npy file."""

    descriptor = -1

    def __init__(self, name: str, file: NpyFile) -> None:
        super().__init__(name, file.shape, file.dtype)
        self.file = file

    @contextmanager
    def opened(self) -> Iterator[Source]:
        """A copy of its own, with the file open."""
        from copy import copy

        reader = copy(self)
        with open(self.file.path, "rb", buffering=0) as file:
            self.file.check_size(file)
            reader.descriptor = file.fileno()
            yield reader

    def read(self, start: int, stop: int, out: Array) -> None:
        """Straight into `out`, or by pieces if they are to be converted."""
        if out.dtype == self.file.dtype:
            self._fill(start, out)
            return
        size = self.piece(out)
        raw = self._raw(min(size, stop - start))
        for first in range(start, stop, size):
            rows = raw[: stop - first]
            self._fill(first, rows)
            out[first - start : first - start + len(rows)] = rows

    def fetch(self, rows: Array, to: np.dtype[Any]) -> Array:
        """All between the first row and the last if they lie close, else row by row."""
        raw = self._raw(len(rows))
        first, stop, width = int(rows[0]), int(rows[-1]) + 1, raw.strides[0]
        if (stop - first) * width > len(rows) * max(width, REACH):
            self._fill_singly(rows, raw)
            return raw
        window = self._raw(min(4 * self.piece(raw), stop - first))
        while first < stop:
            part = window[: stop - first]
            self._fill(first, part)
            begin, end = np.searchsorted(rows, (first, first + len(part)))
            raw[begin:end] = part[rows[begin:end] - first]
            first += len(part)
        return raw

    def _raw(self, rows: int) -> Array:
        """Room for rows as the file has them."""
        return np.empty((rows, *self.shape[1:]), self.file.dtype)

    def _fill(self, row: int, out: Array) -> None:
        """Read rows that follow each other."""
        view, position = _bytes(out), self.file.start + row * out.strides[0]
        while view:
            got = os.preadv(self.descriptor, (view,), position)
            if got == 0:
                raise ValueError(f"{self.file.path}: the file was truncated while it was read")
            view, position = view[got:], position + got

    def _fill_singly(self, rows: Array, out: Array) -> None:
        """Read rows that lie apart."""
        view, width, read = _bytes(out), out.strides[0], os.preadv
        for k, position in enumerate((self.file.start + rows * width).tolist()):
            one = view[k * width : (k + 1) * width]
            if read(self.descriptor, (one,), position) != width:  # rare, may go on or fail
                self._fill(int(rows[k]), out[k : k + 1])


def _bytes(array: Array) -> memoryview:
    """The memory of an array in C order."""
    return memoryview(array.reshape(-1).view(np.uint8))
