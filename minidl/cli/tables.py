"""Reading tables with mixed columns: .csv and .parquet files, as Arrow tables."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from minidl.cli.data import Floats, is_number, listed
from minidl.cli.errors import CliError

Arrow: TypeAlias = Any  # pyarrow has no types

KINDS = (".csv", ".parquet")
MISSING = ("", "NA", "na", "N/A", "n/a", "NaN", "nan", "NULL", "null", "#N/A")
DELIMITERS = ",;\t"
LARGEST = 2**31 - 1  # bytes of a block, from which the types of all columns are told


def read(path: Path) -> Arrow:
    """The columns of a file, each once; texts without spaces around them.

    Raises
    ------
    CliError
        The file is not what its name says, or has no rows, or a column twice.
    """
    try:
        import pyarrow as pa
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise CliError("pyarrow is missing: pip install 'minidl[cli]'") from None
    with path.open("rb"):  # what cannot be read is an OSError that names it
        pass
    try:
        table = _read_csv(path) if path.suffix.lower() == ".csv" else _read_parquet(path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError) as error:
        raise CliError(f"{path}: {error}") from None
    if not table.num_rows or not table.num_columns:
        raise CliError(f"{path}: want columns with names, and rows below them")
    names = [name.strip() for name in table.column_names]
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise CliError(f"{path}: {count} columns are named {name!r}")
    return table.rename_columns(names)


def _read_csv(path: Path) -> Arrow:
    from pyarrow import csv

    with path.open("rb") as file:
        first = file.readline().decode("utf-8", "replace")
    delimiter = max(DELIMITERS, key=first.count)  # the comma if there are none
    size = min(path.stat().st_size + 1, LARGEST)
    table = csv.read_csv(
        path,
        read_options=csv.ReadOptions(use_threads=False, block_size=size),
        parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            null_values=MISSING, strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
    )
    return _stripped(path, table)


def _stripped(path: Path, table: Arrow) -> Arrow:
    """Texts without spaces around them; what is empty then is missing."""
    import pyarrow as pa
    from pyarrow import compute

    for i, kind in enumerate(table.schema.types):
        if pa.types.is_binary(kind):
            raise CliError(f"{path}: column {table.column_names[i]!r}: the text is not UTF-8")
        if pa.types.is_string(kind):
            texts = compute.utf8_trim_whitespace(table.column(i))
            empty = compute.equal(texts, "")
            texts = compute.if_else(empty, pa.scalar(None, pa.string()), texts)
            table = table.set_column(i, table.column_names[i], texts)
    return table


def _read_parquet(path: Path) -> Arrow:
    from pyarrow import parquet

    table = parquet.read_table(path)
    index = [name for name in table.column_names if re.fullmatch(r"__index_level_\d+__", name)]
    return table.drop_columns(index)  # of a frame of pandas


def column(path: Path, table: Arrow, name: str) -> list[Any]:
    """The values of a column, none of them missing.

    Raises
    ------
    CliError
        There is no such column, or a value is missing.
    """
    if name not in table.column_names:
        raise CliError(f"{path}: no column {name!r} among {listed(table.column_names)}")
    values: list[Any] = table.column(name).to_pylist()
    for row, value in enumerate(values, start=1):
        if value is None or value != value:
            raise CliError(f"{path}: row {row}, column {name!r}: the value is missing")
    return values


def without(path: Path, table: Arrow, names: Sequence[str]) -> Arrow:
    """The table without columns that it must have.

    Raises
    ------
    CliError
        There is no such column, or no other.
    """
    for name in names:
        if name not in table.column_names:
            raise CliError(f"{path}: no column {name!r} among {listed(table.column_names)}")
    if len(set(names)) == table.num_columns:
        raise CliError(f"{path}: there is no other column than {listed(names)}")
    return table.drop_columns(sorted(set(names)))


def features(path: Path, known: Sequence[str], ignored: Sequence[str]) -> Arrow:
    """Read a table to predict from, without columns that may be there and those to ignore.

    Raises
    ------
    CliError
        The file is not what its name says, or lacks a column that is to be ignored.
    """
    table = read(path)
    present = [name for name in known if name in table.column_names and name not in ignored]
    return without(path, table, [*present, *ignored])


def check_numbers(path: Path, table: Arrow, categorical: Sequence[str]) -> None:
    """Refuse dates; and columns of numbers with a text among them, which would be categories.

    Raises
    ------
    CliError
        It names the column, and the first such text; or what of `categorical` is not there.
    """
    import pyarrow as pa

    for name in categorical:
        if name not in table.column_names:
            raise CliError(
                f"{path}: --categorical: no column {name!r} among {listed(table.column_names)}"
            )
    for name, kind in zip(table.column_names, table.schema.types, strict=True):
        if pa.types.is_temporal(kind):
            raise CliError(
                f"{path}: column {name!r} holds {kind}, dates or times; give what matters of them "
                f"as columns of their own, such as year, weekday or hour, and --ignore {name}"
            )
        if not pa.types.is_string(kind) or name in categorical:
            continue
        values = table.column(name).to_pylist()
        others = [i for i, v in enumerate(values) if v is not None and not is_number(v)]
        numbers = len(values) - values.count(None) - len(others)
        if others and numbers > len(others):
            row = others[0]
            raise CliError(
                f"{path}: row {row + 1}, column {name!r}: {values[row]!r} is not a number, as most "
                f"are there; mend it, or give --categorical {name}"
            )


def numbers(path: Path, table: Arrow, names: Sequence[str]) -> Floats:
    """The columns of these names as float64 (N, D), in this order; the table has no others.

    Raises
    ------
    CliError
        A column is missing, or one too many, or holds something else than finite numbers.
    """
    from minidl.sklearn.tabular_columns import Columns

    with explained(path):
        columns = Columns(table, names, len(names), "the model")
        parts = [columns[i].numbers for i in range(len(columns))]
    found = np.empty((columns.rows, len(names)))
    for j, (name, part) in enumerate(zip(names, parts, strict=True)):
        if part is None:
            raise CliError(f"{path}: column {name!r}: expected numbers")
        if np.isnan(part).any():
            row = int(np.isnan(part).argmax()) + 1
            raise CliError(f"{path}: row {row}, column {name!r}: the value is missing")
        found[:, j] = part
    return found


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Errors of what a table holds become errors of the command line that name the file."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise CliError(f"{path}: {error}") from None
