"""Saving and loading: one safetensors file, the architecture as JSON in its metadata. No pickle."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from minidl import layers
from minidl.files import write_atomically
from minidl.layers import Layer, Sequential

# json and safetensors are imported where they are used: `import minidl` stays cheap.

FORMAT = "minidl-1"


class FormatError(ValueError):
    """A file is not a minidl model, or is damaged."""


def save(
    model: Sequential, path: str | os.PathLike[str], metadata: dict[str, Any] | None = None
) -> None:
    """Write a model to one safetensors file.

    The file is written beside `path`, synced and renamed: whatever happens, `path` is the old file
    or the new one. PyTorch reads the tensors with ``safetensors.torch.load_file``.

    Parameters
    ----------
    model : Sequential
        Of layers that minidl ships.
    path : str or path-like
    metadata : dict, optional
        Anything JSON can hold; `load` gives it back as ``model.metadata``.
    """
    import json

    from safetensors.numpy import save as to_bytes

    if not isinstance(model, Sequential):
        raise TypeError(f"model: expected a Sequential, got {type(model).__name__}")
    for _, layer in model.layers():
        if getattr(layers, type(layer).__name__, None) is not type(layer):
            raise TypeError(
                f"model: {type(layer).__name__} is not one of minidl's layers; save "
                "its state_dict() instead"
            )
    header = {
        "format": FORMAT,
        "architecture": json.dumps({"dtype": str(model.dtype), **model.config()}),
        "metadata": json.dumps(metadata or {}),
    }
    write_atomically(path, to_bytes(model.state_dict(), header))


def load(path: str | os.PathLike[str]) -> Sequential:
    """Read a model that `save` has written; it is in evaluation mode.

    Raises
    ------
    FormatError
        The file is not a model of minidl, or is damaged.
    OSError
        It cannot be read.
    """
    import json

    from safetensors import SafetensorError, safe_open

    path = os.fspath(path)
    with open(path, "rb"):  # a missing file is an OSError
        pass
    try:
        with safe_open(path, framework="np") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise FormatError(f"{path}: not a safetensors file, or damaged: {error}") from None
    if header.get("format") != FORMAT:
        raise FormatError(
            f"{path}: a safetensors file, but not a minidl model (no format "
            f"{FORMAT!r} in its metadata); load its tensors with load_state_dict"
        )
    try:
        architecture = json.loads(header["architecture"])
        model = _build(architecture, tensors)
        model.load_state_dict(tensors)
        model.__dict__["metadata"] = json.loads(header.get("metadata", "{}"))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"{path}: {type(error).__name__}: {error}") from None
    model.eval()
    return model


def _build(architecture: Any, tensors: dict[str, np.ndarray[Any, Any]]) -> Sequential:
    """The model that an architecture describes; sizes are held to the tensors before it is made."""
    stored = sum(t.size for t in tensors.values())

    def make(config: Any) -> Layer:
        arguments = dict(config)
        name = arguments.pop("type")
        kind = getattr(layers, name, None) if name in layers.__all__ else None
        if kind is None or kind is Layer:
            raise ValueError(f"unknown layer {name!r}")
        if kind is Sequential:
            return Sequential(*(make(c) for c in arguments["layers"]))
        size = 1
        for key in ("in_features", "out_features", "num_features"):
            if key in arguments:
                value = arguments[key]
                if not isinstance(value, int) or not 0 <= value <= max(stored, 1):
                    raise ValueError(f"{name}: {key} {value!r} does not fit the file's tensors")
                size *= max(value, 1)
        if size > max(stored, 1):
            raise ValueError(f"{name}: larger than the file's tensors")
        layer = kind(**arguments)
        assert isinstance(layer, Layer)
        return layer

    if not isinstance(architecture, dict):
        raise ValueError("architecture: expected an object")
    return Sequential(*(make(c) for c in architecture["layers"]), dtype=architecture["dtype"])
