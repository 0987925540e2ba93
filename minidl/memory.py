"""Padded, aligned memory: how matrices and parameters lie, and whether there is room for them.

Rows of every matrix that a kernel touches are padded to whole cache lines, so that kernels work on
whole vectors and need no code for what is left over. The padding holds zeros in parameters.

Systems promise more memory than they have, and kill who uses it. So whatever is large, and as
large as a user says, is asked for here, and refused before it is touched.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Iterable
from itertools import repeat
from operator import setitem
from typing import Any

import numpy as np

from minidl import cgroups

# What numpy.typing.NDArray[Any] is; that module takes longer to import than all of minidl.
Array = np.ndarray[Any, np.dtype[Any]]

LINE = 64  # bytes in a cache line
LARGE = 1 << 28  # bytes from which the system is asked whether it has them


def row_bytes(columns: int, itemsize: int) -> int:
    """Bytes from row to row of a matrix.

    Whole cache lines; from 8 lines upwards an odd number of them, since rows that lie a power of
    two apart fall into the same few cache sets.
    """
    lines = max(1, -(-columns * itemsize // LINE))
    if lines >= 8 and lines % 2 == 0:
        lines += 1
    return lines * LINE


def allocate(size: int, what: str = "memory") -> Array:
    """`size` bytes of zeros that begin at a cache line; `what` they are for, in errors."""
    check_room(size, what)
    try:
        block = np.zeros(size + LINE, np.uint8)
    except MemoryError:
        raise _no_room(size, what) from None
    start = -block.ctypes.data % LINE
    return block[start : start + size]


def empty(shape: tuple[int, ...], dtype: np.dtype[Any] | type, what: str) -> Array:
    """An array as `numpy.empty` makes it; `what` it is for, in errors."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    check_room(size, what)
    try:
        return np.empty(shape, dtype)
    except MemoryError:
        raise _no_room(size, what) from None


def check_room(size: int, what: str) -> None:
    """Raise MemoryError if so many bytes are more than can be had."""
    if size >= LARGE:
        room = available()
        if size > (sys.maxsize - LINE if room is None else room):
            raise _no_room(size, what, room)


def _no_room(size: int, what: str, room: int | None = None) -> MemoryError:
    left = "there are not so many" if room is None else f"there are {room:,}"
    return MemoryError(f"{what}: expected room for {size:,} bytes, but {left}")


def available(
    root: str = cgroups.ROOT,
    membership: str = cgroups.MEMBERSHIP,
    system: str = "/proc/meminfo",
) -> int | None:
    """Bytes that this process may still take, by the system and its container; None: unknown."""
    found = []
    numbers = _numbers(system)
    swap = 1024 * numbers.get("SwapFree:", 0)
    if "MemAvailable:" in numbers:
        found.append(1024 * numbers["MemAvailable:"] + swap)
    for folder, version in cgroups.groups("memory", root, membership):
        name = "memory.max" if version == 2 else "memory.limit_in_bytes"
        limit = (cgroups.read(f"{folder}/{name}") or "").strip()
        if limit.isdecimal():
            # What processes have written; cached files make room by themselves.
            used = _numbers(f"{folder}/memory.stat").get("anon" if version == 2 else "total_rss", 0)
            found.append(max(int(limit) - used, 0) + swap)
    return min(found, default=None)


def _numbers(path: str) -> dict[str, int]:
    """The numbers of a file with a name and a number in each line."""
    lines = (line.split() for line in (cgroups.read(path) or "").splitlines())
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdecimal()}


def write_all(arrays: Iterable[Array], values: Iterable[Array]) -> None:
    """``array[...] = value`` for each, in one call of C: an interrupt finds all written or none."""
    write: Any = setitem
    deque(map(write, list(arrays), repeat(...), list(values)), 0)


def address(array: Array | None) -> int:
    """Where an array's first element lies; 0 for None."""
    return 0 if array is None else int(array.__array_interface__["data"][0])
