"""Padded, aligned memory: how matrices and parameters lie.

Rows of every matrix that a kernel touches are padded to whole cache lines, so that kernels work on
whole vectors and need no code for what is left over. The padding holds zeros in parameters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# What numpy.typing.NDArray[Any] is; that module takes longer to import than all of minidl.
Array = np.ndarray[Any, np.dtype[Any]]

LINE = 64  # bytes in a cache line


def row_bytes(columns: int, itemsize: int) -> int:
    """Bytes from row to row of a matrix.

    Whole cache lines; from 8 lines upwards an odd number of them, since rows that lie a power of
    two apart fall into the same few cache sets.
    """
    lines = max(1, -(-columns * itemsize // LINE))
    if lines >= 8 and lines % 2 == 0:
        lines += 1
    return lines * LINE


def allocate(size: int) -> Array:
    """`size` bytes of zeros that begin at a cache line."""
    block = np.zeros(size + LINE, np.uint8)
    start = -block.ctypes.data % LINE
    return block[start : start + size]


def address(array: Array | None) -> int:
    """Where an array's first element lies; 0 for None."""
    return 0 if array is None else int(array.__array_interface__["data"][0])
