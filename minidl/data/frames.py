"""Frames and series of pandas and polars, converted to arrays a few columns at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import checks
from minidl.data.kinds import made_by
from minidl.memory import Array, empty

GROUP = 16  # columns at a time: in float32 they fill a cache line of each row
ROWS = 4096  # rows at a time, so that these lines stay in cache
POLARS = {"Boolean", *(f"{k}{n}" for k in ("Int", "UInt", "Float") for n in (8, 16, 32, 64))}
REFUSED = (
    "expected real numbers or booleans, got {}; encode it as integer codes, which an Embedding "
    "takes, or as one-hot columns"
)


def array(value: Any, to: np.dtype[Any] | None, features: int | None, name: str) -> Array:
    """A series (N,) in its own dtype, a frame (N, columns) in `to`, or in the common dtype."""
    if made_by(value, "polars", "LazyFrame"):
        raise TypeError(f"{name}: expected a DataFrame, got a LazyFrame; call .collect() first")
    if made_by(value, "pandas", "Series") or made_by(value, "polars", "Series"):
        return _numbers(value, name)
    rows, columns = value.shape
    checks.matrix_shape(value.shape, features, name)
    if to is None:
        to = np.result_type(bool, *(_column(value, j, name) for j in range(columns)))
    out = empty((rows, columns), to, name)
    with np.errstate(over="ignore"):
        for first in range(0, columns, GROUP):
            _copy_columns(value, first, out[:, first : first + GROUP], name)
    checks.finite(out, f"{name} as {to}", 0, [str(c) for c in value.columns])
    return out


def _copy_columns(frame: Any, first: int, out: Array, name: str) -> None:
    """The columns from `first` on, converted."""
    group = [_column(frame, first + j, name) for j in range(out.shape[1])]
    for start in range(0, len(out), ROWS):
        for j, values in enumerate(group):
            out[start : start + ROWS, j] = values[start : start + ROWS]


def _column(frame: Any, j: int, name: str) -> Array:
    """One column, finite."""
    pandas = hasattr(frame, "iloc")
    series = frame.iloc[:, j] if pandas else frame.to_series(j)
    where = f"{name}, column {frame.columns[j]!r}"
    values = _numbers(series, where)
    checks.finite(values, where)
    return values


def _numbers(series: Any, where: str) -> Array:
    """The values of a series, without a copy where it holds a NumPy array."""
    if hasattr(series, "iloc"):
        dtype = _numpy_dtype(series.dtype)
        known = isinstance(dtype, np.dtype) and dtype.kind in "fiub"
        if not known or (dtype.kind == "f" and dtype.itemsize > 8):
            raise TypeError(f"{where}: {REFUSED.format(f'dtype {series.dtype}')}")
        if dtype is not series.dtype:
            _no_missing(series.isna().to_numpy(), where)
        return np.asarray(series.to_numpy(dtype=dtype))
    if str(series.dtype) not in POLARS:
        raise TypeError(f"{where}: {REFUSED.format(f'dtype {series.dtype}')}")
    if series.null_count():
        _no_missing(series.is_null().to_numpy(), where)
    return np.asarray(series.to_numpy())


def _numpy_dtype(dtype: Any) -> Any:
    """The NumPy dtype of what a dtype of pandas holds; itself if it is one already."""
    if type(dtype).__name__ == "SparseDtype":
        return dtype.subtype
    return getattr(dtype, "numpy_dtype", dtype)


def _no_missing(missing: Array, where: str) -> None:
    if missing.any():
        row = int(missing.argmax())
        raise ValueError(f"{where}: expected no missing values, got one in row {row}")
