"""minidl: train small multilayer perceptrons on a CPU, fast."""

import typing

from minidl import initializers
from minidl.callbacks import Callback
from minidl.config import get_config, show_config
from minidl.errors import NonFiniteError
from minidl.history import History
from minidl.kernels import VERSION as __version__
from minidl.layers import (
    ELU,
    GELU,
    BatchNorm1d,
    Dropout,
    Identity,
    Layer,
    LeakyReLU,
    Linear,
    ReLU,
    Sequential,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from minidl.losses import BCEWithLogitsLoss, CrossEntropyLoss, FunctionLoss, Loss, MSELoss
from minidl.optimizers import SGD, Adam, AdamW, Optimizer
from minidl.parallel import get_num_threads, set_num_threads
from minidl.serialization import FormatError, load, save
from minidl.trainer import Trainer

if typing.TYPE_CHECKING:
    from minidl.convert import from_torch, to_torch
    from minidl.export import export_onnx

__all__ = [
    "ELU", "GELU", "SGD", "Adam", "AdamW", "BCEWithLogitsLoss", "BatchNorm1d", "Callback",
    "CrossEntropyLoss", "Dropout", "FormatError", "FunctionLoss", "History", "Identity", "Layer",
    "LeakyReLU", "Linear", "Loss", "MSELoss", "NonFiniteError", "Optimizer", "ReLU", "Sequential",
    "SiLU", "Sigmoid", "Softplus", "Tanh", "Trainer", "__version__", "export_onnx",
    "from_torch", "get_config", "get_num_threads", "initializers", "load", "save",
    "set_num_threads", "show_config", "to_torch",
]  # fmt: skip

# Imported when first asked for: most programs do without.
_LATER = {"from_torch": "convert", "to_torch": "convert", "export_onnx": "export"}


def __getattr__(name: str) -> typing.Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
