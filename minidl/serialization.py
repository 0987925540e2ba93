"""Saving and loading: one safetensors file, the architecture as JSON in its metadata. No pickle."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from minidl import checks, layers
from minidl.files import FormatError, Header, read_safetensors, to_json, write_safetensors
from minidl.layers import Layer, Residual, Sequential
from minidl.layers.container import Container
from minidl.memory import Array

# inspect is imported where it is used: `import minidl` stays cheap.

FORMAT = "minidl-1"
MOST_LAYERS = 10_000
DEEPEST = 50
# Arguments that no file has: how a layer begins, and those that can have one value alone.
NOT_STORED = {"dtype", "seed", "weight_init", "bias_init", "start_dim", "end_dim"}


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
        What JSON can hold; `load` gives it back as ``model.metadata``.

    Raises
    ------
    TypeError
        A layer is not minidl's, or the metadata are not for JSON; nothing is written.
    ValueError
        A parameter is NaN or infinite, there are more than 10,000 layers or 50 inside each other,
        or metadata and names take more than 16 MiB: `load` would refuse the file. Nothing is
        written.
    OSError
        The file cannot be written; what was there is still there.
    """
    header = {
        "metadata": metadata_text(metadata),
        "format": FORMAT,
        "architecture": to_json(architecture(model)),
        "training": to_json(model.__dict__.get("training_record")),
    }
    write_safetensors(path, finite_state(model), header)


def metadata_text(metadata: dict[str, Any] | None) -> str:
    """A dictionary of the user's as JSON."""
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict):
        raise TypeError(f"metadata: expected a dict, got {type(metadata).__name__}")
    try:
        return to_json(metadata)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"metadata: expected what JSON can hold: {error}") from None


def read_metadata(header: Header) -> dict[str, Any]:
    """The dictionary that `metadata_text` has written."""
    metadata: Any = header.read("metadata", {})
    if not isinstance(metadata, dict):
        raise ValueError(f"metadata: expected an object, got {metadata!r:.50}")
    return metadata


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
        model.__dict__["metadata"] = read_metadata(header)
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
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"training: expected a number as {name!r:.50}, got {value!r:.50}")
        float(value)  # a huge one could not be shown
    return stored


def finite_state(model: Layer) -> dict[str, Array]:
    """The model's state dict; NaN and infinity, which no file may have, are a ValueError."""
    state = model.state_dict()
    for name, value in state.items():
        checks.finite(np.atleast_1d(value), name)
    return state


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
    config = {"dtype": str(model.dtype), **model.config()}
    _tensors(config["layers"])  # what `build` refuses is not written
    return config


def build(config: Any, tensors: dict[str, Array]) -> Sequential:
    """The model that an architecture describes, if the tensors are those that it has.

    Schema, names, shapes and dtypes are held to each other before anything is made.
    """
    if not isinstance(config, dict) or config.keys() != {"dtype", "layers"}:
        raise ValueError("architecture: expected an object of dtype and layers")
    checks.one_of(config["dtype"], ("float32", "float64"), "dtype")
    wanted = _tensors(config["layers"])
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
    made = (_make(layer, config["dtype"]) for layer in config["layers"])
    return Sequential(*made, dtype=config["dtype"])


def _tensors(described: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of the layers that are described, which must be sound."""
    wanted: dict[str, tuple[int, ...]] = {}
    root = {"type": "Sequential", "layers": described}
    for count, shapes in enumerate(_shapes(root, "", 0)):
        if count > MOST_LAYERS:
            raise ValueError(f"architecture: expected at most {MOST_LAYERS} layers")
        wanted |= shapes
    return wanted


@cache
def _signature(name: str) -> frozenset[str]:
    """Names of the arguments that the constructor of a layer takes."""
    import inspect

    parameters = inspect.signature(getattr(layers, name)).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is not p.VAR_POSITIONAL)


def _parts(config: Any) -> tuple[type[Layer], dict[str, Any], list[tuple[str, Any]]]:
    """Class, arguments and children of a layer's description."""
    if not isinstance(config, dict) or not isinstance(config.get("type"), str):
        raise ValueError(f"architecture: expected an object with a type, got {config!r:.50}")
    arguments = dict(config)
    name = arguments.pop("type")
    kind = getattr(layers, name, None) if name in layers.__all__ else None
    if kind is None or kind is Layer:
        raise ValueError(f"architecture: unknown layer {name!r:.50}")
    children: list[tuple[str, Any]] = []
    if kind is Residual:
        children = [("block", arguments.pop("block"))]
    elif issubclass(kind, Container):
        inner = arguments.pop("layers")
        if not isinstance(inner, list):
            raise ValueError(f"{name}: expected a list of layers, got {type(inner).__name__}")
        children = [(str(i), child) for i, child in enumerate(inner)]
    unknown = sorted(arguments.keys() - (_signature(name) - NOT_STORED))
    if unknown:
        raise ValueError(f"architecture: {name} has no {unknown[0]!r:.50}")
    return kind, arguments, children


def _shapes(config: Any, prefix: str, depth: int) -> Iterator[dict[str, tuple[int, ...]]]:
    """Names and shapes of the tensors of a layer itself, then of each inside it."""
    if depth > DEEPEST:
        raise ValueError(f"architecture: expected at most {DEEPEST} layers inside each other")
    kind, arguments, children = _parts(config)
    yield {f"{prefix}{name}": shape for name, shape in kind.state_shapes(**arguments).items()}
    for name, child in children:
        yield from _shapes(child, f"{prefix}{name}.", depth + 1)


def _make(config: Any, dtype: str) -> Layer:
    """The layer that is described."""
    kind, arguments, children = _parts(config)
    if "dtype" in _signature(kind.__name__):
        arguments["dtype"] = dtype
    return kind(*(_make(child, dtype) for _, child in children), **arguments)
