"""CSVLogger."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from minidl import checks
from minidl.callbacks.base import Callback


class CSVLogger(Callback):
    """Write the results of each epoch to a CSV file, as they come; of several ranks, rank 0 does.

    The columns are ``epoch``, from 0, and the results of the first epoch; later ones that miss
    stay empty, and new ones are left out. When the same object sees another training, it goes on in
    its file.

    Parameters
    ----------
    filename : str or path-like
    separator : str, default ","
        One character.
    append : bool, default False
        Go on in a file that is there, in its columns; else it is replaced.

    Raises
    ------
    ValueError
        `separator` is not one character; when training begins: the file to append to has other
        columns.
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import minidl
    >>> model = minidl.Sequential(minidl.Linear(1, 1, seed=0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "log.csv")
    ...     history = minidl.Trainer(model, minidl.MSELoss()).fit(
    ...         np.zeros((4, 1)), np.zeros((4, 1)), epochs=9,
    ...         callbacks=[minidl.CSVLogger(path)])
    ...     lines = path.read_text().splitlines()
    >>> lines[0], len(lines)
    ('epoch,loss', 10)
    """

    def __init__(
        self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False
    ) -> None:
        self.filename = checks.path(filename, "filename")
        if not isinstance(separator, str) or len(separator) != 1 or separator in '\r\n"':
            raise ValueError(f"separator: expected one character, got {separator!r}")
        self.separator = separator
        self.append = checks.flag(append, "append")
        self._columns: list[str] | None = None
        self._file: IO[str] | None = None

    def writes_to(self) -> str:
        """The file."""
        return self.filename

    def on_train_begin(self) -> None:
        """Open the file."""
        import csv

        if self.trainer.rank > 0:
            return
        if self.append:
            self._columns = self._columns_there()
        mode = "a" if self.append else "w"
        self._file = open(self.filename, mode, newline="", encoding="utf-8")  # noqa: SIM115
        self._writer: Any = csv.writer(self._file, delimiter=self.separator, lineterminator="\n")
        self.append = True

    def _columns_there(self) -> list[str] | None:
        """The results that a file to append to has columns for; None if there is no such file."""
        import csv

        if not os.path.exists(self.filename) or not os.path.getsize(self.filename):
            return None
        with open(self.filename, newline="", encoding="utf-8") as file:
            header = next(csv.reader(file, delimiter=self.separator))
        if header[:1] != ["epoch"]:
            raise ValueError(
                f"filename: expected a file to append to whose first column is 'epoch', with "
                f"separator {self.separator!r}, got {self.filename!r} with columns {header}"
            )
        return header[1:]

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Write a row."""
        if self._file is None:
            return
        with self._named():
            if self._columns is None:
                self._columns = list(logs)
                self._writer.writerow(["epoch", *self._columns])
            self._writer.writerow([epoch, *(logs.get(name, "") for name in self._columns)])
            self._file.flush()

    def on_train_end(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            with self._named():
                file.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors name the file: a full disk does not."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.filename) from None
