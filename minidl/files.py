"""Files are written as a whole or not at all, and read with what is in them checked."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO

from minidl import checks
from minidl.memory import Array

# errno, json and safetensors are imported where they are used: `import minidl` stays cheap.

# Bytes of a file's header. All that is parsed before anything is known to be sound stands in it,
# and parsed it takes up to 25 times as much; a checkpoint of 10,000 layers needs less.
MOST_HEADER = 2**24
LONGEST = 1000  # characters of a message: names in a file have any length
DAMAGED = "not a safetensors file, or damaged: "


class FormatError(ValueError):
    """A file is not what it should be, or is damaged."""

    @classmethod
    @contextlib.contextmanager
    def explains(cls, path: str | os.PathLike[str], what: str = "") -> Iterator[None]:
        """Errors of what a file holds become FormatErrors that name it."""
        try:
            yield
        except cls:
            raise
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError,
                OverflowError) as error:  # fmt: skip
            said = f"{what}{type(error).__name__}: {error}"
            said = said if len(said) <= LONGEST else f"{said[:LONGEST]}..."
            raise cls(f"{checks.path(path)}: {checks.printable(said)}") from None


class Header(dict[str, str]):
    """The metadata of a safetensors file: JSON texts by name."""

    def read(self, name: str, *default: Any) -> Any:
        """The value of a name."""
        if name not in self and default:
            return default[0]
        return from_json(self[name])


def from_json(text: str) -> Any:
    """The value of a JSON text.

    Raises
    ------
    ValueError
        It is no JSON, or an object has a name twice: another reader may take the other value.
    """
    import json

    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"expected each name once, got {name!r:.50} twice")
            seen.add(name)
    return found


def to_json(value: Any, **options: Any) -> str:
    """A JSON text that `from_json` reads; `options` are those of `json.dumps`.

    Raises
    ------
    TypeError, ValueError, RecursionError
        JSON has no such value, it is nested too deeply, or two names become the same text.
    """
    import json

    text = json.dumps(value, **options)
    from_json(text)
    return text


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
    """Write tensors and metadata, atomically.

    Raises
    ------
    ValueError
        The header would be longer than `read_safetensors` reads; nothing is written.
    OSError
        It cannot be written.
    """
    from safetensors.numpy import save

    data = save(tensors, header)
    length = int.from_bytes(data[:8], "little")
    if length > MOST_HEADER:
        raise ValueError(
            f"header: expected at most {MOST_HEADER} bytes of metadata and names, got {length}"
        )
    write_atomically(path, data)


READERS = {  # of each form that minidl writes
    "minidl-1": "minidl.load",
    "minidl-checkpoint-1": "Trainer.resume",
    "minidl-ensemble-1": "minidl.Ensemble.load",
    "minidl-tabular-1": "minidl.sklearn.load_tabular",
}


def _other(header: Header) -> str:
    """What to do with a file of another form."""
    reader = READERS.get(header.get("format", ""))
    return f"it is for {reader}" if reader else "load its tensors with load_state_dict"


def form_of(path: str | os.PathLike[str]) -> str | None:
    """What the metadata of a safetensors file say that it is, one of `READERS`; or None.

    Raises
    ------
    FormatError
        The file is no safetensors file.
    OSError
        It cannot be read.
    """
    path = checks.path(path)
    _permissions(path)
    with open(path, "rb") as file, FormatError.explains(path, DAMAGED):
        form = _read_header(file)[0].get("format")
        return form if form in READERS else None


def read_safetensors(
    path: str | os.PathLike[str], form: str, what: str
) -> tuple[Header, dict[str, Array]]:
    """Metadata and tensors of a file whose metadata say that it is of this form.

    The file is read, not mapped: to read a map of a file that is cut short meanwhile is the end of
    the process.

    Raises
    ------
    FormatError
        The file is no safetensors file, is damaged, or is of another form.
    OSError
        It cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = checks.path(path)
    _permissions(path)
    with open(path, "rb") as file:
        with FormatError.explains(path, DAMAGED):
            header, size = _read_header(file)
        if header.get("format") != form:
            raise FormatError(f"{path}: a safetensors file, but not {what}: {_other(header)}")
        file.seek(0)
        data = file.read(size)
    try:
        with FormatError.explains(path):
            return header, load(data)
    except SafetensorError as error:
        raise FormatError(f"{path}: {DAMAGED}{error}") from None


def _read_header(file: BinaryIO) -> tuple[Header, int]:
    """The metadata, and the size of the file, which must be that of its header and tensors."""
    size = os.fstat(file.fileno()).st_size
    if size < 8:
        raise ValueError(f"expected at least 8 bytes, got {size}")
    length = int.from_bytes(file.read(8), "little")
    if size < 8 + length:
        raise ValueError(f"expected 8 bytes and {length} of header, got {size}")
    if length > MOST_HEADER:
        raise ValueError(f"expected a header of at most {MOST_HEADER} bytes, got {length}")
    described = from_json(file.read(length).decode())
    metadata = Header(described.pop("__metadata__", {}))
    if not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("expected texts as metadata")
    end = max((tensor["data_offsets"][1] for tensor in described.values()), default=0)
    if size != 8 + length + end:
        raise ValueError(f"expected 8 bytes, {length} of header and {end} of tensors, got {size}")
    return metadata, size
