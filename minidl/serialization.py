"""Saving and loading: one safetensors file, the architecture as JSON in its metadata. No pickle."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from minidl import layers
from minidl.files import FormatError, read_safetensors, write_safetensors
from minidl.layers import Layer, Sequential
from minidl.memory import Array

# json is imported where it is used: `import minidl` stays cheap.

FORMAT = "minidl-1"
MOST_LAYERS = 10_000
DEEPEST = 50


def save(
    model: Sequential, path: str | os.PathLike[str], metadata: dict[str, Any] | None = None
) -> None:
    """Write a model to one safetensors file.

    The file is written beside `path`, synced and renamed: whatever happens, `path` is the old file
    or the new one. PyTorch reads the tensors with ``safetensors.torch.load_file``. What is known of
    the model's training (``model.training_record``) is written along.

    Parameters
    ----------
    model : Sequential
        Of layers that minidl ships.
    path : str or path-like
    metadata : dict, optional
        Anything JSON can hold; `load` gives it back as ``model.metadata``.

    Raises
    ------
    TypeError
        A layer is not minidl's, or the metadata are not for JSON; nothing is written.
    OSError
        The file cannot be written; what was there is still there.
    """
    import json

    header = {
        "format": FORMAT,
        "architecture": json.dumps(architecture(model)),
        "metadata": json.dumps(metadata or {}),
        "training": json.dumps(model.__dict__.get("training_record")),
    }
    write_safetensors(path, model.state_dict(), header)


def load(path: str | os.PathLike[str]) -> Sequential:
    """Read a model that `save` has written; it is in evaluation mode.

    ``print(model)`` also shows how it was trained, if that is known.

    Raises
    ------
    FormatError
        The file is not a model of minidl, or is damaged.
    OSError
        It cannot be read.
    """
    header, tensors = read_safetensors(path, FORMAT, "a minidl model")
    with FormatError.explains(path):
        model = build(header.read("architecture"), tensors)
        model.load_state_dict(tensors)
        model.__dict__["metadata"] = header.read("metadata", {})
        model.__dict__["training_record"] = record_of_training(header.read("training", None))
    model.eval()
    return model


def record_of_training(stored: Any) -> dict[str, Any] | None:
    """What a file says of the training, if it can be shown."""
    if stored is None:
        return None
    if not isinstance(stored, dict) or not isinstance(stored.get("results"), dict):
        raise ValueError(f"training: expected an object with results, got {stored!r:.50}")
    for name, value in stored["results"].items():
        if not isinstance(value, (int, float)):
            raise ValueError(f"training: expected a number as {name}, got {value!r:.50}")
    return stored


def architecture(model: Layer) -> dict[str, Any]:
    """What `build` makes the model from, as JSON can hold it."""
    if not isinstance(model, Sequential):
        raise TypeError(f"model: expected a Sequential, got {type(model).__name__}")
    for name, layer in model.tree():
        if getattr(layers, type(layer).__name__, None) is not type(layer):
            raise TypeError(
                f"model: layer {name}: {type(layer).__name__} is not one of minidl's layers; save "
                "its state_dict() instead"
            )
    return {"dtype": str(model.dtype), **model.config()}


def build(config: Any, tensors: dict[str, Array]) -> Sequential:
    """The model that an architecture describes, if the tensors are those that it has.

    Schema, names, shapes and dtypes are held to each other before anything is made.
    """
    if not isinstance(config, dict) or not {"dtype", "layers"} <= config.keys():
        raise ValueError("architecture: expected an object with dtype and layers")
    config = {"type": "Sequential", "layers": config["layers"], "dtype": config["dtype"]}
    wanted: dict[str, tuple[int, ...]] = {}
    for count, (name, shape) in enumerate(_shapes(config, "", 0)):
        if count > 8 * MOST_LAYERS:
            raise ValueError(f"architecture: expected at most {MOST_LAYERS} layers")
        if name is not None:
            wanted[name] = shape
    missing, unknown = sorted(wanted.keys() - tensors), sorted(tensors.keys() - wanted)
    if missing or unknown:
        raise ValueError(f"tensors: missing {missing[:5]}, unknown {unknown[:5]}")
    for name, shape in wanted.items():
        tensor = tensors[name]
        if tensor.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {tensor.shape}")
        dtype = "int64" if name.endswith("num_batches_tracked") else config["dtype"]
        if str(tensor.dtype) != dtype:
            raise ValueError(f"{name}: expected dtype {dtype}, got {tensor.dtype}")
    model = _make(config)
    assert isinstance(model, Sequential)
    return model


def _parts(config: Any) -> tuple[type[Layer], dict[str, Any], list[tuple[str, Any]]]:
    """Class, arguments and children of a layer's description."""
    if not isinstance(config, dict) or not isinstance(config.get("type"), str):
        raise ValueError(f"architecture: expected an object with a type, got {config!r:.50}")
    arguments = dict(config)
    name = arguments.pop("type")
    kind = getattr(layers, name, None) if name in layers.__all__ else None
    if kind is None or kind is Layer:
        raise ValueError(f"architecture: unknown layer {name!r:.50}")
    if "block" in arguments:
        return kind, arguments, [("block", arguments.pop("block"))]
    inner = arguments.pop("layers", [])
    if not isinstance(inner, list):
        raise ValueError(f"{name}: expected a list of layers, got {type(inner).__name__}")
    return kind, arguments, [(str(i), child) for i, child in enumerate(inner)]


def _shapes(config: Any, prefix: str, depth: int) -> Iterator[tuple[str | None, tuple[int, ...]]]:
    """Names and shapes of the tensors of a layer; (None, ()) for each layer without any."""
    if depth > DEEPEST:
        raise ValueError(f"architecture: expected at most {DEEPEST} layers inside each other")
    kind, arguments, children = _parts(config)
    own = kind.state_shapes(**arguments)
    yield from ((f"{prefix}{name}", shape) for name, shape in own.items())
    if not own:
        yield None, ()
    for name, child in children:
        yield from _shapes(child, f"{prefix}{name}.", depth + 1)


def _make(config: Any) -> Layer:
    """The layer that is described."""
    kind, arguments, children = _parts(config)
    return kind(*(_make(child) for _, child in children), **arguments)
