"""Arrays to learn from; what the target asks for; splitting rows, and scaling columns."""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from minidl.cli.errors import CliError

Floats: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.intp]

UNREADABLE = (ValueError, EOFError, zipfile.BadZipFile, zlib.error)
MINIMUM_ROWS = 5
MOST_CLASSES = 50  # of whole numbers, unless the user says that they are classes


class Task(StrEnum):
    """What to learn; `auto` asks the target."""

    auto = "auto"
    classification = "classification"
    regression = "regression"


@dataclass(frozen=True)
class Table:
    """Rows to learn from.

    Attributes
    ----------
    source : the file's name
    features : names of the columns of X
    X : (N, D): finite numbers, or an Arrow table
    target : name of the target
    y : (N,): floats, integers, bools or strings
    same_unit : whether all columns of X are in one unit, as the pixels of an image are
    """

    source: str
    features: list[str]
    X: Any
    target: str
    y: npt.NDArray[Any]
    same_unit: bool = False


# ----------------------------------------------------------------------------- reading


def load_digits() -> Table:
    """Return scikit-learn's 1797 digits of 8 by 8 pixels."""
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        if error.name != "sklearn":
            raise
        raise CliError("scikit-learn is missing: pip install 'minidl[cli]'") from None
    digits = datasets.load_digits()
    names = list(digits.feature_names)
    return Table("digits", names, digits.data, "digit", digits.target, same_unit=True)


def load_arrays(path: Path) -> Table:
    """Read the arrays `X` and `y` of an .npz file.

    Raises
    ------
    CliError
        Whatever is wrong with the file; a bad value is named by row and column.
    """
    if path.suffix.lower() != ".npz":
        raise CliError(f"{path}: want a .csv, .parquet or .npz file, or digits")
    arrays = _read_npz(path, ("X", "y"))
    X, y = _check_X(path, arrays["X"]), arrays["y"]
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.shape != (len(X),) or y.dtype.kind not in "biufUS":
        raise CliError(
            f"{path}: y must be {len(X)} numbers or strings, one for each row of X, "
            f"got shape {y.shape} of {y.dtype}"
        )
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        row = int(np.flatnonzero(~np.isfinite(y))[0])
        raise CliError(f"{path}: row {row + 1} of y: {y[row]} is not finite")
    names = [f"x{j}" for j in range(X.shape[1])]
    return Table(str(path), names, X, "y", y.astype(_plain(y)))


def load_X(path: Path) -> Floats:
    """Read the array `X` of an .npz file.

    Raises
    ------
    CliError
        Whatever is wrong with the file; a bad value is named by row and column.
    """
    return _check_X(path, _read_npz(path, ("X",))["X"])


def _read_npz(path: Path, wanted: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    with path.open("rb") as file:
        try:
            arrays = np.load(file, allow_pickle=False)
        except UNREADABLE:
            arrays = None
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise CliError(f"{path}: not an .npz file")
        for name in wanted:
            if name not in arrays:
                raise CliError(f"{path}: no array {name} among {listed(arrays.files)}")
        try:
            return {name: np.asarray(arrays[name]) for name in wanted}
        except UNREADABLE as error:
            raise CliError(f"{path}: {error}") from None


def _check_X(path: Path, X: npt.NDArray[Any]) -> Floats:
    """Return X in float64 if it is a table of finite numbers."""
    if X.ndim != 2 or 0 in X.shape or X.dtype.kind not in "biuf":
        raise CliError(
            f"{path}: the features must be a table of numbers, got shape {X.shape} of {X.dtype}"
        )
    table: Floats = X.astype(np.float64)
    if not np.isfinite(table).all():
        row, column = np.argwhere(~np.isfinite(table))[0]
        raise CliError(
            f"{path}: row {row + 1}, column {column + 1}: {table[row, column]} is not finite"
        )
    return table


def _plain(y: npt.NDArray[Any]) -> npt.DTypeLike:
    """Return the widest dtype of y's kind; JSON knows no others."""
    return {"b": np.bool_, "f": np.float64, "U": np.str_, "S": np.str_}.get(y.dtype.kind, np.int64)


def is_numeric(text: str) -> bool:
    """Return whether a text is a number, infinity and NaN among them."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def listed(names: Sequence[str], most: int = 8) -> str:
    """Return some names, and how many there are."""
    return ", ".join(names[:most]) + (f", ... ({len(names)})" if len(names) > most else "")


# ------------------------------------------------------------------ target, split, scale


def choose_task(task: Task, table: Table) -> Task:
    """Settle `auto`: floats that are not whole make a regression, anything else classes.

    Raises
    ------
    CliError
        The target does not fit the task, or there is too little of it.
    """
    if len(table.y) < MINIMUM_ROWS:
        raise CliError(f"{len(table.y)} rows; training wants {MINIMUM_ROWS} or more")
    numeric = table.y.dtype.kind != "U"
    whole = numeric and bool((np.mod(table.y.astype(np.float64), 1) == 0).all())
    auto = task is Task.auto
    if auto:
        task = Task.classification if whole or not numeric else Task.regression
    if task is Task.regression:
        if not numeric:
            row = next((i for i, label in enumerate(table.y) if not is_numeric(label)), 0)
            raise CliError(
                f"{table.source}: row {row + 1}, column {table.target!r}: "
                f"{str(table.y[row])!r} is text; regression wants numbers"
            )
        return task
    count = len(np.unique(table.y))
    if numeric and not whole:
        raise CliError(f"classification wants classes; {table.target!r} has fractions")
    if count < 2:
        raise CliError(f"classification wants two classes or more; {table.target!r} has {count}")
    if auto and (2 * count > len(table.y) or (numeric and count > MOST_CLASSES)):
        raise CliError(
            f"{table.target!r} has {count} different values in {len(table.y)} rows; "
            "choose --task regression or --task classification"
        )
    return task


def split(
    rows: int, classes: npt.NDArray[Any] | None, test: float, rng: np.random.Generator
) -> tuple[Indices, Indices]:
    """Return the row numbers to train on and to test on, each class divided alike."""
    labels = np.zeros(rows) if classes is None else classes
    testing = np.zeros(rows, dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        testing[members[: round(test * len(members))]] = True
    if not testing.any():
        raise CliError(f"{rows} rows are too few to hold out {test:.0%} of each class")
    return np.flatnonzero(~testing), np.flatnonzero(testing)


def moments(X: Floats, same_unit: bool = False) -> tuple[Floats, Floats]:
    """Return the mean and the scale of every column; constant ones have scale 1."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = X.mean(axis=0)
        scale = np.sqrt(np.square(X - mean).mean(axis=0))
    if same_unit:
        scale[:] = np.sqrt(np.square(scale).mean())
    # The mean of equal numbers may miss them by a rounding, which must not become the scale.
    scale[scale <= 1e-12 * np.abs(mean)] = 1
    return mean, scale


def standardise(X: Floats, mean: Floats, scale: Floats) -> npt.NDArray[np.float32]:
    """Return `(X - mean) / scale` in float32.

    Raises
    ------
    CliError
        A number is too large for float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = ((X - mean) / scale).astype(np.float32)
    if not (np.isfinite(scaled).all() and np.isfinite(scale).all()):
        raise CliError("the numbers are too large to scale")
    return scaled
