"""Checks at the door: what users pass in becomes arrays that the kernels can trust, or an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl.memory import Array

if TYPE_CHECKING:
    import numpy.typing as npt


def dtype(which: npt.DTypeLike) -> np.dtype[np.floating]:
    """float32 or float64."""
    for known in (np.dtype(np.float32), np.dtype(np.float64)):
        try:
            if np.dtype(which) == known:
                return known
        except TypeError:
            break
    raise ValueError(f"dtype: expected 'float32' or 'float64', got {which!r}")


def positive_int(value: Any, name: str, least: int = 1) -> int:
    """An integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")
    return int(value)


def number(
    value: Any,
    name: str,
    low: float,
    high: float = np.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """A finite number within bounds."""
    ok = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if (
        not ok
        or not np.isfinite(value)
        or not low <= value <= high
        or (open_low and value == low)
        or (open_high and value == high)
    ):
        left, right = "(" if open_low else "[", ")" if open_high or high == np.inf else "]"
        raise ValueError(
            f"{name}: expected a number in {left}{low:g}, {high:g}{right}, got {value!r}"
        )
    return float(value)


def same_shape(value: npt.ArrayLike, shape: Sequence[int], name: str) -> None:
    """The shape must be exactly `shape`."""
    if np.shape(value) != tuple(shape):
        raise ValueError(f"{name}: expected shape {tuple(shape)}, got {np.shape(value)}")


def _readable(value: Any) -> Any:
    """A tensor of PyTorch's as numpy reads it: off its graph and device, at least float32."""
    if not hasattr(value, "detach"):
        return value
    value = value.detach().cpu()
    small = value.is_floating_point() and value.element_size() < 4  # bfloat16 is none of numpy's
    return value.float() if small else value


def state_value(value: Any, own: Array, name: str) -> Array:
    """A value of a state dict, an array or a tensor of PyTorch's: finite, of the right shape."""
    array = np.asarray(_readable(value))
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name}: expected real numbers, got dtype {array.dtype}")
    if own.dtype.kind == "i" and array.dtype.kind == "f":
        raise TypeError(f"{name}: expected an integer, got dtype {array.dtype}")
    same_shape(array, own.shape, name)
    finite(np.atleast_1d(array), name)
    if own.dtype.kind == "f":
        with np.errstate(over="ignore"):
            array = array.astype(own.dtype)
        finite(np.atleast_1d(array), f"{name} as {own.dtype}")
    return array


def _real(value: Any, name: str) -> Array:
    """An array of real numbers or booleans."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: expected an array, got rows of different lengths") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected real numbers, got dtype {array.dtype}")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        raise TypeError(f"{name}: expected at most float64, got dtype {array.dtype}")
    return array


def shape_and_kind(value: Any) -> tuple[tuple[int, ...], str]:
    """Shape and kind of dtype; ((), "O") for what is no array, which other checks then refuse."""
    try:
        array = np.asarray(value)
    except ValueError:
        return (), "O"
    return array.shape, array.dtype.kind


def finite(array: Array, name: str) -> None:
    """No NaN, no infinity; an error names the first place."""
    if array.dtype.kind != "f":
        return
    with np.errstate(all="ignore"):
        if np.isfinite(array.sum()):  # one pass without a temporary; a large sum may overflow
            return
    bad = ~np.isfinite(array)
    if bad.any():
        where = np.unravel_index(int(bad.argmax()), array.shape)
        labels = ("row", "column")[: array.ndim] if array.ndim <= 2 else ("index",) * array.ndim
        place = ", ".join(f"{label} {i}" for label, i in zip(labels, where, strict=True))
        raise ValueError(f"{name}: expected finite numbers, got {array[where]} in {place}")


def _converted(array: Array, to: np.dtype[np.floating], name: str) -> Array:
    """`array` in the dtype, native byte order; the same object if it is so already."""
    finite(array, name)
    if array.dtype == to and array.dtype.isnative:
        # Strides that the kernels cannot add up (an overlay of fields, say) are copied away.
        return array if all(s % to.itemsize == 0 for s in array.strides) else array.copy()
    with np.errstate(over="ignore"):
        new = array.astype(to)
    if new.dtype.itemsize < array.dtype.itemsize:
        finite(new, f"{name} as {to}")
    return new


def matrix(value: Any, to: np.dtype[np.floating], features: int | None, name: str) -> Array:
    """A finite matrix (N, features) in the dtype, in any layout; converted if need be."""
    array = _real(value, name)
    if array.ndim != 2:
        raise ValueError(
            f"{name}: expected 2 dimensions (rows, features), got shape {array.shape}; "
            f"one row is {name}[None, :], one column {name}[:, None]"
        )
    if features is not None and array.shape[1] != features:
        raise ValueError(f"{name}: expected {features} features (columns), got shape {array.shape}")
    return _converted(array, to, name)


def not_empty(array: Array, name: str) -> None:
    """At least one row."""
    if len(array) == 0:
        raise ValueError(f"{name}: expected at least one row, got shape {array.shape}")


def same_rows(y: Array, rows: int, name: str) -> None:
    """As many rows as X."""
    if len(y) != rows:
        raise ValueError(f"{name}: expected {rows} rows, as many as X has, got shape {y.shape}")


def labels(value: Any, rows: int, classes: int, name: str) -> npt.NDArray[np.int64]:
    """Class labels (N,) in [0, classes), as int64."""
    array = _real(value, name)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"{name}: expected labels of shape (rows,), got shape {array.shape}")
    same_rows(array, rows, name)
    if array.dtype.kind == "f":
        raise TypeError(
            f"{name}: expected integer class labels, got dtype {array.dtype}; convert them with "
            f"{name}.astype(int), or pass class probabilities of shape (rows, {classes})"
        )
    if rows and (int(array.min()) < 0 or int(array.max()) >= classes):
        bad = np.flatnonzero((array < 0) | (array >= classes))[0]
        raise ValueError(
            f"{name}: expected labels from 0 to {classes - 1}, got {array[bad]} in row {bad}"
        )
    return np.ascontiguousarray(array, np.int64)


def targets(value: Any, rows: int, columns: int, to: np.dtype[np.floating], name: str) -> Array:
    """Targets (N, columns) in the dtype; (N,) stands for one column."""
    array = _real(value, name)
    if array.ndim == 1 and columns == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] != columns:
        shape = f"(rows, {columns})" + (" or (rows,)" if columns == 1 else "")
        raise ValueError(f"{name}: expected shape {shape}, got shape {array.shape}")
    same_rows(array, rows, name)
    return _converted(array, to, name)
