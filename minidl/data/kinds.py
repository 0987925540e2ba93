"""What kind of data a value is, told without importing the library that made it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.memory import Array


def made_by(value: Any, library: str, *classes: str) -> bool:
    """True for an object of one of these classes of a library; it is loaded if there is one."""
    module = sys.modules.get(library)
    known = tuple(getattr(module, name) for name in classes if hasattr(module, name))
    return isinstance(value, known)


def is_frame(value: Any) -> bool:
    """True for a frame or series of pandas or polars."""
    if isinstance(value, np.ndarray):  # the common case, which should be quick
        return False
    return any(
        made_by(value, library, "DataFrame", "Series", "LazyFrame")
        for library in ("pandas", "polars")
    )


def is_arrow(value: Any) -> bool:
    """True for Arrow's tables, arrays, record batches and lists of these."""
    if isinstance(value, (list, tuple)):
        return len(value) > 0 and all(made_by(v, "pyarrow", "RecordBatch") for v in value)
    return made_by(value, "pyarrow", "Table", "RecordBatch", "ChunkedArray", "Array")


def is_sparse(value: Any) -> bool:
    """True for SciPy's sparse matrices and arrays of every format."""
    module = sys.modules.get("scipy.sparse")
    return module is not None and bool(module.issparse(value))


def is_mapped(array: Array) -> bool:
    """True if the memory of an array is a file's."""
    base: object = array
    while base is not None:
        if type(base).__module__ == "mmap":
            return True
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    return False


def is_stream(value: Any) -> bool:
    """True for an iterable of batches, or a function that makes one."""
    if isinstance(value, (str, bytes, dict)) or hasattr(value, "__array__"):
        return False
    if isinstance(value, Sequence):  # a list of tuples of arrays; tuples of numbers are rows
        first = value[0] if len(value) else None
        return isinstance(first, tuple) and len(first) > 0 and not np.isscalar(first[0])
    if is_frame(value) or is_arrow(value) or is_sparse(value):
        return False
    return callable(value) or hasattr(value, "__iter__")
