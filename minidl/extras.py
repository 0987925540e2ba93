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
        The extra of minidl that brings it.
    what : str
        What needs it, for the message.

    Raises
    ------
    ImportError
        It is not installed.

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
    except ImportError as error:
        name = module.partition(".")[0]
        raise ImportError(f"{what} needs {name}: pip install 'minidl[{extra}]'") from error
