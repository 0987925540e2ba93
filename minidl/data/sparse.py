"""Sparse matrices of SciPy: rows become dense block by block."""

from __future__ import annotations

from typing import Any

from minidl.data.source import Source
from minidl.memory import Array


class SparseRows(Source):
    """Rows of a sparse matrix; formats other than CSR are converted once."""

    forward = False

    def __init__(self, name: str, matrix: Any) -> None:
        if matrix.dtype.kind not in "fiub" or matrix.dtype.itemsize > 8:
            raise TypeError(f"{name}: expected real numbers, got dtype {matrix.dtype}")
        super().__init__(name, matrix.shape, matrix.dtype)
        self.matrix = matrix.tocsr()
        if not self.matrix.has_canonical_format:  # the same place twice: their sum, in this dtype
            self.matrix = self.matrix.copy()
            self.matrix.sum_duplicates()

    def read(self, start: int, stop: int, out: Array) -> None:
        """Rows in order."""
        self._dense(self.matrix[start:stop], out)

    def gather(self, rows: Array, places: Array | None, out: Array) -> None:
        """Rows in any order."""
        self._dense(self.matrix[rows], out)

    def _dense(self, rows: Any, out: Array) -> None:
        rows.astype(out.dtype, copy=False).toarray(out=out)
