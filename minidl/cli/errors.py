"""Errors that the command line shows as one line, without a traceback."""

import errno
import os
from pathlib import Path


class CliError(Exception):
    """What the user asked for cannot be done, and why."""


def check_writable(path: Path, force: bool) -> None:
    """Refuse an output path that could not be written, or exists without `force`.

    Raises
    ------
    CliError
    """
    if path.is_dir():
        raise CliError(f"{path}: is a directory")
    if path.exists() and not force:
        raise CliError(f"{path}: already exists; --force overwrites it")
    if not path.parent.is_dir():
        raise CliError(f"{path}: no directory {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise CliError(f"{path}: {os.strerror(errno.EACCES)}")
