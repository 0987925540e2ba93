"""Libraries that minidl works with but does not depend on."""

from __future__ import annotations

from typing import Any


def need(module: str, extra: str, what: str) -> Any:
    """Import and return an optional library.

    Parameters
    ----------
    module : str
        Its name, such as "onnx".
    extra : str
        The extra of minidl that installs it; "" if none does, and it is installed by its own name.
    what : str
        What needs it, for the error.

    Raises
    ------
    ImportError
        It is not installed; the message has the line that installs it.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name != package:  # it is there, and lacks something itself
            raise
        line = f"'minidl[{extra}]'" if extra else package
        raise ImportError(f"{what} needs {package}: pip install {line}") from None
