"""Files are written as a whole or not at all, and read with what is in them checked."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from functools import partial
from typing import Any

from minidl import checks
from minidl.memory import Array

# errno, json and safetensors are imported where they are used: `import minidl` stays cheap.


class FormatError(ValueError):
    """A file is not what it should be, or is damaged."""

    @classmethod
    @contextlib.contextmanager
    def explains(cls, path: str | os.PathLike[str]) -> Iterator[None]:
        """Errors of what a file holds become FormatErrors that name it."""
        try:
            yield
        except cls:
            raise
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError,
                OverflowError) as error:  # fmt: skip
            raise cls(f"{checks.path(path)}: {type(error).__name__}: {error}") from None


class Header(dict[str, str]):
    """The metadata of a safetensors file: JSON texts by name."""

    def read(self, name: str, *default: Any) -> Any:
        """The value of a name."""
        import json

        if name not in self and default:
            return default[0]
        return json.loads(self[name])


def _permissions(path: str) -> int:
    """Those of a file; a folder, or what else is no file, is an OSError."""
    import errno

    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file", path)
    return stat.S_IMODE(mode)


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file beside `path`, sync it and rename it.

    Whatever happens, `path` is the old file or the new one; a process that is killed may leave the
    one beside it, ``.minidl-*.tmp``. A file that is replaced keeps its permissions. Of a symbolic
    link, what it leads to is replaced.

    Parameters
    ----------
    path : str or path-like
    data : bytes

    Raises
    ------
    OSError
        It cannot be written, or is a folder or a device; the message names `path`.
    """
    path = checks.path(path)
    try:
        _replace(os.path.realpath(path) if os.path.islink(path) else path, data)
    except OSError as error:  # name what the caller knows, not the file beside it
        raise OSError(error.errno, error.strerror, path) from None


def _replace(path: str, data: bytes) -> None:
    try:
        permissions = _permissions(path)
    except FileNotFoundError:
        permissions = None
    folder = os.path.dirname(path) or "."
    temporary = os.path.join(folder, f".minidl-{os.urandom(8).hex()}.tmp")
    opened = partial(os.open, mode=0o666 if permissions is None else 0o600)
    try:  # opening is one call of C: an interrupt finds no file that is not closed and removed
        with open(temporary, "xb", opener=opened) as file:
            if permissions is not None:
                os.chmod(temporary, permissions)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_safetensors(
    path: str | os.PathLike[str], tensors: dict[str, Array], header: dict[str, str]
) -> None:
    """Write tensors and metadata, atomically."""
    from safetensors.numpy import save

    write_atomically(path, save(tensors, header))


READERS = {  # of each form that minidl writes
    "minidl-1": "minidl.load",
    "minidl-checkpoint-1": "Trainer.resume",
    "minidl-tabular-1": "minidl.sklearn.load_tabular",
}


def _other(header: Header) -> str:
    """What to do with a file of another form."""
    reader = READERS.get(header.get("format", ""))
    return f"it is for {reader}" if reader else "load its tensors with load_state_dict"


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Any]:
    """A safetensors file, open; its errors, and those in the block, are FormatErrors."""
    from safetensors import SafetensorError, safe_open

    _permissions(path)
    with open(path, "rb"):  # what may not be read is an OSError
        pass
    try:
        with FormatError.explains(path), safe_open(path, framework="np") as file:
            yield file
    except SafetensorError as error:
        raise FormatError(f"{path}: not a safetensors file, or damaged: {error}") from None


def form_of(path: str | os.PathLike[str]) -> str | None:
    """What the metadata of a safetensors file say that it is, one of `READERS`; or None.

    Raises
    ------
    FormatError
        The file is no safetensors file.
    OSError
        It cannot be read.
    """
    with _opened(checks.path(path)) as file:
        form = (file.metadata() or {}).get("format")
        return form if form in READERS else None


def read_safetensors(
    path: str | os.PathLike[str], form: str, what: str
) -> tuple[Header, dict[str, Array]]:
    """Metadata and tensors of a file whose metadata say that it is of this form.

    Raises
    ------
    FormatError
        The file is no safetensors file, is damaged, or is of another form.
    OSError
        It cannot be read.
    """
    path = checks.path(path)
    with _opened(path) as file:
        header = Header(file.metadata() or {})
        if header.get("format") != form:
            raise FormatError(f"{path}: a safetensors file, but not {what}: {_other(header)}")
        return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
