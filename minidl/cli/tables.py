"""Reading tables with mixed columns: .csv and .parquet files, as Arrow tables."""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from minidl.cli.data import Floats, is_numeric, listed
from minidl.cli.errors import CliError

Arrow: TypeAlias = Any  # pyarrow has no types

KINDS = (".csv", ".parquet")
MISSING = ("", "NA", "na", "N/A", "n/a", "NaN", "nan", "NULL", "null", "#N/A")
DELIMITERS = ",;\t"
SNIFFED = 2**20  # bytes
LARGEST = 2**31 - 1  # bytes of a block, from which the types of all columns are told


def read(path: Path, types: Mapping[str, str] | None = None) -> Arrow:
    """The columns of a file, each once; texts without spaces around them.

    `types` are those of a table that a model was trained with (`types_of`): the columns of a .csv
    file are read as such. What a column holds must not depend on the rows that happen to be there.

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
        is_csv = path.suffix.lower() == ".csv"
        table = _read_csv(path, types or {}) if is_csv else _read_parquet(path)
    except UnicodeDecodeError as error:
        raise CliError(f"{path}: not UTF-8: {error}") from None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise CliError(f"{path}: {error}") from None
    if not table.num_rows or not table.num_columns:
        raise CliError(f"{path}: want columns with names, and rows below them")
    name, count = Counter(table.column_names).most_common(1)[0]
    if count > 1:
        raise CliError(f"{path}: {count} columns are named {name!r}")
    return _stripped(path, table)


def types_of(table: Arrow) -> dict[str, str]:
    """The types of columns, for the metadata of a model."""
    return dict(zip(table.column_names, map(str, table.schema.types), strict=True))


def _read_csv(path: Path, types: Mapping[str, str]) -> Arrow:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    delimiter, decimal_point = _dialect(path)
    with path.open(newline="", encoding="utf-8-sig") as file:
        header = csv.reader(file, delimiter=delimiter)
        names = [name.strip() for name in next(header, [])]
        if not names:
            raise CliError(f"{path}: want columns with names, and rows below them")
        lines = header.line_num
    as_before = {"string": pa.string(), "bool": pa.bool_(), "null": pa.null()}
    return arrow_csv.read_csv(
        path,
        read_options=arrow_csv.ReadOptions(
            use_threads=False,
            block_size=min(path.stat().st_size + 1, LARGEST),
            column_names=names,
            skip_rows=lines,
        ),
        parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            null_values=MISSING,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            decimal_point=decimal_point,
            column_types={
                name: as_before.get(kind, pa.float64())
                for name, kind in types.items()
                if kind != "null"
            },
        ),
    )


def _dialect(path: Path) -> tuple[str, str]:
    """What stands between columns, and between the whole and the fraction of a number."""
    with path.open("rb") as file:
        start = file.read(SNIFFED).decode("utf-8", "replace")
    first = start.partition("\n")[0]
    delimiter = max(DELIMITERS, key=first.count)  # the comma if there are none
    if delimiter == ",":
        return delimiter, "."
    commas, points = (
        len(re.findall(rf'(?<![^;\t"\n])-?\d+{point}\d+(?=[;\t"\r\n])', start))
        for point in (",", r"\.")
    )
    return delimiter, "," if commas > points else "."


def is_text(kind: Any) -> bool:
    """True for all of Arrow's types of texts."""
    return str(kind) in ("string", "large_string", "string_view")


def _stripped(path: Path, table: Arrow) -> Arrow:
    """Texts without spaces around them; what is empty then is missing."""
    import pyarrow as pa
    from pyarrow import compute

    for i, (name, kind) in enumerate(zip(table.column_names, table.schema.types, strict=True)):
        if path.suffix.lower() == ".csv" and pa.types.is_binary(kind):
            raise CliError(f"{path}: column {name!r}: the text is not UTF-8")
        if is_text(kind):
            texts = compute.utf8_trim_whitespace(table.column(i).cast(pa.string()))
            empty = compute.equal(texts, "")
            texts = compute.if_else(empty, pa.scalar(None, pa.string()), texts)
            table = table.set_column(i, name, texts)
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
    import pyarrow as pa

    values = table.column(name)
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.float64())
    values = values.to_pylist()
    for row, value in enumerate(values, start=1):
        if value is None or value != value:
            raise CliError(f"{path}: row {row}, column {name!r}: the value is missing")
    return list(values)


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


def features(
    path: Path,
    known: Sequence[str],
    ignored: Sequence[str],
    types: Mapping[str, str] | None = None,
) -> Arrow:
    """Read a table to predict from, without columns that may be there and those to ignore.

    Raises
    ------
    CliError
        The file is not what its name says, or lacks a column that is to be ignored.
    """
    table = read(path, types)
    present = [name for name in known if name in table.column_names and name not in ignored]
    return without(path, table, [*present, *ignored])


def check_columns(path: Path, table: Arrow, categorical: Sequence[str]) -> None:
    """Refuse what cannot be learned from: dates, numbers that are infinite, and the like.

    So are columns of numbers with a text among them refused, which would pass for categories.

    Raises
    ------
    CliError
        It names the column, and the first row at fault; or what of `categorical` is not there.
    """
    import pyarrow as pa
    from pyarrow import compute

    for name in categorical:
        if name not in table.column_names:
            raise CliError(
                f"{path}: --categorical: no column {name!r} among {listed(table.column_names)}"
            )
    if "" in table.column_names:
        raise CliError(f"{path}: a column has no name; give it one, or --ignore ''")
    for name, kind in zip(table.column_names, table.schema.types, strict=True):
        values = table.column(name)
        if pa.types.is_temporal(kind):
            raise CliError(
                f"{path}: column {name!r} holds {kind}, dates or times; give what matters of them "
                f"as columns of their own, such as year, weekday or hour, and --ignore {name}"
            )
        if pa.types.is_floating(kind):
            infinite = compute.index(compute.is_inf(values), True).as_py()
            if infinite >= 0:
                raise CliError(
                    f"{path}: row {infinite + 1}, column {name!r}: {values[infinite]} is not finite"
                )
        elif is_text(kind):
            if name not in categorical:
                _check_texts(path, name, values.to_pylist())
        elif not any(
            of_kind(kind)
            for of_kind in (pa.types.is_integer, pa.types.is_boolean, pa.types.is_decimal,
                            pa.types.is_dictionary, pa.types.is_null)
        ):  # fmt: skip
            raise CliError(
                f"{path}: column {name!r} holds {kind}; expected numbers, texts or booleans, or "
                f"--ignore {name}"
            )


def _check_texts(path: Path, name: str, values: list[Any]) -> None:
    others = [i for i, v in enumerate(values) if v is not None and not is_numeric(v)]
    count = len(values) - values.count(None) - len(others)
    if others and count > len(others):
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
