"""Checks at the door: what users pass in becomes arrays that the kernels can trust, or an error."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from minidl.memory import Array, check_room

if TYPE_CHECKING:
    import numpy.typing as npt

Check: TypeAlias = "Callable[[Any, str], Any]"  # of a value and its name; gives what is to be kept

MOST = 2**29  # of a size: two of them are a shape that NumPy can at least count


class Checked:
    """Base of what users hold and may change: attributes are checked whenever they are set."""

    _checked: ClassVar[Mapping[str, Check]] = {}
    _fixed: ClassVar[tuple[str, ...]] = ()  # set once

    def __setattr__(self, name: str, value: Any) -> None:
        """Set what may be set, to what fits."""
        if name in self._fixed and name in self.__dict__:
            raise AttributeError(f"{name}: cannot be changed; make a new {type(self).__name__}")
        check = self._checked.get(name)
        super().__setattr__(name, value if check is None else check(value, name))


def optional(check: Check) -> Check:
    """The check, or None as it is."""
    return lambda value, name: None if value is None else check(value, name)


def bounds(low: float, high: float = np.inf, **open_at: bool) -> Check:
    """The check that a value is a finite number within bounds, as `number` has them."""
    return lambda value, name: number(value, name, low, high, **open_at)


def dtype(which: npt.DTypeLike) -> np.dtype[np.floating]:
    """float32 or float64; None, which is float64 to NumPy, is neither."""
    for known in (np.dtype(np.float32), np.dtype(np.float64)):
        try:
            if which is not None and np.dtype(which) == known:
                return known
        except (TypeError, ValueError):
            break
    raise ValueError(f"dtype: expected 'float32' or 'float64', got {which!r}")


def positive_int(value: Any, name: str, least: int = 1) -> int:
    """An integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")
    return int(value)


def flag(value: Any, name: str) -> bool:
    """True or False, of Python or NumPy."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name}: expected True or False, got {value!r:.200}")
    return bool(value)


def size(value: Any, name: str, least: int = 1) -> int:
    """An integer that arrays may be large by."""
    if positive_int(value, name, least) > MOST:
        raise ValueError(f"{name}: expected an integer of at most 2**29, got {value!r}")
    return int(value)


def path(value: Any, name: str = "path") -> str:
    """The path of a file, as text."""
    try:
        text = os.fsdecode(value)
    except TypeError:
        raise TypeError(f"{name}: expected a path, got {type(value).__name__}") from None
    if not text or "\0" in text:
        raise ValueError(f"{name}: expected the path of a file, got {text!r}")
    return text


def printable(text: str) -> str:
    """The text with control characters escaped: a file must not tell the terminal what to do."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def generator(value: Any, name: str = "rng") -> np.random.Generator:
    """A generator of NumPy's."""
    if not isinstance(value, np.random.Generator):
        raise TypeError(f"{name}: expected a numpy.random.Generator, got {type(value).__name__}")
    return value


def seeded(value: Any, name: str = "seed") -> np.random.Generator:
    """The generator of a seed, a whole number of any size; of fresh entropy for None."""
    return np.random.default_rng(None if value is None else positive_int(value, name, 0))


def count(value: Any, name: str, least: int = 0) -> int:
    """An integer that the kernels can count to."""
    if positive_int(value, name, least) >= 2**62:
        raise ValueError(f"{name}: expected an integer below 2**62, got {value!r}")
    return int(value)


def seed(value: Any, name: str) -> int:
    """An integer of 64 bits, as the kernels have their seeds."""
    if positive_int(value, name, 0) >= 2**64:
        raise ValueError(f"{name}: expected an integer below 2**64, got {value!r}")
    return int(value)


def is_number(value: Any) -> bool:
    """True for a real number that float64 can hold, NaN and infinity among them; not for bool."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


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
    if (
        not is_number(value)
        or not math.isfinite(value)
        or not low <= value <= high
        or (open_low and value == low)
        or (open_high and value == high)
    ):
        left, right = "(" if open_low else "[", ")" if open_high or high == np.inf else "]"
        raise ValueError(
            f"{name}: expected a number in {left}{low:g}, {high:g}{right}, got {value!r:.200}"
        )
    return float(value)


def measured(value: Any, name: str) -> float:
    """A number that was measured: NaN and infinity are possible, and arrays without dimensions."""
    single = isinstance(value, np.ndarray) and not value.ndim and value.dtype.kind in "fiub"
    if not single and not is_number(value) and not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected a number, got {value!r:.200}")
    return float(value)


def vector(
    value: Any, name: str, low: float, high: float = np.inf, **bounds: bool
) -> tuple[float, ...]:
    """Finite numbers within bounds, as `number` has them."""
    array = real(value, name)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name}: expected a sequence of numbers, got shape {array.shape}")
    values = enumerate(array.tolist())
    return tuple(number(x, f"{name}[{i}]", low, high, **bounds) for i, x in values)


def number_or_vector(
    value: Any, name: str, low: float, high: float = np.inf, **bounds: bool
) -> float | tuple[float, ...]:
    """A finite number within bounds, or a vector of them."""
    if shape_and_kind(value)[0] == ():
        return number(value, name, low, high, **bounds)
    return vector(value, name, low, high, **bounds)


def same_keys(value: Any, own: Mapping[str, Any], name: str) -> None:
    """A dictionary with the names of another."""
    if not isinstance(value, Mapping) or set(value) != set(own):
        raise ValueError(f"{name}: expected a dict of {', '.join(own)}, got {value!r:.200}")


def one_each(values: Sequence[float], count: int, name: str, what: str) -> None:
    """As many numbers as there are columns."""
    if len(values) != count:
        raise ValueError(
            f"{name}: expected {count} numbers, one for each {what}, got {len(values)}"
        )


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
    array = real(_readable(value), name)
    if array.dtype.kind == "b":
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


def real(value: Any, name: str) -> Array:
    """An array of real numbers or booleans."""
    if isinstance(value, np.ndarray) and hasattr(value, "mask"):
        _no_masked(value, name)
    try:
        array = np.asarray(_readable(value))
    except ValueError as error:
        raise ValueError(f"{name}: expected an array, got rows of different lengths") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected real numbers, got dtype {array.dtype}")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        raise TypeError(f"{name}: expected at most float64, got dtype {array.dtype}")
    return array


def _no_masked(array: Any, name: str) -> None:
    """A masked array has all its values."""
    masked = np.broadcast_to(array.mask, array.shape)
    if masked.any():
        row = int(masked.reshape(len(array), -1).any(axis=1).argmax())
        raise ValueError(f"{name}: expected no missing values, got one in row {row}")


def shape_and_kind(value: Any) -> tuple[tuple[int, ...], str]:
    """Shape and kind of dtype; ((), "O") for what is no array, which other checks then refuse."""
    try:
        array = np.asarray(_readable(value))
    except ValueError:
        return (), "O"
    return array.shape, array.dtype.kind


def is_finite(array: Array) -> bool:
    """No NaN, no infinity."""
    if array.dtype.kind != "f":
        return True
    with np.errstate(all="ignore"):
        if np.isfinite(array.sum()):  # one pass without a temporary; a large sum may overflow
            return True
    return bool(np.isfinite(array).all())


def finite(
    array: Array, name: str, rows: Array | int = 0, columns: Sequence[str] | None = None
) -> None:
    """No NaN, no infinity; an error names the first place.

    `rows` is the number of the first row, or of each; `columns` are names of the columns.
    """
    if is_finite(array):
        return
    where = np.unravel_index(int((~np.isfinite(array)).argmax()), array.shape)
    numbers = [int(i) for i in where]
    if numbers:
        numbers[0] = rows + numbers[0] if isinstance(rows, int) else int(rows[numbers[0]])
    labels = ("row", "column")[: array.ndim] if array.ndim <= 2 else ("index",) * array.ndim
    place = ", ".join(f"{label} {i}" for label, i in zip(labels, numbers, strict=True))
    if columns is not None and array.ndim == 2:
        place += f" ({columns[numbers[1]]!r})"
    raise ValueError(f"{name}: expected finite numbers, got {array[where]} in {place}")


def at_least_0(array: Array, name: str, what: str, rows: Array | int = 0) -> None:
    """No number below 0; an error names the row of the least. `rows` as in `finite`."""
    if array.size and float(array.min()) < 0:
        row = int(np.unravel_index(int(array.argmin()), array.shape)[0])
        row = rows + row if isinstance(rows, int) else int(rows[row])
        raise ValueError(f"{name}: expected {what}, got {array.min()} in row {row}")


def _converted(array: Array, to: np.dtype[np.floating], name: str) -> Array:
    """`array` in the dtype, native byte order; the same object if it is so already."""
    finite(array, name)
    if array.dtype == to and array.dtype.isnative:
        # Strides that the kernels cannot add up (an overlay of fields, say) are copied away.
        return array if all(s % to.itemsize == 0 for s in array.strides) else array.copy()
    check_room(array.size * to.itemsize, f"{name} as {to}")
    with np.errstate(over="ignore"):
        new = array.astype(to)
    if new.dtype.itemsize < array.dtype.itemsize:
        finite(new, f"{name} as {to}")
    return new


def _contiguous(array: Array, to: np.dtype[Any], name: str) -> Array:
    """`array` in the dtype, in C order; the same object if it is so already."""
    if array.dtype != to or not array.flags.c_contiguous:
        check_room(array.size * to.itemsize, f"{name} as {to}")
    return np.ascontiguousarray(array, to)


def matrix(value: Any, to: np.dtype[np.floating], features: int | None, name: str) -> Array:
    """A finite matrix (N, features) in the dtype, in any layout; converted if need be."""
    array = real(value, name)
    matrix_shape(array.shape, features, name)
    return _converted(array, to, name)


def matrix_shape(shape: tuple[int, ...], features: int | None, name: str) -> None:
    """(N, features)."""
    if len(shape) != 2:
        raise ValueError(
            f"{name}: expected 2 dimensions (rows, features), got shape {shape}; "
            f"one row is {name}[None, :], one column {name}[:, None]"
        )
    if features is not None and shape[1] != features:
        raise ValueError(f"{name}: expected {features} features (columns), got shape {shape}")


def not_empty(array: Any, name: str) -> None:
    """At least one row."""
    if array.shape[0] == 0:
        raise ValueError(f"{name}: expected at least one row, got shape {array.shape}")


def same_rows(shape: tuple[int, ...], rows: int, name: str, other: str = "X") -> None:
    """As many rows as another argument."""
    if shape[:1] != (rows,):
        raise ValueError(f"{name}: expected {rows} rows, as many as {other} has, got shape {shape}")


def labels(value: Any, rows: int, classes: int, name: str) -> npt.NDArray[np.int64]:
    """Class labels (N,) in [0, classes), as int64."""
    array = real(value, name)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"{name}: expected labels of shape (rows,), got shape {array.shape}")
    same_rows(array.shape, rows, name)
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
    return _contiguous(array, np.dtype(np.int64), name)


def indices(value: Any, rows: int, name: str) -> npt.NDArray[np.intp]:
    """Numbers of rows, in any order and as often as they stand there; or a mask of all rows."""
    array = real(value, name)
    if array.ndim != 1:
        raise ValueError(f"{name}: expected numbers of rows, (n,), got shape {array.shape}")
    if array.dtype.kind == "b":
        same_rows(array.shape, rows, name)
        array = np.flatnonzero(array)
    if not len(array):
        raise ValueError(f"{name}: expected at least one row, got none")
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected whole numbers, or a mask, got dtype {array.dtype}")
    if int(array.min()) < 0 or int(array.max()) >= rows:
        bad = np.flatnonzero((array < 0) | (array >= rows))[0]
        raise ValueError(
            f"{name}: expected rows from 0 to {rows - 1}, got {array[bad]} in place {bad}"
        )
    return _contiguous(array, np.dtype(np.intp), name)


def weights_shape(shape: tuple[int, ...], rows: int, name: str) -> None:
    """(N,), as many as X has rows."""
    if len(shape) != 1:
        raise ValueError(f"{name}: expected shape (rows,), got shape {shape}")
    same_rows(shape, rows, name)


def weights(value: Any, rows: int, name: str) -> npt.NDArray[np.float64]:
    """Sample weights (N,), at least 0, as float64."""
    array = real(value, name)
    weights_shape(array.shape, rows, name)
    finite(array, name)
    array = _contiguous(array, np.dtype(np.float64), name)
    at_least_0(array, name, "weights of at least 0")
    with np.errstate(over="ignore"):
        if not np.isfinite(array.sum()):
            raise ValueError(f"{name}: expected weights of a finite sum, got {array.max()}")
    return array


def targets(value: Any, rows: int, columns: int, to: np.dtype[np.floating], name: str) -> Array:
    """Targets (N, columns) in the dtype; (N,) stands for one column."""
    array = real(value, name)
    if array.ndim == 1 and columns == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] != columns:
        shape = f"(rows, {columns})" + (" or (rows,)" if columns == 1 else "")
        raise ValueError(f"{name}: expected shape {shape}, got shape {array.shape}")
    same_rows(array.shape, rows, name)
    return _converted(array, to, name)


def one_of(value: Any, known: Sequence[Any], name: str) -> None:
    """One of the values that an argument may have."""
    if not any(value is one or (type(value) is type(one) and value == one) for one in known):
        shown = ", ".join(map(repr, known[:-1]))
        raise ValueError(f"{name}: expected {shown} or {known[-1]!r}, got {value!r}")


def one(value: Any, only: int, name: str) -> None:
    """The only value that an argument may have."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value != only:
        raise ValueError(f"{name}: expected {only}, got {value!r}")


def categories(
    parts: Sequence[Array],
    wanted: Iterable[tuple[int, int, int]],
    name: str,
    rows: Array | int = 0,
) -> None:
    """Columns, counted over all parts, that must hold whole numbers from 0 to categories - 1.

    `wanted` are (first column, columns, categories); `rows` as in `finite`.
    """
    for first, columns, count in wanted:
        place = 0
        for part in parts:
            low, high = max(first - place, 0), min(first + columns - place, part.shape[1])
            if low < high:
                _whole(part[:, low:high], count, name, rows, place + low)
            place += part.shape[1]


def _whole(array: Array, count: int, name: str, rows: Array | int, column: int) -> None:
    bad = (array != np.floor(array)) | (array < 0) | (array >= count)
    if bad.any():
        i, j = np.unravel_index(int(bad.argmax()), array.shape)
        row = rows + i if isinstance(rows, int) else rows[i]
        raise ValueError(
            f"{name}: expected categories, whole numbers from 0 to {count - 1}, got {array[i, j]} "
            f"in row {row}, column {column + j}"
        )


def known_name(value: Any, known: Iterable[str], name: str) -> str:
    """A name out of those known, in capitals or not; an error has the nearest."""
    names = {own.lower(): own for own in known}
    if not isinstance(value, str) or value.lower() not in names:
        from difflib import get_close_matches

        near = get_close_matches(str(value)[:50].lower(), names, 1, 0)[0]
        raise ValueError(
            f"{name}: expected one of {', '.join(names.values())}, got {value!r:.50}; did you mean "
            f"{names[near]!r}?"
        )
    return names[value.lower()]
