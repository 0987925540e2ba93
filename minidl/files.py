"""Files are written as a whole or not at all, and read with what is in them checked."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from minidl.memory import Array

# json, tempfile and safetensors are imported where they are used: `import minidl` stays cheap.


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
            raise cls(f"{os.fspath(path)}: {type(error).__name__}: {error}") from None


class Header(dict[str, str]):
    """The metadata of a safetensors file: JSON texts by name."""

    def read(self, name: str, *default: Any) -> Any:
        """The value of a name."""
        import json

        if name not in self and default:
            return default[0]
        return json.loads(self[name])


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file beside `path`, sync it and rename it.

    Whatever happens, `path` is the old file or the new one. The permissions are those of any new
    file.

    Parameters
    ----------
    path : str or path-like
    data : bytes
    """
    import tempfile

    path = os.fspath(path)
    folder = os.path.dirname(path) or "."
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=os.path.basename(path) + ".")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
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
    from safetensors import SafetensorError, safe_open

    path = os.fspath(path)
    with open(path, "rb"):  # a missing file is an OSError
        pass
    try:
        with safe_open(path, framework="np") as file:
            header = Header(file.metadata() or {})
            if header.get("format") != form:
                raise FormatError(
                    f"{path}: a safetensors file, but not {what} (no format {form!r} in its "
                    "metadata); load its tensors with load_state_dict"
                )
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise FormatError(f"{path}: not a safetensors file, or damaged: {error}") from None
