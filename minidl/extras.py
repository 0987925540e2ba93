"""Libraries that minidl works without: imported when they are needed."""

from __future__ import annotations

from typing import Any


def need(module: str, extra: str, what: str) -> Any:
    """Import an optional module, or say how to install it.

    Parameters
    ----------
    module : str
        Full name, as ``"sklearn.metrics"``.
    extra : str
        The extra of minidl that brings it; "" if none does, and it is installed by its own name.
    what : str
        What needs it, for the message.

    Raises
    ------
    ImportError
        It is not installed; the message has the line that installs it.

    Examples
    --------
    >>> from minidl.extras import need
    >>> need("nowhere", "plot", "History.plot")
    Traceback (most recent call last):
        ...
    ImportError: History.plot needs nowhere: pip install 'minidl[plot]'
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        name = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != name:  # it is there, and lacks something itself
            raise
        line = f"'minidl[{extra}]'" if extra else name
        raise ImportError(f"{what} needs {name}: pip install {line}") from None
