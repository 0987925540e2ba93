"""Files of NumPy, described: their rows are read by `minidl.data.npy_rows`."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from minidl import checks


class NpyFile:
    """Rows of an .npy file, for data larger than memory.

    `Trainer.fit`, `evaluate` and `predict` read them block by block with ordinary file reads. That
    takes memory for a few blocks, and no address space as ``numpy.load(path, mmap_mode="r")`` does.

    Parameters
    ----------
    path : str or path-like
        A file in C order of real numbers or booleans of at most 64 bits, with 2 dimensions
        (rows, columns), 1 for labels and weights, or more for a model that begins with Flatten.

    Attributes
    ----------
    path : str
        Absolute.
    shape : tuple of int
    dtype : numpy.dtype
        As in the file; rows are converted to the model's dtype when they are read.

    Raises
    ------
    ValueError
        Not an .npy file, a truncated one, or one in Fortran order or of no dimension.
    TypeError
        It holds no real numbers.

    Notes
    -----
    The format is that of `numpy.lib.format`, versions 1 to 3. Only the header is read here. With
    ``shuffle=True`` every block takes its rows from the whole file, in ascending order; from a disk
    that seeks slowly, shuffle the file once and train with ``shuffle=False``.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np

    from minidl import checks
    >>> import minidl
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "X.npy")
    >>> np.save(path, np.zeros((1000, 20), np.float32))
    >>> X = minidl.NpyFile(path)
    >>> X.shape, X.dtype, len(X)
    ((1000, 20), dtype('float32'), 1000)
    >>> folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(checks.path(path))
        with open(self.path, "rb") as file:
            self.shape, self.dtype = _header(file, self.path)
            self.start = file.tell()  # of the rows
            self.check_size(file)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        """Number of rows."""
        return self.shape[0]

    def __repr__(self) -> str:
        """Path, shape and dtype."""
        return f"NpyFile({self.path!r}, shape={self.shape}, dtype={self.dtype})"

    def __getitem__(self, rows: slice) -> NpyFile:
        """Some rows that follow each other, as ``X[1000:2000]``; nothing is read."""
        first, stop, step = rows.indices(len(self)) if isinstance(rows, slice) else (0, 0, 0)
        if step != 1:
            raise TypeError(f"rows: expected a slice of rows that follow each other, got {rows!r}")
        part = self._with_shape(max(stop - first, 0), *self.shape[1:])
        part.start += first * (self.nbytes // max(len(self), 1))
        return part

    def _with_shape(self, *shape: int) -> NpyFile:
        from copy import copy

        other = copy(self)
        other.shape = shape
        return other

    def reshape(self, *shape: int) -> NpyFile:
        """The same rows in another shape."""
        if shape[:1] != self.shape[:1] or math.prod(shape) != math.prod(self.shape):
            raise ValueError(f"shape: expected the same rows as {self.shape}, got {shape}")
        return self._with_shape(*shape)

    def check_size(self, file: Any) -> None:
        """The file is as long as its header says."""
        expected, size = self.start + self.nbytes, os.fstat(file.fileno()).st_size
        if size < expected:
            raise ValueError(
                f"{self.path}: expected {expected} bytes, got {size}: the file is truncated"
            )


def _header(file: Any, path: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype."""
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise ValueError(f"version {version[0]}.{version[1]} is not known")
        # Version 3 is version 2 with names of fields in UTF-8, and fields are refused below.
        read = np.lib.format.read_array_header_2_0
        if version == (1, 0):
            read = np.lib.format.read_array_header_1_0
        shape, fortran, dtype = read(file)
    except ValueError as error:
        raise ValueError(f"{path}: expected an .npy file: {error}") from error
    if dtype.kind not in "fiub" or (dtype.kind == "f" and dtype.itemsize > 8):
        raise TypeError(f"{path}: expected real numbers of at most 64 bits, got dtype {dtype}")
    if not shape or min(shape) < 0:
        raise ValueError(f"{path}: expected rows, got shape {shape}")
    if fortran and len(shape) > 1:
        raise ValueError(
            f"{path}: expected C order, got Fortran order; save numpy.ascontiguousarray(...)"
        )
    return shape, dtype
