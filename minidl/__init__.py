"""minidl: train small multilayer perceptrons on a CPU, fast."""

from minidl import initializers
from minidl.callbacks import Callback
from minidl.config import get_config, show_config
from minidl.data import NpyFile
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

__all__ = [
    "ELU", "GELU", "SGD", "Adam", "AdamW", "BCEWithLogitsLoss", "BatchNorm1d", "Callback",
    "CrossEntropyLoss", "Dropout", "FormatError", "FunctionLoss", "History", "Identity", "Layer",
    "LeakyReLU", "Linear", "Loss", "MSELoss", "NonFiniteError", "NpyFile", "Optimizer", "ReLU",
    "Sequential", "SiLU", "Sigmoid", "Softplus", "Tanh", "Trainer", "__version__", "get_config",
    "get_num_threads", "initializers", "load", "save", "set_num_threads", "show_config",
]  # fmt: skip
