"""Tables of Arrow, which may be files mapped into memory: rows are read batch by batch."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from minidl.data.frames import REFUSED, ROWS
from minidl.data.source import Source
from minidl.memory import Array


class ArrowRows(Source):
    """Rows of a table (N, columns), or of one array (N,).

    Batches are pieces of the table that lie in one stretch, so that taking rows from them joins
    and copies nothing else.
    """

    def __init__(self, name: str, value: Any) -> None:
        pa = sys.modules["pyarrow"]
        self.name = name
        vector = isinstance(value, (pa.ChunkedArray, pa.Array))
        if vector:
            table = pa.table({"": value})
        elif isinstance(value, pa.Table):
            table = value
        else:
            table = pa.Table.from_batches(value if isinstance(value, (list, tuple)) else [value])
        self.labels = None if vector else table.column_names
        dtypes = [self._dtype(field.type, j) for j, field in enumerate(table.schema)]
        shape = (table.num_rows,) if vector else (table.num_rows, table.num_columns)
        super().__init__(name, shape, np.result_type(*dtypes) if dtypes else np.dtype(np.float64))
        self.batches = [batch for batch in table.to_batches() if len(batch)]
        self.starts = np.cumsum([0, *map(len, self.batches)])

    def _where(self, j: int) -> str:
        """Names the argument and one of its columns."""
        return self.name if self.labels is None else f"{self.name}, column {self.labels[j]!r}"

    def _dtype(self, kind: Any, j: int) -> np.dtype[Any]:
        """NumPy's dtype for a type of Arrow."""
        types = sys.modules["pyarrow"].types
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
            raise TypeError(f"{self._where(j)}: {REFUSED.format(f'type {kind}')}")
        dtype: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
        return dtype

    def piece(self, out: Array) -> int:
        """Many rows, since every column of them is a call."""
        return ROWS

    def read(self, start: int, stop: int, out: Array) -> None:
        """Batch by batch."""
        done = start
        while done < stop:
            k = int(np.searchsorted(self.starts, done, "right")) - 1
            end = min(stop, int(self.starts[k + 1]), done + ROWS)
            piece = self.batches[k].slice(done - int(self.starts[k]), end - done)
            self._convert(piece, done, out[done - start : end - start])
            done = end

    def fetch(self, rows: Array, to: np.dtype[Any]) -> Array:
        """Rows of one batch after the other."""
        indices = sys.modules["pyarrow"].array
        out = np.empty((len(rows), *self.shape[1:]), to)
        batch_of = np.searchsorted(self.starts, rows, "right") - 1
        start = 0
        for end in [*np.flatnonzero(np.diff(batch_of)) + 1, len(rows)]:
            k = batch_of[start]
            piece = self.batches[k].take(indices(rows[start:end] - self.starts[k]))
            self._convert(piece, rows[start:end], out[start:end])
            start = end
        return out

    def _convert(self, piece: Any, rows: Array | int, out: Array) -> None:
        """The columns of a record batch; `rows` is the number of its first row, or of each."""
        for j, column in enumerate(piece.columns):
            if column.null_count:
                k = int(column.is_null().to_numpy(zero_copy_only=False).argmax())
                row = rows + k if isinstance(rows, int) else rows[k]
                raise ValueError(
                    f"{self._where(j)}: expected no missing values, got one in row {row}"
                )
            values = column.to_numpy(zero_copy_only=False)
            out[(..., j) if out.ndim == 2 else ...] = values
