"""Files are written as a whole or not at all."""

from __future__ import annotations

import contextlib
import os

# tempfile is imported where it is used: `import minidl` stays cheap.


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
