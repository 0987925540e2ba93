"""Columns of a table by name: numbers or categories, missing values, from any frame or array."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np

from minidl.data.kinds import made_by
from minidl.memory import Array

ADVICE = "expected numbers, booleans, strings or categories"


class Column:
    """One column: numbers with NaN where they are missing, or objects with None.

    Attributes
    ----------
    name : str
        For messages.
    numbers : ndarray of shape (N,), float64, or None
        None if it holds something else than numbers.
    objects : list
        Its values as Python objects; missing ones are None.
    """

    def __init__(self, name: str, numbers: Array | None, objects: list[Any] | None = None) -> None:
        self.name = name
        self.numbers = numbers
        self._objects = objects

    def __len__(self) -> int:
        return len(self.objects if self.numbers is None else self.numbers)

    def take(self, rows: Array) -> Column:
        """The same of some rows."""
        if self.numbers is not None:
            return Column(self.name, self.numbers[rows])
        return Column(self.name, None, [self.objects[row] for row in rows.tolist()])

    @property
    def objects(self) -> list[Any]:
        """Values, None where they are missing."""
        if self._objects is None:
            assert self.numbers is not None
            self._objects = [None if v != v else v for v in self.numbers.tolist()]
        return self._objects


class Columns:
    """The columns of a table.

    Parameters
    ----------
    X : frame of pandas or polars, Arrow table, or array_like of shape (N, columns)
    labels : sequence of str or other labels, optional
        The columns wanted, found by label in a frame, whatever their order; by place in an array.
    count : int, optional
        How many an array must have.
    owner : str
        What was fitted with these columns, for messages.

    Raises
    ------
    ValueError
        A column is missing, is one too many, or is there twice; X is empty or not of two
        dimensions.
    TypeError
        X or a column is of a kind that is not known here.
    """

    def __init__(
        self,
        X: Any,
        labels: Sequence[Any] | None = None,
        count: int | None = None,
        owner: str = "the estimator",
    ) -> None:
        self.is_frame = True
        self._read: Callable[[Any, int, str], Column]
        if made_by(X, "pandas", "DataFrame"):
            self._read = _from_pandas
            own = list(X.columns)
        elif made_by(X, "polars", "DataFrame"):
            self._read = _from_polars
            own = list(X.columns)
        elif made_by(X, "polars", "LazyFrame"):
            raise TypeError("X: expected a DataFrame, got a LazyFrame; call .collect() first")
        elif made_by(X, "pyarrow", "Table", "RecordBatch"):
            self._read = _from_arrow
            own = X.schema.names
        else:
            self.is_frame = False
            self._read = _from_array
            X = _as_array(X)
            own = list(range(X.shape[1]))
        self.table = X
        self.rows = len(X) if self.is_frame else int(X.shape[0])
        shape = (self.rows, len(own))
        if self.rows == 0:
            raise ValueError(
                f"X: expected at least one row, got 0 sample(s) (shape={shape}) while a minimum of "
                "1 is required"
            )
        if not own:
            raise ValueError(
                f"X: expected at least one column, got 0 feature(s) (shape={shape}) while a "
                "minimum of 1 is required."
            )
        self.labels: list[Any] | None = own if self.is_frame else None
        self._place(own, labels, count, owner)

    @property
    def names(self) -> list[str] | None:
        """The labels of a frame, if all are strings."""
        return _names(self.labels)

    def _place(
        self, own: list[Any], labels: Sequence[Any] | None, count: int | None, owner: str
    ) -> None:
        """Find where each wanted column stands."""
        twice = sorted(str(label) for label, n in Counter(own).items() if n > 1)
        if twice:
            raise ValueError(f"X: expected each column once, got {_some(twice)} more than once")
        self.places = list(range(len(own)))
        if labels is not None and self.is_frame:
            at = {label: i for i, label in enumerate(own)}
            missing = [label for label in labels if label not in at]
            wanted = set(labels)
            extra = [label for label in own if label not in wanted]
            if missing or extra:
                said = [f"lacks {_some(missing)}"] * bool(missing)
                said += [f"has {_some(extra)} beside them"] * bool(extra)
                raise ValueError(
                    f"X: expected the {len(labels)} columns of fit, but it {' and '.join(said)}"
                )
            self.places = [at[label] for label in labels]
        elif count is not None and len(own) != count:
            raise ValueError(
                f"X has {len(own)} features, but {owner} is expecting {count} features as input"
            )
        if count is not None and (_names(labels) is None) != (self.names is None):
            new = self.names is not None
            has, was = ("has", "without") if new else ("does not have valid", "with")
            warnings.warn(
                f"X {has} feature names, but {owner} was fitted {was} feature names",
                UserWarning,
                stacklevel=5,
            )
        shown = own if labels is None else labels
        self._shown = [repr(label) if isinstance(label, str) else str(label) for label in shown]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> Column:
        """Column i of those wanted, which names itself in messages."""
        return self._read(self.table, self.places[i], f"X, column {self._shown[i]}")


def _names(labels: Sequence[Any] | None) -> list[str] | None:
    """Labels that are all strings."""
    if labels is None or not all(isinstance(label, str) for label in labels):
        return None
    return list(labels)


def _some(names: Sequence[Any], most: int = 5) -> str:
    """Names for a message, the first few of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ("column " if len(names) == 1 else "columns ") + ", ".join(
        repr(name) for name in names[:most]
    ) + more  # fmt: skip


def _as_array(X: Any) -> Array:
    """An array of two dimensions, of numbers or of objects."""
    if hasattr(X, "toarray"):
        raise TypeError(
            f"X: Sparse data was passed ({type(X).__name__}), but dense data is required; use "
            "X.toarray(), or MLPClassifier and MLPRegressor, which take sparse rows"
        )
    if not isinstance(X, np.ndarray):
        rows, X = X, np.asarray(X)
        if X.dtype.kind in "US":  # of mixed rows: numbers must stay numbers
            X = np.asarray(rows, dtype=object)
    if X.dtype.kind == "c":
        raise ValueError(f"X: Complex data not supported; {ADVICE}, got {X.dtype}")
    if X.dtype.kind not in "fiubOUST":
        raise TypeError(f"X: {ADVICE}, got {X.dtype}")
    if X.ndim != 2:
        raise ValueError(
            f"X: Expected 2D array, got {'scalar' if X.ndim == 0 else f'{X.ndim}D'} array instead, "
            f"of shape {X.shape}. Reshape your data with X.reshape(-1, 1) if it has one column, "
            "with X.reshape(1, -1) if it is one row"
        )
    array: Array = X
    return array


def _from_array(array: Array, place: int, name: str) -> Column:
    values = array[:, place]
    if values.dtype.kind in "fiub":
        return Column(name, _finite(values.astype(np.float64), name))
    return _from_objects(values.tolist(), name)


def _from_pandas(frame: Any, place: int, name: str) -> Column:
    series = frame.iloc[:, place]
    dtype = series.dtype
    if type(dtype).__name__ == "CategoricalDtype":
        levels = [*series.cat.categories.tolist(), None]  # code -1 is a missing value
        return Column(name, None, [levels[code] for code in series.cat.codes.tolist()])
    kind = getattr(getattr(dtype, "numpy_dtype", dtype), "kind", "O")
    if kind in "fiub":
        return Column(name, _finite(series.to_numpy(dtype=np.float64, na_value=np.nan), name))
    if kind in "mM" or (kind == "O" and _is_time(str(dtype))):
        raise TypeError(_no_time(name, dtype))
    missing = series.isna().tolist()
    values = [None if gone else v for v, gone in zip(series.tolist(), missing, strict=True)]
    return _from_objects(values, name)


def _from_polars(frame: Any, place: int, name: str) -> Column:
    series = frame.to_series(place)
    dtype = series.dtype
    if dtype.is_numeric() or str(dtype) == "Boolean":
        import polars

        return Column(name, _finite(series.cast(polars.Float64).to_numpy().copy(), name))
    if dtype.is_temporal():
        raise TypeError(_no_time(name, dtype))
    values = series.to_list()
    if str(dtype).startswith(("Categorical", "Enum")):
        return Column(name, None, values)
    return _from_objects(values, name)


def _from_arrow(table: Any, place: int, name: str) -> Column:
    import pyarrow as pa

    values, kind = table.column(place), table.schema.types[place]
    if pa.types.is_null(kind):
        return Column(name, np.full(len(table), np.nan))
    if any(is_kind(kind) for is_kind in (pa.types.is_integer, pa.types.is_floating,
                                         pa.types.is_boolean, pa.types.is_decimal)):  # fmt: skip
        return Column(name, _finite(_arrow_numbers(values), name))
    if pa.types.is_temporal(kind):
        raise TypeError(_no_time(name, kind))
    if pa.types.is_dictionary(kind):
        return Column(name, None, values.to_pylist())
    return _from_objects(values.to_pylist(), name)


def _arrow_numbers(values: Any) -> Array:
    """Arrow's numbers as float64, NaN where they are null."""
    import pyarrow as pa

    numbers = values.cast(pa.float64(), safe=False)
    return np.array(numbers.to_numpy(zero_copy_only=False), np.float64)


def _is_time(dtype: str) -> bool:
    return any(word in dtype for word in ("date", "time", "period", "interval"))


def _no_time(name: str, dtype: Any) -> str:
    return (
        f"{name}: {ADVICE}, got {dtype}; give what matters of a time as columns of its own: year, "
        "month, weekday, hour, or days since a date"
    )


def _from_objects(values: list[Any], name: str) -> Column:
    """A column of Python objects: numbers if all are, else categories."""
    values = [None if is_missing(value) else value for value in values]
    present = [value for value in values if value is not None]
    if present and all(is_number(value) for value in present):
        return Column(name, as_numbers(values, name))
    for value in present:
        if not isinstance(value, (str, bytes)) and not is_number(value):
            raise TypeError(f"{name}: {ADVICE}, got a value of type {type(value).__name__}")
    return Column(name, None, values)


def is_number(value: Any) -> bool:
    """True for numbers and booleans."""
    return isinstance(value, (Real, Decimal, np.bool_))


def as_numbers(values: Sequence[Any], name: str) -> Array:
    """Numbers and None as float64, NaN where they are missing; none is infinite."""
    try:
        numbers = [np.nan if value is None else float(value) for value in values]
    except OverflowError:
        raise ValueError(f"{name}: expected numbers that float64 can hold") from None
    return _finite(np.array(numbers, np.float64), name)


def is_missing(value: Any) -> bool:
    """None, NaN, and pandas' NA."""
    return (
        value is None
        or (isinstance(value, (float, np.floating)) and value != value)
        or type(value).__name__ in ("NAType", "NaTType")
    )


def _finite(numbers: Array, name: str) -> Array:
    """The numbers, none infinite."""
    if np.isinf(numbers).any():
        row = int(np.isinf(numbers).argmax())
        raise ValueError(f"{name}: expected finite numbers or NaN, got infinity in row {row}")
    return numbers
